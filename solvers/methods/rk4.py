"""The classical fourth-order Runge–Kutta method on the probability-flow ODE."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Rk4(FixedStepSolver):
    """Runge–Kutta 4 on dx/dt = velocity(x, t), with dt = s - t and m = (t + s)/2.

    v_1 = velocity(x, t)                      v_2 = velocity(x + dt/2 * v_1, m)
    v_3 = velocity(x + dt/2 * v_2, m)         v_4 = velocity(x + dt * v_3, s)
    x_s = x + dt/6 * (v_1 + 2 v_2 + 2 v_3 + v_4)

    Order 4, 4 evaluations a step.

    Reference: Hairer, Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, sec. II.1, table 1.2.
    """

    family: ClassVar[str] = "probability-flow ODE"
    order: ClassVar[int | None] = 4
    stochastic: ClassVar[bool] = False
    reference: ClassVar[str] = "Hairer et al. 1993, sec. II.1"

    def nfe(self, steps: int) -> int:
        return 4 * steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        dt, m = s - t, (t + s) / 2
        v = process.velocity(x, t)
        total = x.add(v, alpha=dt / 6)
        v = process.velocity(x.add(v, alpha=dt / 2), m)
        total.add_(v, alpha=dt / 3)
        v = process.velocity(x.add(v, alpha=dt / 2), m)
        total.add_(v, alpha=dt / 3)
        v = process.velocity(x.add(v, alpha=dt), s)
        return total.add_(v, alpha=dt / 6), state
