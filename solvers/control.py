"""Per-sample step control: every sample of a batch has its own time, step and error, and stops on its own.

A step of error e, in units of the tolerance, is accepted where e <= 1. The next step is h times

    safety * e^(-b_1/k) * e'^(-b_2/k) * e''^(-b_3/k),      within [shrink, grow],

e' and e'' of the accepted steps before, k the order of the estimate's local error. After a rejection, and without a
history, the factor is that of I. Kinds by (b_1, b_2, b_3): I (1, 0, 0); PI (0.7, -0.4, 0); PID (0.49, -0.34, 0.10).

References: Hairer & Wanner 1996, Solving Ordinary Differential Equations II, sec. IV.2 (PI); Kennedy & Carpenter 2003,
Appl. Numer. Math. 44, 139, sec. 3.4 (PID); Söderlind 2003, ACM Trans. Math. Softw. 29, 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from solvers.errors import DivergenceError, unknown_name
from solvers.process import ReverseProcess
from solvers.sde import expand
from solvers.solver import check_tolerances

Kind = Literal["I", "PI", "PID"]

_EXPONENTS: dict[Kind, tuple[float, float, float]] = {
    "I": (1.0, 0.0, 0.0),
    "PI": (0.7, -0.4, 0.0),
    "PID": (0.49, -0.34, 0.10),
}

# Attempts a sample may take before the solve counts as diverged.
MOST_ATTEMPTS = 100_000

# Error that a first step aims at, in units of the tolerance: what is known of the solution is two derivatives.
FIRST_ERROR = 1e-3

# The most of the way that a first step takes. Without that, one sample in a hundred of ``mixture_2d`` makes 85 % of the
# squared error of the pair 8(5, 3) at 1e-4, 2.1e-3 in 83 evaluations; with it the error is 9.1e-4 in 82. Shorter first
# steps make loose tolerances more exact than they ask for, and the error's slope against evaluations less than 8.
FIRST_SHARE = 0.4

Derivative = Callable[[ReverseProcess, Tensor, Tensor], Tensor]
"""``derivative(process, x, u)``: one evaluation at states (n, ...) and values (n,) of the independent variable."""

Attempt = Callable[[ReverseProcess, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]
"""``attempt(process, x, u, s, first)``: a step from u to s (n,), given the derivative at u; returns x_s, its error in
units of the tolerance (n,), and the derivative at s if the step has it."""


def check(key: str, rtol: float, atol: float, controller: Kind) -> None:
    """Refuse settings out of range.

    Raises:
        UsageError: a tolerance that is not positive, or an unknown controller.
    """
    check_tolerances(key, rtol, atol)
    if controller not in get_args(Kind):
        raise unknown_name(key, "controller", controller, get_args(Kind))


def scaled_norm(error: Tensor, x: Tensor, x_s: Tensor, rtol: float, atol: float) -> Tensor:
    """Root mean square over the coordinates of error / (atol + rtol max(|x|, |x_s|)), (n,), float64."""
    scaled = error / (atol + rtol * torch.maximum(x.abs(), x_s.abs()))
    return scaled.double().square().flatten(1).mean(1).sqrt()


@dataclass(frozen=True)
class StepControl:
    """A controller; see the module's text.

    Args:
        k: order of the estimate's local error, the embedded method's order plus one.
        kind: I, PI or PID.
        safety: factor on the step, below 1.
        shrink: least factor.
        grow: greatest factor. An estimate that happens to be small says little of a much longer step: with 10, one
            sample in a hundred of ``mixture_2d`` stepped over the place where trajectories part, and made 97 % of the
            squared error of Dormand–Prince at 1e-2, 1.1e-2 in all; with 2 it is 1.7e-3, at as many evaluations.
    """

    k: int
    kind: Kind = "I"
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 2.0

    def factor(self, error: Tensor, before: Tensor, before_2: Tensor) -> Tensor:
        """What to multiply the step with, (n,); where there are none before, ``before`` is NaN and ``before_2`` 1."""
        # So that no error is 0.
        error = error.clamp(min=1e-12)
        b_1, b_2, b_3 = _EXPONENTS[self.kind]
        plain = error ** (-1 / self.k)
        filtered = plain
        if self.kind != "I":
            filtered = error ** (-b_1 / self.k) * before ** (-b_2 / self.k) * before_2 ** (-b_3 / self.k)
            filtered = torch.where(before.isnan(), plain, filtered)
        accepted = error <= 1
        factor = self.safety * torch.where(accepted, filtered, plain)
        factor = torch.where(accepted, factor, factor.clamp(max=1.0))
        return torch.nan_to_num(factor, nan=self.shrink).clamp(self.shrink, self.grow)


def march(
    process: ReverseProcess,
    x: Tensor,
    start: float,
    end: float,
    h: Tensor,
    first: Tensor,
    derivative: Derivative,
    attempt: Attempt,
    control: StepControl,
) -> Tensor:
    """Carry every sample from ``start`` to exactly ``end`` by its own steps.

    Samples that have arrived are evaluated no more. Where two steps or fewer are left they are made equal, so that no
    sliver remains; no step passes the end.

    Args:
        process: counts the evaluations of the samples that are still on the way.
        x: states (n, ...).
        start: independent variable at the start.
        end: and at the end, above or below.
        h: first steps (n,), positive lengths, float64.
        first: derivative at the start, shape of x.
        derivative: the right-hand side, asked for after accepted steps that do not bring their own.
        attempt: the method.
        control: the controller.

    Raises:
        DivergenceError: a step of some sample vanishes, or it takes too many.
    """
    n, direction = len(x), 1.0 if end > start else -1.0
    result = torch.empty_like(x)
    rows = torch.arange(n, device=x.device)
    u = torch.full((n,), start, dtype=torch.float64, device=x.device)
    before, before_2 = torch.full_like(u, math.nan), torch.ones_like(u)
    goal = torch.tensor(end, dtype=torch.float64, device=x.device)
    least = 16 * torch.finfo(torch.float64).eps * max(abs(start), abs(end), abs(end - start))
    for _ in range(MOST_ATTEMPTS):
        left = (goal - u).abs()
        last = h >= left
        step = torch.where(2 * h > left, left / 2, h)
        s = torch.where(last, goal, u + direction * step)
        here = process.at(rows, n)
        x_s, error, first_s = attempt(here, x, u, s, first)
        accepted = error <= 1
        taken = torch.where(last, left, step)
        h = taken * control.factor(error, before, before_2)
        # Written so that a step that is no number vanishes too.
        vanished = ~accepted & ~(h >= least)
        if bool(vanished.any()):
            raise DivergenceError(f"the step of {int(vanished.sum())} samples vanishes")
        x = torch.where(expand_mask(accepted, x), x_s, x)
        u = torch.where(accepted, s, u)
        before_2 = torch.where(accepted, before.nan_to_num(1.0), before_2)
        before = torch.where(accepted, error.clamp(min=1e-12), before)
        arrived = accepted & last
        if first_s is not None:
            first = torch.where(expand_mask(accepted, x), first_s, first)
        if bool(arrived.any()):
            result[rows[arrived]] = x[arrived]
            way = ~arrived
            rows, x, u, h, first = rows[way], x[way], u[way], h[way], first[way]
            before, before_2, accepted = before[way], before_2[way], accepted[way]
            if not len(rows):
                return result
        if first_s is None and bool(accepted.any()):
            moved = accepted.nonzero()[:, 0]
            first = first.index_copy(0, moved, derivative(process.at(rows[moved], n), x[moved], u[moved]))
    raise DivergenceError(f"{len(rows)} samples took {MOST_ATTEMPTS} attempts")


def expand_mask(mask: Tensor, x: Tensor) -> Tensor:
    """A mask (n,) in the number of dimensions of x."""
    return mask.reshape(-1, *(1,) * (x.ndim - 1))


def first_step(
    process: ReverseProcess,
    x: Tensor,
    start: float,
    end: float,
    first: Tensor,
    derivative: Derivative,
    k: int,
    constant: float,
    rtol: float,
    atol: float,
) -> Tensor:
    """Lengths of the first steps (n,), float64, from one explicit Euler step inside the interval: one evaluation.

    ``constant`` is the estimate's on the linear equation, c in c (h z)^k: the step aims at an error of FIRST_ERROR. It
    takes FIRST_SHARE of the way at most, since a k-th root hardly depends on what is known at the start.

    Reference: Hairer, Nørsett & Wanner 1993, sec. II.4.
    """
    length, direction = abs(end - start), 1.0 if end > start else -1.0
    zero = torch.zeros_like(x)
    size, slope = scaled_norm(x, x, zero, rtol, atol), scaled_norm(first, x, zero, rtol, atol)
    h = torch.where((size < 1e-5) | (slope < 1e-5), torch.full_like(size, 1e-6 * length), 0.01 * size / slope)
    h = h.clamp(max=length / 10)
    u = start + direction * h
    second = derivative(process, x + expand(direction * h, x) * first, u)
    bend = scaled_norm(second - first, x, zero, rtol, atol) / h
    steepest = torch.maximum(slope, bend)
    guess = torch.where(steepest <= 1e-15, (1e-3 * h).clamp(min=1e-6), (FIRST_ERROR / (constant * steepest)) ** (1 / k))
    return torch.minimum(100 * h, guess).clamp(max=FIRST_SHARE * length)
