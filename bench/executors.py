"""Running cells: one worker process, killed when a cell overruns, restarted when it dies."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bench.cell import run_cell
from bench.environment import full_precision
from bench.kinds.kind import failure, kind_classes
from bench.metrics.metric import metric_classes
from bench.problems.problem import problem_classes
from bench.record import CellSpec, Status
from bench.store import Store
from solvers.errors import UsageError

# Seconds between a worker's looks at whether the run that started it still lives.
WATCH = 0.5
# Seconds an idle worker is given to end by itself.
LEAVE = 5.0


class LocalWorker:
    """Cells in a process of their own: a crash, a kill or an endless loop costs that cell only.

    Args:
        folder: of the run.
        timeout_seconds: a cell that takes longer is killed and recorded as ``timeout``.
        plugins: files that register solvers.
        threads: of torch in the worker.
    """

    def __init__(self, folder: Path, timeout_seconds: float, plugins: Sequence[str], threads: int) -> None:
        self._arguments = (str(folder), tuple(plugins), threads)
        self._store = Store(folder)
        self._timeout = timeout_seconds
        self._process: BaseProcess | None = None
        self._connection: Connection[Any, Any] | None = None

    def __enter__(self) -> "LocalWorker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None and self._connection is not None and self._process is not None:
            # An idle worker ends by itself, and tidies up, once nobody is there to send cells.
            self._connection.close()
            self._process.join(LEAVE)
        self._stop()

    def run(self, spec: CellSpec) -> Path:
        """Compute a cell; returns the path of its record, whatever became of it.

        Raises:
            UsageError: the cell's problem cannot be loaded.
        """
        try:
            connection = self._start()
            connection.send(spec.model_dump())
            if not connection.poll(self._timeout):
                self._stop()
                return self._store.write(failure(spec, "timeout", f"took longer than {self._timeout:g} s"))
            kind, text = connection.recv()
        except (EOFError, OSError):
            assert self._process is not None
            self._process.join()
            code = self._process.exitcode or 0
            self._stop()
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            # The kernel's out-of-memory killer sends SIGKILL; nothing else here does.
            status: Status = "out_of_memory" if code == -signal.SIGKILL else "error"
            return self._store.write(failure(spec, status, f"the worker process ended by {how}"))
        if kind == "usage":
            raise UsageError(text)
        return Path(text)

    def _start(self) -> "Connection[Any, Any]":
        """The connection to a worker that is ready: its imports are on no cell's time."""
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs, os.getpid(), *self._arguments), daemon=True)
            # Ctrl-C is for the run to answer, also while the worker is still importing.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            self._process.start()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
            self._connection.recv()
        return self._connection

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def _work(connection: "Connection[Any, Any]", parent: int, folder: str, plugins: tuple[str, ...], threads: int) -> None:
    """The worker: cells in, paths out, until the other end is gone."""
    import torch

    from solvers.registry import load_plugin, solver_classes

    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    full_precision()
    for plugin in plugins:
        load_plugin(plugin)
    store = Store(Path(folder))
    for menu in (solver_classes, problem_classes, metric_classes, kind_classes):
        menu()
    connection.send("ready")
    while True:
        try:
            spec = CellSpec.model_validate(connection.recv())
        except EOFError:
            return
        try:
            connection.send(("path", str(run_cell(spec, store))))
        except UsageError as error:
            connection.send(("usage", str(error)))


def _watch(parent: int) -> None:
    """End the worker when its run was killed: nobody waits for the cell, and a new run may be starting."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os._exit(1)
