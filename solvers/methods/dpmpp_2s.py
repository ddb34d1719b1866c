"""DPM-Solver++(2S): exponential midpoint rule in log-SNR on the denoised prediction."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Dpmpp2s(FixedStepSolver):
    """DPM-Solver++(2S) with r = 1/2: exact in the linear part, denoised taken from the middle of the step in lam.

    u   = sigma(m)/sigma(t) * x - alpha(m) * (e^(-h/2) - 1) * denoised(x, t),    lam(m) = (lam(t) + lam(s)) / 2
    x_s = sigma(s)/sigma(t) * x - alpha(s) * (e^-h - 1) * denoised(u, m),        h = lam(s) - lam(t)

    Order 2, 2 evaluations a step. Its first stage is ``ddim``.

    Reference: Lu et al. 2022, DPM-Solver++, arXiv:2211.01095, alg. 1.
    """

    family: ClassVar[str] = "exponential one-step"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = False
    reference: ClassVar[str] = "Lu et al. 2022, arXiv:2211.01095"

    def nfe(self, steps: int) -> int:
        return 2 * steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        sde = process.sde
        lam = sde.lam(t)
        h = sde.lam(s) - lam
        m = sde.t_of_lam(lam + h / 2)
        sigma_t = sde.sigma(t)
        u = (sde.sigma(m) / sigma_t) * x
        u.add_(process.denoised(x, t), alpha=-sde.alpha(m) * math.expm1(-h / 2))
        x_s = (sde.sigma(s) / sigma_t) * x
        return x_s.add_(process.denoised(u, m), alpha=-sde.alpha(s) * math.expm1(-h)), state
