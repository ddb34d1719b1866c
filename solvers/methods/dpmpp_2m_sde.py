"""DPM-Solver++(2M) SDE: two-step exponential method in log-SNR with noise."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from solvers.grids import steps_of
from solvers.methods._multistep import TABLES, NoisyRow, State, advance_noisy, extrapolation, noisy_table
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import ForwardSDE
from solvers.solver import FixedStepSolver


@lru_cache(maxsize=TABLES)
def _table(sde: ForwardSDE, times: tuple[float, ...]) -> tuple[NoisyRow, ...]:
    ts = np.array(times)
    alpha, sigma, lam = sde.levels(ts)
    h = steps_of(lam)
    gain = -alpha[1:] * np.expm1(-2 * h)
    return noisy_table(ts, sigma, h, np.stack([gain * weight for weight in extrapolation(h)], 1))


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

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> State:
        return State(_table(process.sde, tuple(ts.tolist())), 0, ())

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return advance_noisy(process, 2, x, t, s, brownian, state)
