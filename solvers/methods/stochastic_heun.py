"""Stochastic Heun on the reverse SDE."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class StochasticHeun(FixedStepSolver):
    """Heun's method on dx = b dt + g dw, b(x, t) = f x - g^2 * score, both stages on the same increment.

    u   = x + (s - t) * b(x, t) + g(t) * dw
    x_s = x + (s - t) * (b(x, t) + b(u, s)) / 2 + (g(t) + g(s)) / 2 * dw

    Order 2 in law, the noise being additive; 2 evaluations a step.

    Reference: Kloeden & Platen 1992, Numerical Solution of Stochastic Differential Equations, sec. 15.1; Roberts 2012,
    Modify the Improved Euler scheme to integrate stochastic differential equations, arXiv:1210.0933.
    """

    family: ClassVar[str] = "reverse SDE"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = True
    reference: ClassVar[str] = "Roberts 2012, arXiv:1210.0933"

    def nfe(self, steps: int) -> int:
        return 2 * steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        sde, dt = process.sde, s - t
        g_t, g_s = sde.diffusion(t), sde.diffusion(s)
        dw = brownian.dw(t, s)
        b_t = sde.drift_coefficient(t) * x - g_t**2 * process.score(x, t)
        u = x + dt * b_t + g_t * dw
        b_s = sde.drift_coefficient(s) * u - g_s**2 * process.score(u, s)
        return x + dt / 2 * (b_t + b_s) + (g_t + g_s) / 2 * dw, state
