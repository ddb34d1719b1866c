"""Records into tables: the long one, the summary over seeds, and the leaderboard."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.metrics.features import REFERENCE, FeatureMetric
from bench.metrics.metric import metric_classes
from bench.problems.problem import problem_classes
from bench.record import Cost, MetricValue, Record
from solvers.errors import UsageError, unknown_name
from solvers.registry import solver_classes

ROW = ["problem", "metric", "solver", "settings", "grid"]
POINT = [*ROW, "budget", "tolerance"]

# Two values differ when they lie this many standard errors of their difference apart (95 %, two-sided, unpaired).
SEPARATE = 1.96
# Flags told below a leaderboard; the long table has all.
FLAGS_SHOWN = 3


def settings_text(solver: str, settings: dict[str, Any]) -> str:
    """The settings that differ from the solver's defaults, tolerances left out; empty for the defaults."""
    classes = solver_classes()
    defaults = {field.name: field.default for field in fields(classes[solver])} if solver in classes else {}
    shown = {k: v for k, v in settings.items() if k not in ("rtol", "atol") and v != defaults.get(k)}
    return ", ".join(f"{k}={v}" for k, v in shown.items())


def long_table(records: Iterable[Record]) -> pd.DataFrame:
    """One row a cell and metric: everything in the records but the tracebacks.

    A cell without a result has a row for each metric of its problem, blank with the reason.

    Raises:
        UsageError: a record's problem is not registered, two records differ in what no column of a report shows, or
            their features come of different extractors or references.
    """
    rows = []
    records = list(records)
    _refuse_mixed_features(records)
    for record in records:
        spec, cost, where = record.spec, record.cost, record.environment
        if spec.problem not in problem_classes():
            raise unknown_name(f"record {spec.name}", "problem", spec.problem, problem_classes())
        cell = {
            "problem": spec.problem,
            "solver": spec.solver,
            "settings": settings_text(spec.solver, spec.settings),
            "grid": spec.grid,
            "budget": spec.budget,
            "tolerance": spec.settings.get("rtol") if spec.budget is None else None,
            "seed": spec.seed,
            "n": spec.n,
            "status": record.status,
            "last": record.last,
            **(cost.model_dump() if cost else {}),
            "cell": spec.name,
            "device": where.device,
            "threads": where.threads,
            "commit": where.commit,
            "dirty": where.dirty,
            "date": where.date,
        }
        blank = MetricValue(reason=f"{record.status}: {record.reason or ''}")
        metrics = record.metrics or dict.fromkeys(problem_classes()[spec.problem].metrics, blank)
        rows += [{**cell, "metric": key, **value.model_dump()} for key, value in metrics.items()]
    table = pd.DataFrame(rows)
    measured = [name for name in MetricValue.model_fields if name not in ("reason", "flag")]
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


def _refuse_mixed_features(records: Iterable[Record]) -> None:
    extractors = {cls.extractor for cls in metric_classes().values() if issubclass(cls, FeatureMetric)}
    seen: dict[tuple[str, str], str] = {}
    for record in records:
        for name, value in record.hashes.items():
            if name.removesuffix(REFERENCE) not in extractors:
                continue
            first = seen.setdefault((record.spec.problem, name), value)
            if value != first:
                rule, got = f"one table holds distances of one {name}", f"{first[:12]} and {value[:12]}"
                raise UsageError("report", rule, got, "Run the cells of one of them again, or give them another folder")


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row a point of a curve: means over seeds; no value where one of the seeds has none.

    The standard error of the mean is sqrt(max(W, B) / seeds), with W the mean of the cells' squared errors and B the
    variance between seeds; sqrt(W + B / seeds) where all seeds are held against one reference. Evaluations and seconds
    are those of the value's own solve where it has one.
    """
    points = []
    for key, group in table.groupby(POINT, dropna=False):
        values = group["value"].dropna()
        seeds = len(values)
        within = float((group["standard_error"] ** 2).mean())
        between = float(values.var()) if seeds > 1 else 0.0
        shared = metric_classes()[group["metric"].iloc[0]].shared
        squared = within + between / max(seeds, 1) if shared else max(within, between) / max(seeds, 1)
        floor = group["floor"].dropna()
        seconds = group["own_seconds"].fillna(group["seconds"])
        points.append(
            {
                **dict(zip(POINT, key, strict=True)),
                "value": values.mean() if seeds == len(group) else np.nan,
                "standard_error": np.sqrt(squared) if seeds else np.nan,
                "floor": floor.mean(),
                "floor_error": floor.sem() if len(floor) > 1 else np.nan,
                "seeds": seeds,
                "nfe": group["own_nfe"].fillna(group["nfe"]).mean(),
                "seconds": seconds.median(),
                "seconds_low": seconds.min(),
                "seconds_high": seconds.max(),
                "overhead_per_evaluation": group["overhead_per_evaluation"].median(),
                "failed": int((group["status"] != "done").sum()),
                "reason": _why_blank(group),
            }
        )
    return pd.DataFrame(points)


def _why_blank(group: pd.DataFrame) -> str | None:
    """Why a point has no value: a status, told for how many seeds unless for all, or the metric's own reason."""
    failed = group[group["status"] != "done"]
    if len(failed):
        part = "" if len(failed) == len(group) else f" for {len(failed)} of {len(group)} seeds"
        return " ".join(failed["status"].unique()) + part
    return next(iter(group["reason"].dropna()), None)


