"""CIFAR-10: small photographs of animals and vehicles, read, verified and downloaded by torchvision.

Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from pretrained.data.data_set import DataSet, DataSpec, MissingDataError, missing_data
from pretrained.data.folders import FOLDER_VARIABLE, data_folder

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
ARCHIVE = "cifar-10-python.tar.gz"
UNPACKED = "cifar-10-batches-py"


@dataclass(frozen=True)
class CIFAR10(DataSet):
    """50 000 images to train on and 10 000 to test with, 3x32x32 pixels of 256 levels, ten classes."""

    key: ClassVar[str] = "cifar10"
    summary: ClassVar[str] = "CIFAR-10, photographs of animals and vehicles, 32x32"
    source: ClassVar[str] = PAGE
    licence: ClassVar[str] = "none stated"

    @property
    def is_here(self) -> bool:
        """See :attr:`DataSet.is_here`; the files are not verified."""
        return any((data_folder() / name).exists() for name in (UNPACKED, ARCHIVE))

    @property
    def spec(self) -> DataSpec:
        """See :attr:`DataSet.spec`."""
        return DataSpec(self.key, (3, 32, 32), levels=256, classes=10, flip=True)

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """See :meth:`DataSet.read`; the official split in the files' order."""
        # Imported here: it takes seconds, and most commands look at no image.
        from torchvision import datasets

        root = data_folder()
        try:
            # A download happens only where neither the folder nor the archive has the right MD5 sums.
            raw = datasets.CIFAR10(root, train=split == "train", download=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise _missing(root, error) from error
        values = torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous()
        return values, torch.tensor(raw.targets)


def _missing(root: Path, error: Exception) -> MissingDataError:
    rule = f"its files are in {root} with the right MD5 sums, or can be downloaded"
    todo = (
        f"Put {ARCHIVE} from {PAGE}, or the folder {UNPACKED} that is in it, into {root}; {FOLDER_VARIABLE} names "
        "another folder"
    )
    return missing_data("cifar10", rule, error, todo)
