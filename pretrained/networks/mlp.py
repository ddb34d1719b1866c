"""A residual network of dense layers, for vectors: points of the plane, or small images read as one row."""

import math

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pretrained.networks.embedding import NoiseLevelFeatures
from solvers.errors import UsageError

LEVEL = 128


class DenseBlock(nn.Module):
    """h + linear(dropout(silu(linear(norm(h) (1 + scale) + shift)))), with scale and shift from the noise level.

    Args:
        width: of h.
        dropout: probability.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(LEVEL, 2 * width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.second.weight)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        """h (n, width), level (n, 128); shape of h."""
        scale, shift = self.modulation(level).chunk(2, 1)
        inner = F.silu(self.first(self.norm(h) * (1 + scale) + shift))
        out: Tensor = h + self.second(self.dropout(inner))
        return out


class MLP(nn.Module):
    """Core of a score model: ``F(scaled, lam)`` with scaled = x / root, see :mod:`pretrained.networks.precondition`.

    Args:
        shape: shape of one sample, of any number of dimensions; all its values are the network's input.
        width: of the hidden layers.
        blocks: residual blocks, of two layers each.
        dropout: probability.
    """

    def __init__(self, shape: tuple[int, ...], width: int, blocks: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = tuple(shape)
        size = math.prod(shape)
        self.level = nn.Sequential(NoiseLevelFeatures(32), nn.Linear(64, LEVEL), nn.SiLU())
        self.enter = nn.Linear(size, width)
        self.blocks = nn.ModuleList(DenseBlock(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, size)
        # The untrained network is the exact answer for Gaussian data.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, scaled: Tensor, lam: Tensor) -> Tensor:
        """scaled (n, ...), lam (n,); shape of scaled.

        Raises:
            UsageError: samples of another shape.
        """
        if tuple(scaled.shape[1:]) != self.shape:
            raise UsageError("MLP", f"samples have the shape {self.shape}", tuple(scaled.shape[1:]), "Reshape them")
        level = self.level(lam.to(scaled.dtype))
        h = self.enter(scaled.flatten(1))
        for block in self.blocks:
            h = block(h, level)
        out: Tensor = self.leave(F.silu(self.norm(h)))
        return out.view(scaled.shape)
