"""Metrics: what they declare, what they see, and the menu of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from bench.problems.problem import Problem
from bench.record import CellSpec, MetricValue
from bench.registry import Registry
from solvers.errors import UsageError
from solvers.solver import Solver


@dataclass(frozen=True, eq=False)
class Outcome:
    """A solved cell, as metrics see it: samples on the CPU; equal to itself only."""

    spec: CellSpec
    problem: Problem
    solver: Solver
    samples: Tensor


class Metric(ABC):
    """A measure of samples or of a solver.

    Attributes:
        key: name in records, tables and problems.
        label: axis label.
        unit: of the value.
        direction: which is better; ``none`` for values that do not rank solvers.
        limits: range of the value.
        shared: whether every seed is held against the same reference, whose own sampling error no seed averages out.
        reference: definition.
    """

    key: ClassVar[str]
    label: ClassVar[str]
    unit: ClassVar[str]
    direction: ClassVar[Literal["lower", "higher", "none"]] = "lower"
    limits: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    shared: ClassVar[bool] = False
    reference: ClassVar[str]

    @abstractmethod
    def evaluate(self, outcome: Outcome) -> MetricValue:
        """Value, standard error and floor; or the reason why there is none."""

    def measure(self, outcome: Outcome) -> MetricValue:
        """:meth:`evaluate`, or the reason why these samples, or this value, are none to evaluate; never raises it."""
        try:
            check_samples(outcome)
            value = self.evaluate(outcome)
        except UsageError as error:
            return MetricValue(reason=str(error))
        except ValidationError:
            return MetricValue(reason=f"{self.key} is not finite")
        low, high = self.limits
        if value.value is not None and not low <= value.value <= high:
            return MetricValue(reason=f"{self.key} lies in [{low:g}, {high:g}], computed was {value.value:g}")
        return value

    def hashes(self, problem: Problem, spec: CellSpec) -> dict[str, str]:
        """Hashes of the files and references that the value depends on, as far as they are here."""
        return {}


def check_samples(outcome: Outcome) -> None:
    """Refuse samples that no metric means anything of.

    Raises:
        UsageError: their number or shape is not the cell's, one is not a finite number, or all of them are equal.
    """
    samples, spec, problem = outcome.samples, outcome.spec, outcome.problem
    who, todo = f"samples of {spec.solver}", "Look at the solver, or remove the record and its samples and run again"
    wanted = (spec.n, *problem.shape)
    if tuple(samples.shape) != wanted or not spec.n:
        raise UsageError(who, f"they have the shape {wanted}", tuple(samples.shape), todo)
    if not bool(samples.isfinite().all()):
        raise UsageError(who, "they are finite", f"{int((~samples.isfinite()).sum())} values that are not", todo)
    if spec.n > 1 and bool((samples == samples[:1]).all()):
        raise UsageError(who, "they differ from one another", f"{spec.n} times the same", todo)


METRICS: Registry[Metric] = Registry("metric", "bench.metrics")
register_metric = METRICS.register
metric_classes = METRICS.classes

# Blocks of the delete-a-block jackknife behind standard errors.
BLOCKS = 10


def get_metric(name: str) -> Metric:
    """A metric by name.

    Raises:
        UsageError: no such metric.
    """
    return METRICS.find(name)()


def jackknife(statistic: Callable[..., float], *samples: Tensor) -> float:
    """Standard error of a statistic of samples of equal size, by leaving out one block of each at a time.

    se^2 = (K - 1)/K sum_k (theta_k - mean theta)^2, K = min(10, n) (Efron & Tibshirani 1993, sec. 11.5).
    """
    blocks = min(BLOCKS, len(samples[0]))
    block = torch.arange(len(samples[0])) * blocks // len(samples[0])
    return spread_left_out([statistic(*(part[block != k] for part in samples)) for k in range(blocks)])


def spread_left_out(values: Sequence[float]) -> float:
    """The jackknife's standard error from the values with one block left out each."""
    theta = torch.tensor(values, dtype=torch.float64)
    return float(((len(theta) - 1) / len(theta) * (theta - theta.mean()).square().sum()).sqrt())
