"""``scorebench check``: the certificates of many solvers, in parallel; their file."""

import json
import math
import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from bench.certificate import ACCEPTS, Line, certificate, refusal
from bench.environment import environment
from bench.record import Environment
from bench.rivals import SDE
from solvers.errors import UsageError
from solvers.registry import get_solver, load_plugin, parse_solver, solver_classes, solver_names
from solvers.sde import SDES
from solvers.solver import Solver

CERTIFICATES, PROVENANCE = "certificates.json", "provenance.json"


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
    # Those of other libraries have no hash.
    return [solver for k, solver in enumerate(chosen) if solver not in chosen[:k]]


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
    """The lines solver by solver, whatever the order in which they came; those of a solver that accepts no SDE fail."""
    found = [(task, lines) for task, lines in done]
    solvers = list(dict.fromkeys(title(task.solver, task.settings) for task in tasks))
    sdes = list(SDES)
    found.sort(key=lambda item: (solvers.index(title(item[0].solver, item[0].settings)), sdes.index(item[0].sde)))
    lines = [line for _, lines in found for line in lines]
    useful = {_of(line) for line in lines if line.claim != ACCEPTS}
    return [line if _of(line) in useful else replace(line, verdict="fail") for line in lines]


def _of(line: Line) -> str:
    """The solver of a line, with its settings."""
    return title(line.solver, line.settings)


def title(solver: str, settings: dict[str, Any]) -> str:
    """``key?setting=value&...`` with the settings that are not the defaults, as it is typed."""
    cls = solver_classes().get(solver)
    defaults = {field.name: field.default for field in fields(cls)} if cls is not None else {}
    changed = [f"{key}={_written(value)}" for key, value in settings.items() if value != defaults.get(key)]
    return solver + ("?" + "&".join(changed) if changed else "")


def _written(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{'-' if value < 0 else ''}.{abs(value)!s}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def as_json(lines: Sequence[Line]) -> str:
    """The lines as a JSON list, an object a line of text; settings that JSON has no number for as they are typed."""
    entries = [asdict(line) | {"settings": {k: _plain(v) for k, v in line.settings.items()}} for line in lines]
    return "[\n" + ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries) + "\n]\n"


def _plain(value: object) -> object:
    return _written(value) if isinstance(value, float) and not math.isfinite(value) else value


def comparable(solver: Solver) -> None:
    """Refuse a solver that cannot be compared with another, before anything is measured.

    Raises:
        UsageError: it does not run on the SDE of comparisons.
    """
    why = refusal(solver, SDE)
    if why is not None:
        raise UsageError("check", f"--against compares on {SDE}", why, "Leave it out")


def prepare(folder: Path) -> None:
    """Make the folder of a file of certificates, before they are measured.

    Raises:
        UsageError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError("check", f"{folder} cannot be written", error.strerror, "Give another --out") from error


def write(lines: Sequence[Line], folder: Path) -> None:
    """``certificates.json``, and ``provenance.json`` beside it: versions, commit, machine, date."""
    (folder / CERTIFICATES).write_text(as_json(lines), encoding="utf-8")
    provenance = environment(torch.device("cpu")).model_dump_json(indent=1)
    (folder / PROVENANCE).write_text(provenance + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[list[Line], Environment | None]:
    """The lines that were written to a folder and where they were measured; none if there are none."""
    if not (folder / CERTIFICATES).is_file():
        return [], None
    lines = [Line(**entry) for entry in json.loads((folder / CERTIFICATES).read_text(encoding="utf-8"))]
    return lines, Environment.model_validate_json((folder / PROVENANCE).read_text(encoding="utf-8"))
