"""SEEDS-2: two-stage exponential method in log-SNR on the noise prediction."""

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
    """m, and u = a_m x + b_m noise + std_m dw,  x_s = a x + b noise + std dw + std_s dw(m, s), dw = dw(t, m)."""
    alpha, sigma, lam = sde.levels(ts)
    h = steps_of(lam)
    m = sde.t_of_lam(lam[:-1] + h / 2)
    alpha_t, alpha_m, alpha_s = alpha[:-1], sde.alpha(m), alpha[1:]
    sigma_m, sigma_s, growth = sde.sigma(m), sigma[1:], np.expm1(h)
    std_m = sigma_m * np.sqrt(growth / (ts[:-1] - m))
    stage = alpha_m / alpha_t, -2 * sigma_m * np.expm1(h / 2), std_m
    whole = alpha_s / alpha_t, -2 * sigma_s * growth
    return m, *stage, *whole, alpha_s / alpha_m * std_m, sigma_s * np.sqrt(growth / (m - ts[1:]))


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

    def path_times(self, process: ReverseProcess, times: Sequence[float]) -> Sequence[float]:
        return process.between(_coefficients, times)

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        m, a_m, b_m, std_m, a, b, std, std_s = process.coefficients(_coefficients, t, s)
        dw = brownian.dw(t, m)
        u = combine(a_m, x, (b_m, std_m), (process.noise(x, t), dw))
        return combine(a, x, (b, std, std_s), (process.noise(u, m), dw, brownian.dw(m, s))), state
