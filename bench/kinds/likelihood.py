"""Likelihood: the density of data by a solver, upwards along the probability flow, timed, with its errors apart."""

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench import environment
from bench.bare_calls import bare_seconds
from bench.dequantisation import dequantiser_of
from bench.kinds.kind import Cell, Kind, failure, register_kind
from bench.kinds.sampling import WARM_UP_SAMPLES, Solve, cost_of
from bench.likelihood import Plan, converged, dequantised, grid_upwards, image_divergence, image_likelihood
from bench.metrics.bits_per_dim import LikelihoodOutcome
from bench.metrics.log_density import DensityOutcome
from bench.metrics.metric import Outcome, get_metric
from bench.problems.problem import ImageProblem, Problem
from bench.record import CellSpec, Record
from solvers.divergence import Divergence, ExactDivergence
from solvers.errors import DivergenceError
from solvers.likelihood import log_density
from solvers.process import Evaluations
from solvers.registry import get_solver
from solvers.solver import FixedStepSolver, Solver

# Those that have a leaderboard; the errors beside them stand in the records and in a table of their own.
IMAGE_METRICS = ("bits_per_dim_error", "bits_per_dim")
ERRORS_APART = ("bits_probe_error", "bits_dequantisation_error", "bits_prior_mismatch", "bits_smoothing", "bits_bound")
EXACT_METRICS = ("log_density_error",)


@dataclass(frozen=True)
class Found:
    """A solve: log-densities or bits/dim, their rows' number, what it cost, and how metrics see it."""

    values: Tensor
    rows: int
    evaluations: list[Evaluations]
    seconds: float
    outcome: Callable[[], Outcome]


