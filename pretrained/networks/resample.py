"""Half and twice the resolution: with a low-pass filter where taps are given, by 2x2 means and repetition where not."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pretrained.networks.fir import FIR
from pretrained.networks.initial import conv

Taps = Sequence[float] | None


class Down(nn.Module):
    """Half the resolution.

    Args:
        taps: of the filter, see :class:`pretrained.networks.fir.FIR`; None for 2x2 means.
    """

    def __init__(self, taps: Taps = None) -> None:
        super().__init__()
        self.fir = None if taps is None else FIR(taps)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, c, h, w), h and w even; (n, c, h/2, w/2)."""
        return F.avg_pool2d(x, 2) if self.fir is None else self.fir.down(x)


class Up(nn.Module):
    """Twice the resolution.

    Args:
        taps: of the filter; None repeats every place 2x2 times.
    """

    def __init__(self, taps: Taps = None) -> None:
        super().__init__()
        self.fir = None if taps is None else FIR(taps)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, c, h, w); (n, c, 2 h, 2 w)."""
        return F.interpolate(x, scale_factor=2.0) if self.fir is None else self.fir.up(x)


class ConvDown(nn.Module):
    """A 3x3 convolution to half the resolution. Attribute names are those of the reference's checkpoints.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        taps: of the filter before it; without one the convolution strides over x framed below and to the right.
    """

    def __init__(self, inputs: int, outputs: int, taps: Taps = None) -> None:
        super().__init__()
        layer = conv(inputs, outputs, stride=2, padding=0)
        self.fir: FIR | None = None
        if taps is None:
            self.Conv_0 = layer
        else:
            self.Conv2d_0 = layer
            self.fir = FIR(taps)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, inputs, h, w), h and w even; (n, outputs, h/2, w/2)."""
        result: Tensor = (
            self.Conv_0(F.pad(x, (0, 1, 0, 1))) if self.fir is None else self.Conv2d_0(self.fir.down_framed(x))
        )
        return result


class ConvUp(nn.Module):
    """A 3x3 convolution to twice the resolution. Attribute names are those of the reference's checkpoints.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        taps: of the filter after it; without one it follows the repetition of every place.
    """

    def __init__(self, inputs: int, outputs: int, taps: Taps = None) -> None:
        super().__init__()
        layer = conv(inputs, outputs)
        self.fir: FIR | None = None
        if taps is None:
            self.Conv_0 = layer
        else:
            self.Conv2d_0 = layer
            self.fir = FIR(taps)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, inputs, h, w); (n, outputs, 2 h, 2 w)."""
        if self.fir is None:
            repeated: Tensor = self.Conv_0(F.interpolate(x, scale_factor=2.0))
            return repeated
        assert self.Conv2d_0.bias is not None
        return self.fir.up_after(x, self.Conv2d_0.weight) + self.Conv2d_0.bias[:, None, None]


class Combine(nn.Module):
    """Joins an image to the features of its resolution, by a 1x1 convolution and a sum, or side by side (``cat``).

    Args:
        inputs: channels of the image.
        outputs: channels of the features.
        cat: keep both, in 2 ``outputs`` channels.
    """

    def __init__(self, inputs: int, outputs: int, cat: bool) -> None:
        super().__init__()
        self.cat = cat
        self.Conv_0 = conv(inputs, outputs, size=1, padding=0)

    def forward(self, image: Tensor, h: Tensor) -> Tensor:
        """image (n, inputs, height, width), h (n, outputs, height, width)."""
        found: Tensor = self.Conv_0(image)
        return torch.cat([found, h], 1) if self.cat else found + h
