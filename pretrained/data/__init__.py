"""Data sets, one a file, and the maps between their levels and the unit interval."""

from pretrained.data.data_set import SPLITS, DataSet, DataSpec, ImageData
from pretrained.data.dequantise import dequantise, quantise
from pretrained.data.digits import Digits
from pretrained.data.fashion_mnist import FashionMNIST
from solvers.errors import unknown_name

__all__ = [
    "DATA_SETS",
    "SPLITS",
    "DataSet",
    "DataSpec",
    "ImageData",
    "dequantise",
    "get_data_set",
    "load_data",
    "quantise",
]

DATA_SETS: dict[str, type[DataSet]] = {cls.key: cls for cls in (Digits, FashionMNIST)}


def get_data_set(name: str) -> DataSet:
    """A data set by its key.

    Raises:
        UsageError: no data set of that name.
    """
    if name not in DATA_SETS:
        raise unknown_name("load_data", "data set", name, DATA_SETS)
    return DATA_SETS[name]()


def load_data(name: str, split: str) -> ImageData:
    """The ``train`` or ``test`` part of a data set, in a fixed order, the same on every machine.

    Raises:
        UsageError: no data set or split of that name, or its files are missing or damaged.
    """
    return get_data_set(name).load(split)
