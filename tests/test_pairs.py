"""Embedded Runge–Kutta pairs: their order conditions, and their order with fixed steps."""

import math
from itertools import pairwise

import numpy as np
import pytest

from solvers.methods._dormand_prince_853 import DORMAND_PRINCE_853
from solvers.methods._pairs import BOGACKI_SHAMPINE, DORMAND_PRINCE, TSITOURAS, Pair

PAIRS = [BOGACKI_SHAMPINE, DORMAND_PRINCE, TSITOURAS, DORMAND_PRINCE_853]

every_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"order {pair.order}, {len(pair.c)} stages")


def arrays(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = len(pair.c)
    assert [len(row) for row in pair.a] == list(range(n))
    a = np.array([[*row, *[0.0] * (n - len(row))] for row in pair.a])
    return a, np.array(pair.b), np.array(pair.c, dtype=float)


@every_pair
def test_order_conditions(pair: Pair):
    """Quadrature, and the trees that are tall or have one branch beside c^k, up to the order."""
    a, b, c = arrays(pair)
    np.testing.assert_allclose(a.sum(1), c, atol=1e-13)
    for q in range(pair.order):
        assert b @ c**q == pytest.approx(1 / (q + 1), abs=1e-13)
        for k in range(pair.order - 1 - q):
            assert b @ (c**k * (a @ c**q)) == pytest.approx(1 / ((q + 1) * (q + k + 2)), abs=1e-13)
        if q < pair.order - 2:
            assert b @ (a @ (a @ c**q)) == pytest.approx(1 / ((q + 1) * (q + 2) * (q + 3)), abs=1e-13)
    # The last stage is the result.
    np.testing.assert_allclose(a[-1], b, atol=1e-15)


@every_pair
def test_embedded_solutions(pair: Pair):
    """Each estimate vanishes up to the order of its embedded solution and no further; their local orders make k."""
    _, _, c = arrays(pair)
    estimates = [np.array(e) for e in (pair.e, pair.e_3) if e is not None]
    orders = [next(q for q in range(9) if abs(e @ c**q) > 1e-5) for e in estimates]
    for e, order in zip(estimates, orders, strict=True):
        assert max(abs(e @ c**q) for q in range(order)) < 1e-13
    if pair.e_3 is None:
        assert orders == [pair.k - 1]
    else:
        assert orders == [5, 3]
        assert 2 * (orders[0] + 1) - (orders[1] + 1) == pair.k


@every_pair
def test_order_with_fixed_steps(pair: Pair):
    """On y' = -y^2 cos t, y = 1/(1 + sin t)."""
    a, b, c = arrays(pair)

    def error(steps: int) -> float:
        y, h = 1.0, 2.0 / steps
        for k in range(steps):
            v = np.zeros(len(c))
            for i in range(len(c)):
                v[i] = -((y + h * (a[i] @ v)) ** 2) * math.cos(k * h + c[i] * h)
            y += h * float(b @ v)
        return abs(y - 1 / (1 + math.sin(2.0)))

    levels = (5, 10, 20) if pair.order == 8 else (32, 64, 128)
    errors = [error(steps) for steps in levels]
    assert errors[-1] > 2e-15
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert min(slopes) >= pair.order - 0.2, slopes
    assert slopes[-1] < pair.order + 0.6, slopes


@every_pair
def test_the_constant_is_what_a_small_step_is_judged_by(pair: Pair):
    """On y' = y, y = 1: first-order in h beside the limit, which two steps extrapolate."""
    a, _, c = arrays(pair)

    def error(h: float) -> float:
        v = np.zeros(len(c))
        for i in range(len(c)):
            v[i] = 1 + h * (a[i] @ v)
        sizes = [abs(h * (np.array(e) @ v)) for e in (pair.e, pair.e_3) if e is not None]
        if len(sizes) == 1:
            return sizes[0]
        return sizes[0] ** 2 / math.sqrt(sizes[0] ** 2 + 0.01 * sizes[1] ** 2)

    h = 0.1 if pair.e_3 is None else 0.2
    coarse, fine = error(h) / h**pair.k, error(h / 2) / (h / 2) ** pair.k
    assert 2 * fine - coarse == pytest.approx(pair.constant, rel=1e-2)
