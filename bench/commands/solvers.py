"""Solvers: certificates, recorded cases, the audit of other libraries, a new one."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bench.console import REPORTS, PluginOption, err, load_plugins, out, processors, progress_bar
from solvers.errors import UsageError


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

    plugins = load_plugins(plugin)
    names = [*(solvers or ()), *(path.stem for path in plugin or () if not solvers and not every)]
    chosen = checking.selected(names, every)
    rival = parse_solver(against) if against else None
    for solver in [*chosen, rival] if rival is not None else ():
        checking.comparable(solver)
    if out_folder is not None:
        checking.prepare(out_folder)
    tasks = checking.tasks_of(chosen)
    with progress_bar(err) as progress:
        bar = progress.add_task("certificates", total=len(tasks))
        done = []
        every_few = max(1, len(tasks) // REPORTS)
        for task, found in checking.lines_of(tasks, plugins, jobs or processors()):
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
    with progress_bar() as progress:
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
