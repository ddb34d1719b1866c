"""The images in a folder of the user's own."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pretrained.data.data_set import DataSet, DataSpec
from solvers.errors import UsageError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# One image in so many is held out.
HELD_OUT = 10
TOLD = 5


@dataclass(frozen=True)
class Folder(DataSet):
    """Every image below a folder, its middle square brought to ``size`` by ``size`` pixels of 256 levels.

    An image is held out if the hash of its path inside the folder says so, one in ten: images that are added move no
    other from one part to the other. Transparent ones are laid on white; all labels are 0.

    Args:
        path: the folder, relative to where the command is run.
        size: height and width in pixels.
        grey: one channel instead of three.
    """

    key: ClassVar[str] = "folder"
    summary: ClassVar[str] = "the images in a folder of your own"
    source: ClassVar[str] = "a folder of one's own"
    licence: ClassVar[str] = "not known"
    path: str = "images"
    size: int = 32
    grey: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError("data set 'folder'", "size is a number of pixels", self.size, "E.g. size: 32")

    @property
    def is_here(self) -> bool:
        """See :attr:`DataSet.is_here`."""
        return Path(self.path).is_dir()

    @property
    def spec(self) -> DataSpec:
        """See :attr:`DataSet.spec`."""
        return DataSpec(self.key, (1 if self.grey else 3, self.size, self.size), levels=256, classes=1, flip=True)

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """See :meth:`DataSet.read`; images in the order of their paths."""
        root = Path(self.path)
        if not root.is_dir():
            raise UsageError("data set 'folder'", "path is a folder", str(root.absolute()), "Correct path in the card")
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
        chosen = [name for name in names if _is_held_out(name) == (split == "test")]
        if not chosen:
            rule = f"{root.absolute()} holds images to train on and, about one in {HELD_OUT}, to test with"
            kinds = ", ".join(SUFFIXES)
            raise UsageError("data set 'folder'", rule, f"{len(names)} images", f"Add some; files are taken by {kinds}")
        values, damaged = [], []
        for name in chosen:
            try:
                values.append(self._image(root / name))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                damaged.append(f"{name} ({error})")
        if damaged:
            rule = f"every image below {root.absolute()} can be read"
            more = f" and {len(damaged) - TOLD} more" if len(damaged) > TOLD else ""
            raise UsageError("data set 'folder'", rule, "; ".join(damaged[:TOLD]) + more, "Repair or remove them")
        return torch.stack(values), torch.zeros(len(values), dtype=torch.long)

    def _image(self, path: Path) -> Tensor:
        """One image, uint8, (channels, size, size)."""
        with Image.open(path) as file:
            # Its metadata may say that the camera was held upright.
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode}: it has more than 8 bits a channel")
            colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        flat = Image.alpha_composite(white, colours).convert("L" if self.grey else "RGB")
        side = min(flat.size)
        left, top = (flat.width - side) // 2, (flat.height - side) // 2
        # Cut first: a filter given a box still looks beyond it.
        square = flat.crop((left, top, left + side, top + side))
        pixels = np.array(square.resize((self.size, self.size), Image.Resampling.LANCZOS))
        return torch.from_numpy(pixels).view(self.size, self.size, -1).permute(2, 0, 1).contiguous()


def _is_held_out(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % HELD_OUT == 0
