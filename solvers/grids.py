"""Decreasing time grids: float64 tensors of steps + 1 times from ``start`` to ``end``, both included exactly.

uniform    equal steps of t
quadratic  equal steps of sqrt(t)
log_snr    equal steps of lam = log(alpha/sigma)
karras     equal steps of (sigma/alpha)^(1/rho), rho = 7: Karras et al. 2022, arXiv:2206.00364, eq. 5, for any SDE

Each also runs upwards (start < end), as the probability flow is integrated for likelihood.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.sde import ForwardSDE

KARRAS_RHO = 7.0


def _uniform(sde: ForwardSDE, start: float, end: float, unit: Tensor) -> Tensor:
    return start + (end - start) * unit


def _quadratic(sde: ForwardSDE, start: float, end: float, unit: Tensor) -> Tensor:
    return (math.sqrt(start) + (math.sqrt(end) - math.sqrt(start)) * unit).square()


def _log_snr(sde: ForwardSDE, start: float, end: float, unit: Tensor) -> Tensor:
    return sde.t_of_lam(sde.lam(start) + (sde.lam(end) - sde.lam(start)) * unit)


def _karras(sde: ForwardSDE, start: float, end: float, unit: Tensor) -> Tensor:
    root_start, root_end = (math.exp(-sde.lam(t) / KARRAS_RHO) for t in (start, end))
    return sde.t_of_lam(-KARRAS_RHO * (root_start + (root_end - root_start) * unit).log())


GRIDS: dict[str, Callable[[ForwardSDE, float, float, Tensor], Tensor]] = {
    "uniform": _uniform,
    "quadratic": _quadratic,
    "log_snr": _log_snr,
    "karras": _karras,
}


def make_grid(name: str, sde: ForwardSDE, steps: int, start: float | None = None, end: float | None = None) -> Tensor:
    """A grid of ``steps`` steps, from t_max to t_min of the SDE unless said otherwise.

    Returns:
        Times, shape (steps + 1,), float64, on the CPU.

    Raises:
        UsageError: unknown grid, fewer than one step, an end at or below 0, or times too close to tell apart.
    """
    if name not in GRIDS:
        raise unknown_name("make_grid", "grid", name, GRIDS)
    if steps < 1:
        raise UsageError("make_grid", "a grid has at least one step", steps, "Raise the budget")
    start = sde.t_max if start is None else start
    end = sde.t_min if end is None else end
    if min(start, end) <= 0:
        raise UsageError("make_grid", "times are positive", (start, end), "End at t_min; last step 'tweedie' reaches 0")
    ts = GRIDS[name](sde, start, end, torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    ts[0], ts[-1] = start, end
    if not (ts.diff() * math.copysign(1, end - start) > 0).all():
        raise UsageError("make_grid", "neighbouring times differ", f"{name} with {steps} steps", "Take fewer steps")
    return ts
