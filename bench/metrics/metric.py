"""Metrics: what they declare, what they see, and the menu of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.problems.problem import Problem
from bench.record import CellSpec, MetricValue
from bench.registry import Registry
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

    @property
    def hashes(self) -> dict[str, str]:
        """Hashes of the files that the value depends on."""
        return {}


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


def jackknife(statistic: Callable[[Tensor, Tensor], float], samples: Tensor, reference: Tensor) -> float:
    """Standard error of a statistic of two samples of equal size, by leaving out one block of both at a time.

    se^2 = (K - 1)/K sum_k (theta_k - mean theta)^2, K = min(10, n) (Efron & Tibshirani 1993, sec. 11.5).
    """
    values = []
    blocks = min(BLOCKS, len(samples))
    block = torch.arange(len(samples)) * blocks // len(samples)
    for k in range(blocks):
        kept = block != k
        values.append(statistic(samples[kept], reference[kept]))
    theta = torch.tensor(values, dtype=torch.float64)
    return float(((blocks - 1) / blocks * (theta - theta.mean()).square().sum()).sqrt())
