"""Annealed Langevin dynamics: Langevin steps at one time after the other, no predictor."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.methods._langevin import Rule, check_langevin, correct, equilibrium_variance
from solvers.methods._song import Discretisation, check_discretisation, links
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class AnnealedLangevin(FixedStepSolver):
    """At each time s of the grid after the first, ``corrector_steps`` Langevin steps on the score at s.

    x <- x + e * score(x, s) + sqrt(2 e) * z
    ald:       e = 2 (snr * sigma(s))^2
    langevin:  e = 2 (snr * |z| / |score|)^2, both norms per-sample L2, averaged over the batch

    NCSN's own rule, e_i = step * sigma_i^2 / sigma_L^2 with x + e_i/2 * score + sqrt(e_i) z, is ``ald`` with
    snr = sqrt(step) / (2 sigma_L): its step 2e-5 at sigma_L = 0.01 is snr 0.224, with 100 corrector steps a level.

    Order None: at fixed snr no number of levels removes the bias. ``corrector_steps`` evaluations a step. ``langevin``
    couples the batch.

    Reference: Song & Ermon 2019, Generative Modeling by Estimating Gradients of the Data Distribution,
    arXiv:1907.05600, alg. 1; Song et al. 2021, arXiv:2011.13456, alg. 4-5.

    Args:
        corrector: step rule.
        snr: signal-to-noise ratio of a step, dimensionless, positive.
        corrector_steps: steps at each time.
        discretisation: ``grid``, or ``song`` for the reference implementation's own (vp, subvp, ve): at N times, both
            ends of the grid included, with alpha = 1 - beta_i on VP.

    Raises:
        UsageError: unknown rule or discretisation, or a setting out of range.
    """

    corrector: Rule = "ald"
    snr: float = 0.16
    corrector_steps: int = 1
    discretisation: Discretisation = "grid"

    family: ClassVar[str] = "Langevin"
    order: ClassVar[int | None] = None
    stochastic: ClassVar[bool] = True
    takes_path: ClassVar[bool] = False
    certified: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"corrector": "langevin"},
        {"corrector_steps": 2},
        {"discretisation": "song"},
    )
    reference: ClassVar[str] = "Song & Ermon 2019, arXiv:1907.05600"

    def __post_init__(self) -> None:
        check_langevin(self.key, self.corrector, self.snr, self.corrector_steps)
        check_discretisation(self, self.discretisation)

    @property
    def batch_coupled(self) -> bool:  # type: ignore[override]  # depends on the settings
        """Whether the steps average norms over the batch."""
        return self.corrector == "langevin"

    @property
    def equilibrium_variance(self) -> float | None:
        """The step rule's, from its closed form."""
        return equilibrium_variance(self.corrector, self.snr) if self.discretisation == "grid" else None

    def nfe(self, steps: int) -> int:
        return self.corrector_steps * steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return correct(process, x, s, brownian, self.corrector, self.snr, self.corrector_steps), state

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Any) -> Tensor:
        if self.discretisation == "grid":
            return super().solve(process, x, ts, brownian)
        x = process.song_start(x)
        for link in links(self, process.sde, ts):
            t, alpha = link.t, link.chain.langevin_scale(link.t)
            x = correct(process, x, t, brownian, self.corrector, self.snr, self.corrector_steps, alpha)
            # The reference takes its predictor 'none' for an update, which the constraint follows.
            x = process.constrain(x, t, brownian, f"step from {t!r}")
        return x
