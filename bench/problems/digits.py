"""The 8x8 handwritten digits under the project's own score network."""

from typing import ClassVar

from bench.problems.image import CheckpointProblem
from bench.problems.problem import register_problem


@register_problem
class Digits(CheckpointProblem):
    """scikit-learn's handwritten digits, 8x8, 17 grey levels, score network ``digits-vp``.

    Args:
        device: where network and states live.
    """

    key: ClassVar[str] = "digits"
    summary: ClassVar[str] = "8x8 handwritten digits, 17 levels, network digits-vp"
    metrics: ClassVar[tuple[str, ...]] = (
        "fd_digits",
        "fd_digits_solver",
        "fd_digits_infinity",
        "kd_digits",
        "precision_digits",
        "recall_digits",
        "trajectory_rmse",
    )
    checkpoint: ClassVar[str] = "digits-vp"
    data: ClassVar[str] = "digits"
    levels: ClassVar[int] = 17
    n_max: ClassVar[int] = 599
