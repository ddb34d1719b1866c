"""The residual blocks of NCSN++, DDPM++ and the compact U-Net.

    h = conv(act(norm(x))) + dense(act(level))
    h = conv(dropout(act(norm(h)))),        out = (shortcut(x) + h) / sqrt 2

A ``biggan`` block may resample: x before its shortcut, and the first branch between activation and convolution.

References: Ho et al. 2020, arXiv:2006.11239 (``ddpm``); Brock et al. 2019, arXiv:1809.11096 (``biggan``); Song et al.
2021, arXiv:2011.13456, app. H.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from pretrained.networks.attention import Pointwise, add
from pretrained.networks.initial import conv, dense, group_norm

Map = Callable[[Tensor], Tensor]
BlockKind = Literal["ddpm", "biggan"]


class Residual(nn.Module):
    """See above. Attribute names are those of the reference's checkpoints.

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        level: width of the features of the noise level.
        kind: decides the shortcut where channels change: a pointwise map (``ddpm``) or a 1x1 convolution (``biggan``).
        activation: act.
        dropout: probability.
        rescale: divide the sum by sqrt 2.
        scale: of the last convolution's initial weights.
        resample: to another resolution, for ``biggan`` alone.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        level: int,
        kind: BlockKind,
        activation: Map,
        dropout: float,
        rescale: bool,
        scale: float,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.rescale = rescale
        self.resample = resample
        self.GroupNorm_0 = group_norm(inputs)
        self.Conv_0 = conv(inputs, outputs)
        self.Dense_0 = dense(level, outputs)
        self.GroupNorm_1 = group_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.Conv_1 = conv(outputs, outputs, scale=scale)
        self.shortcut: str | None = None
        if kind == "biggan" and (inputs != outputs or resample is not None):
            self.shortcut = "Conv_2"
            self.Conv_2 = conv(inputs, outputs, size=1, padding=0)
        elif kind == "ddpm" and inputs != outputs:
            self.shortcut = "NIN_0"
            self.NIN_0 = Pointwise(inputs, outputs)

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        """x (n, inputs, h, w), level (n, level) or nothing; (n, outputs, h', w')."""
        h = self.activation(self.GroupNorm_0(x))
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = self.Conv_0(h)
        if level is not None:
            h = h + self.Dense_0(self.activation(level))[:, :, None, None]
        h = self.Conv_1(self.dropout(self.activation(self.GroupNorm_1(h))))
        return add(x if self.shortcut is None else getattr(self, self.shortcut)(x), h, self.rescale)
