"""Resampling by two with a low-pass filter (finite impulse response), in plain torch.

With a filter k of L taps in each direction, normalised to sum 1 (* is convolution):

    down(x) = (k * x)[::2, ::2],        up(x) = 4 k * zeros_between(x),

zeros beyond the border, aligned so that an image of H x W becomes H/2 x W/2 and back. A 3x3 convolution joined to
either comes after the filter on the way down and before it on the way up, where most of its inputs are zeros.

References: Zhang 2019, Making convolutional networks shift-invariant again, arXiv:1904.11486; Karras et al. 2020,
arXiv:1912.04958, app. B; Song et al. 2021, arXiv:2011.13456, app. H (its use in NCSN++).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from solvers.errors import UsageError

# Input values that one output value of a 3x3 convolution sees beyond its own, per direction.
REACH = 2


class FIR(nn.Module):
    """A separable low-pass filter.

    Args:
        taps: the filter in one direction, two or more values of any scale.

    Raises:
        UsageError: fewer than two taps, or they sum to zero.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__()
        if len(taps) < 2 or sum(taps) == 0:
            raise UsageError("FIR", "a filter has two taps or more and a sum other than 0", list(taps), "Use 1 3 3 1")
        line = torch.tensor([float(tap) for tap in taps]) / sum(taps)
        self.length = len(taps)
        # Not in the state dict: the filter is a setting.
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)

    def blur(self, x: Tensor, before: int, after: int, stride: int = 1) -> Tensor:
        """k * x on every ``stride``-th place, x (n, c, h, w) framed by zeros (cut where negative) before and after."""
        framed = F.pad(x, (before, after, before, after)).flatten(0, 1)[:, None]
        blurred = F.conv2d(framed, self.kernel.flip(2, 3), stride=stride)
        return blurred.view(*x.shape[:2], *blurred.shape[2:])

    def down(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) at half the resolution; h and w even."""
        pad = self.length - 2
        return self.blur(x, (pad + 1) // 2, pad // 2, stride=2)

    def up(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) at twice the resolution."""
        spread = F.conv_transpose2d(x.flatten(0, 1)[:, None], 4 * self.kernel, stride=2)
        before = self.length // 2 - 1
        after = self.length - 2 - before
        cut = F.pad(spread, (-before, -after, -before, -after))
        return cut.reshape(*x.shape[:2], *cut.shape[2:])

    def down_framed(self, x: Tensor) -> Tensor:
        """k * x with the margin that a 3x3 convolution of stride 2 without padding turns into h/2 x w/2."""
        pad = self.length - 2 + REACH
        return self.blur(x, (pad + 1) // 2, pad // 2)

    def up_after(self, x: Tensor, weight: Tensor) -> Tensor:
        """The 3x3 convolution ``weight`` (out, in, 3, 3) of zeros_between(x), filtered: twice the resolution."""
        spread = F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), stride=2)
        pad = self.length - 2 - REACH
        return 4 * self.blur(spread, (pad + 1) // 2 + 1, pad // 2 + 1)
