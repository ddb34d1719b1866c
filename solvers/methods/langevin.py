"""Langevin dynamics without annealing: every step at the last time of the grid."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.methods._langevin import Rule, check_langevin, equilibrium_variance, langevin_step
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Langevin(FixedStepSolver):
    """Langevin dynamics on the score at the grid's last time s, from the prior: one step for each of the grid's.

    x <- x + e * score(x, s) + sqrt(2 e) * z
    ald:       e = 2 (snr * sigma(s))^2
    langevin:  e = 2 (snr * |z| / |score|)^2, both norms per-sample L2, averaged over the batch

    For comparison: data on or near a manifold make the score large and stiff around it and say little far from it, so
    that the steps are too short to come near, or too long to stay; ``annealed_langevin`` mends that.

    Order None: at fixed snr there is a bias, and the start is forgotten only after many steps. 1 evaluation a step.
    ``langevin`` couples the batch.

    Reference: Song & Ermon 2019, Generative Modeling by Estimating Gradients of the Data Distribution,
    arXiv:1907.05600, sec. 2.2 and 3.

    Args:
        corrector: step rule.
        snr: signal-to-noise ratio of a step, dimensionless, positive.

    Raises:
        UsageError: unknown rule, or snr is not positive.
    """

    corrector: Rule = "ald"
    snr: float = 0.16

    family: ClassVar[str] = "Langevin"
    order: ClassVar[int | None] = None
    stochastic: ClassVar[bool] = True
    takes_path: ClassVar[bool] = False
    certified: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"corrector": "langevin"})
    reference: ClassVar[str] = "Song & Ermon 2019, arXiv:1907.05600"

    def __post_init__(self) -> None:
        check_langevin(self.key, self.corrector, self.snr, 1)

    @property
    def batch_coupled(self) -> bool:  # type: ignore[override]  # depends on the setting
        """Whether the steps average norms over the batch."""
        return self.corrector == "langevin"

    @property
    def equilibrium_variance(self) -> float | None:
        """The step rule's, from its closed form."""
        return equilibrium_variance(self.corrector, self.snr)

    def nfe(self, steps: int) -> int:
        return steps

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> Any:
        """The time of every step."""
        return float(ts[-1])

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        z = brownian.normal(f"langevin step from {t!r}")
        return langevin_step(process, x, state, z, self.corrector, self.snr), state
