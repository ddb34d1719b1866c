"""Runs of matrices, their reports and comparisons, and the menus."""

import getpass
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from filelock import FileLock, Timeout
from rich import box
from rich.console import Console
from rich.table import Table

from bench.console import (
    REPORTS,
    DeviceOption,
    PluginOption,
    err,
    load_plugins,
    out,
    processors,
    progress_bar,
    told_when_interrupted,
)

if TYPE_CHECKING:
    from bench.leaderboard import Leaderboard

# Reasons that are listed after a run, the commonest first; the report has all.
REASONS = 5
# Characters of a table where there is no terminal.
WIDEST = 400


def run(
    matrix: Annotated[str, typer.Argument(help="name of a shipped matrix, or path of a YAML file")],
    out_folder: Annotated[Path | None, typer.Option("--out", help="folder of the run [results/runs/MATRIX]")] = None,
    problem: Annotated[list[str] | None, typer.Option(help="only this problem; repeatable")] = None,
    solver: Annotated[list[str] | None, typer.Option(help="only this solver, added if not listed; repeatable")] = None,
    nfe: Annotated[list[int] | None, typer.Option(help="budget instead of the matrix's; repeatable")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="seed instead of the matrix's; repeatable")] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    weights: Annotated[Path | None, typer.Option(help="file of Inception's weights, for FID and its kin")] = None,
) -> None:
    """Run a benchmark matrix; finished cells are kept, so a run that was stopped goes on where it was."""
    from bench.environment import ROOT, resolve_device
    from bench.executors import LocalWorker
    from bench.matrix import load_matrix
    from bench.store import Store
    from pretrained.provenance import commit

    plugins = load_plugins(plugin)
    if weights is not None:
        from bench.metrics.extractors import use_weights

        use_weights(weights)
    where = resolve_device(device)
    chosen = load_matrix(matrix).select(problem or (), solver or (), nfe or (), seed or ())
    cells = chosen.cells(str(where))
    folder = out_folder or Path("results/runs") / chosen.name
    store = Store(folder)
    store.create()
    began = datetime.now(UTC).isoformat(timespec="seconds")
    counts, before = Counter[str](), Counter[str | None]()
    without = Counter[tuple[str, str]]()
    worker = LocalWorker(folder, chosen.timeout_seconds, plugins, threads())
    kept = told_when_interrupted("Interrupted: finished cells are kept; the same command goes on.")
    with kept, store.lock(), only_run_on(str(where)), worker, progress_bar() as progress:
        task = progress.add_task("starting", total=len(cells))
        every = max(1, len(cells) // REPORTS)
        for done, spec in enumerate(cells):
            progress.update(task, description=f"{spec.problem} {spec.solver} {spec.grid} seed {spec.seed}")
            record = store.read(worker.run(spec))
            counts[record.status] += 1
            if record.reason is not None:
                without[record.status, record.reason] += 1
            if record.environment.date < began:
                before[record.environment.commit] += 1
            progress.advance(task)
            if not out.is_terminal and (done + 1) % every == 0:
                out.print(f"{done + 1}/{len(cells)} cells, {spec.name}", highlight=False)
    out.print(f"{len(cells)} cells: " + ", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
    for (status, reason), n in without.most_common(REASONS):
        out.print(f"  {n} {status}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if before:
        out.print(f"{before.total()} of them were there before.")
    if set(before) - {commit(ROOT)[0]}:
        text = "Some of those were made on another commit: remove the folder to compute them anew."
        err.print(text, style="yellow", highlight=False)
    where_next = f"Records: {folder / 'records'}. Tables and figures: scorebench report {folder}"
    out.print(where_next, soft_wrap=True, markup=False)


def report(folder: Annotated[Path, typer.Argument(help="folder of a run")]) -> None:
    """Render tables, figures and report of a run, and print its leaderboard."""
    from bench.leaderboard import LEGEND
    from bench.report import write_report

    written = write_report(folder)
    for board in written.boards:
        out.print(f"\n{board.title}", style="bold", markup=False, highlight=False)
        table = _board(board)
        if table.row_count:
            out.print(table)
        else:
            out.print(_reasons(board), markup=False, highlight=False, soft_wrap=True)
        out.print(" ".join(board.notes), highlight=False)
    out.print(f"\n{LEGEND} Standard errors: {folder / 'tables' / 'leaderboard.md'}.", markup=False, highlight=False)
    places = f"\nTables:  {folder / 'tables'}\nFigures: {folder / 'figures'}\nReport:  {written.page}"
    out.print(places, soft_wrap=True, markup=False)


def compare(
    before: Annotated[Path, typer.Argument(metavar="DIR_A", help="folder of a run")],
    after: Annotated[Path, typer.Argument(metavar="DIR_B", help="folder of a run of the same matrix")],
    as_json: Annotated[bool, typer.Option("--json", help="as one JSON object")] = False,
) -> None:
    """Judge run B against run A, cell by matched cell; exit code 0: none is worse, 1: one is, 2: cannot compare."""
    from bench.comparison import compare_runs
    from bench.comparison_tables import as_json as written
    from bench.comparison_tables import decided_table, notes

    found = compare_runs(before, after)
    if as_json:
        sys.stdout.write(json.dumps(written(found), indent=1) + "\n")
    else:
        table = decided_table(found)
        if table is not None:
            out.print(table)
        for note in notes(found):
            out.print(note, markup=False, highlight=False, soft_wrap=True)
    if found.count("worse"):
        raise typer.Exit(1)


def list_(
    what: Annotated[
        str, typer.Argument(help="problems, solvers, metrics, matrices, checkpoints, data, peers or kinds")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON list of objects")] = False,
    plugin: PluginOption = None,
) -> None:
    """List what is on the menus."""
    from bench.menus import MENUS
    from solvers.errors import unknown_name

    load_plugins(plugin)
    if what not in MENUS:
        raise unknown_name("list", "menu", what, MENUS)
    rows, columns = MENUS[what]
    entries = rows()
    if as_json:
        sys.stdout.write(json.dumps(entries, indent=1) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for entry in entries:
        table.add_row(*("–" if entry[column] is None else str(entry[column]) for column in columns))
    # Where no terminal limits it, a table is as wide as its rows.
    wide = out.width if out.is_terminal else max(out.width, WIDEST)
    console = Console(width=min(wide, out.measure(table, options=out.options.update(max_width=wide)).maximum))
    console.print(table)


def _board(board: "Leaderboard") -> Table:
    """A leaderboard for the terminal: values alone, rows that have one."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in board.heads:
        table.add_column(head, no_wrap=True)
    for solver, grid, entries in board.rows:
        if any(entry.short for entry in entries):
            table.add_row(solver, grid, *(f"[bold]{e.short}[/bold]" if e.best else e.short for e in entries))
    return table


def _reasons(board: "Leaderboard") -> str:
    """Why a leaderboard has no value at all."""
    reasons = dict.fromkeys(entry.text for _, _, entries in board.rows for entry in entries if entry.text)
    return ": ".join(["No values", "; ".join(reasons)] if reasons else ["No values"]) + "."


@contextmanager
def only_run_on(device: str) -> Iterator[None]:
    """Wait until no other run of this user's times its cells on the device."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    name = f"scorebench-{user}-{device.replace(':', '-')}.lock"
    lock = FileLock(Path(tempfile.gettempdir()) / name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        err.print(f"Waiting: another run uses {device}, and cells timed side by side would be timed wrong.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def threads() -> int:
    """Threads that OMP_NUM_THREADS asks for, or one a processor."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else processors()
