"""Euler–Maruyama on the reverse SDE."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from solvers.grids import steps_of
from solvers.methods._exponential import combine
from solvers.methods._song import Affine, Chain, Discretisation, SongPredictor
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import Array, ForwardSDE


def _coefficients(sde: ForwardSDE, ts: Array) -> tuple[Array, ...]:
    """x_s = a x + b score + g dw."""
    t, dt = ts[:-1], steps_of(ts)
    g2 = sde.diffusion_squared(t)
    return 1 + dt * sde.drift_coefficient(t), -dt * g2, np.sqrt(g2)


@register
@dataclass(frozen=True)
class EulerMaruyama(SongPredictor):
    """Euler–Maruyama on dx = (f x - g^2 score) dt + g dw, time running backwards.

    x_s = x + (s - t) * (f(t) x - g(t)^2 * score(x, t)) + g(t) * dw

    Order 1 in law, 1 evaluation a step.

    Reference: Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv:2011.13456, eq. 6.

    Args:
        discretisation: ``grid``, or ``song`` for the reference implementation's own (vp, subvp, ve).

    Raises:
        UsageError: unknown discretisation.
    """

    discretisation: Discretisation = "grid"

    family: ClassVar[str] = "reverse SDE"
    stochastic: ClassVar[bool] = True
    recommended_grid: ClassVar[str | None] = "uniform"
    certified: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"discretisation": "song"})
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456"

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        a, b, g = process.coefficients(_coefficients, t, s)
        return combine(a, x, (b, g), (process.score(x, t), brownian.dw(t, s))), state

    def song(self, chain: Chain, t: float) -> Affine:
        a, b2 = chain.euler(t)
        return 2 - a, b2, math.sqrt(b2)
