"""Predictor–corrector sampling: Langevin steps at each time before the predictor's step."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.methods._langevin import check_langevin, correct, equilibrium_variance
from solvers.methods._song import Discretisation, SongPredictor, check_discretisation, links
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

    The corrector's scale alpha is 1 on every SDE (in ``song``, 1 - beta_i on VP). Order: None with a corrector, whose
    bias at fixed snr no step size removes (relative variance at equilibrium on a Gaussian: 1 / (1 - snr^2) with ``ald``
    where sigma is its deviation, 1 + snr^2 with ``langevin`` in high dimension); without one, the predictor's.
    Evaluations a step: the predictor's and one for each corrector step. ``langevin`` couples the batch.

    Reference: Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv:2011.13456, alg. 2-5, with the
    corrector first, as in their code.

    Args:
        predictor: registered one-step solver.
        corrector: step rule.
        snr: signal-to-noise ratio of a corrector step, dimensionless, positive.
        corrector_steps: corrector steps at each time.
        discretisation: ``grid``, or ``song`` for the reference implementation's own (vp, subvp, ve).

    Raises:
        UsageError: the predictor is unknown or not a one-step solver, or a setting is out of range.
    """

    predictor: str = "reverse_diffusion"
    corrector: Corrector = "langevin"
    snr: float = 0.16
    corrector_steps: int = 1
    discretisation: Discretisation = "grid"

    family: ClassVar[str] = "predictor–corrector"
    recommended_grid: ClassVar[str | None] = "uniform"
    certified: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"corrector": "ald", "corrector_steps": 2},
        {"corrector": "none"},
        {"corrector": "none", "predictor": "heun"},
        {"discretisation": "song"},
    )
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456"

    def __post_init__(self) -> None:
        if self.corrector not in get_args(Corrector):
            raise unknown_name(self.key, "corrector", self.corrector, get_args(Corrector))
        check_langevin(self.key, "ald", self.snr, self.corrector_steps)
        check_discretisation(self, self.discretisation)
        predictor = get_solver(self.predictor)
        if not isinstance(predictor, FixedStepSolver) or predictor.multistep or predictor.key == self.key:
            raise UsageError(self.key, "the predictor is a one-step solver", self.predictor, "E.g. 'reverse_diffusion'")
        if predictor.settings.get("discretisation") == "song":
            rule = "song is a setting of its own, not of the predictor"
            raise UsageError(self.key, rule, self.predictor, "Give discretisation=song beside the predictor")
        if self.discretisation == "song" and not isinstance(predictor, SongPredictor):
            raise UsageError(
                self.key, "a predictor that knows discretisation 'song'", self.predictor, "E.g. 'reverse_diffusion'"
            )

    @cached_property
    def _predictor(self) -> FixedStepSolver:
        song = {"discretisation": "song"} if self.discretisation == "song" else {}
        predictor = get_solver(self.predictor, **song)
        assert isinstance(predictor, FixedStepSolver)
        return predictor

    @property
    def order(self) -> int | None:  # type: ignore[override]  # depends on the settings
        """The predictor's order without a corrector, else None."""
        return self._predictor.order if self.corrector == "none" else None

    @property
    def batch_coupled(self) -> bool:  # type: ignore[override]  # depends on the settings
        """Whether the corrector averages norms over the batch, or the predictor couples it."""
        return self.corrector == "langevin" or self._predictor.batch_coupled

    @property
    def stochastic(self) -> bool:  # type: ignore[override]  # depends on the settings
        """Whether the corrector or the predictor draws noise."""
        return self.corrector != "none" or self._predictor.stochastic

    @property
    def takes_path(self) -> bool:  # type: ignore[override]  # depends on the settings
        """Whether the predictor, whose step is the last, adds increments of the path."""
        return self._predictor.stochastic and self._predictor.takes_path

    @property
    def equilibrium_variance(self) -> float | None:
        """The step rule's, from its closed form."""
        if self.corrector == "none" or self.discretisation == "song":
            return None
        return equilibrium_variance(self.corrector, self.snr)

    def nfe(self, steps: int) -> int:
        return self._predictor.nfe(steps) + (self.corrector_steps * steps if self.corrector != "none" else 0)

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> Any:
        """The predictor's."""
        return self._predictor.init(process, x, ts)

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        if self.corrector != "none":
            x = correct(process, x, t, brownian, self.corrector, self.snr, self.corrector_steps)
        return self._predictor.step(process, x, t, s, brownian, state)

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Any) -> Tensor:
        if self.discretisation == "grid":
            return super().solve(process, x, ts, brownian)
        predictor = self._predictor
        assert isinstance(predictor, SongPredictor)
        x = process.song_start(x)
        for link in links(self, process.sde, ts):
            t, alpha = link.t, link.chain.langevin_scale(link.t)
            if self.corrector == "none":
                # The reference takes doing nothing for an update, which the constraint follows.
                x = process.constrain(x, t, brownian, f"corrector at {t!r}")
            else:
                x = correct(process, x, t, brownian, self.corrector, self.snr, self.corrector_steps, alpha)
            x = predictor.song_step(process, x, link, brownian)
        return x
