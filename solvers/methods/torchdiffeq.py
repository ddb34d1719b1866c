"""Adaptive solvers of torchdiffeq on the probability-flow ODE, kept inside the interval."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from solvers.brownian import Brownian
from solvers.errors import DivergenceError, UsageError, unknown_name
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import AdaptiveSolver

Method = Literal["dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun"]

# torchdiffeq's own choice of the first step evaluates the drift outside the interval; a first step given to it does
# not. It is a hundredth of the interval: too long a step is rejected at the price of one attempt.
FIRST_STEP = 0.01


@register
@dataclass(frozen=True)
class Torchdiffeq(AdaptiveSolver):
    """torchdiffeq's adaptive Runge–Kutta methods on dx/dt = velocity(x, t).

    The whole batch is one vector with one step size (``batch_coupled``). The time of the last grid point is announced
    to the step control, which otherwise steps beyond it and interpolates: without that and the given first step the
    drift is asked for at times where alpha, sigma or the network is not defined.

    Order that of the method (dopri5: 5); evaluations as the tolerance demands, counted.

    Reference: Chen 2018, torchdiffeq; Dormand & Prince 1980, J. Comput. Appl. Math. 6, 19 (dopri5).

    Args:
        method: the Runge–Kutta pair.
        rtol: relative tolerance, dimensionless.
        atol: absolute tolerance, units of x.

    Raises:
        UsageError: unknown method, or a tolerance that is not positive.
    """

    method: Method = "dopri5"
    rtol: float = 1e-3
    atol: float = 1e-3

    family: ClassVar[str] = "probability-flow ODE, adaptive"
    stochastic: ClassVar[bool] = False
    batch_coupled: ClassVar[bool] = True
    certified: ClassVar[tuple[dict[str, Any], ...]] = (
        {"method": "dopri5"},
        {"method": "dopri8"},
        {"method": "bosh3"},
        {"method": "fehlberg2"},
        {"method": "adaptive_heun"},
    )
    reference: ClassVar[str] = "Chen 2018, github.com/rtqichen/torchdiffeq"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise unknown_name(self.key, "method", self.method, get_args(Method))
        if not (0 < self.rtol < math.inf and 0 < self.atol < math.inf):
            raise UsageError(self.key, "tolerances are positive", (self.rtol, self.atol), "E.g. 1e-3")

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on the setting
        """Order of the method."""
        return {"dopri5": 5, "dopri8": 8, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 2}[self.method]

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Brownian | None) -> Tensor:
        from torchdiffeq import odeint

        times: list[float] = ts.tolist()
        start, end = times[0], times[-1]
        low, high = min(start, end), max(start, end)
        ends = torch.tensor([start, end], dtype=torch.float64, device=x.device)

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            # Rounding of an accepted step may pass an end by one unit in the last place.
            return process.velocity(x, t.clamp(low, high).expand(len(x)))

        options = {"first_step": FIRST_STEP * (high - low), "step_t": ends[1:], "dtype": torch.float64}
        try:
            states = odeint(velocity, x, ends, rtol=self.rtol, atol=self.atol, method=self.method, options=options)
        except AssertionError as error:  # torchdiffeq's answer to a step or a state that is no number any more
            raise DivergenceError(f"torchdiffeq stopped: {error}") from error
        result: Tensor = states[-1]
        return result
