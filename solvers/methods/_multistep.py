"""Linear multistep methods x_s = a x + sum_j w_j f_j on a grid: tables of weights, their start, the step.

f_0 is the prediction at the current time and f_j the one of j steps before. The weights integrate the polynomial
through them exactly: with v the variable of interpolation, 0 at the current time and 1 at the next,

    w_j = int_0^1 L_j(v) weight(v) dv = sum_k b_jk m_k,    L_j(v) = sum_k b_jk v^k,    m_k = int_0^1 weight(v) v^k dv.

A table is made once for a grid, in double precision, and kept for later solves on the same grid.

The start: ``ramp`` takes order 1, 2, ... as the history grows, as all published forms do; its first step, of local
error O(h^2), caps the order at 2 in the limit of small steps. ``runge_kutta`` takes the one-step formula of order
p - 1 until the history is full; its evaluations are counted.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.methods._exponential import Form, combine, one_step, phi, predict, sign
from solvers.process import ReverseProcess

Start = Literal["ramp", "runge_kutta"]

# Tables kept, a grid each.
TABLES = 64


class Row(NamedTuple):
    """One step: x_s = a x + sum_j weights[j] f_j."""

    a: float
    weights: tuple[float, ...]


class State(NamedTuple):
    """Table of the grid, number of the step, predictions before it (latest first)."""

    table: tuple[Row, ...]
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


def lagrange(nodes: list[float]) -> list[list[float]]:
    """Coefficients b_jk of the Lagrange polynomials of the nodes, L_j(v) = sum_k b_jk v^k."""
    rows = []
    for j, node in enumerate(nodes):
        row = [1.0]
        for i, other in enumerate(nodes):
            if i != j:
                shifted = [0.0, *row]
                row = [(a - other * b) / (node - other) for a, b in zip(shifted, [*row, 0.0], strict=True)]
        rows.append(row)
    return rows


def interpolation_weights(nodes: list[float], moments: list[float]) -> list[float]:
    """w_j = sum_k b_jk m_k."""
    return [math.fsum(b * m for b, m in zip(row, moments, strict=False)) for row in lagrange(nodes)]


def exponential_moments(form: Form, h: float, count: int) -> list[float]:
    """m_k = int_0^1 h e^(c h (1 - v)) v^k dv = h k! phi_(k+1)(c h)."""
    return [h * math.factorial(k) * phi(k + 1, sign(form) * h) for k in range(count)]


def adams_weights(c: float, h: float, nodes: Sequence[float]) -> list[float]:
    """Weights of denoised at ``nodes``, in lam from the step's start: w_j = int_0^h c e^(c (u - h)) l_j(u) du."""
    return interpolation_weights([node / h for node in nodes], exponential_moments("denoised", c * h, len(nodes)))


def scaled_nodes(variable: Sequence[float], k: int, count: int) -> list[float]:
    """Nodes at the times k, k - 1, ..., of which there are ``count``: 0 at time k, 1 at time k + 1."""
    width = variable[k + 1] - variable[k]
    return [(variable[k - j] - variable[k]) / width for j in range(count)]


def advance(
    process: ReverseProcess, form: Form, order: int, start: Start, x: Tensor, t: float, s: float, state: State
) -> tuple[Tensor, State]:
    """One step of a linear multistep method of an order."""
    table, k, history = state
    first = predict(process, form, x, t)
    values = (first, *history)[:order]
    if start == "runge_kutta" and k < order - 1 and order > 2:
        x_s = one_step(process, form, order - 1, x, t, s, first)
    else:
        a, weights = table[k]
        x_s = combine(a, x, weights, values)
    return x_s, State(table, k + 1, values[: order - 1])
