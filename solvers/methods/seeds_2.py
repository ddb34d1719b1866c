"""SEEDS-2: two-stage exponential method in log-SNR on the noise prediction."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Seeds2(FixedStepSolver):
    """SEEDS-2: exact in the linear part and its noise, the noise prediction taken at the middle m of the step in lam.

    u   = alpha(m)/alpha(t) * x - 2 sigma(m) (e^(h/2) - 1) * noise(x, t) + n,       h = lam(s) - lam(t)
    x_s = alpha(s)/alpha(t) * x - 2 sigma(s) (e^h - 1) * noise(u, m)
          + alpha(s)/alpha(m) * n + sigma(s) sqrt(e^h - 1) * z'
    n   = sigma(m) sqrt(e^h - 1) * z

    z and z' are the path's increments over [m, t] and [s, m], scaled.

    Order 2 in law, 2 evaluations a step. ``dpmpp_sde`` is its counterpart on the denoised prediction.

    Reference: Gonzalez et al. 2023, SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling from Diffusion
    Models, arXiv:2305.14267, alg. 2.
    """

    family: ClassVar[str] = "reverse SDE"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = True
    reference: ClassVar[str] = "Gonzalez et al. 2023, arXiv:2305.14267"

    def nfe(self, steps: int) -> int:
        return 2 * steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        sde = process.sde
        lam_t, lam_s = sde.lam(t), sde.lam(s)
        m = sde.t_of_lam((lam_t + lam_s) / 2)
        h = lam_s - lam_t
        alpha_t, alpha_m, alpha_s = sde.alpha(t), sde.alpha(m), sde.alpha(s)
        sigma_m, sigma_s = sde.sigma(m), sde.sigma(s)
        growth = math.expm1(h)
        noise = sigma_m * math.sqrt(growth / (t - m)) * brownian.dw(t, m)
        u = alpha_m / alpha_t * x - 2 * sigma_m * math.expm1(h / 2) * process.noise(x, t) + noise
        x_s = alpha_s / alpha_t * x - 2 * sigma_s * growth * process.noise(u, m)
        noise = alpha_s / alpha_m * noise + sigma_s * math.sqrt(growth / (m - s)) * brownian.dw(m, s)
        return x_s + noise, state
