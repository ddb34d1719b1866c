"""DDIM, from the probability flow (eta = 0) to ancestral sampling (eta = 1)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from solvers.errors import UsageError
from solvers.methods._exponential import combine
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import Array, ForwardSDE
from solvers.solver import FixedStepSolver


def _coefficients(sde: ForwardSDE, ts: Array, eta: float) -> tuple[Array, ...]:
    """x_s = a x + b noise + std dw."""
    alpha, sigma = sde.alpha(ts), sde.sigma(ts)
    sigma_t, sigma_s = sigma[:-1], sigma[1:]
    a = alpha[1:] / alpha[:-1]
    if not eta:
        return a, sigma_s - a * sigma_t, 0 * a
    t, s = ts[:-1], ts[1:]
    std = eta * sigma_s / sigma_t * np.sqrt(sde.transition(t, s)[1])
    return a, np.sqrt(sigma_s**2 - std**2) - a * sigma_t, std / np.sqrt(t - s)


@register
@dataclass(frozen=True)
class Ddim(FixedStepSolver):
    """DDIM: exact in the linear part, denoised held constant over the step.

    x_s = alpha(s) * denoised + sqrt(sigma(s)^2 - std^2) * (x - alpha(t) * denoised) / sigma(t) + std * z
    std = eta * b * sigma(s) / sigma(t),   b^2 = sigma(t)^2 - (alpha(t)/alpha(s))^2 * sigma(s)^2

    Order 1, 1 evaluation a step. eta = 0 is exponential Euler on the probability flow; eta = 1 is ``ancestral``.

    Reference: Song et al. 2021, Denoising Diffusion Implicit Models, arXiv:2010.02502, eq. 12 and 16.

    Args:
        eta: stochasticity, dimensionless, 0 (ODE) to 1 (ancestral).

    Raises:
        UsageError: eta lies outside [0, 1].
    """

    eta: float = 0.0

    family: ClassVar[str] = "probability-flow ODE"
    order: ClassVar[int | None] = 1
    certified: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"eta": 0.5}, {"eta": 1.0})
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2010.02502"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UsageError(self.key, "eta lies in [0, 1]", self.eta, "Take 0 for the ODE, 1 for ancestral sampling")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]  # depends on the setting
        """Whether noise is drawn: eta > 0."""
        return self.eta > 0

    def nfe(self, steps: int) -> int:
        return steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        a, b, std = process.coefficients(_coefficients, t, s, self.eta)
        x_s = combine(a, x, (b,), (process.noise(x, t),))
        if self.eta:
            x_s.add_(brownian.dw(t, s), alpha=std)
        return x_s, state
