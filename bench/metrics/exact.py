"""What metrics on points share: distances from exact samples, and from an exactly known law; with their floors."""

from abc import abstractmethod
from functools import lru_cache
from typing import ClassVar

from torch import Tensor

from bench.metrics.metric import Metric, Outcome, measured
from bench.problems.problem import Problem
from bench.record import MetricValue


@lru_cache(maxsize=64)
def exact_samples(problem: Problem, n: int, seed: int, draw: int) -> Tensor:
    """Exact samples (n, d), float64."""
    return problem.reference(n, seed, draw).double()


@lru_cache(maxsize=64)
def _floor_of_samples(metric: type["AgainstSamples"], problem: Problem, n: int, seed: int) -> float:
    return metric.distance(exact_samples(problem, n, seed, 1), exact_samples(problem, n, seed, 0))


@lru_cache(maxsize=64)
def _floor_of_law(metric: type["AgainstLaw"], problem: Problem, n: int, seed: int) -> float:
    return metric.distance(exact_samples(problem, n, seed, 1), problem)


class AgainstSamples(Metric):
    """A distance between samples and as many exact ones; floor: the distance between two exact samples."""

    drawn: ClassVar[bool] = True

    def evaluate(self, outcome: Outcome) -> MetricValue:
        spec, metric = outcome.spec, type(self)
        reference = exact_samples(outcome.problem, spec.n, spec.seed, 0)
        floor = _floor_of_samples(metric, outcome.problem, spec.n, spec.seed)
        return metric.measured(outcome.samples.double(), reference).model_copy(update={"floor": floor})

    @staticmethod
    @abstractmethod
    def distance(a: Tensor, b: Tensor) -> float:
        """The distance of two samples (n, d)."""

    @classmethod
    def measured(cls, a: Tensor, b: Tensor) -> MetricValue:
        """The distance with its standard error and replicates."""
        return measured(cls.distance, a, b)


class AgainstLaw(Metric):
    """A distance of samples from a law known exactly; floor: that of as many exact samples."""

    unit: ClassVar[str] = "units of x"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        spec, metric, problem = outcome.spec, type(self), outcome.problem
        floor = _floor_of_law(metric, problem, spec.n, spec.seed)
        return measured(lambda part: metric.distance(part, problem), outcome.samples.double(), floor=floor)

    @staticmethod
    @abstractmethod
    def distance(samples: Tensor, problem: Problem) -> float:
        """The distance of samples (n, d) from the problem's law at t_min."""
