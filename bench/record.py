"""The record of one cell: what was asked, what it cost, what came out, where it ran."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from solvers.solver import LastStep

SCHEMA_VERSION = 1

# Before a solver's name, where a record has the hash of its file.
PLUGIN = "solver "

Status = Literal["done", "diverged", "timeout", "out_of_memory", "error", "skipped"]


def file_stem(problem: str) -> str:
    """A problem's name in the names of files: of the path of a card its name, and a hash that tells it from others."""
    path = Path(problem)
    return f"{path.stem}-{hashlib.sha256(problem.encode()).hexdigest()[:6]}" if path.suffix else problem


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CellSpec(_Section):
    """What a cell computes; equal specs have equal results, timing apart.

    Attributes:
        problem: key of the problem, or the path of a card.
        n: number of samples.
        solver: key of the solver.
        settings: its settings, tolerances included.
        grid: key of the grid; ``adaptive`` where the solver chooses its steps.
        budget: network evaluations a sample that may be spent; None for adaptive solvers.
        seed: seed of start and noise.
        device: ``cpu``, ``cuda`` or ``cuda:i``.
        batch_size: samples a chunk; None for all at once.
        kind: what is computed, see :mod:`bench.kinds`.
        draws, probes: of a likelihood of images, dequantisations of each and Hutchinson probes of each of those.
        sketch: likewise, directions of Hutch++; None for Hutchinson's estimate.
        dequantisation: likewise, ``variational`` or a dequantiser's name; None for uniform.
        metrics: those taken of a sampling cell; None for all of the problem.
        last: the last step, see :func:`solvers.solver.integrate`; None for that of the kind.
    """

    problem: str
    n: int
    solver: str
    settings: dict[str, Any]
    grid: str
    budget: int | None
    seed: int
    device: str
    batch_size: int | None = None
    kind: str = "sampling"
    draws: int | None = None
    probes: int | None = None
    sketch: int | None = None
    dequantisation: str | None = None
    metrics: tuple[str, ...] | None = None
    last: LastStep | None = None

    @property
    def name(self) -> str:
        """File stem: readable, and unique by a hash of all fields."""
        # These came later: cells without them keep the names they had.
        sampling = self.kind == "sampling"
        fields = ("draws", "probes", "sketch", "dequantisation", "metrics", "last")
        later = {name for name in fields if getattr(self, name) is None}
        later |= {"kind"} if sampling else set()
        content = json.dumps(self.model_dump(exclude=later), sort_keys=True).encode()
        effort = f"nfe{self.budget}" if self.budget else f"tol{self.settings['rtol']:g}"
        digest = hashlib.sha256(content).hexdigest()[:10]
        solver = self.solver.replace(":", "-")
        kind = "" if sampling else f"-{self.kind}"
        return f"{file_stem(self.problem)}{kind}-{solver}-{self.grid}-{effort}-seed{self.seed}-{digest}"


class MetricValue(_Section):
    """One metric of one cell.

    Attributes:
        value: None where the metric does not apply or could not be taken.
        standard_error: from resampling the cell's samples.
        floor: the metric of exact samples of the same number, or its own resolution.
        converged: the same of the converged solve from the same starts: the model's part, without the solver's.
        reason: why there is no value.
        flag: what to know before trusting the value.
        own_nfe, own_seconds: where the value comes of a solve of its own, what that took: network evaluations a sample
            (a likelihood's with a derivative pass each), seconds.
        replicates: the value without one block of samples at a time (``bench.metrics.metric.replicates``).
    """

    value: float | None = None
    standard_error: float | None = None
    floor: float | None = None
    converged: float | None = None
    reason: str | None = None
    flag: str | None = None
    own_nfe: float | None = None
    own_seconds: float | None = None
    replicates: tuple[float, ...] | None = None


class Cost(_Section):
    """What the solve took.

    Attributes:
        steps: steps of the grid; None for adaptive solvers.
        nfe: network evaluations a sample, counted at the network, mean over samples.
        nfe_max: of the sample that took most.
        forwards: passes of the network.
        derivative_passes: derivative passes of the solve; zero in sampling.
        seconds: the solve.
        network_seconds: nfe times a bare call on the same batch, median of timings before and after the solve.
        overhead_seconds: the rest.
        overhead_per_evaluation: overhead / evaluations, seconds.
        load_seconds, warm_up_seconds, metric_seconds: off the clock.
        peak_memory_bytes: peak of the process (CPU: resident set) or of the device's allocator, during the solve.
        energy_joules: taken by the device during the solve, where it reports it.
    """

    steps: int | None
    nfe: float
    nfe_max: int
    forwards: int
    derivative_passes: int
    seconds: float
    network_seconds: float
    overhead_seconds: float
    overhead_per_evaluation: float
    load_seconds: float
    warm_up_seconds: float
    metric_seconds: float
    peak_memory_bytes: int | None
    energy_joules: float | None = None


class Environment(_Section):
    """Where a record was made. ``load_average``: of the machine over the minute before, what else ran."""

    date: str
    commit: str | None
    dirty: bool | None
    trees: dict[str, str]
    host: str
    cpu: str
    cores: int
    threads: int
    device: str
    load_average: float
    versions: dict[str, str]


class Record(_Section):
    """The result file of a cell."""

    schema_version: Literal[1] = 1
    spec: CellSpec
    status: Status
    last: str | None = None
    reason: str | None = None
    traceback: str | None = None
    cost: Cost | None = None
    metrics: dict[str, MetricValue] = {}
    hashes: dict[str, str] = {}
    environment: Environment

    @model_validator(mode="after")
    def _done_has_its_cost(self) -> Self:
        if self.status == "done" and self.cost is None:
            raise ValueError("a record of status done has its cost")
        return self
