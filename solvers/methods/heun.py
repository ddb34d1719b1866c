"""Heun's method on the probability-flow ODE."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Heun(FixedStepSolver):
    """Explicit trapezoidal rule on dx/dt = velocity(x, t), at every step, the last included.

    x_s = x + (s - t) * (velocity(x, t) + velocity(x + (s - t) * velocity(x, t), s)) / 2

    Order 2, 2 evaluations a step.

    Reference: Karras et al. 2022, Elucidating the Design Space, arXiv:2206.00364, alg. 1 (there with Euler last).
    """

    family: ClassVar[str] = "probability-flow ODE"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = False
    recommended_grid: ClassVar[str | None] = "karras"
    reference: ClassVar[str] = "Karras et al. 2022, arXiv:2206.00364"

    def nfe(self, steps: int) -> int:
        return 2 * steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        v_t = process.velocity(x, t)
        v_s = process.velocity(x + (s - t) * v_t, s)
        return x + (s - t) / 2 * (v_t + v_s), state
