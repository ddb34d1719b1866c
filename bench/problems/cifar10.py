"""CIFAR-10 under the networks of Song et al. and of Karras et al.; their weights are not shipped."""

from typing import ClassVar

from torch import Tensor

from bench.problems.image import SPLITS, CheckpointProblem
from bench.problems.problem import register_problem


class Cifar10(CheckpointProblem):
    """CIFAR-10, 32x32 colour images of 256 levels, under a published network.

    Likelihoods are of the 10 000 test images. Features of samples are compared with the 50 000 training images, as
    published FIDs are: draw 0 the first of them, in order; the floor is that of the test images, and there is none of
    more samples than those.

    Args:
        device: where network and states live.

    Raises:
        MissingCheckpointError: the network's weights are not here.
    """

    metrics: ClassVar[tuple[str, ...]] = ("fid", "inception_score")
    data: ClassVar[str] = "cifar10"
    rows: ClassVar[int | None] = 500
    levels: ClassVar[int] = 256
    n_max: ClassVar[int] = 50_000

    def compared_with(self, n: int, seed: int, draw: int) -> Tensor:
        return self.images(SPLITS[1 - draw], n)


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
