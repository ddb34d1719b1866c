"""The command line: ``scorebench``, or ``python -m bench``."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from solvers.errors import UsageError

app = typer.Typer(
    help="Benchmarks of numerical solvers for score-based generative models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

Many = Annotated[list[str] | None, typer.Option()]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i")]
PluginOption = Annotated[list[Path] | None, typer.Option(help="Python file that registers a solver; repeatable")]

# Lines printed on the way where there is no terminal for a bar.
REPORTS = 20


@app.command()
def run(
    matrix: Annotated[str, typer.Argument(help="name of a shipped matrix, or path of a YAML file")],
    out_folder: Annotated[Path | None, typer.Option("--out", help="folder of the run [results/runs/MATRIX]")] = None,
    problem: Annotated[list[str] | None, typer.Option(help="only this problem; repeatable")] = None,
    solver: Annotated[list[str] | None, typer.Option(help="only this solver, added if not listed; repeatable")] = None,
    nfe: Annotated[list[int] | None, typer.Option(help="budget instead of the matrix's; repeatable")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="seed instead of the matrix's; repeatable")] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
) -> None:
    """Run a benchmark matrix; finished cells are kept, so a run that was stopped goes on where it was."""
    from bench.environment import resolve_device
    from bench.executors import LocalWorker
    from bench.matrix import load_matrix
    from bench.store import Store

    plugins = _load_plugins(plugin)
    where = resolve_device(device)
    chosen = load_matrix(matrix).select(problem or (), solver or (), nfe or (), seed or ())
    cells = chosen.cells(str(where))
    folder = out_folder or Path("results/runs") / chosen.name
    store = Store(folder)
    store.create()
    counts: dict[str, int] = {}
    with (
        store.lock(),
        LocalWorker(folder, chosen.timeout_seconds, plugins, _threads()) as worker,
        _progress() as progress,
    ):
        task = progress.add_task("starting", total=len(cells))
        every = max(1, len(cells) // REPORTS)
        for done, spec in enumerate(cells):
            progress.update(task, description=f"{spec.problem} {spec.solver} {spec.grid} seed {spec.seed}")
            record = store.read(worker.run(spec))
            counts[record.status] = counts.get(record.status, 0) + 1
            progress.advance(task)
            if not out.is_terminal and (done + 1) % every == 0:
                out.print(f"{done + 1}/{len(cells)} cells, {spec.name}", highlight=False)
    out.print(f"{len(cells)} cells: " + ", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
    out.print(f"Records: {folder / 'records'}. Tables and figures: scorebench report {folder}", soft_wrap=True)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="folder of a run")]) -> None:
    """Render tables, figures and report of a run, and print its leaderboard."""
    from bench.report import write_report
    from bench.tables import LEGEND

    written = write_report(folder)
    for board in written.boards:
        table = Table(title=board.title, title_justify="left", caption=" ".join(board.notes), caption_justify="left")
        for column in ("solver", "grid", *(f"NFE {budget}" for budget in board.budgets)):
            table.add_column(column, no_wrap=column in ("solver", "grid"))
        for solver, grid, entries in board.rows:
            table.add_row(solver, grid, *(f"[bold]{e.text}[/bold]" if e.best else e.text for e in entries))
        out.print(table)
    out.print(LEGEND, soft_wrap=False)
    out.print(f"\nTables:  {folder / 'tables'}\nFigures: {folder / 'figures'}\nReport:  {written.page}", soft_wrap=True)


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="problems, solvers, metrics, matrices or checkpoints")],
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON list of objects")] = False,
    plugin: PluginOption = None,
) -> None:
    """List what is on the menus."""
    from bench.menus import MENUS
    from solvers.errors import unknown_name

    _load_plugins(plugin)
    if what not in MENUS:
        raise unknown_name("list", "menu", what, MENUS)
    entries = MENUS[what]()
    if as_json:
        sys.stdout.write(json.dumps(entries, indent=1) + "\n")
        return
    columns = list(entries[0]) if entries else []
    table = Table(*columns)
    for entry in entries:
        table.add_row(*(_cell(entry[column]) for column in columns))
    out.print(table)


@app.command()
def train(
    card: Annotated[str, typer.Argument(help="name of a shipped card, or path of a YAML file")],
    out_folder: Annotated[Path, typer.Option("--out", help="folder for weights and card")] = Path("results/training"),
    device: DeviceOption = "auto",
) -> None:
    """Train a checkpoint from its card."""
    from bench.environment import resolve_device
    from pretrained.card import load_card
    from pretrained.train import train as train_card

    chosen = load_card(card)
    where = resolve_device(device)
    result = train_card(chosen, out_folder, where)
    out.print(f"Weights and card: {result}", soft_wrap=True)


@app.command()
def conformance(
    vectors: Annotated[Path, typer.Argument(help="recorded arrays, .npz")],
    index: Annotated[Path, typer.Argument(help="index of the cases, .json")],
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON list of objects")] = False,
) -> None:
    """Run recorded cases of the reference implementation again and compare; exit code 1 if one fails."""
    from bench.conformance import conformance as run_all

    results = run_all(vectors, index)
    if as_json:
        sys.stdout.write(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    else:
        table = Table("case", "error", "tolerance", "verdict", "reason")
        for result in results:
            numbers = ("" if number is None else f"{number:.1e}" for number in (result.error, result.tolerance))
            table.add_row(result.key, *numbers, result.verdict, result.reason or "")
        out.print(table)
        counts = {verdict: sum(r.verdict == verdict for r in results) for verdict in ("pass", "fail", "skipped")}
        out.print(f"{len(results)} cases: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
    if any(result.verdict == "fail" for result in results):
        raise typer.Exit(1)


@app.command()
def docs(
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit code 1 if something is stale")] = False,
) -> None:
    """Render the README's tables from the registries and the committed records."""
    from bench.docs import update_readme

    if update_readme(check):
        out.print("README.md is up to date.")
    elif check:
        err.print("README.md is stale: run scorebench docs.")
        raise typer.Exit(1)
    else:
        out.print("README.md is rendered anew.")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(v) for v in value)
    return "" if value is None else str(value)


def _load_plugins(plugins: list[Path] | None) -> list[str]:
    from solvers.registry import load_plugin

    paths = [str(path.resolve()) for path in plugins or []]
    for path in paths:
        load_plugin(path)
    return paths


def _threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=out, disable=not out.is_terminal)


def main() -> None:
    """Entry point: a mistake of the user's ends with one message and exit code 2."""
    try:
        app()
    except UsageError as error:
        err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Interrupted: finished cells are kept; the same command goes on.")
        sys.exit(130)
