"""A small residual network for small images: 3x3 convolutions on 2x2 patches, with one dense layer across the image.

Pixels enter as 2x2 patches (8x8 -> 4x4 with four channels), which makes the network four times cheaper; the dense layer
lets every place see every other one, and the learned map of positions tells digits' middle from their margin.

Two choices serve the likelihood. The noise level enters as sines and cosines of lam = log(alpha/sigma), in which
denoising changes evenly, where t crowds half of it into t < 0.1. And the density of dequantised data jumps at the
edges of its bins, most at those of the first and the last level: there the score changes over a distance sigma/alpha,
which no smooth function of x resolves, so the distances to these edges in that unit are inputs too. On held-out images
they are worth about 0.2 bits/dim.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pretrained.networks.embedding import NoiseLevelFeatures


class Block(nn.Module):
    """h + conv(silu(conv(silu(norm(h) (1 + scale) + shift)))), with scale and shift from the noise level.

    Args:
        width: channels, a multiple of 8.
        level: features of the noise level.
        dropout: probability.
    """

    def __init__(self, width: int, level: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.modulation = nn.Linear(level, 2 * width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.second.weight)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        """h (n, width, height, width), level (n, level); shape of h."""
        scale, shift = self.modulation(level)[:, :, None, None].chunk(2, 1)
        inner = self.first(F.silu(self.norm(h) * (1 + scale) + shift))
        out: Tensor = h + self.second(self.dropout(F.silu(inner)))
        return out


class ConvNet(nn.Module):
    """Core of a score model: ``F(scaled, lam)`` with scaled = x / root, see :mod:`pretrained.networks.precondition`.

    Args:
        shape: shape of an image, (channels, height, width); height and width even.
        edges: values of x at which the density of the data jumps.
        data_std: s, standard deviation of the data about zero, units of x.
        width: channels inside, a multiple of 8.
        blocks: residual blocks; the dense layer follows the first half of them.
        mix: width of the dense layer across the image.
        dropout: probability, in the blocks and the dense layer.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        edges: tuple[float, ...],
        data_std: float,
        width: int,
        blocks: int,
        mix: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        level = 128
        cells = (height // 2, breadth // 2)
        self.edges = edges
        self.data_std = data_std
        self.level = nn.Sequential(NoiseLevelFeatures(32), nn.Linear(64, level), nn.SiLU())
        self.enter = nn.Conv2d(4 * channels * (1 + len(edges)), width, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(1, width, *cells))
        self.blocks = nn.ModuleList(Block(width, level, dropout) for _ in range(blocks))
        size = width * cells[0] * cells[1]
        self.dense = nn.Sequential(
            nn.SiLU(), nn.Dropout(dropout), nn.Linear(size, mix), nn.SiLU(), nn.Linear(mix, size)
        )
        self.norm = nn.GroupNorm(8, width)
        self.leave = nn.Conv2d(width, 4 * channels, 3, padding=1)
        # Residual branches and the output start at zero: the untrained network is the exact answer for Gaussian data.
        for last in (self.dense[-1], self.leave):
            assert isinstance(last, nn.Linear | nn.Conv2d)
            nn.init.zeros_(last.weight)

    def forward(self, scaled: Tensor, lam: Tensor) -> Tensor:
        """scaled (n, channels, height, width), lam (n,); shape of scaled."""
        ratio = torch.exp(-lam).to(scaled.dtype)[:, None, None, None]
        unscaled = scaled * (self.data_std**2 + ratio.square()).sqrt()
        distances = [torch.tanh((unscaled - edge) / ratio) for edge in self.edges]
        h = self.enter(F.pixel_unshuffle(torch.cat([scaled, *distances], 1), 2)) + self.position
        level = self.level(lam.to(scaled.dtype))
        for i, block in enumerate(self.blocks):
            if i == len(self.blocks) // 2:
                # Channels lie last in memory (build_network asks for it: twice as fast), so these are views.
                places = h.permute(0, 2, 3, 1)
                h = h + self.dense(places.flatten(1)).view(places.shape).permute(0, 3, 1, 2)
            h = block(h, level)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), 2)
