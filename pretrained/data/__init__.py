"""Data sets, one a file, and the maps between their levels and the unit interval."""

from dataclasses import fields
from typing import Any

from pretrained.data.cifar10 import CIFAR10
from pretrained.data.data_set import SPLITS, DataSet, DataSpec, ImageData
from pretrained.data.dequantise import dequantise, draw_values, quantise
from pretrained.data.digits import Digits
from pretrained.data.fashion_mnist import FashionMNIST
from pretrained.data.folder import Folder
from pretrained.data.patches import Patches
from pretrained.data.toys import Checkerboard, Mixture, Rings, TwoMoons
from solvers.errors import UsageError, unknown_name

__all__ = [
    "DATA_SETS",
    "SPLITS",
    "DataSet",
    "DataSpec",
    "ImageData",
    "dequantise",
    "draw_values",
    "get_data_set",
    "load_data",
    "quantise",
]

DATA_SETS: dict[str, type[DataSet]] = {
    cls.key: cls for cls in (Digits, FashionMNIST, CIFAR10, Patches, Folder, Mixture, Rings, Checkerboard, TwoMoons)
}


def get_data_set(name: str, **settings: Any) -> DataSet:
    """A data set by its key and settings.

    Raises:
        UsageError: no data set or setting of that name, or a value of the wrong type.
    """
    if name not in DATA_SETS:
        raise unknown_name("load_data", "data set", name, DATA_SETS)
    cls = DATA_SETS[name]
    defaults = {field.name: field.default for field in fields(cls)}
    for key, value in settings.items():
        if key not in defaults:
            raise unknown_name(f"data set {name!r}", "setting", key, defaults)
        if type(value) is not type(defaults[key]):
            kind = type(defaults[key]).__name__
            raise UsageError(f"data set {name!r}", f"{key} is of type {kind}", value, f"E.g. {defaults[key]!r}")
    return cls(**settings)


def load_data(name: str, split: str, **settings: Any) -> ImageData:
    """The ``train`` or ``test`` part of a data set, in a fixed order, the same on every machine.

    Raises:
        UsageError: no data set, setting or split of that name, or its files are missing or damaged.
    """
    return get_data_set(name, **settings).load(split)
