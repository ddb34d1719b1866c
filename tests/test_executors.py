"""Cells in a worker process: killed, overrun, orphaned."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from records import cell

from bench.executors import LocalWorker
from bench.record import CellSpec, Record
from bench.store import Store
from solvers import registry

SOLVER = """
import os, sys, time
from dataclasses import dataclass
from typing import ClassVar
from solvers.registry import register
from solvers.solver import FixedStepSolver

@register
@dataclass(frozen=True)
class Mine(FixedStepSolver):
    family: ClassVar[str] = "test"
    order: ClassVar[int | None] = 1
    stochastic: ClassVar[bool] = False
    reference: ClassVar[str] = "none"

    def nfe(self, steps):
        return steps

    def step(self, process, x, t, s, brownian, state):
        {step}
        return process.denoised(x, t), state
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Write a file that registers a solver whose step begins with a statement, and load it."""
    monkeypatch.setattr(registry, "_SOLVERS", registry.solver_classes())

    def write(name: str, step: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(SOLVER.format(step=step))
        registry.load_plugin(path)
        return str(path)

    return write


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_worker_that_dies_or_overruns_costs_its_own_cell_only(
    tmp_path: Path, plugin: Callable[[str, str], str]
) -> None:
    note = tmp_path / "pid"
    plugins = [
        plugin("killed", "os.kill(os.getpid(), 9)"),
        plugin("endless", f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"),
    ]
    store = Store(tmp_path / "run")
    store.create()
    with LocalWorker(store.folder, 8.0, plugins, 1) as worker:

        def run(spec: CellSpec) -> Record:
            return store.read(worker.run(spec))

        died = run(cell("killed"))
        assert died.status == "out_of_memory", "who kills by SIGKILL is the kernel, short of memory"
        assert died.reason == "the worker process ended by signal SIGKILL"
        done = run(cell("euler"))
        assert done.status == "done"
        assert done.environment.threads == 1
        began = time.monotonic()
        late = run(cell("endless"))
        took = time.monotonic() - began
        assert (late.status, late.reason) == ("timeout", "took longer than 8 s")
        assert late.cost is None
        assert 8 <= took < 60
        assert gone(int(note.read_text())), "its process is killed"
        run(cell("heun"))
        idle = worker._process
    assert idle is not None
    assert idle.exitcode == 0, "an idle worker leaves by itself"
    assert {item.status for item in store.records()} == {"done", "out_of_memory", "timeout"}


ORPHAN = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from records import cell
from bench.executors import LocalWorker
from bench.store import Store
from solvers.registry import load_plugin

if __name__ == "__main__":
    load_plugin({plugin!r})
    store = Store(Path({folder!r}))
    store.create()
    with LocalWorker(store.folder, 600.0, [{plugin!r}], 1) as worker:
        worker.run(cell("endless"))
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that end with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_the_worker_ends_when_its_run_is_killed(
    tmp_path: Path, plugin: Callable[[str, str], str], started: list[subprocess.Popen[str]]
) -> None:
    note, script = tmp_path / "pid", tmp_path / "orphan.py"
    path = plugin("endless", f"open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(1000)")
    tests = str(Path(__file__).parent)
    script.write_text(ORPHAN.format(tests=tests, plugin=path, folder=str(tmp_path / "run")))
    parent = subprocess.Popen([sys.executable, str(script)], text=True)
    started.append(parent)
    assert wait_for(lambda: note.is_file() and note.read_text() != "", 90), "the cell runs"
    worker = int(note.read_text())
    assert psutil.pid_exists(worker)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    if not wait_for(lambda: gone(worker), 10):
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlived its run")
    assert not list((tmp_path / "run" / "records").iterdir()), "an unfinished cell leaves no record"
