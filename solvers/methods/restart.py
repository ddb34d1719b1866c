"""Restart sampling: the probability flow, run several times through one interval with fresh noise between."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from torch import Tensor

from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.methods._heun import heun_step, raise_noise, ratio
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Restart(FixedStepSolver):
    """Restart: Heun on the probability flow; where it has come below ``low``, back up to ``high`` and down again.

    up:    x <- forward kernel from the time of low to that of high (fresh noise)
    down:  Heun's method in sigma/alpha on a Karras grid of ceil(share * steps) steps

    so many times as there are ``rounds``. The lower end is the grid's first time at which sigma/alpha <= low, its last
    time if there is none; the upper end is at most t_max, and the grid's start where high lies below the lower one.

    Order that of its ODE method, 2, in law. 2 evaluations a step, those of the rounds included.

    Reference: Xu et al. 2023, Restart Sampling for Improving Generative Processes, arXiv:2306.14878, alg. 1, with one
    interval, whose steps grow in number with the grid's.

    Args:
        low: lower end of the interval as sigma/alpha, units of the data.
        high: upper end of the interval as sigma/alpha, units of the data.
        rounds: times the interval is run through again, at least 1.
        share: steps of a round in units of the grid's, in (0, 1].

    Raises:
        UsageError: the ends are not positive and increasing, or another setting is out of range.
    """

    low: float = 0.06
    high: float = 0.3
    rounds: int = 1
    share: float = 0.2

    family: ClassVar[str] = "reverse SDE"
    takes_path: ClassVar[bool] = False
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = True
    recommended_grid: ClassVar[str | None] = "karras"
    certified: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"low": 0.05, "high": 20.0, "rounds": 3, "share": 1.0})
    reference: ClassVar[str] = "Xu et al. 2023, arXiv:2306.14878"

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise UsageError(self.key, "0 < low < high", (self.low, self.high), "The paper takes e.g. 0.06 and 0.3")
        if not (isinstance(self.rounds, int) and self.rounds >= 1):
            raise UsageError(self.key, "at least one round", self.rounds, "Without rounds it is edm_heun")
        if not 0 < self.share <= 1:
            raise UsageError(self.key, "share lies in (0, 1]", self.share)

    def _inner(self, steps: int) -> int:
        """Steps of a round."""
        return math.ceil(self.share * steps)

    def nfe(self, steps: int) -> int:
        return 2 * steps + 2 * self.rounds * self._inner(steps)

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> Any:
        """Time at which the rounds begin, and their grid."""
        sde, times = process.sde, ts.tolist()
        at = next((t for t in times[1:] if ratio(sde, t) <= self.low), times[-1])
        top = min(sde.t_of_lam(max(-math.log(self.high), sde.lam(sde.t_max))), sde.t_max)
        if top <= at:
            top = times[0]
        inner: list[float] = make_grid("karras", sde, self._inner(len(ts) - 1), top, at).tolist()
        return at, inner

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        at, inner = state
        x = heun_step(process, x, t, s)
        if s == at:
            for k in range(self.rounds):
                x = raise_noise(process.sde, x, inner[-1], inner[0], brownian.normal(f"restart {k}"))
                for upper, lower in pairwise(inner):
                    x = process.constrain(x, upper, brownian, f"restart {k} from {upper!r}")
                    x = heun_step(process, x, upper, lower)
        return x, state
