"""Fashion-MNIST: photographs of clothes, made small and grey.

Its four files are looked for in the folder of data (``SCOREBENCH_DATA``), as they are, under ``fashion-mnist`` or where
torchvision puts them; then where Debian's package ``dataset-fashion-mnist`` puts them; and else downloaded by
torchvision. Debian compresses them anew, so that the hashes checked here are those of their uncompressed content.

Source: Xiao, Rasul & Vollgraf 2017, Fashion-MNIST, arXiv:1708.07747.
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from pretrained.data.data_set import DataSet, DataSpec, missing_data
from pretrained.data.folders import FOLDER_VARIABLE, data_folder
from pretrained.provenance import sha256
from solvers.errors import UsageError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# Of each part, the two files and the SHA-256 of their uncompressed content.
FILES = {
    "train": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    },
    "test": {
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
TODO = (
    "Run `apt-get install dataset-fashion-mnist`, or put its four .gz files into the folder that "
    f"{FOLDER_VARIABLE} names"
)


@dataclass(frozen=True)
class FashionMNIST(DataSet):
    """60 000 images to train on and 10 000 to test with, 28x28 pixels of 256 levels, ten kinds of clothes.

    Shoes all point one way: a mirror image is another law's.
    """

    key: ClassVar[str] = "fashion_mnist"
    summary: ClassVar[str] = "Fashion-MNIST, clothes, 28x28"
    source: ClassVar[str] = "https://github.com/zalandoresearch/fashion-mnist"
    licence: ClassVar[str] = "MIT"

    @property
    def is_here(self) -> bool:
        """See :attr:`DataSet.is_here`."""
        return all(_find(split) is not None for split in FILES)

    @property
    def spec(self) -> DataSpec:
        """See :attr:`DataSet.spec`."""
        return DataSpec(self.key, (1, 28, 28), levels=256, classes=10, flip=False)

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """See :meth:`DataSet.read`; the official split in the files' order."""
        images, labels = _contents(split)
        n = len(labels) - 8
        values = torch.frombuffer(bytearray(images), dtype=torch.uint8, offset=16)
        return values.view(n, 1, 28, 28), torch.frombuffer(bytearray(labels), dtype=torch.uint8, offset=8).long()


def _contents(split: str) -> tuple[bytes, bytes]:
    """The uncompressed files of a part: images (16 bytes of header), labels (8 bytes)."""
    folder = _find(split) or _download()
    images, labels = (_read(_file(folder, name), expected) for name, expected in FILES[split].items())
    return images, labels


def _find(split: str) -> Path | None:
    """The first folder that holds both files of a part."""
    root = data_folder()
    for folder in (root, root / "fashion-mnist", root / "FashionMNIST" / "raw", DEBIAN):
        if all(_file(folder, name).is_file() for name in FILES[split]):
            return folder
    return None


def _file(folder: Path, name: str) -> Path:
    compressed = folder / f"{name}.gz"
    return compressed if compressed.is_file() else folder / name


def _read(path: Path, expected: str) -> bytes:
    """The uncompressed content of a file whose hash is the expected one."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError("fashion_mnist", f"{path} is a readable .gz file", str(error), f"Remove it. {TODO}") from error
    found = sha256(content)
    if found != expected:
        rule = f"the content of {path} has the SHA-256 {expected}"
        raise UsageError("fashion_mnist", rule, found, f"The file is damaged or another one: remove it. {TODO}")
    return content


def _download() -> Path:
    """Torchvision's download into the folder of data; the folder of the files."""
    from torchvision import datasets

    root = data_folder()
    try:
        return Path(datasets.FashionMNIST(root, download=True).raw_folder)
    except (OSError, RuntimeError) as error:
        rule = f"its files are in {root} or {DEBIAN}, or can be downloaded"
        raise missing_data("fashion_mnist", rule, error, TODO) from error
