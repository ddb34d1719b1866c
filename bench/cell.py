"""One cell: load, measure, record."""

import inspect
import traceback
from functools import lru_cache
from pathlib import Path

import torch

from bench import environment
from bench.kinds.kind import Cell, failure, get_kind
from bench.metrics.metric import get_metric
from bench.problems.problem import Problem, get_problem
from bench.record import PLUGIN, CellSpec, Status
from bench.references import kept_in
from bench.store import Store
from pretrained import provenance
from pretrained.data.data_set import MissingDataError
from pretrained.published import MissingCheckpointError
from solvers.errors import DivergenceError
from solvers.registry import solver_classes

# What a cell came to for good; one that failed otherwise is tried again by the next run.
SETTLED: tuple[Status, ...] = ("done", "diverged", "skipped")


@lru_cache(maxsize=2)
def load_problem(name: str, device: str) -> tuple[Problem, float]:
    """A problem, kept for the next cell, and the seconds it took to load."""
    began = environment.now(torch.device(device))
    problem = get_problem(name, device)
    return problem, environment.now(torch.device(device)) - began


def run_cell(spec: CellSpec, store: Store) -> Path:
    """Compute a cell unless its record is there, settled and made with the same files; returns the record's path.

    Whatever goes wrong while it is computed becomes the record's status; a published checkpoint or data that are not
    here, too, unless the cell was computed when they were.

    Raises:
        UsageError: the problem cannot be loaded, e.g. its checkpoint is damaged.
    """
    finished = store.finished(spec)
    try:
        problem, load_seconds = load_problem(spec.problem, spec.device)
    except MissingCheckpointError as error:
        if finished is not None and finished.status == "done":
            return store.record_path(spec)
        return store.write(failure(spec, "skipped", error.reason))
    kind = get_kind(spec.kind)
    metrics = [get_metric(name) for name in spec.metrics or kind.metrics(type(problem))]
    hashes = problem.hashes | {
        name: value for metric in metrics for name, value in metric.hashes(problem, spec).items()
    }
    hashes |= _plugin_hash(spec.solver)
    if finished is not None and finished.status in SETTLED and finished.hashes == hashes:
        return store.record_path(spec)
    try:
        with kept_in(store.folder / "references"):
            record, samples = kind.measure(Cell(spec, problem, metrics, load_seconds))
    except MissingDataError as error:
        # Without the hashes, so that the cell is computed once the data are here.
        return store.write(failure(spec, "skipped", error.reason))
    except Exception as error:
        record, samples = failure(spec, _status_of(error), str(error), traceback.format_exc()), None
    return store.write(record.model_copy(update={"hashes": hashes}), samples)


def _plugin_hash(solver: str) -> dict[str, str]:
    """Hash of the file of a solver from outside the project; the project's own are told by the commit."""
    cls = solver_classes().get(solver)
    if cls is None or cls.__module__.startswith("solvers."):
        return {}
    return {f"{PLUGIN}{solver}": provenance.sha256(Path(inspect.getfile(cls)).read_bytes())}


def _status_of(error: Exception) -> Status:
    if isinstance(error, DivergenceError):
        return "diverged"
    return "out_of_memory" if isinstance(error, MemoryError | torch.OutOfMemoryError) else "error"
