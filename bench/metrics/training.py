"""Of a trained network: the error of its score against the exact one, and what a training step took."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.metric import Metric, Outcome, measured, register_metric
from bench.problems.problem import FlowProblem
from bench.record import MetricValue
from pretrained.objectives.times import LogSNR
from solvers.process import ReverseProcess
from solvers.sde import expand

# Points a sample at which the score is compared.
POINTS = 5


@dataclass(frozen=True, eq=False)
class Trained(Outcome):
    """A cell of kind ``training``, its samples from the trained network.

    Attributes:
        process: the trained network's.
        rounds: seconds a step, of the cell's objective and of denoising score matching, in turns.
        saved_bytes: kept by a loss for its backward pass.
    """

    process: ReverseProcess
    rounds: list[tuple[float, float]]
    saved_bytes: int


@register_metric
class ScoreError(Metric):
    """sqrt(mean over points and coordinates of (noise - exact noise)^2), x_t from the exact law, lam uniform.

    That is the error of the score in units of 1/sigma. Times from t_min to t_max, five points a sample.
    """

    key: ClassVar[str] = "score_error"
    label: ClassVar[str] = "RMS error of the noise"
    unit: ClassVar[str] = "1"
    reference: ClassVar[str] = "Hyvarinen 2005, JMLR 6 (Fisher divergence)"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        assert isinstance(outcome, Trained)
        problem, n = outcome.problem, POINTS * outcome.spec.n
        assert isinstance(problem, FlowProblem)
        normals = problem.normals(n, outcome.spec.seed)
        x_0 = problem.marginal_sample(0.0, normals, "score error, data")
        t = LogSNR().draw(problem.sde, normals.uniform("score error, time"), problem.sde.t_min)
        alpha, sigma = expand(problem.sde.alpha(t), x_0), expand(problem.sde.sigma(t), x_0)
        x = alpha * x_0 + sigma * normals.normal("score error, noise")
        with torch.no_grad():
            difference = outcome.process.noise(x, t) - problem.process().noise(x, t)
        return measured(_root_mean_square, difference.cpu())


@register_metric
class StepRatio(Metric):
    """Time of a training step over that of a step of denoising score matching, timed in turns; median over rounds."""

    key: ClassVar[str] = "step_ratio"
    label: ClassVar[str] = "time of a step, in steps of denoising"
    unit: ClassVar[str] = "1"
    reference: ClassVar[str] = "Pang et al. 2020, arXiv:2007.03317, sec. 5 (time a step of SSM and FD-SSM)"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        assert isinstance(outcome, Trained)
        return _median([mine / other for mine, other in outcome.rounds])


@register_metric
class StepTime(Metric):
    """Time of a training step: a batch, its loss and gradient, Adam; median over rounds."""

    key: ClassVar[str] = "step_time"
    label: ClassVar[str] = "time of a step"
    unit: ClassVar[str] = "ms"
    reference: ClassVar[str] = "wall clock"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        assert isinstance(outcome, Trained)
        return _median([1e3 * mine for mine, _ in outcome.rounds])


@register_metric
class StepMemory(Metric):
    """Bytes that the loss of a batch keeps for its backward pass, parameters left out."""

    key: ClassVar[str] = "step_memory"
    label: ClassVar[str] = "memory for the backward pass"
    unit: ClassVar[str] = "kB a batch"
    reference: ClassVar[str] = "storages that autograd saves, each counted once"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        assert isinstance(outcome, Trained)
        return MetricValue(value=outcome.saved_bytes / 1e3, standard_error=0.0)


def _root_mean_square(difference: Tensor) -> float:
    return float(difference.double().square().mean().sqrt())


def _median(values: Sequence[float]) -> MetricValue:
    """Median and its standard error by the median deviation, for normal values 1.2533 x 1.4826 MAD / sqrt(count)."""
    middle = statistics.median(values)
    deviation = statistics.median(abs(value - middle) for value in values)
    return MetricValue(value=middle, standard_error=1.2533 * 1.4826 * deviation / len(values) ** 0.5)
