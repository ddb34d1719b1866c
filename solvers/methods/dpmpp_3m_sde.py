"""DPM-Solver++(3M) SDE: three-step exponential Adams method in log-SNR with noise."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.methods._multistep import adams_weights
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Dpmpp3mSde(FixedStepSolver):
    """DPM-Solver++(3M) SDE: exact in the linear part and its noise, denoised interpolated through three evaluations.

    x_s = sigma(s)/sigma(t) e^-h * x + alpha(s) * sum_i w_i denoised_i + sigma(s) sqrt(1 - e^-2h) * z
    w_i = integral over the step of 2 e^(-2 (lam(s) - lam)) l_i(lam) dlam,        h = lam(s) - lam(t)

    with Lagrange's l_i on the last three evaluations; two and one in the first steps. (The published code halves the
    quadratic term: its second divided difference stands where the second derivative belongs.)

    Order 2 in law, whatever the interpolation: the noise in the history is not smooth. 1 evaluation a step. Equals
    ``sa_solver`` with tau 1, predictor order 3 and no corrector.

    Reference: Crowson 2023, k-diffusion, dpmpp_3m_sde; Lu et al. 2022, DPM-Solver++, arXiv:2211.01095.
    """

    family: ClassVar[str] = "reverse SDE"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = True
    multistep: ClassVar[bool] = True
    reference: ClassVar[str] = "Crowson 2023, k-diffusion"

    def nfe(self, steps: int) -> int:
        return steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        sde = process.sde
        lam = sde.lam(t)
        h = sde.lam(s) - lam
        history = [(lam, process.denoised(x, t)), *(state or [])][:3]
        sigma_s, alpha_s = sde.sigma(s), sde.alpha(s)
        x_s = sigma_s / sde.sigma(t) * math.exp(-h) * x
        x_s = x_s + sigma_s * math.sqrt(-math.expm1(-2 * h) / (t - s)) * brownian.dw(t, s)
        weights = adams_weights(2.0, h, [known - lam for known, _ in history])
        for weight, (_, denoised) in zip(weights, history, strict=True):
            x_s = x_s + alpha_s * weight * denoised
        return x_s, history
