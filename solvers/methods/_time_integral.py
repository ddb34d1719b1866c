"""Increments of a Brownian path with their time integrals, what methods of strong order 3/2 ask for."""

import math
from typing import Any

from torch import Tensor

from solvers.brownian import Brownian
from solvers.sde import expand

Increment = tuple[Tensor, Tensor]
"""dw(t, s) and the time integral J = int_s^t dw(t, r) dr, in units of x times those of time."""


def halves(brownian: Brownian, t: Any, s: Any) -> tuple[Increment, Increment]:
    """Increment and time integral over each half of [s, t], the one at t first, from the increments over its quarters.

    Exact in law, var J = h^3/3 and cov(J, dw) = h^2/2 over a length h: from the increments d_1, d_2 over its halves
    J = h ((1/2 + sqrt(3)/6) d_1 + (1/2 - sqrt(3)/6) d_2). Along the path the J joined from both halves
    misses what dw does not tell of it by a quarter of its standard deviation.

    Args:
        brownian: the source.
        t: end of the interval, as ``dw`` takes it.
        s: start of the interval, s < t.
    """

    def half(t: Any, s: Any) -> Increment:
        m = (t + s) / 2
        d_1, d_2 = brownian.dw(t, m), brownian.dw(m, s)
        skew = math.sqrt(3) / 6
        return d_1 + d_2, expand(t - s, d_1) * ((0.5 + skew) * d_1 + (0.5 - skew) * d_2)

    m = (t + s) / 2
    return half(t, m), half(m, s)


def joined(first: Increment, second: Increment, length: float) -> Increment:
    """Increment and integral over two neighbouring intervals, the second of which has that length."""
    (w_1, j_1), (w_2, j_2) = first, second
    return w_1 + w_2, j_1 + j_2 + length * w_1
