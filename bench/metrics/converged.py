"""The converged trajectory of a learned problem: the solver's error apart from the model's.

From the same x_T every ODE solver comes to the same end as its steps shrink. That end, by an adaptive solver whose
order is certified, at a tight tolerance and with a step size for each sample, is what rows are held against.
"""

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.metrics.metric import Metric, Outcome, register_metric, replicates
from bench.metrics.pathwise import root_mean_square
from bench.problems.problem import Problem
from bench.record import MetricValue
from bench.references import kept
from solvers.grids import make_grid
from solvers.registry import get_solver
from solvers.solver import integrate

SOLVER = "rk45"
# Of the trajectories that rows are held against, in double precision, and of those that check them.
TIGHT, CHECKED = 1e-8, 1e-7
# Starts of theirs: convolutions in double precision take the CPU five times as long.
STARTS, CHECKS = 32, 8
# Of whole samples, in the network's own precision: far below a level of an image.
LOOSE = 1e-5


def converged_end(problem: Problem, x: Tensor, tolerance: float, dtype: torch.dtype) -> Tensor:
    """States at t_min of starts x (n, ...), at a tolerance, the network in a floating type."""
    process = problem.process()
    if isinstance(process.network, nn.Module):
        process.network = copy.deepcopy(process.network).to(dtype)
    solver = get_solver(SOLVER, rtol=tolerance, atol=tolerance)
    return integrate(solver, process, x.to(dtype), make_grid("uniform", problem.sde, 1))


@lru_cache(maxsize=8)
def converged_samples(problem: Problem, n: int, seed: int) -> Tensor:
    """The converged solve of a cell's starts, (n, ...), on the CPU."""
    x = problem.prior(n, seed)
    return _kept(problem, x, [LOOSE], lambda: {"ends": converged_end(problem, x, LOOSE, problem.dtype)})["ends"]


@lru_cache(maxsize=8)
def _tight(problem: Problem, n: int, seed: int) -> tuple[Tensor, float]:
    """Ends of the cell's first starts, float64, on the CPU; distance of some from those at ten times the tolerance."""
    x = problem.prior(n, seed)[:STARTS]
    tolerances = {"ends": (TIGHT, STARTS), "checks": (CHECKED, CHECKS)}

    def compute() -> dict[str, Tensor]:
        return {
            name: converged_end(problem, x[:starts], tolerance, torch.float64)
            for name, (tolerance, starts) in tolerances.items()
        }

    found = _kept(problem, x, [tolerances, "float64"], compute)
    return found["ends"], root_mean_square(found["checks"] - found["ends"][:CHECKS])[0]


def _kept(problem: Problem, x: Tensor, settings: object, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Ends of solves from starts x, on the CPU, kept with the run."""
    facts = {"hashes": problem.hashes, "model": [problem.key, repr(problem.sde)], "settings": [SOLVER, settings]}
    return kept("trajectories", {"starts": x}, facts, compute)


@register_metric
class TrajectoryRmse(Metric):
    """Distance of the samples from the converged solve of the same network from the same x_T: the solver's error alone.

    sqrt(mean over samples and coordinates of (x_tmin - converged)^2)

    over the cell's first 32 starts, converged by ``rk45`` at 1e-8 in double precision. Floor: the distance of eight
    of them from the solve at 1e-7. Nothing of it is the model's error, or the prior's.
    """

    key: ClassVar[str] = "trajectory_rmse"
    label: ClassVar[str] = "RMS distance from the converged trajectory"
    unit: ClassVar[str] = "units of x"
    floor_of: ClassVar[str] = "the reference itself"
    most: ClassVar[int | None] = STARTS
    resolves: ClassVar[bool] = True
    reference: ClassVar[str] = "global error of an ODE solver, Hairer, Nørsett & Wanner 1993, sec. II.3"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        if outcome.solver.stochastic:
            return MetricValue(reason="not an ODE solver")
        ends, floor = _tight(outcome.problem, outcome.spec.n, outcome.spec.seed)
        difference = outcome.samples[:STARTS].double() - ends
        value, error = root_mean_square(difference)
        left = replicates(lambda kept: root_mean_square(kept)[0], difference)
        return MetricValue(value=value, standard_error=error, floor=floor, replicates=left)