@register_kind
class Likelihood(Kind):
    """From data at t_min_likelihood up to t_max.

    On a problem whose density is known: n draws of the law at t_min_likelihood, the divergence and the law at t_max
    exact. On images: the first n held-out ones, uniformly dequantised, with Rademacher probes; two draws of two probes
    each and no sketch of Hutch++, unless the cell says otherwise.
    """

    key: ClassVar[str] = "likelihood"
    summary: ClassVar[str] = "log-density of data by ODE solvers; of images in bits/dim, its errors apart"

    @classmethod
    def metrics(cls, problem: type[Problem]) -> tuple[str, ...]:
        if _has_density(problem):
            return EXACT_METRICS
        return IMAGE_METRICS if _has_images(problem) else ()

    def measure(self, cell: Cell) -> tuple[Record, Tensor | None]:
        spec, problem = cell.spec, cell.problem
        solver = get_solver(spec.solver, **spec.settings)
        steps = None
        if solver.stochastic:
            return failure(spec, "skipped", "not an ODE solver"), None
        if not cell.metrics:
            return failure(spec, "skipped", f"{spec.problem} has neither a known density nor discrete images"), None
        if isinstance(solver, FixedStepSolver):
            assert spec.budget is not None
            if solver.nfe(1) > spec.budget:
                reason = f"one step takes {solver.nfe(1)} evaluations, the budget is {spec.budget}"
                return failure(spec, "skipped", reason), None
            steps = solver.steps_for(spec.budget)
        ts = grid_upwards(spec.grid if steps else "uniform", problem.sde, steps or 1)
        likelihood = _exact if _has_density(type(problem)) else _images

        began = environment.now(problem.device)
        coarse = ts if len(ts) < 4 else ts[[0, len(ts) // 2, -1]]
        few = spec.model_copy(update={"n": min(spec.n, WARM_UP_SAMPLES), "batch_size": None})
        with contextlib.suppress(DivergenceError):
            likelihood(few, problem, solver, coarse)
        _bare_call(spec, problem)[0]()
        warm_up_seconds = environment.now(problem.device) - began

        before = _bare_seconds(spec, problem)
        environment.reset_peak_memory(problem.device)
        joules = environment.energy(problem.device)
        found = likelihood(spec, problem, solver, ts)
        peak_memory, after = environment.peak_memory(problem.device), environment.energy(problem.device)
        taken = None if joules is None or after is None else after - joules
        bare = statistics.median(before + _bare_seconds(spec, problem))

        diverged = None if bool(found.values.isfinite().all()) else "log-densities are not finite"
        began = environment.now(problem.device)
        values = {}
        if not diverged:
            outcome = found.outcome()
            apart = [] if _has_density(type(problem)) else [get_metric(name) for name in ERRORS_APART]
            values = {metric.key: metric.evaluate(outcome) for metric in [*cell.metrics, *apart]}
        metric_seconds = environment.now(problem.device) - began

        solve = Solve(found.values, found.evaluations, found.seconds, peak_memory, taken)
        record = Record(
            spec=spec,
            status="diverged" if diverged else "done",
            reason=diverged,
            last="keep",
            cost=cost_of(solve, steps, found.rows, bare, cell.load_seconds, warm_up_seconds, metric_seconds),
            metrics=values,
            environment=environment.environment(problem.device),
        )
        return record, None


def _has_density(problem: type[Problem]) -> bool:
    return hasattr(problem, "log_density") and hasattr(problem, "marginal_sample")


def _has_images(problem: type[Problem]) -> bool:
    return issubclass(problem, ImageProblem)


def _plan(spec: CellSpec, problem: Any) -> Plan:
    asked = {name: value for name in ("draws", "probes", "sketch") if (value := getattr(spec, name)) is not None}
    flow = dequantiser_of(spec.dequantisation, problem)
    return Plan(n=spec.n, seed=spec.seed, batch_size=spec.batch_size, dequantiser=flow, **asked)


def _images(spec: CellSpec, problem: Any, solver: Solver, ts: Tensor) -> Found:
    plan = _plan(spec, problem)
    solve = image_likelihood(problem, solver, ts, plan)

    def outcome() -> Outcome:
        return LikelihoodOutcome(spec, problem, solver, solve.end.cpu(), solve, converged(problem, plan))

    return Found(solve.bits, len(solve.x), solve.evaluations, solve.seconds, outcome)


def _exact(spec: CellSpec, problem: Any, solver: Solver, ts: Tensor) -> Found:
    start, end = float(ts[0]), float(ts[-1])
    x = problem.marginal_sample(start, problem.normals(spec.n, spec.seed), "data")
    process = problem.process()
    began = environment.now(problem.device)
    found = log_density(solver, process, x, ts, ExactDivergence(), lambda z: problem.log_density(z, end))
    seconds = environment.now(problem.device) - began

    def outcome() -> Outcome:
        exact = problem.log_density(x, start).double().cpu()
        return DensityOutcome(spec, problem, solver, x.cpu(), found.log_p.cpu(), exact)

    return Found(found.log_p, len(x), [process.evaluations], seconds, outcome)


def _bare_call(spec: CellSpec, problem: Any) -> tuple[Callable[[], object], int]:
    """A single evaluation with its derivative passes, on a batch of the solve's size, and the batch's rows."""
    n = min(spec.batch_size or spec.n, spec.n)
    divergence: Divergence = ExactDivergence()
    x = problem.prior(n, spec.seed)
    if _has_images(type(problem)):
        plan = _plan(spec, problem)
        draws = range(plan.draws)
        x = torch.cat([dequantised(problem, plan, draw, 0, n) for draw in draws])
        divergence = image_divergence(problem, plan, draws, 0, n)
    process = problem.process()
    return lambda: process.score_and_divergence(x, problem.sde.t_max / 2, divergence), len(x)


def _bare_seconds(spec: CellSpec, problem: Any) -> list[float]:
    """Seconds a row of such evaluations; what they take of memory is gone before the solve."""
    call, rows = _bare_call(spec, problem)
    return [seconds / rows for seconds in bare_seconds(call, problem.device)]
