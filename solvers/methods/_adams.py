"""Weights of exponential Adams methods in lam.

    w_i = integral from 0 to h of  c e^(-c (h - u)) l_i(u) du

with Lagrange's l_i on given nodes: exact integration of the polynomial through past evaluations against the kernel of
the linear part. c = 1 + tau^2, where tau is the stochasticity.
"""

import math
from collections.abc import Sequence


def _moments(z: float, count: int) -> list[float]:
    """Integral from 0 to 1 of z e^(-z (1 - v)) v^k dv, k = 0 ... count - 1, z > 0."""
    if z >= 1:
        # By parts, upwards; each step loses at most a factor k/z.
        moments = [-math.expm1(-z)]
        for k in range(1, count):
            moments.append(1 - k / z * moments[-1])
        return moments
    moments = []
    for k in range(count):
        term, total = z / (k + 1), 0.0
        for j in range(1, 30):
            total += term
            term *= -z / (k + 1 + j)
        moments.append(total)
    return moments


def adams_weights(c: float, h: float, nodes: Sequence[float]) -> list[float]:
    """The weights of the nodes, relative to the step's start; the step ends at h."""
    moments = _moments(c * h, len(nodes))
    weights = []
    for i, node in enumerate(nodes):
        # Coefficients of l_i in v = u/h, lowest power first.
        basis = [1.0]
        for j, other in enumerate(nodes):
            if j != i:
                root, scale = other / h, h / (node - other)
                lower = [0.0, *basis]
                basis = [scale * (a - root * b) for a, b in zip(lower, [*basis, 0.0], strict=True)]
        weights.append(math.fsum(a * m for a, m in zip(basis, moments, strict=True)))
    return weights
