"""Ancestral sampling: draws from the posterior of the forward chain."""

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
    """x_s = a x + b noise + std dw, with loss = -b^2/sigma(t)^2."""
    alpha, sigma, lam = sde.levels(ts)
    a, loss = alpha[1:] / alpha[:-1], np.expm1(-2 * steps_of(lam))
    return a, a * sigma[:-1] * loss, sigma[1:] * np.sqrt(loss / steps_of(ts))


@register
@dataclass(frozen=True)
class Ancestral(SongPredictor):
    """Ancestral sampling (DDPM): x_s drawn from p(x_s | x_t, x_0 = denoised).

    x_s = (x + b^2 * score(x, t)) / a + b * sigma(s)/sigma(t) * z
    a = alpha(t)/alpha(s),   b^2 = sigma(t)^2 - a^2 * sigma(s)^2

    Order 1 in law, 1 evaluation a step. Equals ``ddim`` with eta = 1.

    Reference: Ho et al. 2020, Denoising Diffusion Probabilistic Models, arXiv:2006.11239, alg. 2; Song et al. 2021,
    arXiv:2011.13456, app. F.

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
    reference: ClassVar[str] = "Ho et al. 2020, arXiv:2006.11239"

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        a, b, std = process.coefficients(_coefficients, t, s)
        return combine(a, x, (b, std), (process.noise(x, t), brownian.dw(t, s))), state

    def song(self, chain: Chain, t: float) -> Affine:
        return chain.posterior(t)
