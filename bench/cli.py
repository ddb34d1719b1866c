"""The command line: ``scorebench``, or ``python -m bench``."""

import getpass
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from filelock import FileLock, Timeout
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from solvers.errors import UsageError

if TYPE_CHECKING:
    from bench.leaderboard import Leaderboard

app = typer.Typer(
    help="Benchmarks of numerical solvers for score-based generative models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i")]
PluginOption = Annotated[list[Path] | None, typer.Option(help="Python file that registers a solver; repeatable")]

# Lines printed on the way where there is no terminal for a bar.
REPORTS = 20
# Characters of a table there.
WIDEST = 400


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
    weights: Annotated[Path | None, typer.Option(help="file of Inception's weights, for FID and its kin")] = None,
) -> None:
    """Run a benchmark matrix; finished cells are kept, so a run that was stopped goes on where it was."""
    from bench.environment import ROOT, resolve_device
    from bench.executors import LocalWorker
    from bench.matrix import load_matrix
    from bench.store import Store
    from pretrained.provenance import commit

    plugins = _load_plugins(plugin)
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
    worker = LocalWorker(folder, chosen.timeout_seconds, plugins, _threads())
    kept = _told_when_interrupted("Interrupted: finished cells are kept; the same command goes on.")
    with kept, store.lock(), _only_run_on(str(where)), worker, _progress() as progress:
        task = progress.add_task("starting", total=len(cells))
        every = max(1, len(cells) // REPORTS)
        for done, spec in enumerate(cells):
            progress.update(task, description=f"{spec.problem} {spec.solver} {spec.grid} seed {spec.seed}")
            record = store.read(worker.run(spec))
            counts[record.status] += 1
            if record.environment.date < began:
                before[record.environment.commit] += 1
            progress.advance(task)
            if not out.is_terminal and (done + 1) % every == 0:
                out.print(f"{done + 1}/{len(cells)} cells, {spec.name}", highlight=False)
    out.print(f"{len(cells)} cells: " + ", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
    if before:
        out.print(f"{before.total()} of them were there before.")
    if set(before) - {commit(ROOT)[0]}:
        text = "Some of those were made on another commit: remove the folder to compute them anew."
        err.print(text, style="yellow", highlight=False)
    where_next = f"Records: {folder / 'records'}. Tables and figures: scorebench report {folder}"
    out.print(where_next, soft_wrap=True, markup=False)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="folder of a run")]) -> None:
    """Render tables, figures and report of a run, and print its leaderboard."""
    from bench.leaderboard import LEGEND
    from bench.report import write_report

    written = write_report(folder)
    for board in written.boards:
        out.print(f"\n{board.title}", style="bold", markup=False, highlight=False)
        out.print(_board(board), " ".join(board.notes), highlight=False)
    out.print(f"\n{LEGEND} Standard errors: {folder / 'tables' / 'leaderboard.md'}.", markup=False, highlight=False)
    places = f"\nTables:  {folder / 'tables'}\nFigures: {folder / 'figures'}\nReport:  {written.page}"
    out.print(places, soft_wrap=True, markup=False)


