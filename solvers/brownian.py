"""Sources of randomness: a seeded Brownian path per sample, and a tape of recorded normals.

Every value is a pure function of (seed, sample index, stream, interval), made by a counter-based generator
(SplitMix64's finaliser on 64-bit counters, then Box-Muller) from plain integer tensor operations: no generator object,
no state, the same numbers on every device and for every batch split.

The path is Levy's construction on a fixed tree of cells. [0, t_max] is halved towards 0 into octaves, because the grids
of diffusion models refine there; each octave is then halved ``levels`` times. W(t) is a sum with one unit normal Z a
cell that contains t: sqrt(t_max) Z for the root, and for a cell of width w in which t lies at the fraction v

    sqrt(w) min(v, 1 - v) Z          (Schauder function: the bridge's midpoint has variance w/4)
    sqrt(w v (1 - v)) Z              in the smallest cells (the bridge's own law at t).

Reference: Levy 1948; Karatzas & Shreve 1991, sec. 2.3; the generator: Steele, Lea & Flood 2014, OOPSLA.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

import torch
from torch import Tensor

from solvers.errors import UsageError

# The path refines towards 0 by this many octaves: down to t_max / 2^26, 1.5e-8 of the whole.
OCTAVES = 26

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


class Brownian(Protocol):
    """What a stochastic solver may ask for."""

    def dw(self, t: Any, s: Any) -> Tensor:
        """Increment of the path between t > s (numbers, or one per sample): N(0, (t - s) I), shape (n, ...)."""

    def normal(self, stream: str) -> Tensor:
        """Unit normals apart from the path, one draw a stream name, shape (n, ...)."""


def _mix(h: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place. Shifts of signed integers are arithmetic, hence the masks."""
    h ^= (h >> 30) & ((1 << 34) - 1)
    h *= _MIX_1
    h ^= (h >> 27) & ((1 << 37) - 1)
    h *= _MIX_2
    h ^= (h >> 31) & ((1 << 33) - 1)
    return h


def _key(*words: object) -> int:
    """A signed 64-bit key of the words."""
    return int.from_bytes(blake2b(repr(words).encode(), digest_size=8).digest(), "big", signed=True)


