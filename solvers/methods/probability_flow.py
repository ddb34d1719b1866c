"""Probability flow: reverse diffusion with half the score and no noise."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.methods._exponential import combine
from solvers.methods._song import Affine, Chain, Discretisation, SongPredictor
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import Array, ForwardSDE


def _coefficients(sde: ForwardSDE, ts: Array) -> tuple[Array, ...]:
    """x_s = a x + b score."""
    a, b2 = sde.transition(ts[:-1], ts[1:])
    return 2 - a, b2 / 2


@register
@dataclass(frozen=True)
class ProbabilityFlow(SongPredictor):
    """The discrete probability-flow predictor, with the exact kernel x_t | x_s ~ N(a x_s, b^2 I).

    x_s = (2 - a) * x + b^2/2 * score(x, t),     a = alpha(t)/alpha(s),   b^2 = sigma(t)^2 - a^2 * sigma(s)^2

    Order 1, 1 evaluation a step. Its error is far above ``euler``'s: on VP with beta_i = beta/N the first-order
    coefficients of ``song`` multiply the state by e^(sum beta_i^2 / 8) too much.

    Reference: Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv:2011.13456, app. D.3, eq. 47, with
    the exact kernel in place of its first-order coefficients; ``song`` has those.

    Args:
        discretisation: ``grid``, or ``song`` for the reference implementation's own (vp, subvp, ve).

    Raises:
        UsageError: unknown discretisation.
    """

    discretisation: Discretisation = "grid"

    family: ClassVar[str] = "probability-flow ODE"
    stochastic: ClassVar[bool] = False
    recommended_grid: ClassVar[str | None] = "uniform"
    certified: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"discretisation": "song"})
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456"

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        a, b = process.coefficients(_coefficients, t, s)
        return combine(a, x, (b,), (process.score(x, t),)), state

    def song(self, chain: Chain, t: float) -> Affine:
        scale, gain, _ = chain.reverse(t)
        return scale, gain / 2, 0.0
