"""A run's folder into tables, figures and a report in Markdown."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench import targets
from bench.leaderboard import LEGEND, Leaderboard, leaderboard, markdown
from bench.likelihood_tables import likelihood_section
from bench.plots import write_figures
from bench.processes_table import processes_section
from bench.published_values import published_table
from bench.record import Record, file_stem
from bench.standings import Standing, standings
from bench.store import Store, not_writable
from bench.table_files import write_tables
from bench.tables import long_table, markdown_table, plain
from bench.training_section import training_section


@dataclass(frozen=True)
class Report:
    """What was written, and the leaderboards for the terminal."""

    tables: list[Path]
    figures: list[Path]
    page: Path
    boards: list[Leaderboard]


def write_report(folder: Path) -> Report:
    """Render ``tables/``, ``figures/`` and ``report.md`` of a run's folder from its records.

    Raises:
        UsageError: the folder holds no records or a damaged one (named), or cannot be written.
    """
    store = Store(folder)
    records = list(store.records())
    table = long_table(records)
    found = list(standings(table))
    page = folder / "report.md"
    try:
        tables = write_tables(table, found, folder / "tables")
        figures = write_figures(table, found, records, store, folder / "figures")
        page.write_text(_page(records, table, found, figures, folder), encoding="utf-8")
    except OSError as error:
        raise not_writable(folder, error, "Copy it to where it is, and report on the copy") from error
    return Report(tables, figures, page, [leaderboard(standing) for standing in found])


# Figures of a problem and metric, in the order of the page; the tables of targets stand beside theirs.
VIEWS = ("values", "nfe", "seconds", "ranks", "pairs", "frontier", "targets")


def _page(records: list[Record], table: pd.DataFrame, found: list[Standing], figures: list[Path], folder: Path) -> str:
    parts = ["# Report", "", provenance_text(records), "", "## Leaderboard", "", LEGEND, ""]
    by_stem = {path.stem: path for path in figures}
    for standing in found:
        parts += [markdown(leaderboard(standing))]
        for view in VIEWS:
            if path := by_stem.get(f"{file_stem(standing.problem)}_{standing.metric}_{view}"):
                parts += [_figure(path, folder)]
            if view == "targets" and standing.by_evaluations:
                parts += [targets.markdown(standing)]
    parts += [*processes_section(found), *likelihood_section(table), *training_section(table)]
    beside = published_table(table)
    if beside:
        parts += ["## Published values", "", beside, ""]
    samples = [path for path in figures if path.stem.endswith("_samples")]
    if samples:
        parts += ["## Samples", "", *[_figure(path, folder) for path in samples]]
    bias = [path for path in figures if path.stem.endswith("_n")]
    if bias:
        parts += ["## Fréchet distance against n", "", *[_figure(path, folder) for path in bias]]
    parts += ["## Time", "", *_time_table(table), "## Cells without a result", "", *_failures(records)]
    return "\n".join(parts) + "\n"


def _figure(path: Path, folder: Path) -> str:
    return f"![{path.stem}]({path.relative_to(folder)})\n"


def provenance_text(records: list[Record]) -> str:
    """Machine, dates, versions and commit of the records, and a warning where they are not of one piece."""
    statuses = Counter(r.status for r in records)
    environments = [r.environment for r in records]
    where = environments[0]
    dates = sorted(r.environment.date for r in records)
    commits = sorted(
        {f"{r.environment.commit or 'unknown'}{' (with changes)' if r.environment.dirty else ''}" for r in records}
    )
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    lines = [
        f"{len(records)} cells ({', '.join(f'{count} {status}' for status, count in statuses.items())}), "
        f"{dates[0]} to {dates[-1]}.",
        f"Machine: {where.cpu}, {where.cores} cores, {where.threads} threads, device {where.device}. {versions}.",
        f"Commit: {', '.join(commits)}.",
    ]
    hashes = {(name, value) for r in records for name, value in r.hashes.items()}
    machines = {(e.cpu, e.cores, e.threads, e.device) for e in environments}
    software = {tuple(sorted(e.versions.items())) for e in environments}
    kinds = {"commits": len(commits) > 1, "machines or threads": len(machines) > 1, "versions": len(software) > 1}
    kinds["checkpoints"] = len({name for name, _ in hashes}) < len(hashes)
    mixed = [kind for kind, differ in kinds.items() if differ]
    if mixed:
        lines.append(f"**These records were made with different {', '.join(mixed)}: compare with care.**")
    return "  \n".join(lines)


TIME_HEADS = (
    "problem",
    "solver",
    "grid",
    "ms an evaluation of the batch (min to max)",
    "network",
    "overhead, µs an evaluation",
    "peak memory, MB",
)


def _time_table(table: pd.DataFrame) -> list[str]:
    """Where the time goes: median over a row's cells."""
    lines = [
        "Medians over cells of all budgets. Network: evaluations times a bare call of the same batch; "
        "overhead: the rest of the solve (the noise source included), per evaluation; a negative one is within the "
        "clock's noise. Memory: on the CPU the worker's whole resident set, libraries included.",
        "",
    ]
    rows = []
    cells = table[table.seconds.notna()].drop_duplicates("cell")
    for (problem, solver, settings, grid), group in cells.groupby(["problem", "solver", "settings", "grid"]):
        name = plain(f"{solver} ({settings})" if settings else str(solver))
        each = 1e3 * group.seconds / group.forwards
        share = (group.network_seconds / group.seconds).median()
        time = f"{each.median():.3g} ({each.min():.2g} to {each.max():.2g})"
        overhead = f"{1e6 * group.overhead_per_evaluation.median():.0f}"
        memory = f"{group.peak_memory_bytes.median() / 1e6:.0f}"
        rows.append((problem, name, grid, time, f"{share:.0%}", overhead, memory))
    return [*lines, markdown_table(TIME_HEADS, rows), ""]


def _failures(records: list[Record]) -> list[str]:
    failed = [r for r in records if r.status != "done"]
    if not failed:
        return ["None."]
    rows = ((r.spec.name, r.status, plain(r.reason or "")) for r in failed)
    return [markdown_table(("cell", "status", "reason"), rows)]
