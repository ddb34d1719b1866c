"""Metrics: what they declare, what they see, and the menu of them."""

import textwrap
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
        shown_to: figures end there, where values that say no more than "useless" would flatten the others.
        shared: whether every seed is held against the same reference, whose own sampling error no seed averages out.
        drawn: whether each seed draws a reference of its own: one seed then shows a single draw, and decides nothing.
        floor_of: what the floor is the metric of.
        most: samples of a cell that it takes, the first of them; None for all.
        resolves: whether the floor is the reference's own error, below which no difference is told.
        reference: definition.
    """

    key: ClassVar[str]
    label: ClassVar[str]
    unit: ClassVar[str]
    direction: ClassVar[Literal["lower", "higher", "none"]] = "lower"
    limits: ClassVar[tuple[float, float]] = (0.0, float("inf"))
    shown_to: ClassVar[float] = float("inf")
    shared: ClassVar[bool] = False
    drawn: ClassVar[bool] = False
    floor_of: ClassVar[str] = "exact samples"
    most: ClassVar[int | None] = None
    resolves: ClassVar[bool] = False
    reference: ClassVar[str]

    @classmethod
    def axis_label(cls) -> str:
        """Label and unit in lines that fit an axis."""
        return textwrap.fill(f"{cls.label} [{cls.unit}]", 40)

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

# Of one sample or several of equal size.
Statistic = Callable[..., float]

# Blocks that samples fall into, for the jackknife behind standard errors and verdicts.
BLOCKS = 20


def get_metric(name: str) -> Metric:
    """A metric by name.

    Raises:
        UsageError: no such metric.
    """
    return METRICS.find(name)()


def measured(statistic: Statistic, *samples: Tensor, floor: float | None = None) -> MetricValue:
    """A statistic of samples of equal size as a record's value, with its replicates and their standard error.

    The one way to record a statistic: verdicts between cells rest on the replicates (``docs/statistics.md``).
    """
    found = replicates(statistic, *samples)
    return MetricValue(value=statistic(*samples), standard_error=jackknife_error(found), floor=floor, replicates=found)


def replicates(statistic: Statistic, *samples: Tensor) -> tuple[float, ...]:
    """The statistic of what is left when one block of the samples is taken away, a value a block.

    Block k holds the samples i with floor(i K / n) = k, of each of the samples at once, K = min(20, n). The blocks
    depend on n alone: replicate k of any two cells of one seed lacks the same starts, paths and references, so that
    the replicates of their difference are the differences of their replicates.
    """
    n = len(samples[0])
    blocks = min(BLOCKS, n)
    block = torch.arange(n) * blocks // n
    return tuple(statistic(*(sample[block != k] for sample in samples)) for k in range(blocks))


def jackknife_error(values: Sequence[float]) -> float:
    """Standard error from the replicates theta_k of K blocks.

    se^2 = (K - 1)/K sum_k (theta_k - mean theta)^2 (Efron & Tibshirani 1993, sec. 11.5).
    """
    theta = torch.tensor(values, dtype=torch.float64)
    return float(((len(theta) - 1) / len(theta) * (theta - theta.mean()).square().sum()).sqrt())
