"""DPM-Solver++ (SDE): exponential midpoint method in log-SNR, noise of one path in both stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from solvers.grids import steps_of
from solvers.methods._exponential import combine
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import Array, ForwardSDE
from solvers.solver import FixedStepSolver


def _coefficients(sde: ForwardSDE, ts: Array) -> tuple[Array, ...]:
    """m, and u = a_m x + b_m denoised + std_m dw,  x_s = a x + b denoised + std dw + std_s dw(m, s), dw = dw(t, m)."""
    alpha, sigma, lam = sde.levels(ts)
    half = steps_of(lam) / 2
    m = sde.t_of_lam(lam[:-1] + half)
    sigma_t, sigma_m, sigma_s = sigma[:-1], sde.sigma(m), sigma[1:]
    gain, decay = -np.expm1(-2 * half), np.exp(-half)
    std_m = sigma_m * np.sqrt(gain / (ts[:-1] - m))
    stage = sigma_m / sigma_t * decay, sde.alpha(m) * gain, std_m
    whole = sigma_s / sigma_t * decay**2, -alpha[1:] * np.expm1(-4 * half)
    return m, *stage, *whole, sigma_s / sigma_m * decay * std_m, sigma_s * np.sqrt(gain / (m - ts[1:]))


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

    def path_times(self, process: ReverseProcess, times: Sequence[float]) -> Sequence[float]:
        return process.between(_coefficients, times)

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        m, a_m, b_m, std_m, a, b, std, std_s = process.coefficients(_coefficients, t, s)
        dw = brownian.dw(t, m)
        u = combine(a_m, x, (b_m, std_m), (process.denoised(x, t), dw))
        return combine(a, x, (b, std, std_s), (process.denoised(u, m), dw, brownian.dw(m, s))), state
