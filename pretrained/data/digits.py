"""scikit-learn's handwritten digits."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pretrained.data.data_set import DataSet, DataSpec

N_TRAIN = 1198

# The split never changes: results on the test part are comparable only while both parts stay what they were.
SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits(DataSet):
    """1797 images of 8x8 pixels and 17 levels, in a fixed random order; the first 1198 are to train on.

    Source: Alpaydin & Kaynak 1998, Optical recognition of handwritten digits, UCI machine learning repository.
    """

    key: ClassVar[str] = "digits"
    summary: ClassVar[str] = "scikit-learn's handwritten digits, 8x8"
    source: ClassVar[str] = "https://archive.ics.uci.edu/dataset/80, its test part, in scikit-learn"
    licence: ClassVar[str] = "CC BY 4.0"

    @property
    def spec(self) -> DataSpec:
        """See :attr:`DataSet.spec`."""
        return DataSpec(self.key, (1, 8, 8), levels=17, classes=10, flip=False)

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """See :meth:`DataSet.read`."""
        # Imported here: it takes two seconds, and most commands look at no image.
        from sklearn.datasets import load_digits

        raw = load_digits()
        values = torch.from_numpy(raw.images).to(torch.uint8)[:, None]
        labels = torch.from_numpy(raw.target).long()
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(SPLIT_SEED))
        rows = order[:N_TRAIN] if split == "train" else order[N_TRAIN:]
        return values[rows], labels[rows]
