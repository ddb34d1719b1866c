"""The reverse process: one network, one SDE. The only place where a network is called; every call is counted.

Score, noise, denoised and velocity are affine in one another. Writing each prediction y through score = A x + B y,

    score:     A = 0             B = 1
    noise:     A = 0             B = -1 / sigma
    denoised:  A = -1 / sigma^2  B = alpha / sigma^2
    velocity:  A = 2 f / g^2     B = -2 / g^2           (probability-flow drift  f x - g^2 score / 2)

a prediction y is turned into another one by  y' = ((A - A') x + B y) / B'.
"""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from solvers.constraints import Constraint
from solvers.divergence import Divergence
from solvers.errors import unknown_name
from solvers.sde import NUMBER, Array, ForwardSDE, Time, expand, scaled

Parametrisation = Literal["score", "noise", "denoised", "velocity"]
PARAMETRISATIONS: tuple[Parametrisation, ...] = get_args(Parametrisation)

Network = Callable[[Tensor, Tensor], Tensor]
"""``network(x, t)``: x (n, ...), t (n,) in x's dtype and on its device, to be read only; returns the prediction, shape
of x."""

Rule = Callable[..., tuple[Array, ...]]
"""``rule(sde, ts, *settings)``: coefficients of the steps of a grid, float64 arrays of one value a step."""

# Grids whose coefficients are kept, for each rule.
GRIDS_KEPT = 64


@dataclass
class Evaluations:
    """What a solve cost, counted at the network.

    Attributes:
        calls: forward passes, whatever their batch.
        rows: evaluations summed over the samples.
        derivative_passes: derivative passes.
        whole: forward passes of the whole batch.
        part: evaluations of each sample in passes of a part of the batch, (n,), if there were any.
    """

    calls: int = 0
    rows: int = 0
    derivative_passes: int = 0
    whole: int = 0
    part: Tensor | None = None

    def count(self, size: int, part: "tuple[Tensor, int] | None") -> None:
        """One forward pass of ``size`` samples: of the whole batch, or of (rows, batch size)."""
        self.calls += 1
        self.rows += size
        if part is None:
            self.whole += 1
            return
        rows, n = part
        if self.part is None:
            self.part = torch.zeros(n, dtype=torch.long, device=rows.device)
        self.part.index_add_(0, rows, torch.ones_like(rows))

    def per_sample(self, n: int) -> Tensor:
        """Evaluations of each of the n samples of the batch, (n,)."""
        whole = torch.full((n,), self.whole)
        return whole if self.part is None else whole + self.part.cpu()

    @property
    def most(self) -> int:
        """Evaluations of the sample with the most."""
        return self.whole + (0 if self.part is None else int(self.part.max()))


