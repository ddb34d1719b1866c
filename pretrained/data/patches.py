"""Colour patches of scikit-learn's two sample photographs: the least colour data that come without a download."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pretrained.data.data_set import DataSet, DataSpec

SIZE = 16
# Held-out patches do not overlap: an error over them counts no pixel twice.
STRIDES = {"train": 4, "test": SIZE}
# Every patch lies inside one tile, and every tile belongs to one part: parts share no pixel.
TILE = 64
# One tile in so many is held out, along diagonals: both parts see sky, roofs and leaves.
HELD_OUT = 5


@dataclass(frozen=True)
class Patches(DataSet):
    """Patches of 3x16x16 pixels of 256 levels inside tiles of 64x64, of which one in five is held out.

    16 224 are to train on, 4 pixels apart, and 384 to test with, side by side. Labels: 0 a temple (``china.jpg``),
    1 a flower (``flower.jpg``), both of 427 by 640 pixels.
    """

    key: ClassVar[str] = "patches"
    summary: ClassVar[str] = "colour patches of scikit-learn's two sample photographs, 16x16"
    # As scikit-learn tells them in sklearn/datasets/images/README.txt.
    source: ClassVar[str] = "flickr.com, photographs 6061409035 of danielbuechele and 6056698931 of vultilion"
    licence: ClassVar[str] = "CC BY 2.0"

    @property
    def spec(self) -> DataSpec:
        """See :attr:`DataSet.spec`."""
        return DataSpec(self.key, (3, SIZE, SIZE), levels=256, classes=2, flip=True)

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """See :meth:`DataSet.read`; photographs, tiles and patches from top left to bottom right."""
        # Imported here: it takes two seconds, and most commands look at no image.
        from sklearn.datasets import load_sample_images

        values, labels = [], []
        for label, photograph in enumerate(load_sample_images().images):
            patches = _patches(torch.tensor(photograph).permute(2, 0, 1), split)
            values.append(patches)
            labels.append(torch.full((len(patches),), label))
        return torch.cat(values), torch.cat(labels)


def _patches(photograph: Tensor, split: str) -> Tensor:
    """The patches of one photograph (3, height, width) in a part, (n, 3, SIZE, SIZE)."""
    tiles = photograph.unfold(1, TILE, TILE).unfold(2, TILE, TILE)
    rows, columns = torch.arange(tiles.shape[1])[:, None], torch.arange(tiles.shape[2])
    chosen = tiles[:, ((rows + 2 * columns) % HELD_OUT == 0) == (split == "test")]
    cut = chosen.unfold(2, SIZE, STRIDES[split]).unfold(3, SIZE, STRIDES[split])
    return cut.permute(1, 2, 3, 0, 4, 5).reshape(-1, 3, SIZE, SIZE)
