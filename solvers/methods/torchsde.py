"""torchsde's methods on the reverse SDE, driven by the project's own grids and noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from solvers.errors import DivergenceError, unknown_name
from solvers.methods._exponential import combine
from solvers.methods._time_integral import Increment, halves, joined
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import Array, ForwardSDE, Time
from solvers.solver import AdaptiveSolver, FixedStepSolver, Solver, check_tolerances

Method = Literal["euler", "milstein", "srk", "euler_heun", "midpoint", "heun", "log_ode"]
Stepping = Literal["fixed", "adaptive"]


class _Facts(NamedTuple):
    """Of a method: in which sense it takes the SDE, drift evaluations a step, order in law.

    ``any_noise``: whether its formula is one and the same for every kind of noise.
    """

    sense: Literal["ito", "stratonovich"]
    evaluations: int
    order: int
    any_noise: bool


_METHODS: dict[Method, _Facts] = {
    "euler": _Facts("ito", 1, 1, True),
    "milstein": _Facts("ito", 1, 1, False),
    # Two stages; it asks for the drift of the first again where the second needs it.
    "srk": _Facts("ito", 3, 2, False),
    "euler_heun": _Facts("stratonovich", 1, 1, True),
    "midpoint": _Facts("stratonovich", 2, 1, True),
    "heun": _Facts("stratonovich", 2, 2, True),
    "log_ode": _Facts("stratonovich", 2, 1, False),
}

# First step of the adaptive form and the least one, in intervals.
FIRST_STEP, LEAST_STEP = 0.01, 1e-9
# Times that torchsde asks for the drift to check its shape, before the first step.
CHECKS = 2
# The adaptive form's steps are rounded down to powers of 2^(1/8). A path at two times that differ by rounding differs
# by the root of it: with steps free to follow the error, the last bit of one evaluation would soon decide which are
# accepted.
STEPS_PER_OCTAVE = 8


@register
@dataclass(frozen=True)
class Torchsde(FixedStepSolver):
    """torchsde's methods on the reverse SDE, integrated in grid index, or with steps of their own.

    With t(u) linear between the grid's times and u counting them, the SDE in u is

    dx = dt/du * (f x - g^2 score) du + g dw(t(u))

    so that torchsde takes steps of exactly 1 on any grid. Its formulas for additive noise are linear in the path, whose
    unit is therefore its own. (Fed with times in single precision it appends a stray step
    of 1e-6 and its Brownian motion enters a slow path, torchsde issue 109.) The noise is additive: Ito's and
    Stratonovich's sense are one, milstein is euler, log_ode is midpoint, and no Lévy area is needed. srk has the path's
    time integral as well, in law. reversible_heun is left out: it carries a drift from one step into the next, where an
    index of other length scales it; adjoint methods are for gradients.

    Order in law 1 (euler, milstein, euler_heun; 1 evaluation a step; midpoint, log_ode; 2) or 2 (heun, 2 evaluations;
    srk, 3 for the 2 stages of its form for additive noise, where the one for diagonal noise takes 10 for 4). midpoint's
    stage sees the noise g dB/2, whose variance is half of the mean over the step: the term f'' g^2 dt^2/4 of the mean
    comes out as f'' g^2 dt^2/8. A linear drift has no f'', and shows order 2 (the mixture: 0.8 to 1.0). euler equals
    ``euler_maruyama``, heun ``stochastic_heun``. torchsde asks for the drift at the first
    state to check its shape; the first step uses that value.

    ``stepping: adaptive`` has the settings ``rtol`` and ``atol``: torchsde doubles steps, three steps an attempt, all
    counted, on the whole batch at once, and the grid gives the ends only. Its least step is 0 here: it accepts a
    rejected step where the next one would be shorter than that. A step that vanishes ends the solve as diverged. Steps
    are rounded down to powers of 2^(1/8): free to follow the error, those in single and double precision soon differ,
    and with them the results (by 0.14 on the mixture under the rectified flow at the default tolerance; 4e-7 as they
    are). Order in law 1 whatever the method, as in ``ggf``: given steps have the method's, these depend on the noise
    within them. (Measured along the path on the Gaussian, error against evaluations: euler 0.8 to 1.1, heun 0.6 to 1.3,
    srk 1.6 to 2.2.)

    Reference: Li et al. 2020, Scalable Gradients for SDEs, arXiv:2001.01328; Rößler 2010, SIAM J. Numer. Anal. 48, 922
    (srk).

    Args:
        method: method of torchsde.
        stepping: ``fixed``, the grid's steps, or ``adaptive``.

    Raises:
        UsageError: unknown method or stepping.
    """

    method: Method = "euler"
    stepping: Stepping = "fixed"

    family: ClassVar[str] = "reverse SDE"
    stochastic: ClassVar[bool] = True
    constrainable: ClassVar[bool] = False
    certified: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"method": "milstein"},
        {"method": "euler_heun"},
        {"method": "log_ode"},
        {"method": "heun"},
        {"method": "midpoint"},
        {"method": "srk"},
        {"stepping": "adaptive"},
    )
    reference: ClassVar[str] = "Li et al. 2020, arXiv:2001.01328"

    @classmethod
    def form(cls, settings: Mapping[str, Any]) -> type[Solver]:
        """The adaptive class for ``stepping: adaptive``."""
        return _Adaptive if settings.get("stepping") == "adaptive" else cls

    def __post_init__(self) -> None:
        _check_method(self.key, self.method)
        if self.stepping != "fixed":
            raise unknown_name(self.key, "stepping", self.stepping, get_args(Stepping))

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on the setting
        """Order in law of the method."""
        return _METHODS[self.method].order

    def nfe(self, steps: int) -> int:
        return _METHODS[self.method].evaluations * steps

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Any) -> Tensor:
        return _solve(_ReverseSDE(process, x, self.method, False), _Path(x, ts, brownian, False), x, dt=1.0)

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return self.solve(process, x, torch.tensor([t, s], dtype=torch.float64), brownian), state


@dataclass(frozen=True)
class _Adaptive(AdaptiveSolver):
    """torchsde's step doubling, see :class:`Torchsde`.

    Args:
        method: method of torchsde.
        stepping: ``adaptive``.
        rtol: relative tolerance, dimensionless.
        atol: absolute tolerance, units of x.

    Raises:
        UsageError: unknown method, or a tolerance that is not positive.
    """

    method: Method = "euler"
    stepping: Stepping = "adaptive"
    rtol: float = 1e-2
    atol: float = 1e-2

    key: ClassVar[str] = "torchsde"
    family: ClassVar[str] = Torchsde.family
    order: ClassVar[int | None] = 1
    stochastic: ClassVar[bool] = True
    batch_coupled: ClassVar[bool] = True
    reference: ClassVar[str] = Torchsde.reference

    def __post_init__(self) -> None:
        _check_method(self.key, self.method)
        check_tolerances(self.key, self.rtol, self.atol)

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Any) -> Tensor:
        ends = ts[[0, -1]]
        sde, path = _ReverseSDE(process, x, self.method, True), _Path(x, ends, brownian, True)
        try:
            return _solve(sde, path, x, dt=_Step(FIRST_STEP), adaptive=True, rtol=self.rtol, atol=self.atol, dt_min=0.0)
        except AssertionError as error:  # torchsde's answer to an error that is no number
            raise DivergenceError(f"torchsde stopped: {error}") from error


def _terms(sde: ForwardSDE, t: Time, dt: Time) -> tuple[Time, Time, Time]:
    """At t, with dt the length of the step and u counting steps: dx = (a x + b score) du + g dw."""
    return dt * sde.drift_coefficient(t), -dt * sde.diffusion_squared(t), sde.diffusion(t)


def _coefficients(sde: ForwardSDE, ts: Array) -> tuple[Array, ...]:
    """The terms where steps begin."""
    return _terms(sde, ts[:-1], ts[1:] - ts[:-1])


def _check_method(key: str, method: str) -> None:
    """Refuse unknown methods.

    Raises:
        UsageError: there is no such method.
    """
    if method not in _METHODS:
        raise unknown_name(key, "method", method, _METHODS)


def _solve(sde: "_ReverseSDE", path: "_Path", x: Tensor, **stepping: Any) -> Tensor:
    """torchsde's integration in grid index."""
    from torchsde import sdeint

    sde.path = path
    index = torch.tensor([0.0, len(path.times) - 1.0], dtype=torch.float64)
    states = sdeint(sde, x.reshape(path.shape), index, bm=path, method=sde.method, **stepping)
    result: Tensor = states[-1].to(x.dtype).reshape(x.shape)
    return result


