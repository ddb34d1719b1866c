"""CIFAR-10 under the networks of Song et al. and of Karras et al.; their weights are not shipped."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.problems.problem import ImageProblem, register_problem
from pretrained import zoo
from pretrained.data import load_data
from solvers.errors import UsageError
from solvers.process import ReverseProcess

# Images a pass of the network. The solver's batch is the cell's, which a Langevin corrector averages over.
ROWS = 500
SPLITS = ("test", "train")


class InParts(nn.Module):
    """A network that takes a batch in parts, because the memory of its activations is limited."""

    def __init__(self, network: nn.Module, rows: int) -> None:
        super().__init__()
        self.network = network
        self.rows = rows

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The prediction, shape of x; x (n, ...), t (n,)."""
        parts = (slice(first, first + self.rows) for first in range(0, len(x), self.rows))
        return torch.cat([self.network(x[part], t[part]) for part in parts])


class Cifar10(ImageProblem):
    """CIFAR-10, 32x32 colour images of 256 levels, under a published network.

    References are integer levels: draw 0 the 10 000 test images in order, whose likelihood is taken; draw 1 training
    images chosen by the seed. Features of samples are compared with the 50 000 training images, as published FIDs are:
    draw 0 the first of them, in order; the floor is that of the test images.

    Args:
        device: where network and states live.

    Raises:
        MissingCheckpointError: the network's weights are not here.
    """

    metrics: ClassVar[tuple[str, ...]] = ("fid", "inception_score")
    checkpoint: ClassVar[str]
    levels: ClassVar[int] = 256
    n_max: ClassVar[int] = 50_000

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self._checkpoint = zoo.load(self.checkpoint, self.device)
        self._network = InParts(self._checkpoint.network, ROWS)
        self.sde = self._checkpoint.sde
        self.shape = self._checkpoint.shape
        self.dtype = torch.float32
        data = self._checkpoint.card.data
        self.scale, self.offset = data.scale, data.offset

    @property
    def hashes(self) -> dict[str, str]:
        return {self.checkpoint: self._checkpoint.sha256}

    def process(self) -> ReverseProcess:
        return ReverseProcess(self.sde, self._network, self._checkpoint.parametrisation)

    def reference(self, n: int, seed: int, draw: int) -> Tensor:
        return _images(SPLITS[draw], n, seed if draw else None)

    def compared_with(self, n: int, seed: int, draw: int) -> Tensor:
        return _images(SPLITS[1 - draw], n)


def _images(split: str, n: int, seed: int | None = None) -> Tensor:
    """n images of a part, the first or those that a seed chooses."""
    values = load_data("cifar10", split).values
    if n > len(values):
        raise UsageError("cifar10", f"there are {len(values)} {split} images", n, "Lower n in the matrix")
    if seed is not None:
        values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
    return values[:n]


@register_problem
class Cifar10VE(Cifar10):
    """NCSN++ cont. under VE."""

    key: ClassVar[str] = "cifar10_ve"
    summary: ClassVar[str] = "CIFAR-10, 3x32x32, 256 levels, network cifar10-ncsnpp-ve"
    checkpoint: ClassVar[str] = "cifar10-ncsnpp-ve"


@register_problem
class Cifar10VEDeep(Cifar10):
    """NCSN++ cont. deep under VE."""

    key: ClassVar[str] = "cifar10_ve_deep"
    summary: ClassVar[str] = "CIFAR-10, 3x32x32, 256 levels, network cifar10-ncsnpp-deep-ve"
    checkpoint: ClassVar[str] = "cifar10-ncsnpp-deep-ve"


@register_problem
class Cifar10VP(Cifar10):
    """DDPM++ cont. under VP."""

    key: ClassVar[str] = "cifar10_vp"
    summary: ClassVar[str] = "CIFAR-10, 3x32x32, 256 levels, network cifar10-ddpmpp-vp"
    checkpoint: ClassVar[str] = "cifar10-ddpmpp-vp"


@register_problem
class Cifar10VPDeep(Cifar10):
    """DDPM++ cont. deep under VP."""

    key: ClassVar[str] = "cifar10_vp_deep"
    summary: ClassVar[str] = "CIFAR-10, 3x32x32, 256 levels, network cifar10-ddpmpp-deep-vp"
    checkpoint: ClassVar[str] = "cifar10-ddpmpp-deep-vp"


@register_problem
class Cifar10SubVP(Cifar10):
    """DDPM++ cont. under sub-VP."""

    key: ClassVar[str] = "cifar10_subvp"
    summary: ClassVar[str] = "CIFAR-10, 3x32x32, 256 levels, network cifar10-ddpmpp-subvp"
    checkpoint: ClassVar[str] = "cifar10-ddpmpp-subvp"


@register_problem
class Cifar10SubVPDeep(Cifar10):
    """DDPM++ cont. deep under sub-VP."""

    key: ClassVar[str] = "cifar10_subvp_deep"
    summary: ClassVar[str] = "CIFAR-10, 3x32x32, 256 levels, network cifar10-ddpmpp-deep-subvp"
    checkpoint: ClassVar[str] = "cifar10-ddpmpp-deep-subvp"


@register_problem
class Cifar10EDM(Cifar10):
    """DDPM++ with the preconditioning of Karras et al., unconditional."""

    key: ClassVar[str] = "cifar10_edm"
    summary: ClassVar[str] = "CIFAR-10, 3x32x32, 256 levels, network cifar10-edm-vp"
    checkpoint: ClassVar[str] = "cifar10-edm-vp"
