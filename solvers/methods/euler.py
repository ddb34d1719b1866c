"""Euler's method on the probability-flow ODE."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Euler(FixedStepSolver):
    """Euler on dx/dt = f x - g^2 score / 2.

    x_s = x + (s - t) * velocity(x, t)

    Order 1, 1 evaluation a step.

    Reference: Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv:2011.13456, eq. 13.
    """

    family: ClassVar[str] = "probability-flow ODE"
    order: ClassVar[int | None] = 1
    stochastic: ClassVar[bool] = False
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456"

    def nfe(self, steps: int) -> int:
        return steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return x + (s - t) * process.velocity(x, t), state
