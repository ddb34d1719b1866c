"""Linear multistep methods x_s = a x + sum_j w_j f_j on a grid: tables of weights, their start, the step.

f_0 is the prediction at the current time and f_j the one of j steps before. The weights integrate the polynomial
through them exactly: with v the variable of interpolation, 0 at the current time and 1 at the next,

    w_j = int_0^1 L_j(v) weight(v) dv,    L_j(v) = prod_(i != j) (v - v_i) / (v_j - v_i),

by a quadrature that is exact to rounding. A table is made once for a grid, of all steps at once in double precision,
and kept for later solves on the same grid.

The start: ``ramp`` takes order 1, 2, ... as the history grows, as all published forms do; its first step, of local
error O(h^2), caps the order at 2 in the limit of small steps. ``runge_kutta`` takes the one-step formula of order
p - 1 until the history is full; its evaluations are counted.
"""

import math
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.grids import steps_of
from solvers.methods._exponential import Form, combine, one_step, predict
from solvers.process import ReverseProcess
from solvers.sde import Array, ForwardSDE

Start = Literal["ramp", "runge_kutta"]

# Tables kept, a grid each.
TABLES = 64

# Points of the quadrature in each panel, which is at most this wide in lam. Its integrands are analytic in lam, up to a
# distance of pi/2 at least, so that a panel is exact to rounding.
POINTS = 12
PANEL = 1.0

Row = tuple[float, list[float]]
"""One step, x_s = a x + sum_j weights[j] f_j: a and the weights, of which a ramp does not use the last."""

NoisyRow = tuple[float, list[float], float]
"""One step of the reverse SDE, x_s = a x + sum_j weights[j] f_j + std dw."""


class State(NamedTuple):
    """Table of the grid, number of the step, predictions before it (latest first)."""

    table: tuple[Any, ...]
    k: int
    history: tuple[Tensor, ...]


def check(key: str, order: int, highest: int, start: Start) -> None:
    """Refuse settings out of range.

    Raises:
        UsageError: the order lies outside 1 ... highest, or there is no such start.
    """
    if order not in range(1, highest + 1):
        raise UsageError(key, f"orders run from 1 to {highest}", order, f"Take 1 to {highest}")
    if start not in get_args(Start):
        raise unknown_name(key, "start", start, get_args(Start))


def evaluations(steps: int, order: int, start: Start) -> int:
    """Evaluations a sample: one a step, and order - 1 in each step of the one-step start."""
    extra = (order - 2) * min(steps, order - 1) if start == "runge_kutta" and order > 2 else 0
    return steps + extra


def panels_for(widths: Array) -> int:
    """Panels of a quadrature over steps of these widths in lam."""
    return int(abs(widths).max() / PANEL) + 1


@cache
def quadrature(panels: int) -> tuple[Array, Array]:
    """Gauss–Legendre positions in (0, 1) and weights, (panels * POINTS,), in so many panels."""
    roots, weights = np.polynomial.legendre.leggauss(POINTS)
    v = (roots + 1) / 2 + np.arange(panels)[:, None]
    return v.ravel() / panels, np.tile(weights / 2, panels) / panels


def interpolation_weights(nodes: Array, v: Array, gain: Array) -> Array:
    """w_j = sum_q gain_q L_j(v_q) in each step, (steps, count): the integral of the polynomial through the nodes.

    L_j(v) = prod_i (v - v_i) / (v - v_j) / prod_(i != j) (v_j - v_i)

    Args:
        nodes: v_j, (steps, count), NaN for those that do not exist yet: their weight is 0.
        v: points of a quadrature between 0 and 1, none of them a node, (points,) or (steps, points).
        gain: its weights, those of the integral's included, of the same shape.
    """
    missing = np.isnan(nodes)
    gap = nodes[:, :, None] - nodes[:, None, :]
    scale = np.where(abs(gap) > 0, gap, 1.0).prod(2)
    offset = v[..., None, :] - nodes[:, :, None]
    offset[missing] = 1.0
    sums = ((gain * offset.prod(1))[:, None, :] / offset).sum(2)
    return np.where(missing, 0.0, sums / scale)


