"""Laws in the plane, drawn once with fixed seeds: continuous vectors, without levels."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pretrained.data.data_set import DataSet, DataSpec

SIZES = {"train": 20_000, "test": 5_000}
SEEDS = {"train": 0, "test": 1}


class Toy(DataSet):
    """20 000 vectors of two coordinates to train on and 5 000 to test with.

    Attributes:
        classes: number of the law's components, which are the labels.
    """

    source: ClassVar[str] = "drawn from a formula"
    licence: ClassVar[str] = "none needed"
    classes: ClassVar[int]

    @property
    def spec(self) -> DataSpec:
        """See :attr:`DataSet.spec`."""
        return DataSpec(self.key, (2,), levels=None, classes=self.classes, flip=False)

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """See :meth:`DataSet.read`."""
        generator = torch.Generator().manual_seed(SEEDS[split])
        labels = torch.randint(self.classes, (SIZES[split],), generator=generator)
        return self.draw(labels, generator).float(), labels

    @abstractmethod
    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """One vector of each label's component, float64, (n, 2)."""


@dataclass(frozen=True)
class Mixture(Toy):
    """Eight equal Gaussians, standard deviation 0.5, on the circle of radius 4: the law of problem ``mixture_2d``."""

    key: ClassVar[str] = "mixture"
    summary: ClassVar[str] = "eight Gaussians on a circle, 2-D"
    classes: ClassVar[int] = 8

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """See :meth:`Toy.draw`."""
        angle = labels.double() * (math.pi / 4)
        normals = torch.randn(len(labels), 2, dtype=torch.float64, generator=generator)
        return 4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.5 * normals


@dataclass(frozen=True)
class Rings(Toy):
    """Three equal rings about 0: radius 1, 2 or 3 plus a normal of deviation 0.1, angle uniform."""

    key: ClassVar[str] = "rings"
    summary: ClassVar[str] = "three rings, 2-D"
    classes: ClassVar[int] = 3

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """See :meth:`Toy.draw`."""
        angle = 2 * math.pi * torch.rand(len(labels), dtype=torch.float64, generator=generator)
        radius = labels + 1 + 0.1 * torch.randn(len(labels), dtype=torch.float64, generator=generator)
        return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


@dataclass(frozen=True)
class Checkerboard(Toy):
    """Uniform on the eight black squares of side 2 of a board of 4 by 4, [-4, 4]^2."""

    key: ClassVar[str] = "checkerboard"
    summary: ClassVar[str] = "the black squares of a board of 4 by 4, 2-D"
    classes: ClassVar[int] = 8

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """See :meth:`Toy.draw`."""
        row = labels // 2
        corner = torch.stack([2 * (labels % 2) + row % 2, row], 1)
        return 2 * (corner + torch.rand(len(labels), 2, dtype=torch.float64, generator=generator)) - 4


@dataclass(frozen=True)
class TwoMoons(Toy):
    """Half circles of radius 1, (cos a, sin a) and (1 - cos a, 1/2 - sin a), a in [0, pi]; noise of deviation 0.1."""

    key: ClassVar[str] = "two_moons"
    summary: ClassVar[str] = "two half circles that reach into each other, 2-D"
    classes: ClassVar[int] = 2

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """See :meth:`Toy.draw`."""
        angle = math.pi * torch.rand(len(labels), dtype=torch.float64, generator=generator)
        upper = torch.stack([angle.cos(), angle.sin()], 1)
        lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
        normals = torch.randn(len(labels), 2, dtype=torch.float64, generator=generator)
        return torch.where(labels[:, None] == 0, upper, lower) + 0.1 * normals
