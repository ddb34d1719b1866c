"""Constraints: a known part of the sample, replaced after every update by a draw from the forward kernel of the data.

In coordinates y of an orthonormal basis in which a mask tells the known ones,

    y <- y (1 - mask) + (alpha(t) y_data + sigma(t) z) mask.

Reference: Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv:2011.13456, app. I.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from solvers.errors import UsageError
from solvers.sde import ForwardSDE


class Constraint(ABC):
    """What is known of the samples of one batch.

    Args:
        data: the true samples, (n, ...) or (1, ...); their known part counts.
        mask: 1 (True) where a coordinate of the basis is known, broadcastable to data.
    """

    def __init__(self, data: Tensor, mask: Tensor) -> None:
        self._mask = mask.to(data.device).bool()
        self._known = self.decouple(data)

    @abstractmethod
    def decouple(self, x: Tensor) -> Tensor:
        """Coordinates of states x in the basis, shape of x."""

    @abstractmethod
    def couple(self, y: Tensor) -> Tensor:
        """Inverse of :meth:`decouple`."""

    def impose(self, x: Tensor, sde: ForwardSDE, t: float, z: Tensor | float = 0.0) -> Tensor:
        """x with its known part drawn from the kernel at t by unit normals z (of the basis); its mean for z = 0."""
        mean, std = sde.marginal(self._known, t)
        return self.couple(torch.where(self._mask, mean + std * z, self.decouple(x)))

    def song_start(self, x: Tensor) -> Tensor:
        """The reference's start from a prior draw x: clean data in the known part, and x masked before the rotation."""
        unknown = torch.where(self._mask, torch.zeros_like(x), x)
        return self.couple(torch.where(self._mask, self._known, 0.0) + self.decouple(unknown))


class Inpainting(Constraint):
    """Some pixels are known.

    Args:
        data: the images, (n, channels, height, width).
        mask: 1 where a pixel is known, broadcastable to data.
    """

    def decouple(self, x: Tensor) -> Tensor:
        """See :class:`Constraint`."""
        return x

    def couple(self, y: Tensor) -> Tensor:
        """See :class:`Constraint`."""
        return y


class Colorization(Constraint):
    """The grey channel is known: the first coordinate in an orthonormal basis of colour space.

    Its vectors are (1, 1, 1)/sqrt(3), (-2, 1, 1)/sqrt(6), (0, 1, -1)/sqrt(2).

    Args:
        data: the images, grey or in colour, (n, 3, height, width).

    Raises:
        UsageError: the images do not have three channels.
    """

    def __init__(self, data: Tensor) -> None:
        if data.ndim != 4 or data.shape[1] != 3:
            raise UsageError("Colorization", "images have shape (n, 3, height, width)", tuple(data.shape))
        rows = [[1.0, 1.0, 1.0], [-2.0, 1.0, 1.0], [0.0, 1.0, -1.0]]
        basis = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows]
        self._basis = torch.tensor(basis, dtype=data.dtype, device=data.device)
        super().__init__(data, torch.tensor([True, False, False]).reshape(1, 3, 1, 1))

    def decouple(self, x: Tensor) -> Tensor:
        """See :class:`Constraint`."""
        return torch.einsum("ji,nihw->njhw", self._basis, x)

    def couple(self, y: Tensor) -> Tensor:
        """See :class:`Constraint`."""
        return torch.einsum("ji,njhw->nihw", self._basis, y)