@app.command()
def likelihood(
    checkpoint: Annotated[str, typer.Argument(help="name of a checkpoint, see `list checkpoints`")],
    data: Annotated[str, typer.Option(help="split of its data: test or train")] = "test",
    solver: Annotated[str, typer.Option(help="ODE solver, name or name?setting=value")] = "dpmpp_3m",
    nfe: Annotated[int, typer.Option(min=1, help="evaluations a dequantised image, for fixed steps")] = 50,
    grid: Annotated[str, typer.Option(help="for fixed steps")] = "log_snr",
    n: Annotated[int | None, typer.Option(min=2, help="images, the first of the split [all]")] = None,
    draws: Annotated[int, typer.Option(min=1, help="dequantisations of an image")] = 2,
    probes: Annotated[int, typer.Option(min=1, help="Hutchinson probes of a draw")] = 2,
    law: Annotated[str, typer.Option(help="of the probes: rademacher or gaussian")] = "rademacher",
    dequantisation: Annotated[
        str, typer.Option(help="uniform, variational, or name or card (.yaml) of a dequantiser")
    ] = "uniform",
    seed: Annotated[int, typer.Option(min=0, help="of dequantisation and probes")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="images solved at once")] = 256,
    folder: Annotated[Path | None, typer.Option(help="of a checkpoint trained here")] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Bits/dim of images under a checkpoint's probability flow, with each of its errors apart."""
    from bench.environment import resolve_device
    from bench.likelihood_command import bits_of

    _load_plugins(plugin)
    where = resolve_device(device)
    size = (n, draws, probes, batch_size)
    values = bits_of(checkpoint, data, solver, nfe, grid, size, law, seed, where, folder, dequantisation)
    if as_json:
        sys.stdout.write(json.dumps(values, indent=1) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("", "value", "standard error"):
        table.add_column(column)
    for entry in values.values():
        value, error = (None if number is None else f"{number:.4g}" for number in (entry["value"], entry["error"]))
        table.add_row(f"{entry['label']}, {entry['unit']}", value or entry["reason"], error)
    out.print(table)


@app.command()
def encode(
    checkpoint: Annotated[str, typer.Argument(help="name of a checkpoint, see `list checkpoints`")],
    out_folder: Annotated[Path, typer.Option("--out", help="folder for figures and table")] = Path("results/encoding"),
    data: Annotated[str, typer.Option(help="split of its data: test or train")] = "test",
    solver: Annotated[str, typer.Option(help="ODE solver, name or name?setting=value")] = "dpmpp_3m",
    nfe: Annotated[int, typer.Option(min=1, help="evaluations each way, for fixed steps")] = 50,
    n: Annotated[int, typer.Option(min=2, help="images, the first of the split")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="of the dequantisation")] = 0,
    folder: Annotated[Path | None, typer.Option(help="of a checkpoint trained here")] = None,
    device: DeviceOption = "auto",
    plugin: PluginOption = None,
) -> None:
    """Encode images, decode them and what lies between two of them: three figures and a table."""
    from bench.encoding_figures import write_encoding
    from bench.environment import resolve_device
    from bench.image_model import CheckpointModel

    _load_plugins(plugin)
    model = CheckpointModel(checkpoint, data, resolve_device(device), folder)
    for path in write_encoding(model, solver, nfe, n, seed, out_folder):
        out.print(path, soft_wrap=True, markup=False, highlight=False)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="name of a score model, see `list checkpoints`")],
    folder: Annotated[Path | None, typer.Option(help="of a checkpoint trained here")] = None,
    n: Annotated[int | None, typer.Option(min=2, help="samples [as many as the reference has]")] = None,
    images: Annotated[int | None, typer.Option(min=2, help="held-out images for bits/dim [all, at most 1000]")] = None,
    draws: Annotated[int, typer.Option(min=1, help="dequantisations of an image")] = 1,
    probes: Annotated[int, typer.Option(min=1, help="Hutchinson probes of a draw")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="of starts, dequantisation and probes")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="samples or images solved at once")] = 256,
    statistics: Annotated[
        Path | None, typer.Option(help="file that `statistics` wrote, whose distance is taken [the shipped one]")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="into the card, and the samples beside the weights")] = False,
    out_folder: Annotated[Path, typer.Option("--out", help="without --write: folder for the samples")] = Path(
        "results/evaluation"
    ),
    device: DeviceOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON object")] = False,
) -> None:
    """Converged samples of a score model, their Fréchet distance beside real images', bits/dim: for its card."""
    from bench.environment import resolve_device
    from bench.evaluate import Amount, lines_of, own_files, write_evaluation
    from bench.evaluate import evaluate as measure
    from pretrained.provenance import write_atomically

    amount = Amount(n, images, draws, probes, seed, batch_size)
    if write:
        own_files(checkpoint, folder)
    found, picture = measure(checkpoint, amount, resolve_device(device), folder, statistics)
    if write:
        written = list(write_evaluation(checkpoint, found, picture, folder))
    else:
        out_folder.mkdir(parents=True, exist_ok=True)
        written = [out_folder / f"{Path(checkpoint).name}.png"]
        write_atomically(written[0], picture)
    if as_json:
        sys.stdout.write(json.dumps(found.model_dump(mode="json"), indent=1) + "\n")
        return
    for line in [*lines_of(found), f"Written: {', '.join(map(str, written))}"]:
        out.print(line, soft_wrap=True, markup=False, highlight=False)


