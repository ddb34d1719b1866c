"""DPM-Solver++(3M) SDE: three-step exponential Adams method in log-SNR with noise."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from solvers.methods._exponential import combine
from solvers.methods._multistep import TABLES, adams_weights
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import ForwardSDE
from solvers.solver import FixedStepSolver


class Row(NamedTuple):
    """One step: x_s = a x + sum_i weights[i] denoised_i + std dw."""

    a: float
    weights: tuple[float, ...]
    std: float


class State(NamedTuple):
    """Table of the grid, number of the step, denoised predictions before it (latest first)."""

    table: tuple[Row, ...]
    k: int
    history: tuple[Tensor, ...]


@lru_cache(maxsize=TABLES)
def _table(sde: ForwardSDE, times: tuple[float, ...]) -> tuple[Row, ...]:
    lams = [sde.lam(t) for t in times]
    rows = []
    for k in range(len(times) - 1):
        (t, s), h = times[k : k + 2], lams[k + 1] - lams[k]
        weights = adams_weights(2.0, h, [lams[k - j] - lams[k] for j in range(min(3, k + 1))])
        sigma_s, alpha_s = sde.sigma(s), sde.alpha(s)
        std = sigma_s * math.sqrt(-math.expm1(-2 * h) / (t - s))
        rows.append(Row(sigma_s / sde.sigma(t) * math.exp(-h), tuple(alpha_s * w for w in weights), std))
    return tuple(rows)


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
        (a, weights, std), history = state.table[state.k], state.history
        history = (process.denoised(x, t), *history)[:3]
        x_s = combine(a, x, (std, *weights), (brownian.dw(t, s), *history))
        return x_s, State(state.table, state.k + 1, history)
