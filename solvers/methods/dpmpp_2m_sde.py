"""DPM-Solver++(2M) SDE: two-step exponential method in log-SNR with noise."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Dpmpp2mSde(FixedStepSolver):
    """DPM-Solver++(2M) SDE: exact in the linear part and its noise, denoised extrapolated to the middle of the step.

    x_s = sigma(s)/sigma(t) e^-h * x + alpha(s) (1 - e^-2h) * D + sigma(s) sqrt(1 - e^-2h) * z,     h = lam(s) - lam(t)
    D = (1 + h / (2 h')) * denoised - h / (2 h') * denoised',     ' of the step before; at first D = denoised

    Order 2 in law, 1 evaluation a step. The first step alone is ``ancestral``.

    Reference: Lu et al. 2022, DPM-Solver++, arXiv:2211.01095, sec. 5 (the "midpoint" form of the published code).
    """

    family: ClassVar[str] = "reverse SDE"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = True
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
        sigma_s, gain = sde.sigma(s), -math.expm1(-2 * h)
        x_s = sigma_s / sde.sigma(t) * math.exp(-h) * x + sigma_s * math.sqrt(gain / (t - s)) * brownian.dw(t, s)
        gain *= sde.alpha(s)
        if state is None:
            return x_s + gain * denoised, (h, denoised)
        h_before, denoised_before = state
        weight = h / (2 * h_before)
        x_s = x_s + gain * (1 + weight) * denoised - gain * weight * denoised_before
        return x_s, (h, denoised)
