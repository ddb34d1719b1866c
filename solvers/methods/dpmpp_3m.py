"""DPM-Solver++(3M): three-step exponential Adams method in log-SNR on the denoised prediction, of third order."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from solvers.grids import steps_of
from solvers.methods._multistep import (
    TABLES,
    Row,
    Start,
    State,
    adams_weights,
    advance,
    check,
    evaluations,
    scaled_nodes,
    table,
)
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import ForwardSDE
from solvers.solver import FixedStepSolver


@lru_cache(maxsize=TABLES)
def _table(sde: ForwardSDE, times: tuple[float, ...], order: int) -> tuple[Row, ...]:
    ts = np.array(times)
    alpha, sigma, lam = sde.levels(ts)
    weights = adams_weights(1.0, steps_of(lam), scaled_nodes(lam, order))
    return table(sigma[1:] / sigma[:-1], alpha[1:, None] * weights)


@register
@dataclass(frozen=True)
class Dpmpp3m(FixedStepSolver):
    """DPM-Solver++(3M): exact in the linear part, denoised interpolated quadratically in lam from three evaluations.

    x_s = sigma(s)/sigma(t) * x + alpha(s) * (h phi_1 D + h^2 phi_2 D' + h^3 phi_3 D''),    phi at -h

    h = lam(s) - lam(t), phi_1(z) = (e^z - 1)/z, phi_2 = (phi_1 - 1)/z, phi_3 = (phi_2 - 1/2)/z. D' and D''
    are the derivatives in lam, at lam(t), of the parabola through the last three denoised predictions: with the divided
    differences d_1 = D[0, 1], d_2 = D[0, 1, 2], the latest first,

    D' = d_1 + (lam(t) - lam(t')) d_2,      D'' = 2 d_2.

    Order 3, 1 evaluation a step. The published code uses d_2 for D'' and is of order 2; the factor 2 makes the
    difference. With ``start`` = ramp the order is 3 before the limit and 2 in it, because the first step is ``ddim``;
    runge_kutta takes the first two steps by ``dpmpp_2s``, with 2 evaluations each.

    Reference: Lu et al. 2022, DPM-Solver++, arXiv:2211.01095, app. B.

    Args:
        start: ramp of orders 1, 2, or one-step formula of order 2.

    Raises:
        UsageError: there is no such start.
    """

    start: Start = "ramp"

    family: ClassVar[str] = "exponential multistep"
    order: ClassVar[int | None] = 3
    stochastic: ClassVar[bool] = False
    multistep: ClassVar[bool] = True
    certified: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"start": "runge_kutta"})
    reference: ClassVar[str] = "Lu et al. 2022, arXiv:2211.01095"

    def __post_init__(self) -> None:
        check(self.key, 3, 3, self.start)

    def nfe(self, steps: int) -> int:
        return evaluations(steps, 3, self.start)

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> State:
        return State(_table(process.sde, tuple(ts.tolist()), 3), 0, ())

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return advance(process, "denoised", 3, self.start, x, t, s, state)
