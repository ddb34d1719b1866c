"""Values that authors published, beside those measured in a run: one table, each value with its statistic.

Song et al. give the mean and the standard deviation of five runs (table 1) or one value (tables 2 and 3), Karras et al.
the minimum of three: neither is what is measured here, the mean over seeds with its standard error. Table 1 is of other
networks than the published continuous ones: its predictor–corrector sampler has FID 3.60 where theirs has 2.38.
"""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pandas as pd
import yaml
from pydantic import Field, TypeAdapter, model_validator

from bench.metrics.metric import metric_classes
from bench.tables import markdown_table, number, row_text, summary_table
from pretrained.networks.settings import Section
from solvers.registry import get_solver
from solvers.solver import LastStep

FILE = Path(__file__).parent / "published_values.yaml"
HEADS = ("problem", "solver", "NFE", "metric", "published", "statistic", "measured (mean ± standard error)", "source")


class PublishedValue(Section):
    """A published value of a row of a matrix.

    Attributes:
        problem, solver, settings, grid, last: the row; settings are those that differ from the defaults.
        budget, tolerance: the point of the row, one of both.
        metric: key of the metric.
        value: as published.
        error: its standard deviation, if it was published.
        statistic: what the value is of which runs.
        network: whether it is of the weights that the problem loads.
        source: where it was published.
    """

    problem: str
    solver: str
    settings: dict[str, Any] = Field(default_factory=dict)
    grid: str
    last: LastStep | None = None
    budget: int | None = None
    tolerance: float | None = None
    metric: str
    value: float
    error: Annotated[float, Field(gt=0)] | None = None
    statistic: str
    network: Literal["this", "other"] = "this"
    source: str

    @model_validator(mode="after")
    def _one_point(self) -> Self:
        if (self.budget is None) == (self.tolerance is None):
            raise ValueError("a value has a budget or a tolerance")
        return self

    @property
    def text(self) -> str:
        """The value, with its standard deviation if there is one."""
        digits = len(str(self.value).partition(".")[2])
        shown = f"{self.value:.{max(digits, 2)}f}"
        return shown if self.error is None else f"{shown} ± {self.error:.2f}"

    @property
    def row(self) -> str:
        """The row's settings as tables show them."""
        return row_text(self.solver, get_solver(self.solver, **self.settings).settings, self.last)

    def point(self, points: pd.DataFrame) -> pd.Series | None:
        """Its place in a summary of a run."""
        own = points[
            (points.problem == self.problem)
            & (points.metric == self.metric)
            & (points.solver == self.solver)
            & (points.settings == self.row)
            & (points.grid == self.grid)
        ]
        own = own[own.budget == self.budget] if self.budget else own[own.tolerance == self.tolerance]
        return own.iloc[0] if len(own) else None


@cache
def published_values() -> tuple[PublishedValue, ...]:
    """All that are known, as in the file beside this one."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return tuple(TypeAdapter(list[PublishedValue]).validate_python(content))


def published_table(table: pd.DataFrame | None = None) -> str | None:
    """Published values as a Markdown table: all of them, or those of a run's problems beside what it measured.

    Args:
        table: the run's long table.
    """
    if table is None:
        return _rendered(published_values(), None)
    problems = set(table.problem)
    values = [value for value in published_values() if value.problem in problems]
    return _rendered(values, summary_table(table)) if values else None


def _rendered(values: Iterable[PublishedValue], points: pd.DataFrame | None) -> str:
    rows = []
    for value in values:
        solver = f"{value.solver} ({value.row})" if value.row else value.solver
        effort = str(value.budget) if value.budget else f"tolerance {value.tolerance:g}"
        other = "; other networks" if value.network == "other" else ""
        measured = [] if points is None else [_measured(value.point(points))]
        label = metric_classes()[value.metric].label
        published = (value.text, value.statistic + other)
        rows.append([value.problem, solver, effort, label, *published, *measured, value.source])
    return markdown_table(HEADS if points is not None else HEADS[:6] + HEADS[7:], rows)


def _measured(point: pd.Series | None) -> str | None:
    if point is None:
        return None
    if point.value != point.value:
        return str(point.reason)
    return f"{number(point.value, point.standard_error)} ({point.seeds} seeds)"