@dataclass(frozen=True)
class Entry:
    """One place of a leaderboard.

    Attributes:
        text: value with standard error, or why there is none.
        short: the value alone, for narrow places; empty if there is none.
        best: whether it is tied with the best of its column.
    """

    text: str
    short: str = ""
    best: bool = False


@dataclass(frozen=True)
class Leaderboard:
    """One metric of one problem: rows by solver and grid, a column a budget.

    Attributes:
        notes: reading aids, one a line.
    """

    problem: str
    metric: str
    title: str
    budgets: list[int]
    rows: list[tuple[str, str, list[Entry]]]
    notes: list[str]


def number(value: float, error: float | None = None) -> str:
    """A value with its standard error, both to the error's second digit.

    Without an error, or where one of them is tiny, in three digits.
    """
    if error is None or not np.isfinite(error) or error <= 0:
        return f"{value:#.3g}".removesuffix(".")
    if error < 1e-4 * max(abs(value), 1e-300) or abs(value) < 1e-3:
        return f"{value:.2e} ± {error:.0e}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def leaderboards(table: pd.DataFrame) -> list[Leaderboard]:
    """Every problem's metrics in the order in which they were declared."""
    summary = summary_table(table)
    found = []
    for problem, part in table.groupby("problem", sort=False):
        taken = set(part.metric)
        for metric in (m for m in problem_classes()[str(problem)].metrics if m in taken):
            points = summary[(summary.problem == problem) & (summary.metric == metric)]
            if points.budget.notna().any() or points.nfe.notna().any():
                found.append(_leaderboard(str(problem), str(metric), points, part))
    return found


def _leaderboard(problem: str, metric: str, points: pd.DataFrame, cells: pd.DataFrame) -> Leaderboard:
    declared = metric_classes()[metric]
    budgets = sorted(int(b) for b in cells.budget.dropna().unique()) or [int(np.ceil(points.nfe.max()))]
    groups = points.groupby(ROW[2:], sort=False)
    whole = {tuple(str(part) for part in key): row for key, row in groups}
    rows = {key: _placed(row, budgets) for key, row in whole.items()}
    best = {b: _best([row[b] for row in rows.values() if b in row], declared.direction) for b in budgets}
    order = sorted(rows, key=lambda key: _rank(rows[key], budgets, declared.direction, key))
    shown = []
    for key in order:
        solver, settings, grid = key
        name = f"{solver} ({settings})" if settings else solver
        shown.append((name, grid, _entries(rows[key], budgets, best, whole[key])))
    return Leaderboard(problem, metric, _title(problem, metric), budgets, shown, _notes(metric, points, cells))


def _title(problem: str, metric: str) -> str:
    declared = metric_classes()[metric]
    better = {"lower": "lower is better", "higher": "higher is better", "none": "not ranked"}[declared.direction]
    return f"{problem}: {declared.label} [{declared.unit}], {better}"


def _placed(row: pd.DataFrame, budgets: list[int]) -> dict[int, pd.Series]:
    """The point that stands in each column: the budget's own, for adaptive rows the most evaluations within it."""
    placed = {}
    for budget in budgets:
        within = row[row.budget == budget] if row.budget.notna().any() else row[row.nfe <= budget]
        if len(within):
            placed[budget] = within.iloc[int(within.nfe.fillna(-1).argmax())]
    return placed


def _best(points: list[pd.Series], direction: str) -> pd.Series | None:
    points = [p for p in points if np.isfinite(p.value)]
    if direction == "none" or not points:
        return None
    return min(points, key=lambda p: p.value if direction == "lower" else -p.value)


