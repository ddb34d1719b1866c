"""Heun's method in the coordinates of Karras et al.: x/alpha against sigma/alpha."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import Array, ForwardSDE, scaled
from solvers.solver import FixedStepSolver


def _coefficients(sde: ForwardSDE, ts: Array) -> tuple[Array, ...]:
    """x_e = a x + weight noise."""
    alpha, sigma = sde.alpha(ts), sde.sigma(ts)
    a = alpha[1:] / alpha[:-1]
    return a, sigma[1:] - a * sigma[:-1]


@register
@dataclass(frozen=True)
class EdmHeun(FixedStepSolver):
    """Explicit trapezoidal rule on d(x/alpha)/dtau = noise, tau = sigma/alpha.

    x_e = alpha(s)/alpha(t) * x + alpha(s) * (tau(s) - tau(t)) * noise(x, t)
    x_s = alpha(s)/alpha(t) * x + alpha(s) * (tau(s) - tau(t)) * (noise(x, t) + noise(x_e, s)) / 2

    Order 2, 2 evaluations a step. Equals ``heun`` on EDM, where alpha = 1 and tau = t; the first stage is ``ddim``.
    The authors' sampler, which ends at 0 with an Euler step of one evaluation, is a grid to t_min with the last step
    ``tweedie``: 2N - 1 evaluations for its N steps.

    Reference: Karras et al. 2022, Elucidating the Design Space, arXiv:2206.00364, alg. 1.
    """

    family: ClassVar[str] = "probability-flow ODE"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = False
    recommended_grid: ClassVar[str | None] = "karras"
    reference: ClassVar[str] = "Karras et al. 2022, arXiv:2206.00364"

    def nfe(self, steps: int) -> int:
        return 2 * steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        a, weight = process.coefficients(_coefficients, t, s)
        noise = process.noise(x, t)
        x = scaled(a, x)
        half = x.add(noise, alpha=weight / 2)
        return half.add(process.noise(x.add(noise, alpha=weight), s), alpha=weight / 2), state
