"""EDM's stochastic sampler: noise is added before each step of Heun's method on the probability flow."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.errors import UsageError
from solvers.methods._heun import heun_step, raise_noise, ratio
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver

# Largest growth of sigma/alpha by churn in one step.
LARGEST_GROWTH = math.sqrt(2) - 1


@register
@dataclass(frozen=True)
class EdmStochastic(FixedStepSolver):
    """Heun with churn: at each time t of the grid noise is added up to t', then a step of Heun leads from t' to s.

    r'  = (1 + g) r,   r = sigma/alpha,   g = min(churn / steps, sqrt(2) - 1)        where churn_min <= r <= churn_max
    x'  = alpha(t') * (x / alpha(t) + inflation * sqrt(r'^2 - r^2) * z)
    x_s = alpha(s) * (x' / alpha(t') + (r_s - r') * (noise(x', t') + noise(u, s)) / 2),      u by Euler's step

    t' is clipped to t_max: there is no churn in the first step, and less in those near it.

    Order 2 in law, once the cap on g no longer binds (steps > 2.4 churn); None for inflation other than 1, which is a
    bias. 2 evaluations a step. Without churn it is Heun's method in sigma/alpha.

    Reference: Karras et al. 2022, Elucidating the Design Space of Diffusion-Based Generative Models, arXiv:2206.00364,
    alg. 2, on every SDE by y = x/alpha.

    Args:
        churn: stochasticity S_churn, dimensionless; summed over the steps it is the growth of log(sigma/alpha).
        churn_min: S_tmin, lowest sigma/alpha with churn, units of the data.
        churn_max: S_tmax, highest sigma/alpha with churn, units of the data.
        inflation: S_noise, scale of the added noise, dimensionless.

    Raises:
        UsageError: a setting is negative or infinite.
    """

    churn: float = 40.0
    churn_min: float = 0.0
    churn_max: float = 1e6
    inflation: float = 1.0

    family: ClassVar[str] = "reverse SDE"
    takes_path: ClassVar[bool] = False
    recommended_grid: ClassVar[str | None] = "karras"
    certified: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"churn": 0.0},
        {"churn": 10.0, "churn_min": 0.05, "churn_max": 10.0},
        {"inflation": 1.05},
    )
    reference: ClassVar[str] = "Karras et al. 2022, arXiv:2206.00364"

    def __post_init__(self) -> None:
        for name, value in self.settings.items():
            if not 0 <= value < math.inf:
                raise UsageError(self.key, f"{name} is a number of at least 0", value)

    @property
    def stochastic(self) -> bool:  # type: ignore[override]  # depends on the settings
        """Whether noise is drawn."""
        return self.churn > 0

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on the settings
        """2, unless the added noise is inflated."""
        return 2 if self.inflation == 1 or not self.churn else None

    def nfe(self, steps: int) -> int:
        return 2 * steps

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> Any:
        """Growth of sigma/alpha by churn in a step."""
        return min(self.churn / (len(ts) - 1), LARGEST_GROWTH)

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        sde = process.sde
        r = ratio(sde, t)
        if state and self.churn_min <= r <= self.churn_max:
            lam = max(sde.lam(t) - math.log1p(state), sde.lam(sde.t_max))
            raised = min(sde.t_of_lam(lam), sde.t_max)
            if raised > t:
                x = raise_noise(sde, x, t, raised, self.inflation * brownian.normal(f"churn at {t!r}"))
                t = raised
        return heun_step(process, x, t, s), state
