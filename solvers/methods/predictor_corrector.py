"""Predictor–corrector sampling: Langevin steps at each time before the predictor's step."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.process import ReverseProcess
from solvers.registry import get_solver, register
from solvers.solver import FixedStepSolver

Corrector = Literal["langevin", "ald", "none"]


@register
@dataclass(frozen=True)
class PredictorCorrector(FixedStepSolver):
    """At each time t, ``corrector_steps`` Langevin steps, then one step of the predictor.

    x <- x + e * score(x, t) + sqrt(2 e) * z
    langevin:  e = 2 (snr * |z| / |score|)^2, both norms per-sample L2, averaged over the batch
    ald:       e = 2 (snr * sigma(t))^2

    The corrector's scale alpha is 1 on every SDE. Order: None with a corrector, whose bias at fixed snr no step size
    removes (at equilibrium on the unit Gaussian ``langevin`` has variance 1 + snr^2); without one, the predictor's.
    Evaluations a step: the predictor's and one for each corrector step. ``langevin`` couples the batch.

    Reference: Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv:2011.13456, alg. 2-5, with the
    corrector first, as in their code.

    Args:
        predictor: registered one-step solver.
        corrector: step rule.
        snr: signal-to-noise ratio of a corrector step, dimensionless, positive.
        corrector_steps: corrector steps at each time.

    Raises:
        UsageError: the predictor is unknown or not a one-step solver, or a setting is out of range.
    """

    predictor: str = "reverse_diffusion"
    corrector: Corrector = "langevin"
    snr: float = 0.16
    corrector_steps: int = 1

    family: ClassVar[str] = "predictor–corrector"
    stochastic: ClassVar[bool] = True
    recommended_grid: ClassVar[str | None] = "uniform"
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456"

    def __post_init__(self) -> None:
        if self.corrector not in get_args(Corrector):
            raise unknown_name(self.key, "corrector", self.corrector, get_args(Corrector))
        if not 0 < self.snr < math.inf:
            raise UsageError(self.key, "snr is positive", self.snr, "The paper takes 0.01 to 0.2")
        if not (isinstance(self.corrector_steps, int) and self.corrector_steps >= 1):
            raise UsageError(self.key, "corrector_steps is 1, 2, ...", self.corrector_steps, "Or corrector 'none'")
        predictor = get_solver(self.predictor)
        if not isinstance(predictor, FixedStepSolver) or predictor.multistep or self.predictor == self.key:
            raise UsageError(self.key, "the predictor is a one-step solver", self.predictor, "E.g. 'reverse_diffusion'")

    @cached_property
    def _predictor(self) -> FixedStepSolver:
        predictor = get_solver(self.predictor)
        assert isinstance(predictor, FixedStepSolver)
        return predictor

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on the settings
        """The predictor's order without a corrector, else None."""
        return self._predictor.order if self.corrector == "none" else None

    @property
    def batch_coupled(self) -> bool:  # type: ignore[override]  # depends on the settings
        """Whether the corrector averages norms over the batch."""
        return self.corrector == "langevin"

    def nfe(self, steps: int) -> int:
        return self._predictor.nfe(steps) + (self.corrector_steps * steps if self.corrector != "none" else 0)

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        if self.corrector != "none":
            for k in range(self.corrector_steps):
                x = self._correct(process, x, t, brownian.normal(f"corrector {k} at {t!r}"))
        return self._predictor.step(process, x, t, s, brownian, state)

    def _correct(self, process: ReverseProcess, x: Tensor, t: float, z: Tensor) -> Tensor:
        score = process.score(x, t)
        size: Any = process.sde.sigma(t)
        if self.corrector == "langevin":
            size = z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()
        step = 2 * (self.snr * size) ** 2
        corrected: Tensor = x + step * score + (2 * step) ** 0.5 * z
        return corrected
