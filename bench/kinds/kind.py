"""What a cell computes: its kind, and what every kind has."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench import environment
from bench.metrics.metric import Metric
from bench.problems.problem import Problem
from bench.record import CellSpec, Record, Status
from bench.registry import Registry


@dataclass(frozen=True)
class Cell:
    """A cell about to be computed.

    Attributes:
        spec: what is asked.
        problem: loaded, on the cell's device.
        metrics: those taken, in the order of declaration.
        load_seconds: what loading the problem took.
    """

    spec: CellSpec
    problem: Problem
    metrics: list[Metric]
    load_seconds: float


class Kind(ABC):
    """A kind of cell.

    Attributes:
        key: value of ``kind`` in matrices and records.
        summary: one line for lists.
        by_evaluations: whether budgets are of network evaluations, against which figures show the quality.
        heads: of a leaderboard's columns: what a row is, on what grid, with what budget.
    """

    key: ClassVar[str]
    summary: ClassVar[str]
    by_evaluations: ClassVar[bool] = True
    heads: ClassVar[tuple[str, str, str]] = ("solver", "grid", "NFE")

    @classmethod
    @abstractmethod
    def metrics(cls, problem: type[Problem]) -> tuple[str, ...]:
        """Keys of the metrics taken on a problem, the leaderboard's first."""

    @abstractmethod
    def measure(self, cell: Cell) -> tuple[Record, Tensor | None]:
        """The record, and raw samples to be kept beside it; what is raised becomes the record's status."""


KINDS: Registry[Kind] = Registry("kind", "bench.kinds")
register_kind = KINDS.register
kind_classes = KINDS.classes


def get_kind(name: str) -> Kind:
    """A kind by name.

    Raises:
        UsageError: no such kind.
    """
    return KINDS.find(name)()


def failure(spec: CellSpec, status: Status, reason: str, trace: str | None = None) -> Record:
    """The record of a cell without a result."""
    where = environment.environment(torch.device(spec.device))
    return Record(spec=spec, status=status, reason=reason, traceback=trace, environment=where)
