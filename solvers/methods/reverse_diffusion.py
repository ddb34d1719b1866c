"""Reverse diffusion: the reverse SDE discretised as the forward chain is."""

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
    """x_s = a x + b score + std dw."""
    a, b2 = sde.transition(ts[:-1], ts[1:])
    return 2 - a, b2, np.sqrt(-b2 / steps_of(ts))


@register
@dataclass(frozen=True)
class ReverseDiffusion(SongPredictor):
    """Reverse diffusion with the exact kernel x_t | x_s ~ N(a x_s, b^2 I) between neighbouring times.

    x_s = (2 - a) * x + b^2 * score(x, t) + b * z,     a = alpha(t)/alpha(s),   b^2 = sigma(t)^2 - a^2 * sigma(s)^2

    Order 1 in law, 1 evaluation a step.

    Reference: Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv:2011.13456, app. E, eq. 46, with
    the exact kernel in place of its first-order coefficients; ``song`` has those.

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
        a, b, std = process.coefficients(_coefficients, t, s)
        return combine(a, x, (b, std), (process.score(x, t), brownian.dw(t, s))), state

    def song(self, chain: Chain, t: float) -> Affine:
        return chain.reverse(t)