def _rank(row: dict[int, pd.Series], budgets: list[int], direction: str, key: Any) -> tuple[Any, ...]:
    """Order of rows: by the value at the largest budget, then the next, rows without values last."""
    sign = -1 if direction == "higher" else 1
    values = [row[b].value if b in row else np.nan for b in reversed(budgets)]
    if direction == "none":
        return (bool(np.isnan(values).all()), key)
    return (*(np.inf if np.isnan(v) else sign * v for v in values), key)


def _entries(
    row: dict[int, pd.Series], budgets: list[int], best: dict[int, pd.Series | None], points: pd.DataFrame
) -> list[Entry]:
    """The places of a row, or in its first what holds for all of it: a metric that does not apply, nothing placed."""
    reasons = {point.reason for point in row.values()}
    text = None
    if not row:
        nfe = points.nfe.min()
        text = points.reason.iloc[0] if np.isnan(nfe) else f"from NFE {nfe:.0f}"
    elif len(reasons) == 1 and not any(np.isfinite(point.value) or point.failed for point in row.values()):
        text = reasons.pop()
    if text is not None:
        return [Entry(str(text)), *[Entry("")] * (len(budgets) - 1)]
    return [_entry(row.get(b), b, best[b]) for b in budgets]


def _entry(point: pd.Series | None, budget: int, best: pd.Series | None) -> Entry:
    if point is None:
        return Entry("")
    if not np.isfinite(point.value):
        return Entry(point.reason or "not finite")
    spent = f"@{point.nfe:.0f}" if abs(point.nfe - budget) > 1e-9 else ""
    text = f"{number(point.value, point.standard_error)} {spent}".strip()
    short = f"{number(point.value)}{spent}"
    if best is None:
        return Entry(text, short)
    apart = abs(point.value - best.value)
    tied = apart <= SEPARATE * np.hypot(point.standard_error, best.standard_error)
    return Entry(text, short, point is best or bool(tied))


def _notes(metric: str, points: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    n = ", ".join(str(n) for n in sorted(cells.n.unique()))
    seeds = cells.seed.nunique()
    notes = [f"Means over {seeds} seed{'s' if seeds > 1 else ''} (± standard error), n = {n} samples a seed."]
    floors = points[points.floor.notna()]
    if len(floors):
        kind = "Converged solve" if metric_classes()[metric].direction == "none" else "Floor, of exact samples"
        notes.append(f"{kind}: {number(floors.floor.mean(), floors.floor_error.mean())}.")
    own = cells[cells.metric == metric]
    if own.converged.notna().any():
        notes.append(f"The network's own value, of the converged solve: {number(own.converged.mean())}.")
    flags = sorted(set(own.flag.dropna()))
    notes += [f"Flagged: {plain(flag)}." for flag in flags[:FLAGS_SHOWN]]
    failed = cells[cells.status != "done"]
    if len(failed):
        counts = failed.drop_duplicates("cell").status.value_counts()
        listed = ", ".join(f"{count} {status}" for status, count in counts.items())
        notes.append(f"Cells without a result: {listed}.")
    return notes


LEGEND = (
    "Columns: budget of network evaluations a sample. `@k`: k were spent (counted). Bold: not separable from the best "
    "of the column (95 %, unpaired). Adaptive rows stand in a column with the finest tolerance whose evaluations fit. "
    "Rows are ordered by their value at the largest budget. A floor is itself a measurement: values may lie below it."
)


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


def markdown(board: Leaderboard) -> str:
    """A leaderboard as a Markdown table."""
    rows = (
        [plain(solver), grid, *(f"**{e.text}**" if e.best else plain(e.text) for e in entries)]
        for solver, grid, entries in board.rows
    )
    table = markdown_table(["solver", "grid", *(f"NFE {b}" for b in board.budgets)], rows)
    return f"### {board.title}\n\n{table}\n\n{' '.join(board.notes)}\n"


def write_tables(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the long table (CSV, Parquet) and the leaderboard (Markdown); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "long.csv", folder / "long.parquet", folder / "leaderboard.md"]
    table.to_csv(paths[0], index=False)
    table.to_parquet(paths[1], index=False)
    boards = "\n".join(markdown(board) for board in leaderboards(table))
    paths[2].write_text(f"# Leaderboard\n\n{LEGEND}\n\n{boards}", encoding="utf-8")
    return paths
