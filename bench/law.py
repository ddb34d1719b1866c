"""Whether a sampler's law has the right limit: a solver of another equation converges, too, to its own.

E f after STEPS[1] steps is held against the exact law's at t_min, for functions f of each coordinate y, in units of its
standard deviation, and of their sum: y, y^2, and cos and sin of y and 3y. The gap may be three times what the last
doubling of steps changed, which a method of any order above 0.42 keeps, and WIDTH standard errors.
"""

import math

import torch
from torch import Tensor

from bench.certify import GRID, PATH_LEVELS
from bench.problems.problem import FlowProblem
from solvers.brownian import BrownianPath
from solvers.grids import make_grid
from solvers.solver import FixedStepSolver, integrate

STEPS = 64, 128
SAMPLES, EXACT_SAMPLES = 4000, 40_000
CHANGES = 3.0
# Of a hundred functions of hundreds of solvers none is so far off by chance.
WIDTH = 5.0


def law_gap(solver: FixedStepSolver, problem: FlowProblem, seed: int = 0) -> float:
    """The largest gap to the exact law, in units of what it may be: at most 1 where the limit is right."""
    sde = problem.sde
    exact = problem.marginal_sample(sde.t_min, problem.normals(EXACT_SAMPLES, seed + 1), "exact law").flatten(1)
    mean, std = exact.mean(0), exact.std(0)
    x = problem.marginal_sample(sde.t_max, problem.normals(SAMPLES, seed), "start")
    values = [_functions((_end(solver, problem, x, steps, seed).flatten(1) - mean) / std) for steps in STEPS]
    wanted = _functions((exact - mean) / std)
    error = (values[1].var(0) / SAMPLES + wanted.var(0) / EXACT_SAMPLES).sqrt()
    change = (values[1] - values[0]).mean(0).abs()
    gap = (values[1].mean(0) - wanted.mean(0)).abs() / (CHANGES * change + WIDTH * error)
    return float(gap.nan_to_num(nan=math.inf).max())


def _end(solver: FixedStepSolver, problem: FlowProblem, x: Tensor, steps: int, seed: int) -> Tensor:
    path = BrownianPath(problem.normals(len(x), seed), problem.sde.t_max, PATH_LEVELS)
    return integrate(solver, problem.process(), x.clone(), make_grid(GRID, problem.sde, steps), path)


def _functions(y: Tensor) -> Tensor:
    """Each function of each sample, (n, functions), of states (n, d) in units of their deviation."""
    y = torch.cat([y, y.sum(1, keepdim=True) / math.sqrt(y.shape[1])], 1)
    return torch.cat([y, y.square(), *(wave(k * y) for k in (1, 3) for wave in (torch.cos, torch.sin))], 1)