@app.command()
def statistics(
    data: Annotated[str, typer.Argument(help="name of a data set, see `list data`")],
    extractor: Annotated[str, typer.Option(help="a classifier of `list checkpoints`, or inception-v3-compat")],
    out_file: Annotated[Path, typer.Option("--out", help="file to write, .npz")],
    split: Annotated[str, typer.Option(help="test or train")] = "test",
    setting: Annotated[list[str] | None, typer.Option(help="of the data, NAME=VALUE; repeatable")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Mean and covariance of real images' features, with the hashes that `evaluate` holds them against."""
    from bench.environment import resolve_device
    from bench.feature_statistics import data_settings, save_statistics, statistics_of

    found = statistics_of(data_settings(data, setting or ()), split, extractor, resolve_device(device))
    save_statistics(found, out_file)
    text = f"{found.about.n} images, {found.about.features} features, hash {found.sha256}: {out_file}"
    out.print(text, soft_wrap=True, markup=False, highlight=False)


@app.command()
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


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="problems, solvers, peers, metrics, kinds, matrices or checkpoints")],
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON list of objects")] = False,
    plugin: PluginOption = None,
) -> None:
    """List what is on the menus."""
    from bench.menus import MENUS
    from solvers.errors import unknown_name

    _load_plugins(plugin)
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


@app.command()
def train(
    card: Annotated[str, typer.Argument(help="name of a shipped card, or path of a YAML file")],
    out_folder: Annotated[Path, typer.Option("--out", help="folder for weights and card")] = Path("results/training"),
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="go on with a run that was stopped or killed")] = False,
    minutes: Annotated[float | None, typer.Option(min=0, help="stop after so many, to be resumed")] = None,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="minutes between checkpoints")] = 10,
    logs: Annotated[bool, typer.Option(help="write TensorBoard's event files below OUT/logs")] = True,
) -> None:
    """Train a checkpoint from its card, in one stretch or in several (--minutes, --resume)."""
    from bench.environment import resolve_device
    from pretrained.card import load_card
    from pretrained.train import train as train_card
    from pretrained.training.processes import is_first

    chosen = load_card(card)
    where = resolve_device(device)
    with _told_when_interrupted("Interrupted: the same command with --resume goes on from the last checkpoint."):
        finished = train_card(
            chosen,
            out_folder,
            where,
            resume=resume,
            minutes=minutes,
            checkpoint_minutes=checkpoint_minutes,
            logs=logs,
        )
    if not is_first():
        return
    if finished.result is None:
        out.print("Stopped before the last step: the same command with --resume goes on.")
        return
    out.print(f"Weights and card: {out_folder / chosen.name}.safetensors, .yaml", soft_wrap=True)


@app.command()
def conformance(
    vectors: Annotated[Path | None, typer.Argument(help="recorded arrays, .npz")] = None,
    index: Annotated[Path | None, typer.Argument(help="index of the cases, .json")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="instead of cases: a network's weights, .pth")] = None,
    config: Annotated[Path | None, typer.Option(help="its settings, .json")] = None,
    network_vectors: Annotated[
        Path | None, typer.Option("--vectors", help="its recorded inputs and outputs, .npz")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON list of objects")] = False,
) -> None:
    """Run recorded cases of the reference implementation again and compare; exit code 1 if one fails."""
    from bench.conformance import conformance as run_all
    from bench.network_conformance import network_conformance

    if vectors and index and not (checkpoint or config or network_vectors):
        results = run_all(vectors, index)
    elif checkpoint and config and network_vectors and not vectors:
        results = [network_conformance(checkpoint, config, network_vectors)]
    else:
        rule = "it takes VECTORS and INDEX, or --checkpoint, --config and --vectors"
        raise UsageError("conformance", rule, None, "Give the one or the other, whole")
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
def audit(
    out_folder: Annotated[Path, typer.Option("--out", help="folder for audit.json, .csv and .md")] = Path(
        "results/runs/audit"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="print the rows as a JSON list too")] = False,
) -> None:
    """Measure orders and evaluations of other libraries' samplers against what they claim; eight minutes."""
    from bench.audit import CASES
    from bench.audit import audit as rows_of
    from bench.audit_tables import write_audit
    from bench.environment import environment, resolve_device
    from bench.native import level_runs

    where, rows = environment(resolve_device("cpu")), []
    with _progress() as progress:
        task = progress.add_task("starting", total=len(CASES))
        for row in rows_of():
            rows.append(row)
            progress.update(task, advance=1, description=row.solver)
            if not out.is_terminal and not as_json:
                out.print(f"{len(rows)}/{len(CASES)} {row.solver}: {row.finding}", soft_wrap=True, markup=False)
    written = write_audit(rows, list(level_runs()), where, out_folder)
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    else:
        out.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True, markup=False)


