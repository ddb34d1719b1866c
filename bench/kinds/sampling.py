"""Sampling: a solver's samples, timed, and the metrics of them."""

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench import environment
from bench.bare_calls import bare_seconds
from bench.kinds.kind import Cell, Kind, failure, register_kind
from bench.metrics.metric import Outcome
from bench.problems.problem import Problem
from bench.record import CellSpec, Cost, MetricValue, Record
from bench.trial import evaluations_for_steps, last_step_of
from solvers.errors import DivergenceError
from solvers.grids import make_grid
from solvers.process import Evaluations
from solvers.registry import get_solver
from solvers.solver import FixedStepSolver, LastStep, Solver, integrate

# Samples of the warm-up, which only has to import and allocate.
WARM_UP_SAMPLES = 8
# Beyond this many times the start's root mean square a solution has left the data for good.
DIVERGED = 1e4


@dataclass(frozen=True)
class Solve:
    """A timed solve: samples, counted evaluations (one entry a chunk), seconds."""

    samples: Tensor
    evaluations: list[Evaluations]
    seconds: float
    peak_memory: int | None
    energy: float | None


@register_kind
class Sampling(Kind):
    """From the prior's draws down to t_min; every metric of the problem."""

    key: ClassVar[str] = "sampling"
    summary: ClassVar[str] = "samples from the prior's draws, and the problem's metrics of them"

    @classmethod
    def metrics(cls, problem: type[Problem]) -> tuple[str, ...]:
        return problem.metrics

    def measure(self, cell: Cell) -> tuple[Record, Tensor | None]:
        spec, problem = cell.spec, cell.problem
        solver = get_solver(spec.solver, **spec.settings)
        last = spec.last or last_step_of(solver)
        steps = None
        if isinstance(solver, FixedStepSolver):
            assert spec.budget is not None
            least, most = solver.nfe(1), evaluations_for_steps(spec.budget, last)
            if least > most:
                reason = f"one step takes {least + spec.budget - most} evaluations, the budget is {spec.budget}"
                return failure(spec, "skipped", reason), None
            steps = solver.steps_for(most)
        ts = make_grid(spec.grid if steps else "uniform", problem.sde, steps or 1)
        start = problem.prior(spec.n, spec.seed)

        began = environment.now(problem.device)
        _warm_up(spec, problem, solver, ts, last)
        warm_up_seconds = environment.now(problem.device) - began

        before = _bare_seconds(problem, spec)
        solve = _solve(spec, problem, solver, start, ts, last)
        bare = statistics.median(before + _bare_seconds(problem, spec))

        diverged = _has_diverged(solve.samples, start)
        began = environment.now(problem.device)
        values: dict[str, MetricValue] = {}
        if not diverged:
            outcome = Outcome(spec, problem, solver, solve.samples.cpu())
            values = {metric.key: metric.measure(outcome) for metric in cell.metrics}
        metric_seconds = environment.now(problem.device) - began

        record = Record(
            spec=spec,
            status="diverged" if diverged else "done",
            reason=diverged,
            last=last,
            cost=cost_of(solve, steps, spec.n, bare, cell.load_seconds, warm_up_seconds, metric_seconds),
            metrics=values,
            environment=environment.environment(problem.device),
        )
        return record, solve.samples.cpu()


def _solve(spec: CellSpec, problem: Problem, solver: Solver, start: Tensor, ts: Tensor, last: LastStep) -> Solve:
    """The timed part: chunks one after the other, nothing else."""
    size = spec.batch_size or spec.n
    parts, evaluations = [], []
    environment.reset_peak_memory(problem.device)
    joules = environment.energy(problem.device)
    began = environment.now(problem.device)
    for first in range(0, spec.n, size):
        chunk = start[first : first + size]
        process = problem.process()
        brownian = problem.brownian(len(chunk), spec.seed, first) if solver.stochastic else None
        parts.append(integrate(solver, process, chunk, ts, brownian, last))
        evaluations.append(process.evaluations)
    samples = torch.cat(parts)
    seconds = environment.now(problem.device) - began
    after = environment.energy(problem.device)
    taken = None if joules is None or after is None else after - joules
    return Solve(samples, evaluations, seconds, environment.peak_memory(problem.device), taken)


def _warm_up(spec: CellSpec, problem: Problem, solver: Solver, ts: Tensor, last: LastStep) -> None:
    """A short solve of a few samples, on too few steps to be held against the solver; a call of the whole batch."""
    few = min(spec.n, WARM_UP_SAMPLES)
    coarse = ts if len(ts) < 4 else ts[[0, len(ts) // 2, -1]]
    brownian = problem.brownian(few, spec.seed) if solver.stochastic else None
    with contextlib.suppress(DivergenceError):
        integrate(solver, problem.process(), problem.prior(few, spec.seed), coarse, brownian, last)
    _bare_call(problem, spec)()


def _bare_call(problem: Problem, spec: CellSpec) -> Callable[[], Tensor]:
    """The network alone on a batch of the solve's size."""
    x = problem.prior(min(spec.batch_size or spec.n, spec.n), spec.seed)
    t = torch.full((len(x),), problem.sde.t_max / 2, dtype=x.dtype, device=x.device)
    network = problem.process().network

    def call() -> Tensor:
        with torch.no_grad():
            return network(x, t)

    return call


def _bare_seconds(problem: Problem, spec: CellSpec) -> list[float]:
    """Seconds a sample of bare calls; what they take of memory is gone before the solve."""
    rows = min(spec.batch_size or spec.n, spec.n)
    return [seconds / rows for seconds in bare_seconds(_bare_call(problem, spec), problem.device)]


def _has_diverged(samples: Tensor, start: Tensor) -> str | None:
    """Why the samples are of no use, if they are not."""
    if not bool(samples.isfinite().all()):
        return "samples are not finite"
    size, limit = (
        float(samples.double().square().mean().sqrt()),
        DIVERGED * float(start.double().square().mean().sqrt()),
    )
    return f"root mean square {size:.3g} exceeds {limit:.3g}" if size > limit else None


def cost_of(
    solve: Solve,
    steps: int | None,
    n: int,
    bare: float,
    load_seconds: float,
    warm_up_seconds: float,
    metric_seconds: float,
) -> Cost:
    """What a solve of n samples took, given the seconds of a bare evaluation of one sample."""
    calls = sum(e.calls for e in solve.evaluations)
    rows = sum(e.rows for e in solve.evaluations)
    network_seconds = rows * bare
    overhead = solve.seconds - network_seconds
    return Cost(
        steps=steps,
        nfe=rows / n,
        nfe_max=max(e.most for e in solve.evaluations),
        forwards=calls,
        derivative_passes=sum(e.derivative_passes for e in solve.evaluations),
        seconds=solve.seconds,
        network_seconds=network_seconds,
        overhead_seconds=overhead,
        overhead_per_evaluation=overhead / max(calls, 1),
        load_seconds=load_seconds,
        warm_up_seconds=warm_up_seconds,
        metric_seconds=metric_seconds,
        peak_memory_bytes=solve.peak_memory,
        energy_joules=solve.energy,
    )
