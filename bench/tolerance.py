"""Adaptive solvers: error against tolerance, and against the evaluations that a tolerance costs.

Both tolerances are set to the same value, from coarse to fine. ODE solvers are held against the exact flow. Solvers of
the SDE are held against a fine solve of stochastic Heun on the same Brownian paths. An order in which the samples
converge on their paths is one that their law has too, so the mean distance shows it; where it does not, the mean of
|x|^2 less the reference's does, with more samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from bench.certify import GRID, SLACK_LAW, SLACK_ODE, Order, Verdict, simulated, slope_of, trajectories
from bench.problems.problem import FlowProblem
from solvers.brownian import FINE_LEVELS, BrownianPath
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.registry import get_solver
from solvers.solver import AdaptiveSolver, integrate

COARSE = (1e-3, 1e-4, 1e-5, 1e-6)
# From order 5 on, and of order 8, which takes two steps at 1e-3, where these do not show it.
FINE = (1e-3, 1e-5, 1e-7, 1e-9)
FINER = (1e-5, 1e-7, 1e-9, 1e-11)
STOCHASTIC = (0.2, 0.1, 0.05, 0.025)
SAMPLES, PATHS, MORE_PATHS = 16, 400, 4000
REFERENCE_STEPS = 1000


@dataclass(frozen=True)
class WorkPrecision:
    """What tolerances buy.

    Attributes:
        tolerances: from coarse to fine.
        evaluations: mean evaluations a sample.
        errors: rms distance to the exact flow, or to the fine solve on the same paths; units of x.
        order: of the error (in law, for solvers of the SDE) against evaluations.
    """

    tolerances: tuple[float, ...]
    evaluations: tuple[float, ...]
    errors: tuple[float, ...]
    order: Order

    @property
    def worst(self) -> float:
        """Largest ratio of an error to the one at the tolerance before; below 1 the error falls throughout."""
        return max(fine / coarse for coarse, fine in pairwise(self.errors))


def work_precision(solver: AdaptiveSolver, problem: FlowProblem, seed: int = 0) -> WorkPrecision:
    """Sweep an adaptive solver over tolerances.

    Raises:
        UsageError: the solver declares no order.
    """
    declared = solver.order
    if declared is None:
        raise UsageError("order", f"{solver.key} declares no order of convergence", solver.settings)
    if not solver.stochastic:
        x, exact = trajectories(problem, SAMPLES, seed)
        for tolerances in (COARSE,) if declared < 5 else (FINE, FINER) if declared >= 8 else (FINE,):
            results, evaluations = _sweep(solver, problem, x, tolerances, seed)
            errors = _errors(results, exact)
            found = WorkPrecision(tolerances, evaluations, errors, _judged(declared, evaluations, errors))
            if found.order.verdict == "pass":
                break
        return found
    x, exact = on_paths(problem, PATHS, seed)
    results, evaluations = _sweep(solver, problem, x, STOCHASTIC, seed)
    distances = (results - exact).flatten(2).norm(dim=2)
    order = simulated(declared, SLACK_LAW, evaluations, distances, seed)
    if order.verdict != "pass":
        x, fine = on_paths(problem, MORE_PATHS, seed)
        finer, evaluations = _sweep(solver, problem, x, STOCHASTIC, seed)
        gap = (finer.square() - fine.square()).flatten(2).sum(2)
        order = simulated(declared, SLACK_LAW, evaluations, gap, seed)
    return WorkPrecision(STOCHASTIC, evaluations, _errors(results, exact), order)


def _sweep(
    solver: AdaptiveSolver, problem: FlowProblem, x: Tensor, tolerances: Sequence[float], seed: int
) -> tuple[Tensor, tuple[float, ...]]:
    """Ends at each tolerance (tolerances, n, ...), and mean evaluations a sample."""
    ends = make_grid("uniform", problem.sde, 1)
    results, evaluations = [], []
    for tolerance in tolerances:
        process = problem.process()
        tuned = replace(cast(Any, solver), rtol=tolerance, atol=tolerance)
        results.append(integrate(tuned, process, x.clone(), ends, problem.brownian(len(x), seed)))
        evaluations.append(process.evaluations.rows / len(x))
    return torch.stack(results), tuple(evaluations)


def _errors(results: Tensor, exact: Tensor) -> tuple[float, ...]:
    return tuple((results - exact).square().flatten(1).mean(1).sqrt().tolist())


def _judged(declared: int, evaluations: Sequence[float], errors: Sequence[float]) -> Order:
    """The order by regression over all tolerances."""
    slope = math.nan
    if all(error > 0 for error in errors):
        slope = slope_of(*(torch.tensor(values, dtype=torch.float64) for values in (evaluations, errors)))
    verdict: Verdict = "pass" if slope >= declared - SLACK_ODE else "fail"
    return Order(declared, tuple(evaluations), tuple(errors), slope, verdict)


@lru_cache(maxsize=12)
def on_paths(problem: FlowProblem, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Starts from the exact law at t_max, and their ends on their paths by a fine solve, each (n, ...)."""
    sde = problem.sde
    x = problem.marginal_sample(sde.t_max, problem.normals(n, seed), "start")
    ts = make_grid(GRID, sde, REFERENCE_STEPS)
    # The problem's path, resolved as finely for numbers as for times a sample.
    path = BrownianPath(problem.normals(n, seed), sde.t_max, FINE_LEVELS)
    return x, integrate(get_solver("stochastic_heun"), problem.process(), x, ts, path)