class _Step(float):
    """A step that torchsde, which multiplies it by a factor of its own, changes to rounded lengths alone."""

    def __mul__(self, factor: float) -> "_Step":
        octaves = math.log2(float(self) * factor)
        return _Step(2 ** (math.floor(STEPS_PER_OCTAVE * octaves + 1e-9) / STEPS_PER_OCTAVE))


class _Path:
    """The source's path in grid index, in torchsde's form; also tells which step is being taken.

    Every method of torchsde asks for the path before the drift.

    Args:
        x: states.
        ts: the grid.
        brownian: the source.
        fine: whether it is asked for as one time a sample, which steps to a tolerance need.
    """

    # The most that a method asks for. What it asks for besides the time integral, no diffusion here depends on.
    levy_area_approximation = "foster"

    def __init__(self, x: Tensor, ts: Tensor, brownian: Any, fine: bool) -> None:
        self.shape = (x.numel(), 1)
        self._samples = len(x)
        self.dtype, self.device = x.dtype, x.device
        self.times: list[float] = ts.tolist()
        self.interval = 0
        self._brownian = brownian
        self._fine = fine
        # Integrals over the halves of the last step, which step doubling asks for next.
        self._halves: dict[tuple[float, float], Increment] = {}

    def time(self, u: float) -> float:
        """t(u) in the step's interval."""
        t, s = self.times[self.interval], self.times[self.interval + 1]
        fraction = u - self.interval
        return s if fraction >= 1 else max(t + fraction * (s - t), s)

    @property
    def dt(self) -> float:
        """Length of the step's interval, negative."""
        return self.times[self.interval + 1] - self.times[self.interval]

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Any:  # noqa: N803
        """Increment from ta to tb; with it the time integral (U), or no area (A)."""
        start, end = float(ta), float(tb)
        self.interval = min(int(start), len(self.times) - 2)
        if end - start < LEAST_STEP and end < len(self.times) - 1:
            raise DivergenceError("torchsde's step vanishes")
        if return_U:
            dw, integral = self._integral(start, end)
            return self._flat(dw), self._flat(integral) / -self.dt
        dw = self._flat(self._brownian.dw(self._where(start), self._where(end)))
        return (dw, None) if return_A else dw

    def _integral(self, start: float, end: float) -> Increment:
        """Increment and time integral, such that those of a step are made of those of its halves."""
        known = self._halves.get((start, end))
        if known is not None:
            return known
        middle = 0.5 * (start + end)
        t, s = self._where(start), self._where(end)
        first, second = halves(self._brownian, t, s)
        self._halves = {(start, middle): first, (middle, end): second}
        return joined(first, second, (self.time(start) - self.time(end)) / 2)

    def _where(self, u: float) -> Any:
        t = self.time(u)
        return torch.full((self._samples,), t, dtype=torch.float64, device=self.device) if self._fine else t

    def _flat(self, value: Tensor) -> Tensor:
        return value.reshape(self.shape)


