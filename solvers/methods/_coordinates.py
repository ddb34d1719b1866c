"""Coordinates in which an adaptive Runge–Kutta method takes the probability flow: dy/du = f(y, u).

time   u = t,                                 y = x,                     f = velocity(x, t)
angle  u = atan(sigma / (alpha data_std)),    y = cos(u) x / alpha,      f = -tan(u) y + data_std / cos(u) noise(x, t)

The angle runs over (0, pi/2) on every SDE and y has the data's scale throughout: a network's preconditioned input and,
but for a factor, its target. What is solved varies as little at high noise as at low, so that steps of one length suit
the whole interval; in t the flow of VP is steep near 0.

Reference: Lu & Song 2024, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models, arXiv:2410.11081,
eq. 4 (TrigFlow); Karras et al. 2022, arXiv:2206.00364, table 1 (c_in).
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE, expand


class Coordinates(Protocol):
    """Start and end of u, the change of variables at its ends, and the right-hand side."""

    start: float
    end: float

    def enter(self, x: Tensor) -> Tensor:
        """y at the start."""

    def leave(self, y: Tensor) -> Tensor:
        """x at the end."""

    def derivative(self, process: ReverseProcess, y: Tensor, u: Tensor) -> Tensor:
        """dy/du: one evaluation; y (n, ...), u (n,)."""


class TimeCoordinates:
    """The time and the state as they are."""

    def __init__(self, ts: Tensor) -> None:
        self.start, self.end = float(ts[0]), float(ts[-1])

    def enter(self, x: Tensor) -> Tensor:
        return x

    def leave(self, y: Tensor) -> Tensor:
        return y

    def derivative(self, process: ReverseProcess, y: Tensor, u: Tensor) -> Tensor:
        return process.velocity(y, u)


class AngleCoordinates:
    """The angle between signal and noise.

    Args:
        sde: the forward process.
        ts: grid, of which the ends are used.
        data_std: standard deviation of the data, units of x.
    """

    def __init__(self, sde: ForwardSDE, ts: Tensor, data_std: float) -> None:
        self._sde = sde
        self._data_std = data_std
        self._times = float(ts[0]), float(ts[-1])
        self.start, self.end = (math.atan(math.exp(-sde.lam(t)) / data_std) for t in self._times)

    def enter(self, x: Tensor) -> Tensor:
        return math.cos(self.start) / self._sde.alpha(self._times[0]) * x

    def leave(self, y: Tensor) -> Tensor:
        return self._sde.alpha(self._times[1]) / math.cos(self.end) * y

    def derivative(self, process: ReverseProcess, y: Tensor, u: Tensor) -> Tensor:
        # The ends are met exactly; rounding of the inverse carries no time over them.
        t = self._sde.t_of_lam(-torch.log(self._data_std * u.tan())).clamp(min(self._times), max(self._times))
        for angle, time in zip((self.start, self.end), self._times, strict=True):
            t = t.masked_fill(u == angle, time)
        x = expand(self._sde.alpha(t) / u.cos(), y) * y
        slope: Tensor = expand(self._data_std / u.cos(), y) * process.noise(x, t) - expand(u.tan(), y) * y
        return slope
