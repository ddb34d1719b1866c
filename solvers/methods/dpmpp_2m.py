"""DPM-Solver++(2M): two-step exponential Adams method in log-SNR on the denoised prediction."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Dpmpp2m(FixedStepSolver):
    """DPM-Solver++(2M): exact in the linear part, denoised extrapolated linearly in lam from two evaluations.

    x_s = sigma(s)/sigma(t) * x - alpha(s) * (e^-h - 1) * D,      h = lam(s) - lam(t)
    D = (1 + h / (2 h')) * denoised - h / (2 h') * denoised',     ' of the step before; at first D = denoised

    Order 2, 1 evaluation a step. The first step alone is ``ddim``.

    Reference: Lu et al. 2022, DPM-Solver++, arXiv:2211.01095, alg. 2.
    """

    family: ClassVar[str] = "exponential multistep"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = False
    multistep: ClassVar[bool] = True
    reference: ClassVar[str] = "Lu et al. 2022, arXiv:2211.01095"

    def nfe(self, steps: int) -> int:
        return steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        sde = process.sde
        h = sde.lam(s) - sde.lam(t)
        denoised = process.denoised(x, t)
        gain = -sde.alpha(s) * math.expm1(-h)
        x_s = sde.sigma(s) / sde.sigma(t) * x
        if state is None:
            return x_s + gain * denoised, (h, denoised)
        h_before, denoised_before = state
        weight = h / (2 * h_before)
        x_s = x_s + gain * (1 + weight) * denoised - gain * weight * denoised_before
        return x_s, (h, denoised)
