"""What networks are told of the noise level: sines and cosines of a number, one row a sample."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class NoiseLevelFeatures(nn.Module):
    """sin and cos of lam at geometrically spaced frequencies, shape (n, 2 count).

    Args:
        count: number of frequencies, spaced from 0.1 to 4 per unit of lam (periods of 63 to 1.6; lam spans about 12).
    """

    frequencies: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-1, math.log10(4), count))

    def forward(self, lam: Tensor) -> Tensor:
        """Features of lam (n,)."""
        phase = lam[:, None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], 1)


class FourierFeatures(nn.Module):
    """sin and cos of 2 pi W log(label) with fixed random frequencies W ~ N(0, scale^2), shape (n, 2 count).

    Without ``logarithm``, of 2 pi W label.

    Reference: Tancik et al. 2020, arXiv:2006.10739; Song et al. 2021, arXiv:2011.13456, app. H.

    Args:
        count: number of frequencies.
        scale: standard deviation of the frequencies.
        logarithm: whether the label's logarithm is taken.
    """

    def __init__(self, count: int, scale: float, logarithm: bool = True) -> None:
        super().__init__()
        self.logarithm = logarithm
        # A parameter, as in the reference's checkpoints and in its counts, that no training moves.
        self.W = nn.Parameter(torch.randn(count) * scale, requires_grad=False)

    def forward(self, label: Tensor) -> Tensor:
        """Features of the label (n,), positive where its logarithm is taken."""
        level = torch.log(label) if self.logarithm else label
        # In this order the phase, hundreds of turns, is rounded as it was when the weights were trained.
        phase = level[:, None] * self.W[None] * 2 * math.pi
        return torch.cat([phase.sin(), phase.cos()], 1)


class PositionalFeatures(nn.Module):
    """sin and cos of label w_i, w_i = 10000^(-i/(count - 1)), i = 0 .. count - 1, shape (n, 2 count or one more).

    Reference: Vaswani et al. 2017, arXiv:1706.03762, sec. 3.5; Ho et al. 2020, arXiv:2006.11239.

    Args:
        width: of the features; odd ones end in a zero.
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        count = width // 2
        self.odd = width % 2
        rates = torch.exp(torch.arange(count, dtype=torch.float32) * -(math.log(10000) / (count - 1)))
        self.register_buffer("frequencies", rates, persistent=False)

    def forward(self, label: Tensor) -> Tensor:
        """Features of the label (n,)."""
        phase = label[:, None] * self.frequencies
        return F.pad(torch.cat([phase.sin(), phase.cos()], 1), (0, self.odd))
