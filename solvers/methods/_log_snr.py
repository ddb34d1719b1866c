"""Adaptive methods whose independent variable is lam = log(alpha/sigma)."""

import torch
from torch import Tensor

from solvers.control import Attempt, Derivative, StepControl, march
from solvers.process import ReverseProcess


def march_in_lam(
    process: ReverseProcess,
    x: Tensor,
    ts: Tensor,
    h: float,
    prediction: Derivative,
    attempt: Attempt,
    control: StepControl,
) -> Tensor:
    """:func:`solvers.control.march` in lam, of methods that are written in times.

    Args:
        process: counts the evaluations.
        x: states (n, ...).
        ts: grid, of which the ends are used.
        h: first step in lam.
        prediction: ``prediction(process, x, t)``, one evaluation.
        attempt: the method, between times t and s.
        control: the controller.
    """
    sde = process.sde
    start, end = float(ts[0]), float(ts[-1])
    low, high = min(start, end), max(start, end)
    lam_end = sde.lam(end)
    goal = torch.tensor(end, dtype=torch.float64, device=x.device)

    def time(lam: Tensor) -> Tensor:
        # The ends are met exactly; rounding of the inverse carries no time over them.
        return torch.where(lam == lam_end, goal, sde.t_of_lam(lam).clamp(low, high))

    def derivative(part: ReverseProcess, x: Tensor, lam: Tensor) -> Tensor:
        return prediction(part, x, time(lam))

    def step(
        part: ReverseProcess, x: Tensor, lam: Tensor, lam_s: Tensor, first: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return attempt(part, x, time(lam), time(lam_s), first)

    lengths = torch.full((len(x),), h, dtype=torch.float64, device=x.device)
    first = prediction(process, x, torch.full_like(lengths, start))
    return march(process, x, sde.lam(start), lam_end, lengths, first, derivative, step, control)
