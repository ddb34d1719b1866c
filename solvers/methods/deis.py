"""DEIS: exponential Adams–Bashforth with the noise prediction interpolated in t or in rho = sigma/alpha."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from torch import Tensor

from solvers.errors import unknown_name
from solvers.grids import steps_of
from solvers.methods._multistep import (
    TABLES,
    Row,
    Start,
    State,
    adams_table,
    advance,
    check,
    evaluations,
    interpolation_weights,
    panels_for,
    quadrature,
    scaled_nodes,
    table,
)
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import ForwardSDE
from solvers.solver import FixedStepSolver

Variant = Literal["tab", "rhoab"]


@lru_cache(maxsize=TABLES)
def _tab_table(sde: ForwardSDE, times: tuple[float, ...], order: int) -> tuple[Row, ...]:
    """With v = (r - t)/(s - t) the position of time r in its step, w_j = int L_j(v) drho by quadrature in lam."""
    ts = np.array(times)
    lam, alpha = sde.lam(ts), sde.alpha(ts)
    h = steps_of(lam)[:, None]
    u, weights = quadrature(panels_for(h))
    lam = lam[:-1, None] + h * u
    v = (sde.t_of_lam(lam) - ts[:-1, None]) / steps_of(ts)[:, None]
    unit = interpolation_weights(scaled_nodes(ts, order), v, -h * np.exp(-lam) * weights)
    return table(alpha[1:] / alpha[:-1], alpha[1:, None] * unit)


@register
@dataclass(frozen=True)
class Deis(FixedStepSolver):
    """DEIS: the linear part exact, the noise a polynomial through the last k predictions.

    x_s = alpha(s)/alpha(t) * x + alpha(s) * sum_j w_j noise_j,    w_j = int from t to s of L_j drho,  rho = sigma/alpha

    tab:    L_j interpolates in t; w_j by Gauss–Legendre quadrature in lam, exact to rounding.
    rhoab:  L_j interpolates in rho; w_j is the integral of a polynomial.

    Order k, 1 evaluation a step; the paper counts the degree, its tAB3 is order 4 here. Order 1 equals ``ddim``; rhoab
    equals ``lms`` and ``ipndm`` with its variable coefficients. With ``start`` = ramp orders 3 and 4 hold before the
    limit, 2 in it; runge_kutta takes the first k - 1 steps by ``dpm_solver`` of order k - 1, as many evaluations each.

    Reference: Zhang & Chen 2023, DEIS, arXiv:2204.13902, eq. 14, 15.

    Args:
        order: k, 1 to 4.
        variant: tab or rhoab.
        start: ramp of orders 1, 2, ..., or one-step formula of order k - 1.

    Raises:
        UsageError: the order lies outside 1 to 4, or there is no such variant or start.
    """

    order: int = 3  # type: ignore[misc]  # a setting here
    variant: Variant = "tab"
    start: Start = "ramp"

    family: ClassVar[str] = "exponential multistep"
    stochastic: ClassVar[bool] = False
    multistep: ClassVar[bool] = True
    recommended_grid: ClassVar[str | None] = "quadratic"
    certified: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"order": 1},
        {"order": 2},
        {"order": 3, "start": "runge_kutta"},
        {"order": 4, "start": "runge_kutta"},
        {"order": 3, "variant": "rhoab", "start": "runge_kutta"},
    )
    reference: ClassVar[str] = "Zhang & Chen 2023, arXiv:2204.13902"

    def __post_init__(self) -> None:
        check(self.key, self.order, 4, self.start)
        if self.variant not in get_args(Variant):
            raise unknown_name(self.key, "variant", self.variant, get_args(Variant))

    def nfe(self, steps: int) -> int:
        return evaluations(steps, self.order, self.start)

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> State:
        rows = _tab_table if self.variant == "tab" else adams_table
        return State(rows(process.sde, tuple(ts.tolist()), self.order), 0, ())

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return advance(process, "noise", self.order, self.start, x, t, s, state)