class _ReverseSDE:
    """The reverse SDE with the grid's index as time, in torchsde's form.

    Each coordinate is a state of its own, (n dim, 1): torchsde has additive noise as matrices, which are 1 x 1 so. As
    diagonal noise they are numbers, a third less work: for methods that do the same with both.
    """

    def __init__(self, process: ReverseProcess, x: Tensor, method: Method, adaptive: bool) -> None:
        self.method = method
        self.noise_type = "diagonal" if _METHODS[method].any_noise and not adaptive else "additive"
        self.sde_type = _METHODS[method].sense
        self.path: Any = None
        self._process = process
        self._shape = x.shape
        self._first: tuple[Tensor | None, Tensor] = None, x
        self._asks = 0

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        """Drift in u."""
        return self._drift(float(u), y, self._terms(float(u)))

    def g(self, u: Tensor, y: Tensor) -> Tensor:
        """Diffusion in u."""
        return self._diffusion(y, self._terms(float(u)))

    def f_and_g(self, u: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Drift and diffusion in u."""
        start = float(u)
        terms = self._terms(start)
        return self._drift(start, y, terms), self._diffusion(y, terms)

    def _diffusion(self, y: Tensor, terms: tuple[float, ...]) -> Tensor:
        return torch.full_like(y if self.noise_type == "diagonal" else y[..., None], terms[3])

    def _drift(self, u: float, y: Tensor, terms: tuple[float, ...]) -> Tensor:
        """The drift at the first state, which both checks of shapes ask for, serves the first step too."""
        if self._asks <= CHECKS:
            self._asks += 1
            if u == 0 and y is self._first[0]:
                return self._first[1]
        t, a, b, _ = terms
        x = y.reshape(self._shape)
        drift = combine(a, x, (b,), (self._process.score(x, t),)).reshape(y.shape)
        if self._asks == 1:
            self._first = y, drift
        return drift

    def _terms(self, u: float) -> tuple[float, ...]:
        """Time, and the terms there; where a step of the grid begins they are kept."""
        path = self.path
        t, s = path.times[path.interval], path.times[path.interval + 1]
        if u == path.interval:
            return t, *self._process.coefficients(_coefficients, t, s)
        inside = path.time(u)
        return inside, *_terms(self._process.sde, inside, s - t)
