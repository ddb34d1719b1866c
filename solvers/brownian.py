"""Sources of randomness: a seeded Brownian path per sample, a tape of recorded normals, unit probes.

The path is Levy's construction on a fixed tree of cells, from addressed normals Z: every value is a pure function of
(seed, sample index, time). [0, t_max] is halved towards 0 into octaves, because the grids of diffusion models refine
there; each octave is then halved again and again. From an octave's right end, at time T, to its left end W is halved
and gets sqrt(T)/2 Z; inside it is the straight line plus, for each cell of width w in which t lies at the fraction v,

    sqrt(w) min(v, 1 - v) Z          (Schauder function: the bridge's midpoint has variance w/4)
    sqrt(w v (1 - v)) Z              in the smallest cells (the bridge's own law at t).

Reference: Levy 1948; Karatzas & Shreve 1991, sec. 2.3.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from solvers.errors import UsageError
from solvers.normals import WEYL, Normals, key_of

# The path refines towards 0 by this many octaves: down to t_max / 2^26, 1.5e-8 of the whole.
OCTAVES = 26
# Ends of octaves drawn at once.
AHEAD = 9
# Halvings of an octave for one time of all samples, which the longest grid needs, and for a time a sample: adaptive
# solvers come down to steps of 1e-7.
LEVELS = 14
FINE_LEVELS = 30


class Brownian(Protocol):
    """What a stochastic solver may ask for."""

    def dw(self, t: Any, s: Any) -> Tensor:
        """Increment of the path between t > s (numbers, or one per sample): N(0, (t - s) I), shape (n, ...)."""

    def normal(self, stream: str) -> Tensor:
        """Unit normals apart from the path, one draw a stream name, shape (n, ...)."""


def announce(brownian: Brownian | None, times: Sequence[float]) -> None:
    """Tell a source the times of a grid, if it has a use for them (a method ``follow``)."""
    follow = getattr(brownian, "follow", None)
    if follow is not None:
        follow(times)


Place = tuple[int, int, float]
"""Of a time: its octave, its smallest cell, and its position in the octave in smallest cells."""


class _Tree:
    """The cells of an octave, halved ``levels`` times: a row for each level and one for the smallest cells."""

    def __init__(self, levels: int, device: torch.device) -> None:
        level = torch.arange(levels + 1, device=device)
        self.levels = levels
        self.shift = (levels - level)[:, None, None, None]
        self.salt = ((level << 48) * WEYL + key_of("path"))[:, None, None, None]
        # Smallest cells in a cell of each level; its Schauder function's scale, in the square root of an octave.
        self.cells = torch.exp2((levels - level).double())[:, None]
        self.scale = torch.exp2(-level.double() / 2)[:, None] / self.cells

    def keys(self, number: Any) -> Tensor:
        """Keys of the cells that contain smallest ones, with a dimension for the level, fourth from the end.

        A cell's address: its level, and its number among all octaves' cells of that level.

        Args:
            number: of a smallest cell, or of several, (k, 1, 1, 1, 1), or of one a sample, (n, 1, 1).
        """
        return torch.add(self.salt, torch.bitwise_right_shift(number, self.shift), alpha=WEYL)

    def weights(self, position: Tensor) -> Tensor:
        """Weights of their normals in W over the square root of the octave, (levels + 1, k), at positions (k,)."""
        inside = torch.remainder(position, self.cells)
        weights = torch.minimum(inside, self.cells - inside).mul_(self.scale)
        v = position.frac()
        weights[-1] = (v * (1 - v) / 2**self.levels).sqrt_()
        return weights


class BrownianPath:
    """One Brownian path per sample on [0, t_max], exact in law at any times, asked for in any order.

    Memory is O(n) whatever the number of steps. A query of one time for all samples keeps the normals of the cells it
    shares with the last query, so a decreasing sequence costs about ``levels - log2(steps per octave)`` draws a step.
    In small batches, where the calls cost more than their work, those of a few announced times are made at once.

    The law is exact for every set of times no two of which lie in one smallest cell: 2^-levels of an octave for
    numbers, 2^-FINE_LEVELS for times a sample, the same path looked at more closely. An increment inside one cell is
    not resolved and is refused.

    Args:
        normals: the addressed normals; their seed and sample indices make the path.
        t_max: right end of the path.
        levels: halvings of an octave for numbers.
    """

    def __init__(self, normals: Normals, t_max: float, levels: int = LEVELS) -> None:
        self._normals = normals
        self._t_max = t_max
        self._levels = levels
        self._tree = _Tree(levels, normals.device)
        self._fine = _Tree(max(levels, FINE_LEVELS), normals.device)
        self._ends: list[Tensor] = []
        # Normals of the cells that contain the last time, (levels + 1, pairs), octave and smallest cell.
        self._inner: Tensor | None = None
        self._cell = (-1, 0)
        self._last: tuple[float, Tensor] | None = None
        # Announced times, of which the first ``_drawn`` have been; rows of those drawn last in what was drawn.
        self._times: Sequence[float] = ()
        self._drawn = 0
        self._rows: dict[float, int] = {}
        self._ahead: tuple[Tensor, Tensor] | None = None

    def follow(self, times: Sequence[float]) -> None:
        """Announce the times that will be asked for, in order; no value depends on it."""
        self._times, self._drawn = times, 0

    def normal(self, stream: str) -> Tensor:
        """Unit normals apart from the path, shape (n, ...)."""
        return self._normals.normal(stream)

    def dw(self, t: Any, s: Any) -> Tensor:
        """W(t) - W(s), variance t - s, shape (n, ...); numbers, or tensors of one time per sample.

        Raises:
            UsageError: a time outside [0, t_max], or two different times in one smallest cell. The values of tensors
                are not looked at: there the increment is NaN.
        """
        if isinstance(t, Tensor) or isinstance(s, Tensor):
            (w_t, cell_t), (w_s, cell_s) = self._per_sample(t), self._per_sample(s)
            unresolved = (cell_t == cell_s) & (t != s)
            return (w_t - w_s).masked_fill(unresolved.reshape(-1, *(1,) * (w_t.ndim - 1)), math.nan)
        place_t, place_s = self._locate(t), self._locate(s)
        if t != s and place_t[:2] == place_s[:2]:
            raise UsageError("BrownianPath", "an increment must span more than a smallest cell", (t, s), "Raise levels")
        return self._common(t, place_t) - self._common(s, place_s)

    def _locate(self, t: float) -> Place:
        """The place of a time."""
        if not 0 <= t <= self._t_max:
            raise UsageError("BrownianPath", f"times lie in [0, {self._t_max}]", t)
        ratio = t / self._t_max
        octave = min(max(-math.frexp(ratio)[1], 0), OCTAVES) if ratio else OCTAVES
        fraction = ratio * 2.0 ** (octave + 1) - 1 if octave < OCTAVES else ratio * 2.0**OCTAVES
        position = fraction * 2**self._levels
        return octave, min(int(position), 2**self._levels - 1), position

    def _end(self, octave: int) -> Tensor:
        """W at the right end of an octave, (n dim,); at 0 for the one after the last."""
        while octave >= len(self._ends):
            octaves = range(len(self._ends), min(len(self._ends) + AHEAD, OCTAVES + 1))
            if not octaves:
                self._ends.append(torch.zeros_like(self._ends[-1]))
                break
            units = self._normals.pairs(torch.stack([self._normals.key("octave", j) for j in octaves]))
            for j, unit in zip(octaves, units.flatten(1), strict=True):
                size = math.sqrt(self._t_max * 2.0 ** (1 - j)) * unit
                self._ends.append((self._ends[-1] + size) / 2 if j else math.sqrt(self._t_max) * unit)
        return self._ends[octave]

    def _common(self, t: float, place: Place) -> Tensor:
        """W(t) for one time."""
        if self._last is not None and self._last[0] == t:
            return self._last[1]
        octave, _, position = place
        # The ends first: they stay, so that a long solve then holds no more at once than a short one.
        line = torch.lerp(self._end(octave + 1), self._end(octave), position / 2**self._levels)
        normals, weights = self._cells(t, place)
        width = self._t_max * 2.0 ** -min(octave + 1, OCTAVES)
        value = torch.addmv(line, normals.flatten(1).T, weights, alpha=math.sqrt(width))
        self._last = t, self._normals.arrange(value.view(normals.shape[1:]))
        return self._last[1]

    def _cells(self, t: float, place: Place) -> tuple[Tensor, Tensor]:
        """Normals of the cells that contain t, (levels + 1, pairs), and their weights."""
        if t not in self._rows:
            count = self._normals.draws_at_once // (self._levels + 1)
            upcoming = self._times[self._drawn : self._drawn + count]
            if len(upcoming) < 2 or upcoming[0] != t:
                return self._cells_of_one(*place)
            self._drawn += count
            self._ahead = self._cells_of_several(upcoming)
            self._rows = {u: row for row, u in enumerate(upcoming)}
        assert self._ahead is not None
        normals, weights = self._ahead
        return normals[self._rows[t]], weights[self._rows[t]]

    def _cells_of_one(self, octave: int, cell: int, position: float) -> tuple[Tensor, Tensor]:
        """As :meth:`_cells`; those shared with the last query keep their normals."""
        known = self._levels + 1 - (self._cell[1] ^ cell).bit_length() if octave == self._cell[0] else 0
        if known <= self._levels:
            new = self._normals.pairs(self._tree.keys((octave + 1 << self._levels) | cell)[known:])
            if self._inner is None:
                self._inner = new
            self._inner[known:] = new
        assert self._inner is not None
        self._cell = octave, cell
        return self._inner, self._weights([position])[0]

    def _cells_of_several(self, times: Sequence[float]) -> tuple[Tensor, Tensor]:
        """As :meth:`_cells`, a row for each of the times."""
        octaves, cells, positions = zip(*map(self._locate, times), strict=True)
        number = torch.tensor(
            [(octave + 1 << self._levels) | cell for octave, cell in zip(octaves, cells, strict=True)]
        )
        keys = self._tree.keys(number.to(self._normals.device, non_blocking=True)[:, None, None, None, None])
        return self._normals.pairs(keys), self._weights(positions)

    def _weights(self, positions: Sequence[float]) -> Tensor:
        """Weights of the normals at each of the positions, (k, levels + 1)."""
        # Copied without waiting for what the device has still to do.
        places = torch.tensor(positions, dtype=torch.float64).to(self._normals.device, non_blocking=True)
        return self._tree.weights(places).T.to(self._normals.dtype)

    def _per_sample(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """W at one time per sample, and the number of its smallest cell, (n,)."""
        n, tree = self._normals.shape[0], self._fine
        ratio = torch.as_tensor(t, dtype=torch.float64, device=self._normals.device).expand(n) / self._t_max
        ratio = ratio.masked_fill((ratio < 0) | (ratio > 1), math.nan)
        octave = (-torch.frexp(ratio).exponent.long()).clamp(0, OCTAVES)
        octave = torch.where(ratio > 0, octave, OCTAVES)
        scale = torch.exp2((octave + 1).clamp(max=OCTAVES).double())
        fraction = ratio * scale - (octave < OCTAVES).double()
        position = fraction * 2**tree.levels
        cell = position.long().clamp(max=2**tree.levels - 1)
        number = (octave + 1 << tree.levels) | cell
        inner = self._normals.pairs(tree.keys(number[:, None, None]))
        weights = (tree.weights(position) * (self._t_max / scale).sqrt()).to(inner.dtype)
        self._end(OCTAVES + 1)
        ends = torch.stack(self._ends).view(-1, *inner.shape[1:])
        sample = torch.arange(n, device=ratio.device)
        upper, lower = ends[octave, :, sample].transpose(0, 1), ends[octave + 1, :, sample].transpose(0, 1)
        line = torch.lerp(lower, upper, fraction.to(lower.dtype)[:, None])
        return self._normals.arrange(line + (weights[:, None, :, None] * inner).sum(0)), number


class Tape:
    """Recorded unit normals, handed out in order: golden vectors, timing, probing.

    ``dw(t, s)`` is sqrt(t - s) times the next one, ``normal`` the next one.

    Args:
        normals: shape (draws, n, ...).
    """

    def __init__(self, normals: Tensor) -> None:
        self._draws = iter(normals)
        self._count = len(normals)

    def dw(self, t: Any, s: Any) -> Tensor:
        """sqrt(t - s) times the next draw."""
        return math.sqrt(t - s) * self.normal("")

    def normal(self, stream: str) -> Tensor:
        """The next draw.

        Raises:
            UsageError: the tape is used up.
        """
        draw: Tensor | None = next(self._draws, None)
        if draw is None:
            raise UsageError(
                "Tape", f"only {self._count} draws were recorded", None, "Record as many as the solver takes"
            )
        return draw


class UnitProbes:
    """Unit impulses in place of normals: draw k is 1 in row ``first + k`` of the batch and 0 in the others.

    A sampler that is affine in its draws shows its whole matrix in one run on them. Draws come in the order of asking;
    the same interval or stream gives the same draw again.

    Args:
        x: states like the solver's, whose shape, type and device the draws have. Draws beyond its rows are 0.
        first: row of the first draw.
    """

    def __init__(self, x: Tensor, first: int = 0) -> None:
        self._like = x
        self._first = first
        self._rows: dict[object, int] = {}
        self._intervals: list[tuple[float, float]] = []

    @property
    def count(self) -> int:
        """Draws taken so far."""
        return len(self._rows)

    def dw(self, t: Any, s: Any) -> Tensor:
        """sqrt(t - s) times a draw.

        Raises:
            UsageError: the interval overlaps an earlier one, so that the two increments were not independent.
        """
        if (t, s) not in self._rows:
            place = bisect_left(self._intervals, (s, t))
            for start, end in self._intervals[max(place - 1, 0) : place + 1]:
                if start < t and s < end:
                    raise UsageError(
                        "UnitProbes", f"increments are over disjoint intervals, ({start}, {end}) was taken", (s, t)
                    )
            self._intervals.insert(place, (s, t))
        return math.sqrt(t - s) * self._impulse((t, s))

    def normal(self, stream: str) -> Tensor:
        """A draw for each stream."""
        return self._impulse(stream)

    def _impulse(self, key: object) -> Tensor:
        draw = torch.zeros_like(self._like)
        row = self._first + self._rows.setdefault(key, len(self._rows))
        draw[row : row + 1] = 1
        return draw


class StoppedPath:
    """A source whose path stands still below ``stop``: the last step's noise-free mean.

    Args:
        brownian: the source; draws apart from the path pass through.
        stop: no increment below this time.
    """

    def __init__(self, brownian: Brownian, stop: float) -> None:
        self._brownian = brownian
        self._stop = stop

    def dw(self, t: Any, s: Any) -> Tensor:
        """The increment over the part of [s, t] above ``stop``."""
        return self._brownian.dw(self._above(t), self._above(s))

    def follow(self, times: Sequence[float]) -> None:
        """Announced to the source."""
        announce(self._brownian, times)

    def normal(self, stream: str) -> Tensor:
        """As the source's."""
        return self._brownian.normal(stream)

    def _above(self, t: Any) -> Any:
        return t.clamp(min=self._stop) if isinstance(t, Tensor) else max(t, self._stop)