def extrapolation(h: Array) -> tuple[Array, Array]:
    """Weights of the last two predictions in their line at half a step: 1 + h/(2h') and -h/(2h'), ' of the step before.

    The first step, which has none before it, takes 1 and 0.
    """
    weight = np.zeros_like(h)
    weight[1:] = h[1:] / (2 * h[:-1])
    return 1 + weight, -weight


def adams_weights(c: float, h: Array, nodes: Array) -> Array:
    """Weights of denoised at ``nodes``: w_j = int_0^1 c h e^(c h (v - 1)) L_j(v) dv, (steps, count)."""
    z = c * h[:, None]
    v, weights = quadrature(panels_for(z))
    return interpolation_weights(nodes, v, z * np.exp(z * (v - 1)) * weights)


def scaled_nodes(variable: Array, count: int, first: int = 0) -> Array:
    """Nodes at the times k + first, k + first - 1, ... of step k: 0 at time k, 1 at time k + 1; (steps, count).

    NaN where there is no such time.
    """
    steps = len(variable) - 1
    padded = np.concatenate([np.full(count, math.nan), variable])
    latest_first = padded[np.arange(steps)[:, None] + np.arange(count + first, first, -1)]
    nodes: Array = (latest_first - variable[:-1, None]) / steps_of(variable)[:, None]
    return nodes


def table(a: Array, weights: Array) -> tuple[Row, ...]:
    """The rows of a grid: a (steps,), weights (steps, count)."""
    return tuple(zip(a.tolist(), weights.tolist(), strict=True))


@lru_cache(maxsize=TABLES)
def adams_table(sde: ForwardSDE, times: tuple[float, ...], order: int, even: bool = False) -> tuple[Row, ...]:
    """Rows of the Adams–Bashforth method in tau on a grid; ``even``: its weights as if steps of tau were equal."""
    ts = np.array(times)
    alpha = sde.alpha(ts)
    tau = sde.sigma(ts) / alpha
    nodes = scaled_nodes(np.arange(float(len(ts))) if even else tau, order)
    means = interpolation_weights(nodes, *quadrature(1))
    return table(alpha[1:] / alpha[:-1], (alpha[1:] * steps_of(tau))[:, None] * means)


def noisy_table(ts: Array, sigma: Array, h: Array, weights: Array) -> tuple[NoisyRow, ...]:
    """The rows of a grid, the linear part of the reverse SDE and its noise exact: weights (steps, count) of denoised.

    a = sigma(s)/sigma(t) e^-h,     std = sigma(s) sqrt((1 - e^-2h) / (t - s)),     h = lam(s) - lam(t)
    """
    std = sigma[1:] * np.sqrt(np.expm1(-2 * h) / steps_of(ts))
    return tuple(zip((sigma[1:] / sigma[:-1] * np.exp(-h)).tolist(), weights.tolist(), std.tolist(), strict=True))


def advance(
    process: ReverseProcess, form: Form, order: int, start: Start, x: Tensor, t: float, s: float, state: State
) -> tuple[Tensor, State]:
    """One step of a linear multistep method of an order."""
    rows, k, history = state
    first = predict(process, form, x, t)
    values = (first, *history)[:order]
    if start == "runge_kutta" and k < order - 1 and order > 2:
        x_s = one_step(process, form, order - 1, x, t, s, first)
    else:
        a, weights = rows[k]
        x_s = combine(a, x, weights[: len(values)], values)
    return x_s, State(rows, k + 1, values[: order - 1])


def advance_noisy(
    process: ReverseProcess, count: int, x: Tensor, t: float, s: float, brownian: Any, state: State
) -> tuple[Tensor, State]:
    """One step of the reverse SDE by the last ``count`` denoised predictions."""
    rows, k, history = state
    a, weights, std = rows[k]
    values = (process.denoised(x, t), *history)[:count]
    x_s = combine(a, x, weights[: len(values)], values)
    return x_s.add_(brownian.dw(t, s), alpha=std), State(rows, k + 1, values[: count - 1])
