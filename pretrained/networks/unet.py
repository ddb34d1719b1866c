"""A compact U-Net for small images: residual blocks on two or three resolutions, attention and classes if wanted.

With ``patch`` p it works on p x p pixels at once (Shi et al. 2016, arXiv:1609.05158): p^2 as many channels at 1/p of
the resolution, a quarter of the work at p = 2. The blocks are those of DDPM++ (:mod:`pretrained.networks.residual`);
the noise level enters as features of lam = log(alpha/sigma), and so does a class, as a learned vector added to them.
One more vector stands for "any class": it is what samples without a class get.

References: Ho et al. 2020, arXiv:2006.11239, app. B; Ho & Salimans 2022, arXiv:2207.12598 (classes left out at random).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pretrained.networks.attention import Attention
from pretrained.networks.embedding import NoiseLevelFeatures
from pretrained.networks.initial import conv, group_norm
from pretrained.networks.resample import Down, Up
from pretrained.networks.residual import Residual
from solvers.errors import UsageError


class Attended(nn.Module):
    """A residual block, then attention.

    Args:
        block: x and the features of the noise level to h.
        attention: h to a tensor of its shape.
    """

    def __init__(self, block: Residual, attention: Attention) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        """x (n, inputs, h, w), level (n, level); (n, outputs, h, w)."""
        h: Tensor = self.attention(self.block(x, level))
        return h


class UNet(nn.Module):
    """Core of a score model: ``F(scaled, lam)`` with scaled = x / root, see :mod:`pretrained.networks.precondition`.

    Args:
        shape: shape of an image, (channels, height, width); height and width multiples of patch 2^(resolutions - 1).
        width: channels at the finest resolution, a multiple of 4.
        multipliers: channels at each resolution, in units of ``width``, the finest first.
        blocks: residual blocks at each resolution, one more on the way up.
        attention: heights at which self-attention follows every block; heights are counted in patches.
        patch: p, pixels along each side of a patch.
        classes: number of classes; 0 for none.
        dropout: probability, in the blocks.

    Raises:
        UsageError: height or width cannot be halved so often, or attention is wanted at a height that does not occur.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        attention: tuple[int, ...] = (),
        patch: int = 1,
        classes: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        factor = patch * 2 ** (len(multipliers) - 1)
        if height % factor or breadth % factor:
            rule = f"height and width are multiples of {factor}: {len(multipliers)} resolutions halve them"
            rule += f", patches divide them by {patch}" * (patch > 1)
            raise UsageError("UNet", rule, tuple(shape), "Pad or crop the images, or give fewer multipliers")
        heights = [height // patch // 2**depth for depth in range(len(multipliers))]
        for wanted in attention:
            if wanted not in heights:
                known = f"Heights, in patches: {', '.join(map(str, heights))}"
                raise UsageError("UNet", "attention is at heights that occur", wanted, known)
        self.shape = tuple(shape)
        self.classes = classes
        level = 4 * width
        self.level = nn.Sequential(NoiseLevelFeatures(32), nn.Linear(64, level), nn.SiLU(), nn.Linear(level, level))
        self.label = nn.Embedding(classes + 1, level) if classes else None

        def block(inputs: int, outputs: int, attended: bool = False) -> nn.Module:
            residual = Residual(inputs, outputs, level, "biggan", F.silu, dropout, rescale=True, scale=0.0)
            return Attended(residual, Attention(outputs, rescale=True, scale=0.0)) if attended else residual

        self.patch = patch
        self.enter = conv(channels * patch**2, width)
        widths = [width * multiplier for multiplier in multipliers]
        left = [width]
        self.fine_to_coarse = nn.ModuleList()
        for wide, here in zip(widths, heights, strict=True):
            for _ in range(blocks):
                self.fine_to_coarse.append(block(left[-1], wide, here in attention))
                left.append(wide)
        h = left[-1]
        self.middle = block(h, h, heights[-1] in attention)
        self.coarse_to_fine = nn.ModuleList()
        for depth in reversed(range(len(widths))):
            # The last block of the finest resolution takes what the first convolution left.
            for _ in range(blocks + (depth == 0)):
                self.coarse_to_fine.append(block(h + left.pop(), widths[depth], heights[depth] in attention))
                h = widths[depth]
        self.blocks = blocks
        self.down, self.up = Down(), Up()
        self.norm = group_norm(h)
        self.leave = conv(h, channels * patch**2, scale=0.0)

    def forward(self, scaled: Tensor, lam: Tensor, labels: Tensor | None = None) -> Tensor:
        """The prediction, shape of ``scaled``.

        Args:
            scaled: images (n, channels, height, width).
            lam: noise levels (n,).
            labels: classes (n,), int64, the number of classes itself for any class; None for any class throughout.

        Raises:
            UsageError: images of another shape, or labels for a network without classes.
        """
        if tuple(scaled.shape[1:]) != self.shape:
            raise UsageError("UNet", f"images have the shape {self.shape}", tuple(scaled.shape[1:]), "Resize them")
        level = self.level(lam.to(scaled.dtype)) + self._class(labels, scaled)
        h = self.enter(F.pixel_unshuffle(scaled, self.patch) if self.patch > 1 else scaled)
        left = [h]
        for i, block in enumerate(self.fine_to_coarse):
            if i and i % self.blocks == 0:
                h = self.down(h)
            h = block(h, level)
            left.append(h)
        h = self.middle(h, level)
        for block in self.coarse_to_fine:
            beside = left.pop()
            if h.shape[2] < beside.shape[2]:
                h = self.up(h)
            h = block(torch.cat([h, beside], 1), level)
        image: Tensor = self.leave(F.silu(self.norm(h)))
        return F.pixel_shuffle(image, self.patch) if self.patch > 1 else image

    def _class(self, labels: Tensor | None, scaled: Tensor) -> Tensor | float:
        if self.label is None:
            if labels is not None:
                raise UsageError("UNet", "the network has no classes", "labels", "Give it classes, or leave labels out")
            return 0.0
        if labels is None:
            labels = torch.full((len(scaled),), self.classes, device=scaled.device)
        vector: Tensor = self.label(labels)
        return vector
