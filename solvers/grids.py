"""Decreasing time grids: float64 tensors of steps + 1 times from ``start`` to ``end``, both included exactly.

uniform    equal steps of t
quadratic  equal steps of sqrt(t)
log_snr    equal steps of lam = log(alpha/sigma)
karras     equal steps of (sigma/alpha)^(1/rho), rho = 7: Karras et al. 2022, arXiv:2206.00364, eq. 5, for any SDE;
           karras_3, karras_2.5, ... for another rho, 0.1 to 1000 in size
edm        karras with the published ends in sigma/alpha, 0.002 and 80, as far as they lie between the grid's own; the
           first and the last step then bridge what is beyond. On EDM's own SDE the two are the same, on VE too. The
           published final 0 is the last step ``tweedie``

Each also runs upwards (start < end), as the probability flow is integrated for likelihood.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.sde import Array, ForwardSDE

KARRAS_RHO = 7.0
# Beyond it powers overflow, or steps are those of log_snr to rounding.
RHO_RANGE = 0.1, 1000.0
EDM_LEVELS = (0.002, 80.0)


def _uniform(sde: ForwardSDE, start: float, end: float, unit: Tensor) -> Tensor:
    return start + (end - start) * unit


def _quadratic(sde: ForwardSDE, start: float, end: float, unit: Tensor) -> Tensor:
    return (math.sqrt(start) + (math.sqrt(end) - math.sqrt(start)) * unit).square()


def _log_snr(sde: ForwardSDE, start: float, end: float, unit: Tensor) -> Tensor:
    return sde.t_of_lam(sde.lam(start) + (sde.lam(end) - sde.lam(start)) * unit)


def _karras(sde: ForwardSDE, start: float, end: float, unit: Tensor, rho: float = KARRAS_RHO) -> Tensor:
    root_start, root_end = (math.exp(-sde.lam(t) / rho) for t in (start, end))
    return sde.t_of_lam(-rho * (root_start + (root_end - root_start) * unit).log())


def _edm(sde: ForwardSDE, start: float, end: float, unit: Tensor) -> Tensor:
    low, high = min(start, end), max(start, end)
    bottom, top = (sde.t_of_lam(-math.log(level)) for level in EDM_LEVELS)
    bottom, top = bottom if low < bottom < high else low, top if low < top < high else high
    return _karras(sde, bottom, top, unit) if start < end else _karras(sde, top, bottom, unit)


def steps_of(variable: Array) -> Array:
    """Differences of neighbours on a grid, of times or of what follows from them."""
    return variable[1:] - variable[:-1]


Grid = Callable[[ForwardSDE, float, float, Tensor], Tensor]

GRIDS: dict[str, Grid] = {
    "uniform": _uniform,
    "quadratic": _quadratic,
    "log_snr": _log_snr,
    "karras": _karras,
    "edm": _edm,
}


def get_grid(name: str, who: str = "get_grid") -> Grid:
    """The rule of a grid: times from SDE, start, end and the numbers 0 ... 1 in equal steps.

    Raises:
        UsageError: no grid of that name, or a rho that is out of range or no number.
    """
    if name in GRIDS:
        return GRIDS[name]
    base, _, text = name.partition("_")
    if base != "karras":
        raise unknown_name(who, "grid", name, GRIDS)
    try:
        rho = float(text)
    except ValueError:
        rho = 0.0
    low, high = RHO_RANGE
    if not low <= abs(rho) <= high:
        raise UsageError(who, f"the exponent of karras_RHO is {low:g} to {high:g} in size", name, "E.g. karras_3")
    return partial(_karras, rho=rho)


def make_grid(name: str, sde: ForwardSDE, steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """A grid of ``steps`` steps, from t_max to t_min of the SDE unless said otherwise.

    Returns:
        Times, shape (steps + 1,), float64, on the CPU.

    Raises:
        UsageError: unknown grid, fewer than one step, an end at or below 0, or times too close to tell apart.
    """
    rule = get_grid(name, "make_grid")
    if steps < 1:
        raise UsageError("make_grid", "a grid has at least one step", steps, "Raise the budget")
    start = sde.t_max if start is None else start
    end = sde.t_min if end is None else end
    if min(start, end) <= 0:
        raise UsageError("make_grid", "times are positive", (start, end), "End at t_min; last step 'tweedie' reaches 0")
    ts = rule(sde, start, end, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    ts[0], ts[-1] = start, end
    if not (ts.diff() * math.copysign(1, end - start) > 0).all():
        raise UsageError("make_grid", "neighbouring times differ", f"{name} with {steps} steps", "Take fewer steps")
    return ts
