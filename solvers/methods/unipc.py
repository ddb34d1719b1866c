"""UniPC: exponential multistep predictor and corrector in log-SNR, one evaluation for both."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.grids import steps_of
from solvers.methods._exponential import combine, one_step
from solvers.methods._multistep import (
    TABLES,
    Row,
    Start,
    adams_weights,
    check,
    scaled_nodes,
    table,
)
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import Array, ForwardSDE
from solvers.solver import FixedStepSolver

Variant = Literal["bh1", "bh2", "vary_coeff"]


class _State(NamedTuple):
    """Tables, number of the step, corrected state of the step before, predictions (latest first)."""

    predictors: tuple[Row, ...]
    correctors: tuple[Row, ...]
    k: int
    x: Tensor | None
    history: tuple[Tensor, ...]


def _weights(nodes: Array, h: Array, variant: Variant) -> Array:
    """Weights of the predictions at the nodes, the current one first; (steps, count)."""
    weights = adams_weights(1.0, h, nodes)
    if variant == "vary_coeff" or nodes.shape[1] == 1:
        return weights
    # Where there are two, in the first power of e, the published forms take a_1 = 1/2.
    gain = -np.expm1(-h)
    slope = (h if variant == "bh1" else gain) / (2 * nodes[:, 1])
    two = np.isfinite(nodes).sum(1, keepdims=True) == 2
    weights[:, :2] = np.where(two, np.stack([gain - slope, slope], 1), weights[:, :2])
    return weights


@lru_cache(maxsize=TABLES)
def _tables(
    sde: ForwardSDE, times: tuple[float, ...], order: int, variant: Variant
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    ts = np.array(times)
    alpha, sigma, lam = sde.levels(ts)
    h, nodes = steps_of(lam), scaled_nodes(lam, order)
    a, b = sigma[1:] / sigma[:-1], alpha[1:]
    # The new prediction stands second here, next to the current one, and first in the table.
    corrector = _weights(np.concatenate([nodes[:, :1], np.ones_like(nodes[:, :1]), nodes[:, 1:]], 1), h, variant)
    corrector[:, :2] = corrector[:, 1::-1]
    return table(a, b[:, None] * _weights(nodes, h, variant)), table(a, b[:, None] * corrector)


@register
@dataclass(frozen=True)
class Unipc(FixedStepSolver):
    """UniPC-p: predictor UniP-p, corrector UniC-p, on the denoised prediction D.

    UniP:  x~_s = sigma(s)/sigma(t) x_t + alpha(s) (h phi_1 D_0 + sum_{m<p} c_m (D_m - D_0) / r_m)
    UniC:  x_s  = sigma(s)/sigma(t) x_t + alpha(s) (h phi_1 D_0 + sum_{m<=p} c_m (D_m - D_0) / r_m)

    D_m = D at lam(t) + r_m h, of earlier steps (r_m < 0); in UniC also D(x~_s, s), r_p = 1. phi at -h. The c_m solve
    sum_m c_m r_m^(k-1) = h k! phi_(k+1), k = 1, 2, ...: the integral of the interpolating polynomial. Where there is
    one c_1 alone, bh1 takes h/2 and bh2 (1 - e^-h)/2, and vary_coeff the exact h phi_2. So the variants are one method
    but for p <= 2 and the first steps of a ramp; the published vary_coeff corrector, which leaves the new prediction
    out of all but one difference, is of order 1.

    The prediction at x~_s corrects the step to s and serves the next step: 1 evaluation a step. The last state is the
    predictor's, whose one step of local error O(h^(p+1)) keeps the order.

    Order p + 1 with the corrector, p without. Without corrector it equals ``ddim`` for p = 1, ``dpmpp_2m`` for p = 2
    with bh2 and ``dpmpp_3m`` for p = 3 with vary_coeff. With ``start`` = ramp the order is p + 1 (p) before the limit
    and at most 3 (2) in it, because of the first step; runge_kutta takes the first p - 1 steps by the one-step formula
    of one order less, as many evaluations each.

    Reference: Zhao et al. 2023, UniPC, arXiv:2302.04867, alg. 5 to 8.

    Args:
        predictor_order: p, 1 to 4.
        variant: bh1, bh2 or vary_coeff.
        corrector: whether steps are corrected.
        start: ramp of orders 1, 2, ..., or one-step formula.

    Raises:
        UsageError: the order lies outside 1 to 4, or there is no such variant or start.
    """

    predictor_order: int = 3
    variant: Variant = "bh2"
    corrector: bool = True
    start: Start = "ramp"

    family: ClassVar[str] = "exponential multistep"
    stochastic: ClassVar[bool] = False
    multistep: ClassVar[bool] = True
    recommended_grid: ClassVar[str | None] = "log_snr"
    certified: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"predictor_order": 1, "corrector": False},
        {"predictor_order": 2, "corrector": False},
        {"predictor_order": 3, "corrector": False, "start": "runge_kutta"},
        {"predictor_order": 4, "corrector": False, "start": "runge_kutta"},
        {"predictor_order": 1},
        {"predictor_order": 2, "start": "runge_kutta"},
        {"predictor_order": 3, "start": "runge_kutta"},
        {"predictor_order": 4, "start": "runge_kutta"},
        {"predictor_order": 1, "variant": "bh1"},
        {"predictor_order": 3, "variant": "vary_coeff", "start": "runge_kutta"},
    )
    reference: ClassVar[str] = "Zhao et al. 2023, arXiv:2302.04867"

    def __post_init__(self) -> None:
        check(self.key, self.predictor_order, 4, self.start)
        if self.variant not in get_args(Variant):
            raise unknown_name(self.key, "variant", self.variant, get_args(Variant))
        if not isinstance(self.corrector, bool):
            raise UsageError(self.key, "corrector is true or false", self.corrector, "Take one of them")

    @property
    def order(self) -> int:  # type: ignore[override]  # depends on the settings
        """p + 1 with the corrector, p without."""
        return self.predictor_order + self.corrector

    @property
    def limit_order(self) -> int | None:
        """At most 2 after a ramp, 3 where its first step is corrected."""
        return min(self.order, 3) if self.ramps and self.corrector else super().limit_order

    @property
    def _started(self) -> int:
        """Steps that the one-step formula takes."""
        return self.predictor_order - 1 if self.start == "runge_kutta" and self.order > 2 else 0

    def nfe(self, steps: int) -> int:
        return steps + (self.order - 2) * min(steps, self._started)

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> _State:
        tables = _tables(process.sde, tuple(ts.tolist()), self.predictor_order, self.variant)
        return _State(*tables, 0, None, ())

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        predictors, correctors, k, x_before, history = state
        denoised = process.denoised(x, t)
        values = (denoised, *history)
        if self.corrector and k > self._started:
            a, weights = correctors[k - 1]
            x = combine(a, x_before, weights[: len(values)], values)
        if k < self._started:
            x_s = one_step(process, "denoised", self.order - 1, x, t, s, denoised)
        else:
            a, weights = predictors[k]
            values = values[: self.predictor_order]
            x_s = combine(a, x, weights[: len(values)], values)
        return x_s, _State(predictors, correctors, k + 1, x, values[: self.predictor_order])
