"""Self-attention over the places of an image, one head as wide as the image has channels.

    h = x + W_3 sum_j softmax_j(q_i . k_j / sqrt(c)) v_j,        q, k, v = W_0, W_1, W_2 norm(x)

References: Ho et al. 2020, arXiv:2006.11239, app. B; Song et al. 2021, arXiv:2011.13456, app. H (the factor 1/sqrt 2).
"""

import math

import torch
from torch import Tensor, nn

from pretrained.networks.initial import group_norm, scale_weight


class Pointwise(nn.Module):
    """The same linear map at every place, y = x W + b over the channels.

    Args:
        inputs: channels of x.
        outputs: channels of y.
        scale: of the initial weights' variance.
    """

    def __init__(self, inputs: int, outputs: int, scale: float = 0.1) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(inputs, outputs))
        self.b = nn.Parameter(torch.zeros(outputs))
        scale_weight(self.W, scale)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, inputs, h, w); (n, outputs, h, w)."""
        return nn.functional.conv2d(x, self.W.t()[:, :, None, None], self.b)


class Attention(nn.Module):
    """See above. Attribute names are those of the reference's checkpoints.

    Args:
        channels: of the image.
        rescale: divide the sum by sqrt 2.
        scale: of the last map's initial weights.
    """

    def __init__(self, channels: int, rescale: bool, scale: float) -> None:
        super().__init__()
        self.rescale = rescale
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0 = Pointwise(channels, channels)
        self.NIN_1 = Pointwise(channels, channels)
        self.NIN_2 = Pointwise(channels, channels)
        self.NIN_3 = Pointwise(channels, channels, scale)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, channels, h, w); shape of x."""
        h = self.GroupNorm_0(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.NIN_0, self.NIN_1, self.NIN_2))
        # Written out: torch's fused attention has no second derivative, which sliced score matching takes.
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(x.shape[1]), dim=2)
        mixed = (v @ weights.transpose(1, 2)).view(x.shape)
        return add(x, self.NIN_3(mixed), self.rescale)


def add(x: Tensor, h: Tensor, rescale: bool) -> Tensor:
    """x + h, over sqrt 2 where the variance is to stay what it was."""
    return (x + h) / math.sqrt(2) if rescale else x + h
