"""``scorebench check``: the certificates of many solvers, in parallel, and what is shown of them."""

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import torch
from rich import box
from rich.markup import escape
from rich.table import Table

from bench.certificate import FALLS, ORDERS, Comparison, Line, certificate
from bench.environment import environment
from bench.record import Environment
from solvers.errors import UsageError
from solvers.registry import get_solver, load_plugin, parse_solver, solver_classes, solver_names
from solvers.sde import SDES
from solvers.solver import Solver

# Certificates that are shown line by line; of more, each has a row.
IN_FULL = 6
CERTIFICATES, PROVENANCE = "certificates.json", "provenance.json"
SHOWN_WITH_PROBLEM = (*ORDERS, FALLS)
MARKS = {
    "pass": "",
    "fail": " [bold red]✗[/bold red]",
    "unresolved": " [yellow]?[/yellow]",
    "not claimed": " [dim]n.c.[/dim]",
    "better": " [green]better[/green]",
    "worse": " [red]worse[/red]",
    "undecided": " undecided",
}


@dataclass(frozen=True)
class Task:
    """A solver on an SDE."""

    solver: str
    settings: dict[str, Any]
    sde: str


def selected(names: Sequence[str], every: bool) -> list[Solver]:
    """The solvers to certify: a bare name stands for all settings its class certifies, ``name?settings`` for itself.

    Raises:
        UsageError: nothing chosen, or names beside ``every``, or an unknown name or setting.
    """
    if every == bool(names):
        got = list(names) if every else None
        raise UsageError("check", "give solvers or --all", got, "E.g. scorebench check heun; scorebench list solvers")
    chosen: list[Solver] = []
    for name in solver_names() if every else names:
        solver = parse_solver(name)
        chosen += [solver] if "?" in name else [get_solver(name, **settings) for settings in solver.certified]
    return list(dict.fromkeys(chosen))


def tasks_of(solvers: Iterable[Solver]) -> list[Task]:
    """A task for each solver and SDE; those of an SDE together, which share its exact solutions."""
    return [Task(solver.key, solver.settings, sde) for sde in SDES for solver in solvers]


