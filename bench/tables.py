"""Records into tables: the long one, and the summary over seeds."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from bench.compare import estimate
from bench.kinds.kind import KINDS
from bench.metrics.metric import metric_classes
from bench.points import sampled
from bench.problems.problem import problem_class
from bench.record import PLUGIN, Cost, MetricValue, Record
from solvers.errors import UsageError
from solvers.registry import solver_classes

ROW = ["problem", "metric", "solver", "settings", "grid"]
POINT = [*ROW, "budget", "tolerance"]

# Columns of the long table and of the summary for verdicts, not for files.
UNSHOWN = ["replicates", "rows"]


def settings_text(solver: str, settings: dict[str, Any]) -> str:
    """The settings that differ from the solver's defaults, tolerances left out; empty for the defaults."""
    classes = solver_classes()
    defaults = {field.name: field.default for field in fields(classes[solver])} if solver in classes else {}
    shown = {k: v for k, v in settings.items() if k not in ("rtol", "atol") and v != defaults.get(k)}
    return ", ".join(f"{k}={v}" for k, v in shown.items())


def row_text(solver: str, settings: dict[str, Any], last: str | None, dequantisation: str | None = None) -> str:
    """What sets a row apart from the defaults: settings, and last step or dequantisation where they were asked for."""
    asked = {"last step": last, "dequantisation": dequantisation}
    others = (f"{what} {value}" for what, value in asked.items() if value)
    return ", ".join(filter(None, (settings_text(solver, settings), *others)))


def long_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row a cell and metric: everything in the records but the tracebacks.

    A cell without a result has a row for each metric of its problem, blank with the reason.

    Raises:
        UsageError: a record's problem is not known, two records differ in what no column of a report shows, or
            their values come of different networks, extractors or references.
    """
    rows = []
    records = list(records)
    _refuse_mixed_files(records)
    for record in records:
        spec, cost, where = record.spec, record.cost, record.environment
        problem_class(spec.problem)  # refuses one that is not known
        cell = {
            "problem": spec.problem,
            "kind": spec.kind,
            "solver": spec.solver,
            "settings": row_text(spec.solver, spec.settings, spec.last, spec.dequantisation),
            "grid": spec.grid,
            "budget": spec.budget,
            "tolerance": spec.settings.get("rtol") if spec.budget is None else None,
            "seed": spec.seed,
            "n": spec.n,
            "status": record.status,
            "last": record.last,
            "dequantisation": spec.dequantisation,
            **(cost.model_dump() if cost else {}),
            "cell": spec.name,
            "device": where.device,
            "threads": where.threads,
            "commit": where.commit,
            "dirty": where.dirty,
            "date": where.date,
        }
        blank = MetricValue(reason=": ".join(filter(None, (record.status, record.reason))))
        metrics = record.metrics or dict.fromkeys(spec.metrics or declared_metrics(spec.kind, spec.problem), blank)
        rows += [{**cell, "metric": key, **value.model_dump()} for key, value in metrics.items()]
    table = pd.DataFrame(rows)
    measured = [name for name in MetricValue.model_fields if name not in ("reason", "flag", "replicates")]
    numbers = ["budget", "tolerance", *measured, *Cost.model_fields]
    table[numbers] = table.reindex(columns=numbers).astype(float)
    order = [*POINT, "seed"]
    double = table[table.duplicated(order, keep=False)]
    if len(double):
        raise UsageError(
            "report",
            "cells of one row differ in their seeds alone",
            ", ".join(sorted(double.cell.unique())[:2]),
            "Give runs that differ in n, device or batch size folders of their own",
        )
    return table[order + [c for c in table if c not in order]].sort_values(order, ignore_index=True)


def declared_metrics(kind: str, problem: str) -> tuple[str, ...]:
    """The metrics of a kind of cell on a problem, in the order of declaration."""
    return KINDS.find(kind).metrics(problem_class(problem))


def _refuse_mixed_files(records: Iterable[Record]) -> None:
    """Rows of a problem share its network, extractors and references; solvers have files of their own."""
    seen: dict[tuple[str, str], str] = {}
    for record in records:
        for name, value in record.hashes.items():
            if name.startswith(PLUGIN):
                continue
            first = seen.setdefault((record.spec.problem, name), value)
            if value != first:
                rule, got = f"one table holds values of one {name}", f"{first[:12]} and {value[:12]}"
                raise UsageError("report", rule, got, "Run the cells of one of them again, or give them another folder")


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row a point of a curve: means over seeds; no value where one of the seeds has none.

    Standard errors and the half widths of 95 % intervals are those of :mod:`bench.compare`. Evaluations and seconds are
    those of the value's own solve where it has one. ``rows`` holds the point's labels in the long table.
    """
    parts = [_summary(part) for _, part in table.groupby(POINT[:2])]
    return pd.concat(parts, ignore_index=True)


def _summary(part: pd.DataFrame) -> pd.DataFrame:
    """The points of one problem and metric."""
    groups = list(part.groupby(POINT, dropna=False))
    found = estimate(sampled([group for _, group in groups]))
    shared = metric_classes()[part.metric.iloc[0]].shared
    points = []
    for (key, group), mean, error, half in zip(groups, found.mean, found.error, found.half_width, strict=True):
        floor = group["floor"].dropna()
        seconds = group["own_seconds"].fillna(group["seconds"])
        points.append(
            {
                **dict(zip(POINT, key, strict=True)),
                "value": mean,
                "standard_error": error,
                "half_width": half,
                "floor": floor.mean(),
                "floor_error": floor.sem() if len(floor) > 1 and not shared else np.nan,
                "seeds": group["value"].count(),
                "nfe": group["own_nfe"].fillna(group["nfe"]).mean(),
                "seconds": seconds.median(),
                "seconds_low": seconds.min(),
                "seconds_high": seconds.max(),
                "overhead_per_evaluation": group["overhead_per_evaluation"].median(),
                "failed": int((group["status"] != "done").sum()),
                "reason": _why_blank(group),
                "rows": tuple(group.index),
            }
        )
    return pd.DataFrame(points)


def _why_blank(group: pd.DataFrame) -> str | None:
    """Why a point has no value: a status, told for how many seeds unless for all, or the metric's own reason."""
    failed = group[group["status"] != "done"]
    if (group["status"] == "skipped").all() and group["reason"].nunique() == 1:
        return str(group["reason"].iloc[0])
    if len(failed):
        part = "" if len(failed) == len(group) else f" for {len(failed)} of {len(group)} seeds"
        return " ".join(failed["status"].unique()) + part
    return next(iter(group["reason"].dropna()), None)


def number(value: float, error: float | None = None) -> str:
    """A value with its standard error, both to the error's second digit.

    Without an error, or where one of them is tiny or the value huge, in three digits.
    """
    if error is None or not np.isfinite(error) or error <= 0:
        return f"{value:#.3g}".removesuffix(".")
    if error < 1e-4 * max(abs(value), 1e-300) or not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e} ± {error:.0e}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def plain(text: str) -> str:
    """A text that keeps to its cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def markdown_table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown, a line a row; None and NaN are a dash."""
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        texts = ("–" if value is None or value != value else str(value) for value in row)
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)