class Normals:
    """Unit normals addressed by (seed, sample index, key), shape (n, ...).

    Args:
        seed: seed of the family.
        shape: (n, ...), the shape of a draw.
        first: index of the first sample, for a chunk of a larger batch.
        dtype: floating type of the draws; the random bits do not depend on it.
        device: where they are made.
    """

    def __init__(
        self,
        seed: int,
        shape: Sequence[int],
        *,
        first: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.seed = seed
        self.shape = tuple(shape)
        self.dtype = dtype
        self.device = torch.device(device)
        self._dim = math.prod(self.shape[1:])
        # One 64-bit word makes two normals.
        sample = torch.arange(first, first + self.shape[0], dtype=torch.int64, device=self.device)
        pair = torch.arange((self._dim + 1) // 2, dtype=torch.int64, device=self.device)
        sample = _mix(sample * _GOLDEN + _key("scorebench", seed))
        self._counter = _mix(sample[:, None] + pair * _GOLDEN)

    def _uniform_pairs(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Two independent uniforms on (0, 1), each (*keys.shape[:-1], n, ceil(dim/2)); keys (..., 1 or n)."""
        h = _mix(self._counter ^ keys[..., None])
        scale = 2.0**-32
        first = ((h >> 32) & 0xFFFFFFFF).to(self.dtype).add_(0.5).mul_(scale)
        second = (h & 0xFFFFFFFF).to(self.dtype).add_(0.5).mul_(scale)
        return first, second

    def uniform(self, stream: str) -> Tensor:
        """One uniform on (0, 1) a sample, shape (n,)."""
        return self._uniform_pairs(self._stream(stream))[0][:, 0]

    def unit(self, keys: Tensor) -> Tensor:
        """Unit normals, shape (*keys.shape[:-1], n, dim)."""
        radius, angle = self._uniform_pairs(keys)
        radius = radius.log_().mul_(-2).sqrt_()
        angle = angle.mul_(2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[..., : self._dim]

    def normal(self, stream: str) -> Tensor:
        """Unit normals of a named stream, shape (n, ...)."""
        return self.unit(self._stream(stream)).reshape(self.shape)

    def _stream(self, stream: str) -> Tensor:
        return torch.full((1,), _key(stream), dtype=torch.int64, device=self.device)


class BrownianPath:
    """One Brownian path per sample on [0, t_max], exact in law at any times, asked for in any order.

    Memory is O(n) whatever the number of steps. A query of one time for all samples keeps the normals of the cells it
    shares with the last query, so a decreasing sequence costs about ``levels - log2(steps per octave)`` draws a step.

    The law is exact for every set of times no two of which lie in one smallest cell (2^-levels of an octave). An
    increment inside one cell is not resolved and is refused.

    Args:
        normals: the addressed normals; their seed and sample indices make the path.
        t_max: right end of the path.
        levels: halvings of an octave.
    """

    def __init__(self, normals: Normals, t_max: float, levels: int = 16) -> None:
        self._normals = normals
        self._t_max = t_max
        self._levels = levels
        # Rows of an expansion: the root, the cells [0, t_max/2^j], then the cells inside one octave.
        self._chain = OCTAVES + 1
        self._rows = self._chain + levels + 1
        row = torch.arange(self._rows, device=normals.device)[:, None]
        self._row = row
        self._chain_width = t_max * 2.0 ** -(row[1 : self._chain] - 1).double()
        self._level = row[self._chain :] - self._chain
        self._unit: Tensor | None = None
        self._cell = (-1, 0)
        self._last: tuple[float, Tensor] | None = None

    def normal(self, stream: str) -> Tensor:
        """Unit normals apart from the path, shape (n, ...)."""
        return self._normals.normal(stream)

    def dw(self, t: Any, s: Any) -> Tensor:
        """W(t) - W(s), variance t - s, shape (n, ...); numbers, or tensors of one time per sample.

        Raises:
            UsageError: a time outside [0, t_max], or two different times in one smallest cell (checked for numbers).
        """
        if isinstance(t, Tensor) or isinstance(s, Tensor):
            return self._per_sample(t) - self._per_sample(s)
        if t != s and self._locate(t) == self._locate(s):
            raise UsageError("BrownianPath", "an increment must span more than a smallest cell", (t, s), "Raise levels")
        return self._common(t) - self._common(s)

    def _locate(self, t: float) -> tuple[int, int]:
        """Octave and smallest cell of a time."""
        if not 0 <= t <= self._t_max:
            raise UsageError("BrownianPath", f"times lie in [0, {self._t_max}]", t)
        octave = min(max(-math.frexp(t / self._t_max)[1], 0), OCTAVES) if t else OCTAVES
        width = self._t_max * 2.0 ** -min(octave + 1, OCTAVES)
        fraction = (t - (width if octave < OCTAVES else 0.0)) / width
        return octave, min(int(fraction * 2**self._levels), 2**self._levels - 1)

    def _expansion(self, octave: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and weights of the cells that contain ``t``, each (rows, len(t)); octave, t (len(t),)."""
        width = self._t_max * torch.exp2(-(octave + 1).clamp(max=OCTAVES).double())
        left = torch.where(octave < OCTAVES, width, 0.0)
        v_chain = (t / self._chain_width).clamp(max=1.0)
        cells = torch.exp2(self._level.double())
        scaled = (t - left) / width * cells
        index = torch.minimum(scaled.floor(), cells - 1)
        v = scaled - index
        root = (t / math.sqrt(self._t_max))[None]
        chain = self._chain_width.sqrt() * torch.minimum(v_chain, 1 - v_chain)
        inner = torch.minimum(v, 1 - v)
        inner[-1] = (v[-1] * (1 - v[-1])).sqrt()
        weights = torch.cat([root, chain, (width / cells).sqrt() * inner])
        # The cell's address: row, and inside an octave the octave and the index as well.
        address = torch.cat([torch.zeros_like(v_chain[:1]), torch.zeros_like(v_chain), index]).long()
        inside = self._row >= self._chain
        address = address + torch.where(inside, (octave + 1) << 40, 0) + (self._row << 48)
        return _mix(address * _GOLDEN + _key("path")), weights

    def _common(self, t: float) -> Tensor:
        """W(t) for one time, from the normals kept of the last query and new ones."""
        if self._last is not None and self._last[0] == t:
            return self._last[1]
        octave, leaf = self._locate(t)
        device = self._normals.device
        times = torch.full((1,), t, dtype=torch.float64, device=device)
        keys, weights = self._expansion(torch.full((1,), octave, dtype=torch.int64, device=device), times)
        if self._unit is None:
            self._unit = self._normals.unit(keys).flatten(1)
        else:
            old_octave, old_leaf = self._cell
            kept = self._levels + 1 - (old_leaf ^ leaf).bit_length() if octave == old_octave else 0
            first = self._chain + kept
            self._unit[first:] = self._normals.unit(keys[first:]).flatten(1)
        self._cell = octave, leaf
        value = weights[:, 0].to(self._normals.dtype) @ self._unit
        self._last = t, value.reshape(self._normals.shape)
        return self._last[1]

    def _per_sample(self, t: Tensor | float) -> Tensor:
        """W at one time per sample."""
        n = self._normals.shape[0]
        times = torch.as_tensor(t, dtype=torch.float64, device=self._normals.device).expand(n)
        octave = (-torch.frexp(times / self._t_max).exponent.long()).clamp(0, OCTAVES)
        octave = torch.where(times > 0, octave, OCTAVES)
        keys, weights = self._expansion(octave, times)
        unit = self._normals.unit(keys)
        return (weights[..., None].to(unit.dtype) * unit).sum(0).reshape(self._normals.shape)


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
        if isinstance(t, Tensor) or isinstance(s, Tensor):
            t, s = torch.as_tensor(t), torch.as_tensor(s)
            return self._brownian.dw(t.clamp(min=self._stop), s.clamp(min=self._stop))
        if t <= self._stop:
            return 0.0 * self._brownian.dw(t, s)
        return self._brownian.dw(t, max(s, self._stop))

    def normal(self, stream: str) -> Tensor:
        """As the source's."""
        return self._brownian.normal(stream)
