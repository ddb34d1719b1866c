"""Distance of an ODE solver's samples from the exact flow of the same starts."""

from functools import lru_cache
from typing import ClassVar

from torch import Tensor

from bench.metrics.metric import Metric, Outcome, register_metric, replicates
from bench.problems.problem import FlowProblem
from bench.record import MetricValue


def root_mean_square(difference: Tensor) -> tuple[float, float]:
    """RMS over samples and coordinates and its standard error (delta method) of differences (n, ...)."""
    squares = difference.double().square().flatten(1).mean(1)
    value = float(squares.mean().sqrt())
    spread = float(squares.std()) / len(squares) ** 0.5
    return value, spread / (2 * value) if value else 0.0


@lru_cache(maxsize=8)
def _exact_end(problem: FlowProblem, n: int, seed: int) -> tuple[Tensor, float]:
    """The flow's image of the starts, and the round trip's error: what the reference itself resolves."""
    start, t_max, t_min = problem.prior(n, seed), problem.sde.t_max, problem.sde.t_min
    end = problem.flow(start, t_max, t_min)
    return end, root_mean_square(problem.flow(end, t_min, t_max) - start)[0]


@register_metric
class PathwiseRmse(Metric):
    """sqrt(mean over samples and coordinates of (x_tmin - flow(x_T))^2), the same x_T.

    The solver's error alone: neither the model nor the prior's mismatch enters. The floor is the error of the
    reference's own round trip from t_max to t_min and back.
    """

    key: ClassVar[str] = "pathwise_rmse"
    label: ClassVar[str] = "pathwise RMS error"
    unit: ClassVar[str] = "units of x"
    floor_of: ClassVar[str] = "the reference itself"
    resolves: ClassVar[bool] = True
    reference: ClassVar[str] = "global error of an ODE solver, Hairer, Nørsett & Wanner 1993, sec. II.3"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        if outcome.solver.stochastic:
            return MetricValue(reason="not an ODE solver")
        assert isinstance(outcome.problem, FlowProblem)
        end, floor = _exact_end(outcome.problem, outcome.spec.n, outcome.spec.seed)
        difference = outcome.samples.to(end) - end
        value, error = root_mean_square(difference)
        left = replicates(lambda kept: root_mean_square(kept)[0], difference)
        return MetricValue(value=value, standard_error=error, floor=floor, replicates=left)
