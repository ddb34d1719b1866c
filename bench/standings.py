"""Standings: the rows of a problem and metric side by side in the columns of budgets, with their verdicts and ranks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.compare import Pairs, compare_all, rank_intervals
from bench.kinds.kind import KINDS
from bench.metrics.metric import metric_classes
from bench.points import sampled
from bench.tables import ROW, declared_metrics, summary_table

# Solver, settings and grid.
Key = tuple[str, str, str]
Direction = Literal["lower", "higher", "none"]


@dataclass(frozen=True, eq=False)
class Column:
    """The rows that stand at one budget, in their order in ``keys``.

    Attributes:
        points: of the summary, by row.
        pairs: every row against every other, one family; None where the metric ranks nothing.
        valid: the rows that have a value.
        ranks, first, last: by value, and the first and last rank that the verdicts leave; of valid rows.
    """

    keys: list[Key]
    points: dict[Key, pd.Series]
    pairs: Pairs | None
    valid: NDArray[np.bool_]
    ranks: NDArray[np.int_]
    first: NDArray[np.int_]
    last: NDArray[np.int_]

    @property
    def best(self) -> Key | None:
        """The row of the best value."""
        if self.pairs is None or not self.valid.any():
            return None
        return self.keys[int(np.flatnonzero(self.valid & (self.ranks == 1))[0])]

    def tied(self, key: Key) -> bool:
        """Whether a row is not decided to be worse than the best."""
        if self.pairs is None or self.best is None or key not in self.points:
            return False
        p, q = self.keys.index(key), self.keys.index(self.best)
        return bool(self.valid[p] and self.pairs.better[p, q] >= 0)


@dataclass(frozen=True, eq=False)
class Standing:
    """One metric of one problem.

    Attributes:
        cells: rows of the long table, the problem's of the metric's kind.
        points: its rows of the summary.
        rows: those by key.
        columns: by budget.
    """

    problem: str
    metric: str
    cells: pd.DataFrame
    points: pd.DataFrame
    rows: dict[Key, pd.DataFrame]
    columns: dict[int, Column]

    @property
    def kind(self) -> str:
        """Of the cells that the metric was taken of."""
        return str(self.cells.kind[self.cells.metric == self.metric].iloc[0])

    @property
    def direction(self) -> Direction:
        """Which values are better."""
        return metric_classes()[self.metric].direction

    @property
    def by_evaluations(self) -> bool:
        """Whether its columns are budgets of network evaluations."""
        return KINDS.find(self.cells.kind.iloc[0]).by_evaluations

    @property
    def title(self) -> str:
        """Problem, label, unit and direction."""
        declared = metric_classes()[self.metric]
        better = {"lower": "lower is better", "higher": "higher is better", "none": "not ranked"}[declared.direction]
        return f"{self.problem}: {declared.label} [{declared.unit}], {better}"


def row_name(key: Key) -> str:
    """Solver with its settings."""
    solver, settings, _ = key
    return f"{solver} ({settings})" if settings else solver


def standings(table: pd.DataFrame) -> Iterator[Standing]:
    """Every problem's metrics in the order in which they were declared, of the long table."""
    summary = summary_table(table)
    for problem, part in table.groupby("problem", sort=False):
        # Samples first: they are what most readers came for.
        for kind in sorted(part.kind.unique(), key=lambda kind: (kind != "sampling", kind)):
            cells = part[part.kind == kind]
            taken = set(cells.metric)
            for metric in (m for m in declared_metrics(kind, str(problem)) if m in taken):
                points = summary[(summary.problem == problem) & (summary.metric == metric)]
                if points.budget.notna().any() or points.nfe.notna().any():
                    yield _standing(str(problem), metric, cells, points)


def _standing(problem: str, metric: str, part: pd.DataFrame, points: pd.DataFrame) -> Standing:
    budgets = sorted(int(b) for b in part.budget.dropna().unique()) or [int(np.ceil(points.nfe.max()))]
    groups = points.groupby(ROW[2:], sort=False)
    rows: dict[Key, pd.DataFrame] = {(str(a), str(b), str(c)): row for (a, b, c), row in groups}
    direction = metric_classes()[metric].direction
    columns = {budget: column(rows, budget, part, direction) for budget in budgets}
    return Standing(problem, metric, part, points, rows, columns)


def column(rows: dict[Key, pd.DataFrame], budget: int, cells: pd.DataFrame, direction: Direction) -> Column:
    """The rows that have a point at a budget, each against every other; ``cells`` holds those of all of them."""
    points = {key: point for key, row in rows.items() if (point := placed(row, budget)) is not None}
    keys = list(points)
    values = np.array([point.value for point in points.values()], dtype=float)
    valid = np.isfinite(values)
    nothing = np.zeros(len(keys), dtype=int)
    if direction == "none" or not keys:
        return Column(keys, points, None, valid, nothing, nothing, nothing)
    pairs = compare_all(sampled([cells.loc[list(point.rows)] for point in points.values()]), direction == "lower")
    sign = 1 if direction == "lower" else -1
    ranks = np.where(valid, 1 + (sign * values[None] < sign * values[:, None]).sum(1), 0)
    return Column(keys, points, pairs, valid, ranks, *rank_intervals(pairs, valid))


def placed(row: pd.DataFrame, budget: int) -> pd.Series | None:
    """The point of a row that stands at a budget: its own, of adaptive rows the most evaluations within it."""
    within = row[row.budget == budget] if row.budget.notna().any() else row[row.nfe <= budget]
    return within.iloc[int(within.nfe.fillna(-1).argmax())] if len(within) else None
