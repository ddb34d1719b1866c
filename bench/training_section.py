"""What objectives learn and what their steps cost, side by side: the report's section on cells of kind ``training``."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from bench.metrics.metric import metric_classes
from bench.tables import declared_metrics, markdown_table, number, plain, summary_table

TEXT = (
    "Every objective trains the same network from the same start on the same data. Steps are timed in turns with those "
    "of plain denoising, whose own ratio shows what the clock resolves. Evaluations of the network and "
    "derivative passes are those of a step, a sample of its batch, counted; the backward pass comes on top. Mean over "
    "seeds ± standard error. What random directions cost, and why a seed may break: docs/training.md, Objectives."
)


def training_section(table: pd.DataFrame) -> list[str]:
    """Lines of Markdown; none where the long table has no such cells."""
    cells = table[table.kind == "training"]
    if not len(cells):
        return []
    lines = ["## Objectives", "", TEXT, ""]
    for (problem, budget), part in cells.groupby(["problem", "budget"]):
        metrics = [name for name in declared_metrics("training", str(problem)) if name in set(part.metric)]
        labels = [f"{metric_classes()[name].label} [{metric_classes()[name].unit}]" for name in metrics]
        heads = ["objective", "times", *labels, "evaluations", "derivative passes"]
        lines += [f"{problem}, {budget:.0f} steps:", "", markdown_table(heads, _rows(part, metrics)), ""]
    return lines


def _rows(part: pd.DataFrame, metrics: list[str]) -> Iterator[list[str]]:
    summary = summary_table(part)
    keys = ["solver", "settings", "grid"]
    for key, points in summary.groupby(keys):
        found = points.set_index("metric")
        row = [plain(f"{key[0]} ({key[1]})" if key[1] else str(key[0])), str(key[2])]
        for name in metrics:
            value, error = float(found["value"][name]), float(found["standard_error"][name])
            row.append(number(value, error) if np.isfinite(value) else plain(str(found["reason"][name])))
        costs = part[(part[keys] == list(key)).all(axis=1)].drop_duplicates("cell")
        spent = ((costs[name] / costs["steps"]).mean() for name in ("nfe", "derivative_passes"))
        yield [*row, *(f"{each:g}" for each in spent)]
