"""Layers with the initialisation of NCSN++: uniform weights of variance scale / mean(fan_in, fan_out), zero biases.

Scale 0 (the last layer of a residual branch) means 1e-10: the branch starts next to nothing, and not stuck at it.

Reference: Song et al. 2021, arXiv:2011.13456, app. H; Ho et al. 2020, arXiv:2006.11239, app. B.
"""

import math

from torch import Tensor, nn

from solvers.errors import UsageError

GROUPS = 32


def scale_weight(weight: Tensor, scale: float = 1.0) -> None:
    """Draws a weight anew."""
    nn.init.xavier_uniform_(weight, gain=math.sqrt(max(scale, 1e-10)))


def conv(inputs: int, outputs: int, size: int = 3, scale: float = 1.0, stride: int = 1, padding: int = 1) -> nn.Conv2d:
    """A convolution of ``size`` x ``size``."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding)
    scale_weight(layer.weight, scale)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def dense(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer."""
    layer = nn.Linear(inputs, outputs)
    scale_weight(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with at least four channels a group, in as many groups as divide them, at most 32.

    Raises:
        UsageError: the number of channels is no multiple of 4.
    """
    if channels < 4 or channels % 4:
        todo = "Choose widths whose layers, joined ones included, have a multiple of 4 channels"
        raise UsageError("group_norm", "channels fall into equal groups", channels, todo)
    groups = next(count for count in range(min(channels // 4, GROUPS), 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)