@app.command()
def check(
    solvers: Annotated[list[str] | None, typer.Argument(help="names, or name?setting=value&setting=value")] = None,
    every: Annotated[bool, typer.Option("--all", help="every registered solver")] = False,
    plugin: PluginOption = None,
    against: Annotated[str | None, typer.Option(help="compare with this solver too, on the same starts")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="as a JSON list of objects")] = False,
    out_folder: Annotated[Path | None, typer.Option("--out", help="folder for certificates and provenance")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="processes [one a processor]")] = None,
) -> None:
    """Certify solvers: measured order, counted evaluations, invariances; exit code 1 if a claim fails."""
    from bench import check as checking
    from bench.certificate_tables import summary, tables
    from bench.rivals import compared
    from solvers.registry import parse_solver

    plugins = _load_plugins(plugin)
    names = [*(solvers or ()), *(path.stem for path in plugin or () if not solvers and not every)]
    chosen = checking.selected(names, every)
    rival = parse_solver(against) if against else None
    tasks = checking.tasks_of(chosen)
    with _progress(err) as progress:
        bar = progress.add_task("certificates", total=len(tasks))
        done = []
        every_few = max(1, len(tasks) // REPORTS)
        for task, found in checking.lines_of(tasks, plugins, jobs or _processors()):
            done.append((task, found))
            if not err.is_terminal and len(tasks) > REPORTS and len(done) % every_few == 0:
                err.print(f"{len(done)}/{len(tasks)}, {task.solver} on {task.sde}", highlight=False)
            progress.update(bar, advance=1, description=f"{task.solver} {task.sde}")
        lines = checking.in_order(done, tasks)
        if rival is not None:
            progress.update(bar, description=f"against {against}")
            lines += [line for solver in chosen for line in compared(solver, rival)]
    if out_folder is not None:
        checking.write(lines, out_folder)
    if as_json:
        sys.stdout.write(checking.as_json(lines))
    else:
        for table in tables(lines):
            out.print(table)
        out.print(summary(lines), highlight=False)
    if any(line.verdict == "fail" for line in lines):
        raise typer.Exit(1)


@app.command(name="new-solver")
def new_solver(
    name: Annotated[str, typer.Argument(help="registry key, lower snake case")],
    out_folder: Annotated[Path | None, typer.Option("--out", help="folder [solvers/methods of the checkout]")] = None,
) -> None:
    """Write a solver's one file, with a step that works and its docstring."""
    from bench.new_solver import new_solver as write

    path = write(name, out_folder)
    option = f" --plugin {path}" if out_folder is not None else ""
    text = f"Written: {path}\nPut your step there, then: scorebench check {name}{option}"
    out.print(text, soft_wrap=True, markup=False, highlight=False)


@app.command()
def docs(
    check: Annotated[bool, typer.Option("--check", help="write nothing; exit code 1 if something is stale")] = False,
) -> None:
    """Render the documents' tables from the registries and the committed records."""
    from bench.docs import update_pages

    stale = update_pages(check)
    if not stale:
        out.print("Every page is up to date.")
    elif check:
        err.print(f"Stale: {', '.join(stale)}. Run scorebench docs.")
        raise typer.Exit(1)
    else:
        out.print(f"Rendered anew: {', '.join(stale)}")


def _board(board: "Leaderboard") -> Table:
    """A leaderboard for the terminal: values alone, rows that have one."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in board.heads:
        table.add_column(head, no_wrap=True)
    for solver, grid, entries in board.rows:
        if any(entry.short for entry in entries):
            table.add_row(solver, grid, *(f"[bold]{e.short}[/bold]" if e.best else e.short for e in entries))
    return table


@contextmanager
def _told_when_interrupted(text: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end a run with a word on what is kept (typer would end it without)."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(text)
        raise typer.Exit(130) from None
    except SystemExit:
        err.print(text)
        raise


@contextmanager
def _only_run_on(device: str) -> Iterator[None]:
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


def _load_plugins(plugins: list[Path] | None) -> list[str]:
    from solvers.registry import load_plugin

    paths = [str(path.resolve()) for path in plugins or []]
    for path in paths:
        load_plugin(path)
    return paths


def _threads() -> int:
    """Threads that OMP_NUM_THREADS asks for, or one a processor."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else _processors()


def _processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _progress(console: Console = out) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )


def main() -> None:
    """Entry point: a mistake of the user's ends with one message and exit code 2."""
    try:
        app()
    except UsageError as error:
        err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