class ReverseProcess:
    """A network under an SDE: ``score | noise | denoised | velocity (x, t)``, each one evaluation a sample.

    Args:
        sde: the forward process.
        network: the model, see :data:`Network`.
        parametrisation: what the network predicts.
        constraint: what is known of the samples, imposed after every update of a solver.

    Attributes:
        rescalable: whether all coordinates of the state scale as x, so that a solver may take them over alpha.

    Raises:
        UsageError: the parametrisation is unknown.
    """

    rescalable: ClassVar[bool] = True

    def __init__(
        self,
        sde: ForwardSDE,
        network: Network,
        parametrisation: Parametrisation = "score",
        constraint: Constraint | None = None,
    ) -> None:
        if parametrisation not in PARAMETRISATIONS:
            raise unknown_name("ReverseProcess", "parametrisation", parametrisation, PARAMETRISATIONS)
        self.sde = sde
        self.network = network
        self.parametrisation = parametrisation
        self.constraint = constraint
        self.evaluations = Evaluations()
        self._part: tuple[Tensor, int] | None = None
        self._grid: tuple[float, ...] = ()
        self._tables: dict[Any, Mapping[Any, tuple[Any, ...]]] = {}
        self._rows: dict[Any, Mapping[float, Tensor]] = {}

    def follow(self, times: Sequence[float]) -> None:
        """Announce the grid of a solve: what is then asked for at its times is computed for all of them at once."""
        self._grid = tuple(times)
        self._tables = {}
        self._rows = {}

    def coefficients(self, rule: Rule, t: float, s: float, *settings: Any) -> tuple[float, ...]:
        """Coefficients of the step from t to s, from one pass over the announced grid that later solves find kept."""
        key = rule, *settings
        table = self._tables.get(key)
        if table is None:
            table = self._tables[key] = _steps_of_grid(self.sde, self._grid, rule, settings)
        row = table.get((t, s))
        return row if row is not None else _steps(self.sde, (t, s), rule, settings)[t, s]

    def between(self, rule: Rule, times: Sequence[float]) -> list[float]:
        """The grid with a time in each of its steps, the first of the coefficients."""
        middles = [self.coefficients(rule, t, s)[0] for t, s in pairwise(times)]
        return [*itertools.chain.from_iterable(zip(times, middles, strict=False)), times[-1]]

    def at(self, rows: Tensor, n: int) -> Self:
        """The same process for a part of the batch: evaluations count for those samples alone.

        Args:
            rows: indices of the samples, (m,).
            n: samples of the whole batch.
        """
        part = copy.copy(self)
        part._part = rows, n
        return part

    def score(self, x: Tensor, t: float | Tensor) -> Tensor:
        """grad log p_t(x); x (n, ...), t a number or (n,)."""
        return self._predict("score", x, t)

    def noise(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[(x_t - alpha x_0)/sigma | x_t] = -sigma score."""
        return self._predict("noise", x, t)

    def denoised(self, x: Tensor, t: float | Tensor) -> Tensor:
        """E[x_0 | x_t] = (x + sigma^2 score) / alpha (Tweedie)."""
        return self._predict("denoised", x, t)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Probability-flow drift f x - g^2 score / 2."""
        return self._predict("velocity", x, t)

    def constrain(self, x: Tensor, t: float, brownian: Any, where: str) -> Tensor:
        """x with its known part drawn from the kernel at t, where there is a constraint; ``where`` names the draw."""
        if self.constraint is None:
            return x
        return self.constraint.impose(x, self.sde, t, brownian.normal(f"constraint, {where}"))

    def song_start(self, x: Tensor) -> Tensor:
        """The reference implementation's start under a constraint."""
        return x if self.constraint is None else self.constraint.song_start(x)

    def score_and_divergence(self, x: Tensor, t: float | Tensor, divergence: Divergence) -> tuple[Tensor, Tensor]:
        """Score and its divergence from one pass of the network.

        The samples of a batch must not depend on each other.

        Args:
            x: states (n, ...).
            t: time.
            divergence: how the derivative is taken.

        Returns:
            Score, shape of x, and estimates of its divergence, (n, divergence.columns).

        Raises:
            UsageError: the network's prediction carries no derivative, e.g. because it runs under ``no_grad``.
        """
        a, b = affine(self.sde, self.parametrisation, t)
        dim = x[0].numel()
        times = self._times(x, t)
        # J + c I is then a multiple of the denoiser's Jacobian.
        shift = (a + self.sde.sigma(t) ** -2) / b
        raw, trace = divergence.trace(lambda z: self.network(z, times), x, shift)
        self.evaluations.count(len(x), self._part)
        self.evaluations.derivative_passes += divergence.passes(dim)
        return expand(a, x) * x + expand(b, x) * raw, expand(a, trace) * dim + expand(b, trace) * trace

    def _times(self, x: Tensor, t: float | Tensor) -> Tensor:
        """t for each sample, (n,). Times of the grid are views of one number each, made in one pass."""
        if not isinstance(t, NUMBER):
            return t.to(x.dtype)
        key = x.shape[0], x.dtype, x.device
        rows = self._rows.get(key)
        if rows is None:
            rows = self._rows[key] = _time_rows(self._grid, *key)
        row = rows.get(t)
        return row if row is not None else x.new_full((x.shape[0],), t)

    def _evaluate(self, x: Tensor, t: float | Tensor) -> Tensor:
        self.evaluations.count(x.shape[0], self._part)
        return self.network(x, self._times(x, t))

    def _predict(self, kind: Parametrisation, x: Tensor, t: float | Tensor) -> Tensor:
        raw = self._evaluate(x, t)
        if kind == self.parametrisation:
            return raw
        result: Tensor
        if isinstance(t, NUMBER):
            scale, shift = self._conversion(kind, t)
            result = scaled(scale, raw)
            return result if shift is None else result.add_(x, alpha=shift)
        scale, shift = conversion(self.sde, self.parametrisation, kind, t)
        result = raw * expand(scale, x)
        return result if shift is None else torch.addcmul(result, expand(shift, x), x)

    def _conversion(self, kind: Parametrisation, t: float) -> tuple[Any, ...]:
        """(scale, shift) of :func:`conversion` at t."""
        table = self._tables.get(kind)
        if table is None:
            table = self._tables[kind] = _conversions(self.sde, self._grid, self.parametrisation, kind)
        row = table.get(t)
        return row if row is not None else _known_conversion(self.sde, self.parametrisation, kind, t)


def affine(sde: ForwardSDE, kind: Parametrisation, t: Time) -> tuple[Any, Any]:
    """(A, B) with score = A x + B prediction."""
    if kind == "score":
        return 0.0, 1.0
    if kind == "velocity":
        b = -2 / sde.diffusion_squared(t)
        return -b * sde.drift_coefficient(t), b
    sigma = sde.sigma(t)
    if kind == "noise":
        return 0.0, -1 / sigma
    return -1 / sigma**2, sde.alpha(t) / sigma**2


def conversion(sde: ForwardSDE, given: Parametrisation, wanted: Parametrisation, t: Time) -> tuple[Any, Any]:
    """(scale, shift) with wanted = scale given + shift x; no shift between score and noise, both with A = 0."""
    (a, b), (a_new, b_new) = affine(sde, given, t), affine(sde, wanted, t)
    return b / b_new, None if a is a_new else (a - a_new) / b_new


# Times off the grid, of stages: solves on the same grid ask for the same coefficients again.
_known_conversion = lru_cache(maxsize=1 << 14)(conversion)


def _steps(
    sde: ForwardSDE, times: tuple[float, ...], rule: Rule, settings: tuple[Any, ...]
) -> dict[tuple[float, float], tuple[float, ...]]:
    """A row for each interval between neighbouring times."""
    if not times:
        return {}
    columns = rule(sde, np.array(times), *settings)
    return dict(zip(pairwise(times), zip(*(column.tolist() for column in columns), strict=True), strict=True))


_steps_of_grid = lru_cache(maxsize=GRIDS_KEPT)(_steps)


@lru_cache(maxsize=GRIDS_KEPT)
def _time_rows(times: tuple[float, ...], n: int, dtype: torch.dtype, device: torch.device) -> dict[float, Tensor]:
    """Each time as (n,), in no memory of its own."""
    # Kept for later solves, which autograd may follow where this one was made in inference mode.
    with torch.inference_mode(False):
        row = torch.from_numpy(np.array(times)).to(device, dtype, non_blocking=True)
        return dict(zip(times, row.expand(n, -1).unbind(1), strict=True))


@lru_cache(maxsize=GRIDS_KEPT)
def _conversions(
    sde: ForwardSDE, times: tuple[float, ...], given: Parametrisation, wanted: Parametrisation
) -> dict[float, tuple[Any, ...]]:
    """A row for each time."""
    ts = np.array(times)
    scale, shift = conversion(sde, given, wanted, ts)
    columns = [[column] * len(times) if column is None else column.tolist() for column in (scale, shift)]
    return dict(zip(times, zip(*columns, strict=True), strict=True))
