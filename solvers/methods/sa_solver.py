"""SA-Solver: stochastic Adams methods in log-SNR, predictor and corrector."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, get_args

import numpy as np
from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.grids import steps_of
from solvers.methods._exponential import combine, one_step
from solvers.methods._multistep import TABLES, Start, State, adams_weights, scaled_nodes
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import ForwardSDE, scaled
from solvers.solver import FixedStepSolver

_Row = tuple[float, float, list[float], list[float]]
"""One step: a and std of a x + std dw, weights that predictor and corrector give evaluations (latest first)."""


@lru_cache(maxsize=TABLES)
def _table(
    sde: ForwardSDE, times: tuple[float, ...], predictor_order: int, corrector_order: int, tau: float
) -> tuple[_Row, ...]:
    ts = np.array(times)
    alpha, sigma, lam = sde.levels(ts)
    h = steps_of(lam)

    def weights(order: int, first: int) -> list[list[float]]:
        """Of so many evaluations at the times k + first, k + first - 1, ..., over the step from k."""
        unit = adams_weights(1 + tau**2, h, scaled_nodes(lam, order, first))
        weighted: list[list[float]] = (alpha[1:, None] * unit).tolist()
        return weighted

    a = sigma[1:] / sigma[:-1] * np.exp(-(tau**2) * h)
    std = sigma[1:] * np.sqrt(np.expm1(-2 * tau**2 * h) / steps_of(ts))
    corrector = weights(corrector_order, 1) if corrector_order else [[]] * len(h)
    corrector[-1] = []
    return tuple(zip(a.tolist(), std.tolist(), weights(predictor_order, 0), corrector, strict=True))


@register
@dataclass(frozen=True)
class SaSolver(FixedStepSolver):
    """SA-Solver: exact in the linear part and its noise, denoised interpolated through evaluations (Lagrange's l_i).

    x_s = sigma(s)/sigma(t) e^(-tau^2 h) * x + alpha(s) * sum_i w_i denoised_i + sigma(s) sqrt(1 - e^(-2 tau^2 h)) * z
    w_i = integral over the step of c e^(-c (lam(s) - lam)) l_i(lam) dlam,   c = 1 + tau^2,   h = lam(s) - lam(t)

    The predictor takes the last ``predictor_order`` evaluations; the corrector, with the same z, one at the predicted
    state and so many before it that they are ``corrector_order``. The evaluation at the predicted state serves the
    next step too; the last step is not corrected.

    Order with P and C for the two: min(P + 1, C), without corrector P; in law at most 2 for tau > 0, since the noise in
    the history is not smooth. With ``ramp`` the first steps have lower order, so that higher orders hold before the
    limit alone: in it at most 2, or 3 where the first step is corrected; ``runge_kutta`` (tau = 0) takes those steps by
    Krogstad's formula. (P = C nearly
    cancels the leading term of the error: slopes above P on coarse grids, below it where the sign changes, P beyond.)
    1 evaluation a step, 4 in one of Krogstad's formula.

    Reference: Xue et al. 2023, SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models,
    arXiv:2309.05019, alg. 1.

    Args:
        predictor_order: evaluations of the predictor, 1 to 4.
        corrector_order: evaluations of the corrector, the new one included, 1 to 4; 0 for none.
        tau: stochasticity, dimensionless; 0 the probability flow, 1 the reverse SDE.
        start: the first steps.

    Raises:
        UsageError: an order or tau out of range, an unknown start, or ``runge_kutta`` with tau > 0.
    """

    predictor_order: int = 3
    corrector_order: int = 3
    tau: float = 1.0
    start: Start = "ramp"

    family: ClassVar[str] = "reverse SDE"
    multistep: ClassVar[bool] = True
    certified: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"predictor_order": 1, "corrector_order": 0},
        {"predictor_order": 2, "corrector_order": 0},
        {"predictor_order": 3, "corrector_order": 0},
        {"predictor_order": 4, "corrector_order": 4},
        {"predictor_order": 1, "corrector_order": 2},
        {"tau": 0.5},
        {"tau": 0.0},
        {"predictor_order": 1, "corrector_order": 0, "tau": 0.0},
        {"predictor_order": 2, "corrector_order": 0, "tau": 0.0},
        {"predictor_order": 3, "corrector_order": 0, "tau": 0.0, "start": "runge_kutta"},
        {"predictor_order": 4, "corrector_order": 0, "tau": 0.0, "start": "runge_kutta"},
        {"predictor_order": 1, "corrector_order": 2, "tau": 0.0},
        {"predictor_order": 2, "corrector_order": 3, "tau": 0.0, "start": "runge_kutta"},
        {"predictor_order": 3, "corrector_order": 4, "tau": 0.0, "start": "runge_kutta"},
    )
    reference: ClassVar[str] = "Xue et al. 2023, arXiv:2309.05019"

    def __post_init__(self) -> None:
        if self.predictor_order not in range(1, 5):
            raise UsageError(self.key, "the predictor's order is 1 to 4", self.predictor_order)
        if self.corrector_order not in range(5):
            raise UsageError(self.key, "the corrector's order is 1 to 4, or 0 for none", self.corrector_order)
        if not 0 <= self.tau < math.inf:
            raise UsageError(self.key, "tau is 0 or more", self.tau, "Take 0 for the ODE, 1 for the reverse SDE")
        if self.start not in get_args(Start):
            raise unknown_name(self.key, "start", self.start, get_args(Start))
        if self.start == "runge_kutta" and self.tau:
            raise UsageError(self.key, "start 'runge_kutta' is for tau = 0", self.tau, "Take start 'ramp'")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]  # depends on the setting
        """Whether noise is drawn: tau > 0."""
        return self.tau > 0

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on the settings
        """Order of the ODE method (tau = 0), or in law."""
        order = min(self.predictor_order + 1, self.corrector_order) if self.corrector_order else self.predictor_order
        return min(order, 2) if self.tau else order

    @property
    def limit_order(self) -> int | None:
        """At most 2 after a ramp, 3 where its first step is corrected.

        With C = P, too, in the limit; but where its leading error nearly cancels slopes down to 1.9 are measured.
        """
        if self.ramps and self.corrector_order > self.predictor_order and self.order is not None:
            return min(self.order, 3)
        return super().limit_order

    @property
    def _starting(self) -> int:
        """Steps that the Runge–Kutta method takes."""
        return max(self.predictor_order, self.corrector_order) - 1 if self.start == "runge_kutta" else 0

    def nfe(self, steps: int) -> int:
        return steps + 3 * min(steps, self._starting)

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> State:
        table = _table(process.sde, tuple(ts.tolist()), self.predictor_order, self.corrector_order, self.tau)
        return State(table, 0, ())

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        table, k, history = state
        corrected = self.corrector_order and k > self._starting
        if not corrected:
            history = (process.denoised(x, t), *history)[:4]
        if k < self._starting:
            return one_step(process, "denoised", 4, x, t, s, history[0]), State(table, k + 1, history)
        a, std, predictor, corrector = table[k]
        x = scaled(a, x)
        if self.tau:
            x.add_(brownian.dw(t, s), alpha=std)
        x_s = _plus(x, predictor, history)
        if corrector:
            history = (process.denoised(x_s, s), *history)[:4]
            x_s = _plus(x, corrector, history)
        return x_s, State(table, k + 1, history)


def _plus(x: Tensor, weights: list[float], values: tuple[Tensor, ...]) -> Tensor:
    """x and as many weighted values as there are of both."""
    count = min(len(weights), len(values))
    return combine(1.0, x, weights[:count], values[:count])
