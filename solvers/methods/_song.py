"""The reference implementation's own discretisation (score_sde), shared by the predictors and predictor–corrector.

N evaluations at N times linspace(t_max, t_min, N), followed by N steps of size 1/N whatever the spacing of the times:
consistent only near N = 1/t_min, so no order is claimed. Coefficients are those of discrete chains of N links,

    VP:      i = floor(t (N - 1)),  beta_i = linspace(beta_min/N, beta_max/N, N)
    VE:      i = floor(t (N - 1)),  sigma_i geometric from sigma_min to sigma_max,  sigma_-1 = 0
    sub-VP:  Euler steps of size 1/N.

VP with N < beta_max has beta_i > 1, where the reference's square roots are NaN; they are here.

Reference: Song et al. 2021, arXiv:2011.13456, app. C-E and their code.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE
from solvers.solver import FixedStepSolver

Discretisation = Literal["grid", "song"]

Affine = tuple[float, float, float]
"""scale, gain, std of an update  scale * x + gain * score + std * z."""


class Chain(ABC):
    """The chain of N links of an SDE."""

    def __init__(self, sde: ForwardSDE, steps: int) -> None:
        self.sde: Any = sde
        self.steps = steps

    @abstractmethod
    def kernel(self, t: float) -> tuple[float, float]:
        """Scale a and variance b^2 of the link at t."""

    @abstractmethod
    def posterior(self, t: float) -> Affine:
        """Ancestral sampling's update at t."""

    def langevin_scale(self, t: float) -> float:
        """Scale alpha of a Langevin step at t."""
        return 1.0

    def euler(self, t: float) -> tuple[float, float]:
        """Scale and variance of an Euler step of size 1/N."""
        return 1 + self.sde.drift_coefficient(t) / self.steps, self.sde.diffusion_squared(t) / self.steps

    def reverse(self, t: float) -> Affine:
        """Reverse diffusion's update at t."""
        a, b2 = self.kernel(t)
        return 2 - a, b2, math.sqrt(b2)

    def _between(self, first: float, last: float, i: int) -> float:
        """Entry i of linspace(first, last, N)."""
        return first + (last - first) * i / max(self.steps - 1, 1)

    def _index(self, t: float) -> int:
        return int(t * (self.steps - 1))


class _VPChain(Chain):
    def _beta(self, t: float) -> float:
        return self._between(self.sde.beta_min, self.sde.beta_max, self._index(t)) / self.steps

    def kernel(self, t: float) -> tuple[float, float]:
        beta = self._beta(t)
        return (math.sqrt(1 - beta) if beta <= 1 else math.nan), beta

    def posterior(self, t: float) -> Affine:
        a, beta = self.kernel(t)
        return (1 / a, beta / a, math.sqrt(beta)) if a else (math.inf, math.inf, math.sqrt(beta))

    def langevin_scale(self, t: float) -> float:
        return 1 - self._beta(t)


class _VEChain(Chain):
    def _sigma(self, i: int) -> float:
        return math.exp(self._between(math.log(self.sde.sigma_min), math.log(self.sde.sigma_max), i)) if i >= 0 else 0.0

    def kernel(self, t: float) -> tuple[float, float]:
        i = self._index(t)
        return 1.0, self._sigma(i) ** 2 - self._sigma(i - 1) ** 2

    def posterior(self, t: float) -> Affine:
        i = self._index(t)
        _, b2 = self.kernel(t)
        return 1.0, b2, math.sqrt(b2) * self._sigma(i - 1) / self._sigma(i)


class _EulerChain(Chain):
    def kernel(self, t: float) -> tuple[float, float]:
        return self.euler(t)

    def posterior(self, t: float) -> Affine:
        return self.reverse(t)


CHAINS: dict[str, type[Chain]] = {"vp": _VPChain, "subvp": _EulerChain, "ve": _VEChain}


@dataclass(frozen=True)
class Link:
    """One step of the chain.

    Attributes:
        chain: the coefficients.
        t: time at which the step's evaluations are made.
        start, end: the grid's interval whose increment of the path, scaled to unit variance, is the step's noise.
    """

    chain: Chain
    t: float
    start: float
    end: float

    def unit(self, brownian: Any) -> Tensor:
        """The unit normals of the step."""
        draw: Tensor = brownian.dw(self.start, self.end) / math.sqrt(self.start - self.end)
        return draw


def links(solver: FixedStepSolver, sde: ForwardSDE, ts: Tensor) -> Iterator[Link]:
    """The links of the chain that stand for a grid: of it count the ends and the number of steps.

    Raises:
        UsageError: the reference has no chain for the SDE, or the grid runs upwards.
    """
    if sde.name not in CHAINS:
        raise UsageError(
            solver.key, "the reference's discretisation is of vp, subvp and ve", sde.name, "Take discretisation 'grid'"
        )
    if getattr(sde, "base", None) is not None:
        raise UsageError(
            solver.key, "the reference's chain of ve is of two noise levels", sde, "Take discretisation 'grid'"
        )
    if ts[-1] > ts[0]:
        raise UsageError(solver.key, "the reference's discretisation runs from t_max down", ts.tolist())
    steps = len(ts) - 1
    chain = CHAINS[sde.name](sde, steps)
    times: list[float] = torch.linspace(float(ts[0]), float(ts[-1]), steps, dtype=torch.float64).tolist()
    for t, (start, end) in zip(times, pairwise(ts.tolist()), strict=True):
        yield Link(chain, t, start, end)


def check_discretisation(solver: FixedStepSolver, value: str) -> None:
    """Refuse an unknown discretisation.

    Raises:
        UsageError: there is no such one.
    """
    if value not in get_args(Discretisation):
        raise unknown_name(solver.key, "discretisation", value, get_args(Discretisation))


class SongPredictor(FixedStepSolver):
    """A one-step method, of order 1 on a grid, that has a form in the reference's discretisation.

    Attributes:
        discretisation: ``grid``, or ``song``, the reference's.
    """

    discretisation: Discretisation

    def __post_init__(self) -> None:
        check_discretisation(self, self.discretisation)

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on the setting
        """1 on a grid; none in the reference's discretisation, which does not end at the law of t_min."""
        return 1 if self.discretisation == "grid" else None

    def nfe(self, steps: int) -> int:
        return steps

    @abstractmethod
    def song(self, chain: Chain, t: float) -> Affine:
        """The update at t in the reference's discretisation."""

    def song_step(self, process: ReverseProcess, x: Tensor, link: Link, brownian: Any) -> Tensor:
        """One step of the reference's discretisation."""
        scale, gain, std = self.song(link.chain, link.t)
        x = scale * x + gain * process.score(x, link.t)
        if self.stochastic:
            x = x + std * link.unit(brownian)
        return process.constrain(x, link.t, brownian, f"step from {link.t!r}")

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Any) -> Tensor:
        if self.discretisation == "grid":
            return super().solve(process, x, ts, brownian)
        x = process.song_start(x)
        for link in links(self, process.sde, ts):
            x = self.song_step(process, x, link, brownian)
        return x
