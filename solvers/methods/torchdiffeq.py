"""torchdiffeq's methods on the probability-flow ODE, kept inside the interval."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from solvers.brownian import Brownian
from solvers.errors import DivergenceError, UsageError, unknown_name
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import AdaptiveSolver, FixedStepSolver, Solver, check_tolerances

# torchdiffeq's own choice of the first step evaluates the drift outside the interval; a first step given to it does
# not. It is a hundredth of the interval: too long a step is rejected at the price of one attempt.
FIRST_STEP = 0.01

# Steps after which no fixed method of torchdiffeq changes its evaluations any more: Adams methods start by Runge–Kutta.
SETTLED = 16


@cache
def methods() -> dict[str, Any]:
    """The classes of torchdiffeq's methods with steps of their own or of a grid, by the first name of each."""
    from torchdiffeq._impl.odeint import SOLVERS
    from torchdiffeq._impl.solvers import AdaptiveStepsizeODESolver, FixedGridODESolver

    names: dict[Any, str] = {}
    for name, cls in SOLVERS.items():
        if issubclass(cls, AdaptiveStepsizeODESolver | FixedGridODESolver):
            names.setdefault(cls, name)
    return {name: cls for cls, name in names.items()}


def _is_fixed(method: str) -> bool:
    from torchdiffeq._impl.solvers import FixedGridODESolver

    return method in methods() and issubclass(methods()[method], FixedGridODESolver)


def _is_adams(method: str) -> bool:
    from torchdiffeq._impl.fixed_adams import AdamsBashforthMoulton

    return issubclass(methods()[method], AdamsBashforthMoulton)


@register
@dataclass(frozen=True)
class Torchdiffeq(AdaptiveSolver):
    """torchdiffeq's methods on dx/dt = velocity(x, t), with steps of their own or, for its fixed methods, the grid's.

    Every method of the installed version that is its own (SOLVERS): adaptive ones (dopri5, dopri8, bosh3, fehlberg2,
    adaptive_heun) take ``rtol`` and ``atol``; fixed ones (euler, midpoint, heun2, heun3, rk4, explicit_adams,
    implicit_adams) none, but ``max_order``, and fit a budget like any solver on a grid. Left out are ``scipy_solver``,
    SciPy's methods under another name (``scipy_rk45``), and ``fixed_adams``, a second name of implicit_adams.

    Adaptive: the whole batch is one vector with one step size (``batch_coupled``). The time of the last grid point is
    announced to the step control, which otherwise steps beyond it and interpolates: without that and the given first
    step the drift is asked for at times where alpha, sigma or the network is not defined.

    Fixed: one step for each of the grid. Its Adams methods have the coefficients of equal steps and start by
    Runge–Kutta. implicit_adams corrects once a step; torchdiffeq would repeat it, up to 4 times, until the whole batch
    agrees. On a GPU torchdiffeq compares times at each step, which waits for the device.

    Order that of the method (dopri5: 5; rk4: 4), of the Adams methods 2 on any grid with unequal steps; evaluations of
    adaptive ones as the tolerance demands, of fixed ones 1 to 4 a step, all counted.

    Reference: Chen 2018, torchdiffeq; Dormand & Prince 1980, J. Comput. Appl. Math. 6, 19 (dopri5).

    Args:
        method: name in torchdiffeq.
        rtol: relative tolerance, dimensionless.
        atol: absolute tolerance, units of x.

    Raises:
        UsageError: unknown method, or a tolerance that is not positive.
    """

    method: str = "dopri5"
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
        {"method": "euler"},
        {"method": "midpoint"},
        {"method": "heun2"},
        {"method": "heun3"},
        {"method": "rk4"},
        {"method": "explicit_adams"},
        {"method": "implicit_adams"},
    )
    reference: ClassVar[str] = "Chen 2018, github.com/rtqichen/torchdiffeq"

    @classmethod
    def form(cls, settings: Mapping[str, Any]) -> type[Solver]:
        """The fixed methods' class if ``method`` is one."""
        return _Fixed if _is_fixed(settings.get("method", cls.method)) else cls

    def __post_init__(self) -> None:
        if self.method not in methods() or _is_fixed(self.method):
            raise unknown_name(self.key, "method", self.method, methods())
        check_tolerances(self.key, self.rtol, self.atol)

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on the setting
        """Order of the method."""
        return int(methods()[self.method].order)

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


@dataclass(frozen=True)
class _Fixed(FixedStepSolver):
    """torchdiffeq's fixed methods, see :class:`Torchdiffeq`; a step alone has no history and starts anew.

    Args:
        method: name in torchdiffeq.
        max_order: highest order of the Adams methods, 4 to 12. (torchdiffeq's own 12 is unstable: with explicit_adams
            the error of 64 steps on the Gaussian under VE is 1e15.)
    """

    method: str = "rk4"
    max_order: int = 4

    key: ClassVar[str] = "torchdiffeq"
    family: ClassVar[str] = "probability-flow ODE"
    stochastic: ClassVar[bool] = False
    constrainable: ClassVar[bool] = False
    reference: ClassVar[str] = Torchdiffeq.reference

    def __post_init__(self) -> None:
        if self.max_order not in range(4, 13):
            raise UsageError(self.key, "max_order is 4 to 12", self.max_order, "E.g. 4")

    @property
    def multistep(self) -> bool:  # type: ignore[override]  # depends on the setting
        """Whether it is an Adams method."""
        return _is_adams(self.method)

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on the setting
        """Order of the method on grids with unequal steps."""
        return 2 if self.multistep else int(methods()[self.method].order)

    def nfe(self, steps: int) -> int:
        known = _evaluations(self.method, self.max_order)
        return sum(known[:steps]) + known[-1] * max(steps - len(known), 0)

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Brownian | None) -> Tensor:
        low, high = float(ts.min()), float(ts.max())

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            # In the state's precision, in which torchdiffeq asks, a time may lie beyond an end.
            return process.velocity(x, t.clamp(low, high).expand(len(x)))

        return _follow(velocity, x, ts.to(x.device), self.method, self.max_order)

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return self.solve(process, x, torch.tensor([t, s], dtype=torch.float64), brownian), state


def _follow(velocity: Any, x: Tensor, ts: Tensor, method: str, max_order: int) -> Tensor:
    """The state at the last time of the grid, by one step of the method for each of its steps."""
    from torchdiffeq import odeint

    # The grid as the solver's own, not as times at which to report: only the last state is kept.
    options: dict[str, Any] = {"grid_constructor": lambda *_: ts}
    if _is_adams(method):
        options["max_order"] = max_order
    # To an infinite tolerance the implicit method agrees with itself after one correction.
    states = odeint(velocity, x, ts[[0, -1]], rtol=0.0, atol=math.inf, method=method, options=options)
    result: Tensor = states[-1]
    return result


@cache
def _evaluations(method: str, max_order: int) -> tuple[int, ...]:
    """Evaluations of each of the first steps, counted on a drift of zero; later steps are like the last."""
    calls = 0

    def zero(t: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.zeros_like(x)

    totals = [0]
    for steps in range(1, SETTLED + 1):
        calls = 0
        _follow(zero, torch.zeros(1), torch.arange(steps + 1.0), method, max_order)
        totals.append(calls)
    return tuple(after - before for before, after in pairwise(totals))
