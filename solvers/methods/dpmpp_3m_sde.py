"""DPM-Solver++(3M) SDE: three-step exponential Adams method in log-SNR with noise."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from solvers.grids import steps_of
from solvers.methods._multistep import (
    TABLES,
    NoisyRow,
    State,
    adams_weights,
    advance_noisy,
    noisy_table,
    scaled_nodes,
)
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import ForwardSDE
from solvers.solver import FixedStepSolver


@lru_cache(maxsize=TABLES)
def _table(sde: ForwardSDE, times: tuple[float, ...]) -> tuple[NoisyRow, ...]:
    ts = np.array(times)
    alpha, sigma, lam = sde.levels(ts)
    h = steps_of(lam)
    return noisy_table(ts, sigma, h, alpha[1:, None] * adams_weights(2.0, h, scaled_nodes(lam, 3)))


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

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> State:
        return State(_table(process.sde, tuple(ts.tolist())), 0, ())

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return advance_noisy(process, 3, x, t, s, brownian, state)
