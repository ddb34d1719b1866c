"""The explicit midpoint rule on the probability-flow ODE."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Midpoint(FixedStepSolver):
    """Midpoint rule on dx/dt = velocity(x, t).

    x_s = x + (s - t) * velocity(x + (s - t)/2 * velocity(x, t), (t + s)/2)

    Order 2, 2 evaluations a step.

    Reference: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, sec. II.1.
    """

    family: ClassVar[str] = "probability-flow ODE"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = False
    reference: ClassVar[str] = "Hairer et al. 1993, sec. II.1"

    def nfe(self, steps: int) -> int:
        return 2 * steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        middle = x.add(process.velocity(x, t), alpha=(s - t) / 2)
        return x.add(process.velocity(middle, (t + s) / 2), alpha=s - t), state
