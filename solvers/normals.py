"""Addressed unit normals: a counter-based generator, a pure function of (seed, sample index, stream).

SplitMix, made of plain integer tensor operations: Weyl counters, a mixing function, then Box-Muller. No generator
object and no state; the same words on every device and for every batch split, and the same normals to the rounding of
single precision, in which devices differ.

References: Steele, Lea & Flood 2014, Fast Splittable Pseudorandom Number Generators, OOPSLA; the mixing function is
degski's, whose shifts by 32 bits are moves between the halves of a word.
"""

import math
from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

WEYL = -7046029254386353131  # 0x9E3779B97F4A7C15, 2^64 / golden ratio, as a signed 64-bit integer
_MIX = -2960836687051489901  # 0xD6E8FEB86659FD93

# Words hashed at once on a CPU: temporaries that stay in the cache are several times faster than ones that do not.
_BLOCK = 1 << 15


def key_of(*words: object) -> int:
    """A signed 64-bit key of some words."""
    return int.from_bytes(blake2b(repr(words).encode(), digest_size=8).digest(), "big", signed=True)


def _mix(h: Tensor) -> tuple[Tensor, Tensor]:
    """Mix 64-bit words (..., 1) in place: h ^= h >> 32, h *= M, twice, and h ^= h >> 32; their halves (...), int32."""
    low, high = h.view(torch.int32).unbind(-1)
    low.bitwise_xor_(high)
    h.mul_(_MIX)
    low.bitwise_xor_(high)
    h.mul_(_MIX)
    low.bitwise_xor_(high)
    return low, high


class Normals:
    """Unit normals addressed by (seed, sample index, stream), shape (n, ...).

    Args:
        seed: seed of the family.
        shape: (n, ...), the shape of a draw.
        first: index of the first sample, for a chunk of a larger batch.
        dtype: floating type of the draws. They are made in single precision, so that both types get the same numbers.
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
        # Tensors: a Python number is made into one at every use.
        self._half = torch.tensor(2.0**-32, dtype=torch.float32)
        self._turn = torch.tensor(math.pi * 2.0**-31, dtype=torch.float32)
        self._minus_two = torch.tensor(-2.0, dtype=torch.float32)
        # One 64-bit word makes two normals.
        sample = torch.arange(first, first + self.shape[0], dtype=torch.int64, device=self.device)
        pair = torch.arange((self._dim + 1) // 2, dtype=torch.int64, device=self.device)
        words = (sample * WEYL + key_of("scorebench", seed))[:, None, None]
        _mix(words)
        self._counter = words + (pair * WEYL)[:, None]
        _mix(self._counter)

    def normal(self, stream: str) -> Tensor:
        """Unit normals of a named stream, shape (n, ...)."""
        return self.arrange(self.pairs(self.key(stream)))

    def uniform(self, stream: str) -> Tensor:
        """One uniform on (0, 1] a sample, shape (n,)."""
        return self._uniform(_mix(self._counter[:, :1] + self.key("uniform", stream))[1])[:, 0].to(self.dtype)

    def key(self, *words: object) -> Tensor:
        """The key of some words, for :meth:`pairs`."""
        return torch.full((1, 1, 1), key_of(*words), dtype=torch.int64, device=self.device)

    def pairs(self, keys: Tensor) -> Tensor:
        """Unit normals as they are made: (*keys.shape[:-3], 2, n, ceil(dim/2)); int64 keys (..., 1 or n, 1, 1)."""
        n, words, _ = self._counter.shape
        size = n
        if self.device.type == "cpu":
            size = max(1, _BLOCK * keys.shape[-3] // max(1, keys.numel() * words))
        if size >= n:
            return self._box_muller(self._counter, keys)
        keys = keys.expand(*keys.shape[:-3], n, 1, 1)
        blocks = zip(torch.split(self._counter, size), torch.split(keys, size, -3), strict=True)
        return torch.cat([self._box_muller(*block) for block in blocks], -2)

    @property
    def draws_at_once(self) -> int:
        """Draws that make up a block."""
        return _BLOCK // max(1, self._counter.numel())

    def arrange(self, pairs: Tensor) -> Tensor:
        """A draw, shape (n, ...), of its pairs (2, n, ceil(dim/2))."""
        draw = pairs.permute(1, 2, 0)
        if self._dim % 2:
            draw = draw.flatten(1)[:, : self._dim]
        return draw.reshape(self.shape)

    def _box_muller(self, counter: Tensor, keys: Tensor) -> Tensor:
        low, high = _mix(counter + keys)
        angle = low * self._turn
        radius = self._uniform(high).log_().mul_(self._minus_two).sqrt_()
        return torch.stack([angle.cos().mul_(radius), angle.sin_().mul_(radius)], -3).to(self.dtype)

    def _uniform(self, high: Tensor) -> Tensor:
        """|k + 1/2| / 2^31 of 32-bit words k: uniform on (0, 1], never 0."""
        return torch.add(self._half, high, alpha=2.0**-31).abs_()
