"""DPM-Solver++(2M): two-step exponential Adams method in log-SNR on the denoised prediction."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from solvers.grids import steps_of
from solvers.methods._multistep import TABLES, Row, State, advance, extrapolation, table
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import ForwardSDE
from solvers.solver import FixedStepSolver


@lru_cache(maxsize=TABLES)
def _table(sde: ForwardSDE, times: tuple[float, ...]) -> tuple[Row, ...]:
    ts = np.array(times)
    alpha, sigma, lam = sde.levels(ts)
    h = steps_of(lam)
    gain = -alpha[1:] * np.expm1(-h)
    return table(sigma[1:] / sigma[:-1], np.stack([gain * weight for weight in extrapolation(h)], 1))


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

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> State:
        return State(_table(process.sde, tuple(ts.tolist())), 0, ())

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return advance(process, "denoised", 2, "ramp", x, t, s, state)
