"""DPM-Solver++ (SDE): exponential midpoint method in log-SNR, noise of one path in both stages."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class DpmppSde(FixedStepSolver):
    """DPM-Solver++ (2S, SDE): exact in the linear part and its noise, denoised from the middle m of the step (in lam).

    u   = sigma(m)/sigma(t) e^(-h/2) * x + alpha(m) (1 - e^-h) * denoised(x, t) + n,      h = lam(s) - lam(t)
    x_s = sigma(s)/sigma(t) e^-h * x + alpha(s) (1 - e^-2h) * denoised(u, m)
          + sigma(s)/sigma(m) e^(-h/2) * n + sigma(s) sqrt(1 - e^-h) * z'
    n   = sigma(m) sqrt(1 - e^-h) * z

    z and z' are the path's increments over [m, t] and [s, m], scaled: the noise of the whole step contains that of its
    stage. (With independent normals in the two stages the order is 1.)

    Order 2 in law, 2 evaluations a step.

    Reference: Lu et al. 2022, DPM-Solver++, arXiv:2211.01095, sec. 5; Crowson 2022, k-diffusion, dpmpp_sde (r = 1/2).
    """

    family: ClassVar[str] = "reverse SDE"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = True
    reference: ClassVar[str] = "Lu et al. 2022, arXiv:2211.01095"

    def nfe(self, steps: int) -> int:
        return 2 * steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        sde = process.sde
        lam_t, lam_s = sde.lam(t), sde.lam(s)
        m = sde.t_of_lam((lam_t + lam_s) / 2)
        half = (lam_s - lam_t) / 2
        sigma_t, sigma_m, sigma_s = sde.sigma(t), sde.sigma(m), sde.sigma(s)
        gain, decay = -math.expm1(-2 * half), math.exp(-half)
        noise = sigma_m * math.sqrt(gain / (t - m)) * brownian.dw(t, m)
        u = sigma_m / sigma_t * decay * x + sde.alpha(m) * gain * process.denoised(x, t) + noise
        x_s = sigma_s / sigma_t * decay**2 * x - sde.alpha(s) * math.expm1(-4 * half) * process.denoised(u, m)
        noise = sigma_s / sigma_m * decay * noise + sigma_s * math.sqrt(gain / (m - s)) * brownian.dw(m, s)
        return x_s + noise, state
