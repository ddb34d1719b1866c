"""A classifier of noisy images, log p(y | x_t): its gradient in x_t guides a sampler towards a class.

It reads x_t over its total scale and lam = log(alpha/sigma), like the score networks, so one classifier serves every
noise level: sure of itself where the image is clear, close to the classes' frequencies where it is drowned.

Reference: Song et al. 2021, arXiv:2011.13456, app. I.1; Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 4.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pretrained.networks.convnet import Block
from pretrained.networks.embedding import NoiseLevelFeatures
from solvers.errors import UsageError
from solvers.sde import ForwardSDE, expand


class NoisyClassifier(nn.Module):
    """Logits of log p(y | x_t = x), from 2x2 patches and one further halving.

    Args:
        shape: shape of an image, (channels, height, width); height and width multiples of 4.
        classes: number of classes.
        sde: the forward process.
        data_std: standard deviation of x_0 about zero, units of x.
        width: channels at the finer resolution, a multiple of 8; twice as many at the coarser one.
        blocks: residual blocks at each of the two resolutions.
        dropout: probability, in the blocks and before the logits.

    Raises:
        UsageError: height or width cannot be halved twice.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        sde: ForwardSDE,
        data_std: float,
        width: int,
        blocks: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, height, breadth = shape
        if height % 4 or breadth % 4:
            raise UsageError("NoisyClassifier", "height and width are multiples of 4", tuple(shape), "Pad or crop them")
        self.sde = sde
        self.data_std = data_std
        level = 128
        self.level = nn.Sequential(NoiseLevelFeatures(32), nn.Linear(64, level), nn.SiLU())
        self.enter = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.fine = nn.ModuleList(Block(width, level, dropout) for _ in range(blocks))
        self.halve = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList(Block(2 * width, level, dropout) for _ in range(blocks))
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.GroupNorm(8, 2 * width)
        self.head = nn.Linear(2 * width * (height // 4) * (breadth // 4), classes)
        # It starts by knowing nothing: every class is as likely as another.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits (n, classes) of states x (n, channels, height, width) at times t (n,)."""
        root = ((self.sde.alpha(t) * self.data_std).square() + self.sde.sigma(t).square()).sqrt()
        level = self.level(self.sde.lam(t).to(x.dtype))
        h: Tensor = self.enter(F.pixel_unshuffle(x / expand(root, x), 2))
        for block in self.fine:
            h = block(h, level)
        h = self.halve(h)
        for block in self.coarse:
            h = block(h, level)
        logits: Tensor = self.head(self.dropout(F.silu(self.norm(h)).flatten(1)))
        return logits

    def guidance(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """grad_x log p(y | x_t = x), shape of x: added to the score it gives the score given the class.

        Args:
            x: states (n, ...).
            t: times (n,).
            labels: classes y (n,), int64.
        """
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            logs = F.log_softmax(self(z, t), 1).gather(1, labels[:, None]).sum()
        return torch.autograd.grad(logs, z)[0]