def lines_of(tasks: Sequence[Task], plugins: Sequence[str], processes: int) -> Iterator[tuple[Task, list[Line]]]:
    """Each task with its lines, as they come; in this process alone if one is enough."""
    if processes <= 1 or len(tasks) <= len(SDES):
        yield from ((task, _run(task)) for task in tasks)
        return
    # Threads of a forked process may hang; a fresh one loads torch once.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (tuple(plugins),)) as pool:
        futures = {pool.submit(_run, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start(plugins: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for path in plugins:
        load_plugin(path)


def _run(task: Task) -> list[Line]:
    return list(certificate(get_solver(task.solver, **task.settings), task.sde))


def in_order(done: Iterable[tuple[Task, list[Line]]], tasks: Sequence[Task]) -> list[Line]:
    """The lines solver by solver, whatever the order in which they came."""
    found = [(task, lines) for task, lines in done]
    solvers = list(dict.fromkeys(title(task.solver, task.settings) for task in tasks))
    sdes = list(SDES)
    found.sort(key=lambda item: (solvers.index(title(item[0].solver, item[0].settings)), sdes.index(item[0].sde)))
    return [line for _, lines in found for line in lines]


def title(solver: str, settings: dict[str, Any]) -> str:
    """``key?setting=value&...`` with the settings that are not the defaults, as it is typed."""
    cls = solver_classes().get(solver)
    defaults = {field.name: field.default for field in fields(cls)} if cls is not None else {}
    changed = [f"{key}={_written(value)}" for key, value in settings.items() if value != defaults.get(key)]
    return solver + ("?" + "&".join(changed) if changed else "")


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_json(lines: Sequence[Line]) -> str:
    """The lines as a JSON list, an object a line of text."""
    return "[\n" + ",\n".join(json.dumps(asdict(line)) for line in lines) + "\n]\n"


def write(lines: Sequence[Line], folder: Path) -> None:
    """``certificates.json``, and ``provenance.json`` beside it: versions, commit, machine, date."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CERTIFICATES).write_text(as_json(lines), encoding="utf-8")
    provenance = environment(torch.device("cpu")).model_dump_json(indent=1)
    (folder / PROVENANCE).write_text(provenance + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[list[Line], Environment | None]:
    """The lines that were written to a folder and where they were measured; none if there are none."""
    if not (folder / CERTIFICATES).is_file():
        return [], None
    lines = [Line(**entry) for entry in json.loads((folder / CERTIFICATES).read_text(encoding="utf-8"))]
    return lines, Environment.model_validate_json((folder / PROVENANCE).read_text(encoding="utf-8"))


def tables(lines: Sequence[Line]) -> Iterator[Table]:
    """What the terminal shows: a table a certificate, or one with a row a certificate and one of what did not pass."""
    certificates: dict[str, list[Line]] = {}
    comparisons = [line for line in lines if line.verdict in get_args(Comparison)]
    for line in lines:
        if line not in comparisons:
            certificates.setdefault(title(line.solver, line.settings), []).append(line)
    if len(certificates) <= IN_FULL:
        yield from (_in_full(name, own) for name, own in certificates.items())
    else:
        yield from _in_rows(certificates, lines)
    if comparisons:
        yield _listed("comparison on the same starts and paths", comparisons)


def _in_rows(certificates: dict[str, list[Line]], lines: Sequence[Line]) -> Iterator[Table]:
    yield _overview(certificates)
    open_lines = [line for line in lines if line.verdict in ("fail", "unresolved")]
    if open_lines:
        yield _listed("not passed", open_lines)


def _in_full(name: str, lines: Sequence[Line]) -> Table:
    """A row a claim and problem, a column an SDE."""
    table = _table(escape(name))
    sdes = list(dict.fromkeys(line.sde for line in lines))
    for head in ("claim", "declared", *sdes):
        table.add_column(head, no_wrap=head in sdes)
    rows: dict[str, dict[str, Line]] = {}
    for line in lines:
        place = f", {line.problem.removesuffix('_2d')}" if line.claim in SHOWN_WITH_PROBLEM else ""
        rows.setdefault(line.claim + place, {})[line.sde] = line
    for claim, own in rows.items():
        cells = (_cell(own[sde]) if sde in own else "" for sde in sdes)
        table.add_row(claim, _common([line.declared for line in own.values()]), *cells)
    return table


def _common(declared: Sequence[float | None]) -> str:
    known = {value for value in declared if value is not None}
    return "" if not known else number(known.pop()) if len(known) == 1 else "each its own"


def _cell(line: Line) -> str:
    if isinstance(line.measured, str):
        return escape(line.measured[:40]) + MARKS[line.verdict]
    text = "" if line.measured is None else number(line.measured)
    if line.interval is not None and line.claim in ORDERS:
        text += f" ±{(line.interval[1] - line.interval[0]) / 2:.2f}"
    return text + ("[cyan]↑[/cyan]" if line.superconvergent else "") + MARKS[line.verdict]


def _overview(certificates: dict[str, list[Line]]) -> Table:
    table = _table("certificates")
    for head in ("solver", "order", "Gaussian", "mixture", "evaluations", "pass", "fail", "unresolved", "not claimed"):
        table.add_column(head, justify="left" if head == "solver" else "right", overflow="fold")
    for name, lines in certificates.items():
        counts = Counter(line.verdict for line in lines)
        numbers = (str(counts[v]) if counts[v] else "" for v in ("pass", "fail", "unresolved", "not claimed"))
        evaluations = {line.verdict for line in lines if line.claim.startswith("evaluations")}
        counted = "counted" if evaluations == {"pass"} else "✗"
        declared = next((line.declared for line in lines if line.claim in ORDERS), None)
        orders = (measured_range(lines, problem) for problem in ("gaussian", "mixture_2d"))
        order = "" if declared is None else number(declared)
        style = "red" if counts["fail"] else "yellow" if counts["unresolved"] else None
        table.add_row(escape(name), order, *orders, counted, *numbers, style=style)
    return table


def measured_range(lines: Iterable[Line], problem: str) -> str:
    """Least and largest order that was measured on a problem, over the SDEs."""
    orders = [
        line.measured
        for line in lines
        if line.claim in ORDERS and line.problem == problem and isinstance(line.measured, float)
    ]
    if not orders:
        return "–"
    low, high = f"{min(orders):.2f}", f"{max(orders):.2f}"
    return low if low == high else f"{low}…{high}"


def _listed(heading: str, lines: Sequence[Line]) -> Table:
    table = _table(heading)
    for head in ("solver", "claim", "SDE", "on", "declared", "measured"):
        table.add_column(head, overflow="fold")
    for line in lines:
        name = escape(title(line.solver, line.settings))
        declared = "" if line.declared is None else number(line.declared)
        table.add_row(name, line.claim, line.sde, line.problem, declared, _cell(line))
    return table


def _table(heading: str) -> Table:
    return Table(title=heading, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def number(value: float) -> str:
    """Counts as they are, orders to two digits, differences by their size."""
    if value == int(value):
        return str(int(value))
    return f"{value:.2f}" if abs(value) >= 0.05 else f"{value:.0e}"


def summary(lines: Sequence[Line]) -> str:
    """One line: how many of each verdict."""
    counts: Counter[str] = Counter(line.verdict for line in lines)
    certificates = len({title(line.solver, line.settings) for line in lines})
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in MARKS if counts[verdict])
    legend = "  (↑ superconvergent here)" if any(line.superconvergent for line in lines) else ""
    return f"{certificates} certificates, {len(lines)} claims: {told}{legend}"
