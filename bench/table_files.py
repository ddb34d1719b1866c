"""The folder ``tables`` of a report."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.frontier import frontier
from bench.latex import latex
from bench.leaderboard import LEGEND, leaderboard, markdown
from bench.standings import Standing
from bench.tables import POINT, UNSHOWN, summary_table
from bench.targets import target_table


def write_tables(table: pd.DataFrame, standings: Sequence[Standing], folder: Path) -> list[Path]:
    """Write every table; returns their paths.

    ``long`` (CSV, Parquet): a row a cell and metric. ``summary`` (CSV, JSON): a row a point, with its interval and its
    place on the frontier. ``ranks`` (CSV) and ``pairs`` (Parquet): the standings. ``targets`` (CSV).
    ``leaderboard`` (Markdown, LaTeX).
    """
    folder.mkdir(parents=True, exist_ok=True)
    long = table.drop(columns=UNSHOWN, errors="ignore")
    long.to_csv(folder / "long.csv", index=False)
    long.to_parquet(folder / "long.parquet", index=False)
    summary = _summary(table, standings)
    summary.to_csv(folder / "summary.csv", index=False)
    summary.to_json(folder / "summary.json", orient="records", indent=1, double_precision=15)
    pd.DataFrame(_ranks(standings)).to_csv(folder / "ranks.csv", index=False)
    pd.DataFrame(_pairs(standings)).to_parquet(folder / "pairs.parquet", index=False)
    found = [part for standing in standings if len(part := target_table(standing))]
    (pd.concat(found) if found else pd.DataFrame()).to_csv(folder / "targets.csv", index=False)
    boards = [leaderboard(standing) for standing in standings]
    text = "\n".join(markdown(board) for board in boards)
    (folder / "leaderboard.md").write_text(f"# Leaderboard\n\n{LEGEND}\n\n{text}", encoding="utf-8")
    (folder / "leaderboard.tex").write_text("\n".join(latex(board) for board in boards), encoding="utf-8")
    return sorted(folder.iterdir())


def _summary(table: pd.DataFrame, standings: Sequence[Standing]) -> pd.DataFrame:
    """The points with their places on the frontier, blank where they have none."""
    summary = summary_table(table).drop(columns=UNSHOWN, errors="ignore")
    placed = [part[[*POINT, "by_nfe", "by_seconds"]] for standing in standings if len(part := frontier(standing))]
    if not placed:
        return summary.assign(by_nfe=None, by_seconds=None)
    return summary.merge(pd.concat(placed), how="left", on=POINT)


def _ranks(standings: Sequence[Standing]) -> Iterator[dict[str, Any]]:
    """A line a row and column: its rank by value and the ranks that the verdicts leave."""
    for standing, budget, column in ((s, b, c) for s in standings for b, c in s.columns.items()):
        for p, key in enumerate(column.keys):
            if column.pairs is not None and column.valid[p]:
                row = dict(zip(("solver", "settings", "grid"), key, strict=True))
                ranks = {"rank": column.ranks[p], "first": column.first[p], "last": column.last[p]}
                place = {"problem": standing.problem, "metric": standing.metric, "column": budget}
                yield {**place, **row, **ranks, "of": int(column.valid.sum())}


def _pairs(standings: Sequence[Standing]) -> Iterator[dict[str, Any]]:
    """A line a pair of a column: paired difference, half width of its 95 % interval, Holm's p, verdict."""
    for standing, budget, column in ((s, b, c) for s in standings for b, c in s.columns.items()):
        if column.pairs is None:
            continue
        names = [" ".join(part for part in key if part) for key in column.keys]
        for p, name in enumerate(names):
            for q in range(p + 1, len(names)):
                yield {
                    "problem": standing.problem,
                    "metric": standing.metric,
                    "column": budget,
                    "row": name,
                    "against": names[q],
                    "difference": column.pairs.difference[p, q],
                    "half_width": column.pairs.half_width[p, q],
                    "p": column.pairs.adjusted[p, q],
                    "verdict": column.pairs.verdict(p, q),
                }
