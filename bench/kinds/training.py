"""Training: a small network under an objective, from the problem's exact law; what it learns and what a step costs.

All objectives train the same network from the same start on the same data. Steps are timed apart from the training, in
rounds that alternate with steps of denoising score matching, so that other load on the machine meets both.
"""

import copy
import statistics
from typing import ClassVar

import torch
from torch import Tensor

from bench import environment
from bench.kinds.kind import Cell, Kind, register_kind
from bench.metrics.training import Trained
from bench.problems.problem import FlowProblem, Problem
from bench.recipe import Recipe
from bench.record import CellSpec, Cost, Record
from bench.training_run import BATCH, Run
from solvers.errors import DivergenceError, UsageError
from solvers.grids import make_grid
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.solver import integrate

# Rounds of timed steps, and the steps of each in a round.
ROUNDS, STEPS = 15, 8
# The samples' solve, fine enough to add nothing to the network's error.
SOLVER, SOLVER_STEPS = "dpmpp_2m", 50


@register_kind
class Training(Kind):
    """The solver of a cell is an objective's name, its settings are a recipe's, its budget is of training steps."""

    key: ClassVar[str] = "training"
    summary: ClassVar[str] = "a small network trained under an objective: the error of its score, the cost of a step"
    by_evaluations: ClassVar[bool] = False
    heads: ClassVar[tuple[str, str, str]] = ("objective", "times", "steps")

    @classmethod
    def metrics(cls, problem: type[Problem]) -> tuple[str, ...]:
        return "score_error", "sliced_w2", "step_ratio", "step_time", "step_memory"

    def measure(self, cell: Cell) -> tuple[Record, Tensor | None]:
        spec, problem = cell.spec, cell.problem
        if not isinstance(problem, FlowProblem):
            raise UsageError("kind training", "the problem's law is known exactly", problem.key, "Take mixture_2d")
        assert spec.budget is not None
        recipe = Recipe.of(spec.solver, spec.settings)

        began = environment.now(problem.device)
        rounds = _timed(problem, recipe, spec)
        warm_up_seconds = environment.now(problem.device) - began

        run = Run(problem, recipe, spec.seed, spec.budget)
        environment.reset_peak_memory(problem.device)
        began = environment.now(problem.device)
        for _ in range(spec.budget):
            run.step()
        seconds = environment.now(problem.device) - began
        peak = environment.peak_memory(problem.device)
        if not run.is_finite():
            raise DivergenceError(f"weights are not finite after {spec.budget} steps")
        spent = copy.copy(run.evaluations)
        bare = _bare_seconds(run, problem) * spec.budget

        began = environment.now(problem.device)
        network = run.network.to(problem.dtype).eval().requires_grad_(False)
        solver, ts = get_solver(SOLVER), make_grid("log_snr", problem.sde, SOLVER_STEPS)
        process = ReverseProcess(problem.sde, network, "noise")
        samples = integrate(solver, process, problem.prior(spec.n, spec.seed), ts).cpu()
        memory = _saved_bytes(Run(problem, recipe, spec.seed, spec.budget))
        outcome = Trained(spec, problem, solver, samples, process, rounds, memory)
        values = {metric.key: metric.measure(outcome) for metric in cell.metrics}
        metric_seconds = environment.now(problem.device) - began

        cost = Cost(
            steps=spec.budget,
            nfe=spent.rows / BATCH,
            nfe_max=spent.rows // BATCH,
            forwards=spent.calls,
            derivative_passes=spent.derivative_passes,
            seconds=seconds,
            network_seconds=bare,
            overhead_seconds=seconds - bare,
            overhead_per_evaluation=(seconds - bare) / spent.calls,
            load_seconds=cell.load_seconds,
            warm_up_seconds=warm_up_seconds,
            metric_seconds=metric_seconds,
            peak_memory_bytes=peak,
        )
        where = environment.environment(problem.device)
        return Record(spec=spec, status="done", cost=cost, metrics=values, environment=where), samples


def _timed(problem: FlowProblem, recipe: Recipe, spec: CellSpec) -> list[tuple[float, float]]:
    """Seconds a step in each round: of the recipe, and of denoising score matching for the same network."""
    total = (ROUNDS + 1) * STEPS
    runs = [Run(problem, each, spec.seed, total) for each in (recipe, Recipe.of("denoising", {}))]
    rounds = []
    for _ in range(ROUNDS + 1):
        seconds = []
        for run in runs:
            began = environment.now(problem.device)
            for _ in range(STEPS):
                run.step()
            seconds.append((environment.now(problem.device) - began) / STEPS)
        rounds.append((seconds[0], seconds[1]))
    # The first round warms up.
    return rounds[1:]


def _bare_seconds(run: Run, problem: Problem) -> float:
    """Median seconds of a loss and its gradient."""
    seconds = []
    for _ in range(STEPS):
        began = environment.now(problem.device)
        run.gradient()
        seconds.append(environment.now(problem.device) - began)
    return statistics.median(seconds)


def _saved_bytes(run: Run) -> int:
    """Bytes that a loss keeps for its backward pass, the parameters left out: each stretch of memory once."""
    known = {parameter.untyped_storage().data_ptr() for parameter in run.network.parameters()}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Held until the end, so that no address comes twice.
        held.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run.loss()
    return sum(tensor.untyped_storage().nbytes() for place, tensor in held.items() if place not in known)
