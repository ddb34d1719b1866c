"""Pictures of clothes, 28x28, under one network of the noise level: the same score model under four processes.

x_0 | x_t depends on x/alpha(t) and the noise level sigma(t)/alpha(t) alone, so that the denoiser D(y; r) of
``fashion-edm`` serves each process as D(x/alpha(t); sigma(t)/alpha(t)): the rows of these problems differ by process
and solver, never by network. Its training covers r from 1e-4 to 160. The processes run from

    EDM 0.002 to 80,  VP 0.0105 to 152,  sub-VP 1.1e-4 to 152,  VE 0.01 to 50

in units of x_0. Cosine and RectifiedFlow start at 642 and 999, where the network was never asked, and are left out;
likelihoods of sub-VP go down to 1e-6 and extrapolate.
"""

from typing import ClassVar

from bench.problems.image import CheckpointProblem
from bench.problems.problem import register_problem
from solvers.sde import VE, VP, ForwardSDE, SubVP


class _Clothes(CheckpointProblem):
    metrics: ClassVar[tuple[str, ...]] = (
        "fd_fashion",
        "fd_fashion_solver",
        "fd_fashion_infinity",
        "kd_fashion",
        "precision_fashion",
        "recall_fashion",
        "trajectory_rmse",
    )
    checkpoint: ClassVar[str] = "fashion-edm"
    data: ClassVar[str] = "fashion_mnist"
    rows: ClassVar[int | None] = 250
    levels: ClassVar[int] = 256
    n_max: ClassVar[int] = 10_000


@register_problem
class Fashion(_Clothes):
    """Fashion-MNIST, 28x28, 256 grey levels, score network ``fashion-edm`` under the process of its training.

    Args:
        device: where network and states live.
    """

    key: ClassVar[str] = "fashion"
    summary: ClassVar[str] = "28x28 pictures of clothes, 256 levels, network fashion-edm under EDM"


@register_problem
class FashionVP(_Clothes):
    """The same network under VP."""

    key: ClassVar[str] = "fashion_vp"
    summary: ClassVar[str] = "28x28 pictures of clothes, 256 levels, network fashion-edm under VP"
    under: ClassVar[ForwardSDE | None] = VP()


@register_problem
class FashionSubVP(_Clothes):
    """The same network under sub-VP."""

    key: ClassVar[str] = "fashion_subvp"
    summary: ClassVar[str] = "28x28 pictures of clothes, 256 levels, network fashion-edm under sub-VP"
    under: ClassVar[ForwardSDE | None] = SubVP()


@register_problem
class FashionVE(_Clothes):
    """The same network under VE."""

    key: ClassVar[str] = "fashion_ve"
    summary: ClassVar[str] = "28x28 pictures of clothes, 256 levels, network fashion-edm under VE"
    under: ClassVar[ForwardSDE | None] = VE()
