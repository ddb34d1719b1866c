"""Leaderboards: rows by solver and grid, a column a budget, the best and what ties with it in bold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.kinds.kind import KINDS
from bench.metrics.metric import metric_classes
from bench.standings import Key, Standing, row_name
from bench.tables import markdown_table, number, plain

# Flags told below a leaderboard; the long table has all.
FLAGS_SHOWN = 3


@dataclass(frozen=True)
class Entry:
    """One place of a leaderboard.

    Attributes:
        text: value with standard error, or why there is none.
        short: the value alone, for narrow places; empty if there is none.
        best: whether it is not decided to be worse than the best of its column.
        within: value with the half width of its 95 % interval; empty if there is none.
    """

    text: str
    short: str = ""
    best: bool = False
    within: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """One metric of one problem: rows by solver and grid, a column a budget.

    Attributes:
        heads: of the columns.
        notes: reading aids, one a line.
    """

    problem: str
    metric: str
    title: str
    heads: list[str]
    budgets: list[int]
    rows: list[tuple[str, str, list[Entry]]]
    notes: list[str]


def leaderboard(standing: Standing) -> Leaderboard:
    """One metric of one problem, rows by their value at the largest budget."""
    budgets = list(standing.columns)
    order = sorted(standing.rows, key=lambda key: _rank(standing, key))
    shown = [(row_name(key), key[2], _entries(standing, key)) for key in order]
    *names, effort = KINDS.find(standing.kind).heads
    heads = [*names, *(f"{effort} {budget}" for budget in budgets)]
    return Leaderboard(standing.problem, standing.metric, standing.title, heads, budgets, shown, _notes(standing))


def _rank(standing: Standing, key: Key) -> tuple[Any, ...]:
    """Order of rows: by the value at the largest budget, then the next, rows without values last."""
    points = [column.points.get(key) for column in reversed(standing.columns.values())]
    values = [np.nan if point is None else point.value for point in points]
    if standing.direction == "none":
        return (bool(np.isnan(values).all()), key)
    sign = -1 if standing.direction == "higher" else 1
    return (*(np.inf if np.isnan(v) else sign * v for v in values), key)


def _entries(standing: Standing, key: Key) -> list[Entry]:
    """The places of a row, or in its first what holds for all of it: a metric that does not apply, nothing placed."""
    row = {budget: column.points[key] for budget, column in standing.columns.items() if key in column.points}
    reasons = {point.reason for point in row.values()}
    text = None
    if not row:
        nfe, reason = standing.rows[key].nfe.min(), standing.rows[key].reason.iloc[0]
        text = reason if np.isnan(nfe) else f"from NFE {nfe:.0f}"
    elif len(reasons) == 1 and all(_never_had(point) for point in row.values()):
        text = reasons.pop()
    if text is not None:
        return [Entry(str(text)), *[Entry("")] * (len(standing.columns) - 1)]
    return [_entry(column.points.get(key), b, column.tied(key)) for b, column in standing.columns.items()]


def _never_had(point: pd.Series) -> bool:
    """Whether a point is blank by what the metric or the kind of cell is, not because something went wrong."""
    skipped = str(point.reason).startswith("skipped: ")
    return not np.isfinite(point.value) and (skipped or not point.failed)


def _entry(point: pd.Series | None, budget: int, best: bool) -> Entry:
    if point is None:
        return Entry("")
    if not np.isfinite(point.value):
        return Entry("skipped" if _never_had(point) and point.failed else point.reason or "not finite")
    spent = f"@{point.nfe:.0f}" if abs(point.nfe - budget) > 1e-9 else ""
    text = f"{number(point.value, point.standard_error)} {spent}".strip()
    within = f"{number(point.value, point.half_width)} {spent}".strip()
    return Entry(text, f"{number(point.value)}{spent}", best, within)


def _notes(standing: Standing) -> list[str]:
    cells, points = standing.cells, standing.points
    most = metric_classes()[standing.metric].most
    n = ", ".join(str(n) for n in sorted({min(n, most or n) for n in cells.n}))
    seeds = cells.seed.nunique()
    notes = [f"Means over {seeds} seed{'s' if seeds > 1 else ''} (± standard error), n = {n} samples a seed."]
    floors = points[points.floor.notna()]
    if len(floors):
        floor = f"Floor, of {metric_classes()[standing.metric].floor_of}"
        kind = "Converged solve" if standing.direction == "none" else floor
        low, high = number(floors.floor.min()), number(floors.floor.max())
        one = standing.direction != "none" or low == high
        shown = number(floors.floor.mean(), floors.floor_error.mean()) if one else f"{low} to {high}"
        notes.append(f"{kind}: {shown}.")
    own = cells[cells.metric == standing.metric]
    if own.converged.notna().any():
        notes.append(f"The network's own value, of the converged solve: {number(own.converged.mean())}.")
    notes += _flags(own)
    failed = cells[cells.status != "done"]
    if len(failed):
        counts = failed.drop_duplicates("cell").status.value_counts()
        listed = ", ".join(f"{count} {status}" for status, count in counts.items())
        notes.append(f"Cells without a result: {listed}.")
    return notes


def _flags(own: pd.DataFrame) -> list[str]:
    """What is flagged, and of which cells."""
    flagged = own[own.flag.notna()]
    notes = []
    for flag, cells in list(flagged.groupby("flag"))[:FLAGS_SHOWN]:
        places = dict.fromkeys(_place(cell) for cell in cells.itertuples())
        others = ", …" if len(places) > FLAGS_SHOWN else ""
        notes.append(f"Flagged: {plain(str(flag))} ({', '.join(list(places)[:FLAGS_SHOWN])}{others}).")
    more = flagged.flag.nunique() - FLAGS_SHOWN
    return [*notes, f"{more} more flags stand in the records."] if more > 0 else notes


def _place(cell: Any) -> str:
    where = f"NFE {cell.budget:.0f}" if cell.budget == cell.budget else f"tolerance {cell.tolerance:g}"
    return plain(f"{row_name((cell.solver, cell.settings, cell.grid))} on {cell.grid}, {where}")


LEGEND = (
    "Columns: budget of network evaluations a sample. `@k`: k were spent (counted). Bold: not decided to be worse than "
    "the best of the column (paired differences, 95 % by Holm over all pairs of the column). Adaptive rows stand in a "
    "column with the finest tolerance whose evaluations fit. Rows are ordered by their value at the largest budget. A "
    "floor is itself a measurement: values may lie below it."
)


def markdown(board: Leaderboard) -> str:
    """A leaderboard as a Markdown table."""
    rows = (
        [plain(solver), grid, *(f"**{e.text}**" if e.best else plain(e.text) for e in entries)]
        for solver, grid, entries in board.rows
    )
    table = markdown_table(board.heads, rows)
    return f"### {board.title}\n\n{table}\n\n{' '.join(board.notes)}\n"
