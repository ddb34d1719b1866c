"""Data sets of discrete images, and the maps between counts, the unit interval and the state of a model.

A pixel holds one of L levels k. Uniform dequantisation spreads it over its bin, v = (k + u)/L with u in [0, 1); the
state of a score model is x_0 = scale v + offset. Training, likelihood and the inverse (:func:`quantise`) share these.

Source of uniform dequantisation: Theis et al. 2016, A note on the evaluation of generative models, arXiv:1511.01844.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from solvers.errors import unknown_name

SPLITS = ("train", "test")


@dataclass(frozen=True)
class ImageData:
    """One split of a data set.

    Attributes:
        name: key in :data:`DATA_SETS`.
        values: levels of the pixels, uint8, shape (n, channels, height, width).
        labels: classes, int64, shape (n,).
        levels: number L of levels; values lie in 0..L-1.
    """

    name: str
    values: Tensor
    labels: Tensor
    levels: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, (channels, height, width)."""
        return tuple(self.values.shape[1:])


def _digits() -> tuple[ImageData, int]:
    """scikit-learn's 1797 handwritten digits of 8x8 pixels and 17 levels (UCI, Alpaydin & Kaynak 1998); 1198 train."""
    # Imported here: it takes two seconds, and most commands look at no image.
    from sklearn.datasets import load_digits

    raw = load_digits()
    values = torch.from_numpy(raw.images).to(torch.uint8)[:, None]
    return ImageData("digits", values, torch.from_numpy(raw.target).long(), levels=17), 1198


DATA_SETS: dict[str, Callable[[], tuple[ImageData, int]]] = {"digits": _digits}

# The split never changes: results on the test part are comparable only while both parts stay what they were.
SPLIT_SEED = 0


def load_data(name: str, split: str) -> ImageData:
    """The ``train`` or ``test`` part of a data set, in a fixed random order, the same on every machine.

    Raises:
        UsageError: no data set or split of that name.
    """
    if name not in DATA_SETS:
        raise unknown_name("load_data", "data set", name, DATA_SETS)
    if split not in SPLITS:
        raise unknown_name("load_data", "split", split, SPLITS)
    whole, n_train = DATA_SETS[name]()
    order = torch.randperm(len(whole.values), generator=torch.Generator().manual_seed(SPLIT_SEED))
    rows = order[:n_train] if split == "train" else order[n_train:]
    return ImageData(name, whole.values[rows], whole.labels[rows], whole.levels)


def dequantise(values: Tensor, levels: int, uniform: Tensor) -> Tensor:
    """v = (k + u)/L in [0, 1), the shape and the dtype of ``uniform``.

    Args:
        values: levels k in 0..L-1.
        levels: L.
        uniform: u in [0, 1), shape of ``values``.
    """
    v = (values.to(uniform.dtype) + uniform) / levels
    # u just below 1 may round up into the next bin, for k = L-1 to v = 1.
    upper = torch.nextafter((values.to(v.dtype) + 1) / levels, torch.zeros_like(v))
    return torch.minimum(v, upper)


def quantise(v: Tensor, levels: int) -> Tensor:
    """The bin a value lies in, clip(floor(v L), 0, L-1), uint8; undoes :func:`dequantise`."""
    return (v * levels).floor().clamp(0, levels - 1).to(torch.uint8)
