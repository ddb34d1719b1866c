"""Records and cells made by hand, for the tests of the harness."""

from pathlib import Path
from typing import Any

from torch import Tensor

from bench.cell import run_cell
from bench.metrics.metric import Statistic, jackknife_error, replicates
from bench.record import CellSpec, Cost, Environment, MetricValue, Record
from bench.store import Store
from solvers.registry import get_solver
from solvers.solver import FixedStepSolver


def cell(solver: str = "euler", **changes: Any) -> CellSpec:
    """A small cell on ``gaussian``, its settings the solver's own."""
    content: dict[str, Any] = {
        "problem": "gaussian",
        "n": 16,
        "solver": solver,
        "settings": {},
        "grid": "log_snr",
        "budget": 10,
        "seed": 0,
        "device": "cpu",
    }
    content |= changes
    content["settings"] = {**get_solver(solver).settings, **content["settings"]}
    return CellSpec(**content)


def compute(spec: CellSpec, folder: Path) -> Record:
    """Run a cell into a folder."""
    store = Store(folder)
    store.create()
    return store.read(run_cell(spec, store))


def cost(**changes: Any) -> Cost:
    content: dict[str, Any] = {
        "steps": 10,
        "nfe": 10.0,
        "nfe_max": 10,
        "forwards": 10,
        "derivative_passes": 0,
        "seconds": 0.5,
        "network_seconds": 0.3,
        "overhead_seconds": 0.2,
        "overhead_per_evaluation": 0.02,
        "load_seconds": 0.1,
        "warm_up_seconds": 0.1,
        "metric_seconds": 0.1,
        "peak_memory_bytes": 10**8,
    }
    return Cost(**{**content, **changes})


def environment(**changes: Any) -> Environment:
    content: dict[str, Any] = {
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "trees": {},
        "host": "here",
        "cpu": "a processor",
        "cores": 2,
        "threads": 1,
        "device": "cpu",
        "load_average": 0.5,
        "versions": {"python": "3.11"},
    }
    return Environment(**{**content, **changes})


def record(spec: CellSpec, values: dict[str, Any] | None = None, status: Any = "done", **changes: Any) -> Record:
    """A record with given metrics: a number is a value, a pair has its standard error, a text is a reason.

    A whole one is itself.
    """
    metrics = {}
    for key, value in (values or {}).items():
        if isinstance(value, MetricValue):
            metrics[key] = value
        elif isinstance(value, str):
            metrics[key] = MetricValue(reason=value)
        else:
            number, error = value if isinstance(value, tuple) else (value, 0.01)
            metrics[key] = MetricValue(value=number, standard_error=error, floor=0.001)
    solver = get_solver(spec.solver, **spec.settings)
    nfe = solver.nfe(solver.steps_for(spec.budget)) if isinstance(solver, FixedStepSolver) and spec.budget else 10
    content = {"cost": cost(nfe=float(nfe)) if status == "done" else None, "environment": environment(), **changes}
    return Record(spec=spec, status=status, metrics=metrics, **content)


def fill(folder: Path, records: list[Record]) -> Store:
    """A run's folder that holds them."""
    store = Store(folder)
    store.create()
    for item in records:
        store.write(item)
    return store


def jackknife(statistic: Statistic, *samples: Tensor) -> float:
    """Standard error of a statistic of samples of equal size."""
    return jackknife_error(replicates(statistic, *samples))
