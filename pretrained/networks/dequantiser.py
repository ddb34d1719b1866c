"""A conditional flow on the unit cube: u in (0, 1)^D given levels k, with its density q(u | k).

u = sigmoid(y), where y starts as logit of a uniform, and affine maps follow one another: one of all pixels, whose scale
and shift depend on k alone, then couplings, in which one half of a checkerboard is mapped given k and the other half:

    y -> y exp(a) + b,        log q(u | k) = log s(y_0) - log s(y) - sum a,        log s(y) = sum log sigmoid'(y).

All a and b start at zero: the untrained flow is uniform dequantisation, with q = 1.

References: Ho et al. 2019, Flow++, arXiv:1902.00275, sec. 3.1; Dinh et al. 2017, arXiv:1605.08803 (couplings).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

# Uniforms are kept so far from 0 and 1: beyond it single precision has no logit.
MARGIN = 2.0**-24
# Largest |a| of a map.
STEEPEST = 2.0


class Coupling(nn.Module):
    """a and b of half the pixels, given features of the levels and the other half."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(width + channels, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 2 * channels, 3, padding=1)
        start_at_zero(self.leave)

    def forward(self, h: Tensor, known: Tensor) -> Tensor:
        """(n, 2 channels, height, width) of features (n, width, ...) and the known half, zero elsewhere."""
        found: Tensor = self.leave(F.silu(self.enter(torch.cat([h, known], 1))))
        return found


class Dequantiser(nn.Module):
    """u and log q(u | k) of levels k.

    Args:
        shape: shape of an image, (channels, height, width).
        levels: number of levels L.
        width: channels inside.
        couplings: maps of half the pixels; an even number treats both halves alike.
    """

    def __init__(self, shape: tuple[int, ...], levels: int, width: int, couplings: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        self.levels = levels
        self.enter = nn.Conv2d(3 * channels, width, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(1, width, height, breadth))
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.alone = nn.Conv2d(width, 2 * channels, 1)
        self.couplings = nn.ModuleList(Coupling(channels, width) for _ in range(couplings))
        squares = (torch.arange(height)[:, None] + torch.arange(breadth)) % 2
        self.squares: Tensor
        self.register_buffer("squares", squares.bool(), persistent=False)
        start_at_zero(self.alone)

    def forward(self, values: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """u, shape and dtype of ``uniform``, and log q(u | k) in nats, (n,).

        Args:
            values: levels k, (n, channels, height, width).
            uniform: independent uniforms on [0, 1), shape of ``values``.
        """
        start = y = uniform.clamp(MARGIN, 1 - MARGIN).logit()
        top = self.levels - 1
        planes = [2 * values.to(y.dtype) / top - 1, (values == 0).to(y.dtype), (values == top).to(y.dtype)]
        h = F.silu(self.enter(torch.cat(planes, 1)) + self.position)
        h = F.silu(self.inner(h))
        y, slopes = _mapped(y, self.alone(h), torch.ones_like(self.squares))
        for i, coupling in enumerate(self.couplings):
            moved = self.squares if i % 2 else ~self.squares
            y, a = _mapped(y, coupling(h, torch.where(moved, 0, torch.tanh(y / 2))), moved)
            slopes = slopes + a
        return torch.sigmoid(y), (_log_slope(start) - _log_slope(y) - slopes).flatten(1).sum(1)


def start_at_zero(layer: nn.Conv2d) -> None:
    """Makes a layer give zero until it is trained."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def _mapped(y: Tensor, ab: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """y exp(a) + b at the pixels that are moved, and a."""
    a, b = torch.where(moved, ab, 0).chunk(2, 1)
    a = STEEPEST * torch.tanh(a / STEEPEST)
    return y * torch.exp(a) + b, a


def _log_slope(y: Tensor) -> Tensor:
    """log sigmoid'(y)."""
    return F.logsigmoid(y) + F.logsigmoid(-y)
