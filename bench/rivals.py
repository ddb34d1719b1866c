"""Two solvers side by side: same starts, same paths, same budgets, and a verdict on the paired difference.

Two ODE solvers are compared by the pathwise error: the distance of each sample from the exact flow, paired sample by
sample. Where one draws noise, by the distance of its samples' law from the exact one (the Gaussian's W2 of the fits,
the mixture's sliced W2), paired seed by seed; stochastic solvers then take the mean of the last step. A 95 % interval
of the mean difference by Student's t decides: better or worse if it excludes 0, else undecided. Adaptive solvers run at
the tightest tolerance whose mean evaluations stay within the budget.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from scipy.stats import t as student
from torch import Tensor

from bench.certificate import PROBLEMS, Line, Verdict, get_problem_on
from bench.certify import trajectories
from bench.metrics.wasserstein import gaussian_w2, sliced_w2
from bench.problems.gaussian import Gaussian
from bench.problems.problem import FlowProblem
from solvers.grids import make_grid
from solvers.solver import FixedStepSolver, LastStep, Solver, integrate

SDE = "vp"
GRID = "log_snr"
BUDGETS = (10, 20, 50)
PAIRS = 256
SEEDS, SAMPLES = 12, 2000
CONFIDENCE = 0.95
# Tolerances of an adaptive solver, from loose to tight.
TOLERANCES = tuple(10 ** (-k / 4) for k in range(33))


def compared(solver: Solver, rival: Solver) -> Iterator[Line]:
    """A line for each problem and budget.

    Declared is the rival's error, measured the solver's, the interval that of the solver's less the rival's.
    """
    for key in PROBLEMS:
        problem = get_problem_on(key, SDE)
        for budget in BUDGETS:
            claim, pairs = _errors(solver, rival, problem, budget)
            name = f"{claim} at NFE {budget} against {rival.key}"
            if pairs is None:
                yield Line(solver.key, solver.settings, name, SDE, key, None, "no step within it", None, "undecided")
                continue
            own, other = pairs
            interval = difference_interval(own - other)
            yield Line(
                solver.key,
                solver.settings,
                name,
                SDE,
                key,
                float(other.mean()),
                float(own.mean()),
                interval,
                verdict_of(interval),
            )


def difference_interval(differences: Tensor) -> tuple[float, float]:
    """95 % interval of the mean of paired differences (n,)."""
    n = len(differences)
    error = float(differences.std()) / math.sqrt(n) * float(student.ppf((1 + CONFIDENCE) / 2, n - 1))
    mean = float(differences.mean())
    return mean - error, mean + error


def verdict_of(interval: tuple[float, float]) -> Verdict:
    """Of an error's difference: better below 0, worse above, else undecided."""
    low, high = interval
    return "better" if high < 0 else "worse" if low > 0 else "undecided"


def _errors(
    solver: Solver, rival: Solver, problem: FlowProblem, budget: int
) -> tuple[str, tuple[Tensor, Tensor] | None]:
    """What is compared, and both solvers' values, paired; None where one has no step within the budget."""
    by_law = solver.stochastic or rival.stochastic
    values = _law_distances if by_law else _path_errors
    claim = "law distance" if by_law else "pathwise error"
    own, other = _placed(solver, problem, budget), _placed(rival, problem, budget)
    if own is None or other is None:
        return claim, None
    return claim, (values(*own, problem), values(*other, problem))


def _placed(solver: Solver, problem: FlowProblem, budget: int) -> tuple[Solver, int] | None:
    """The solver and its steps within a budget; None where it has none."""
    if isinstance(solver, FixedStepSolver):
        return (solver, solver.steps_for(budget)) if solver.nfe(1) <= budget else None
    placed = None
    for tolerance in TOLERANCES:
        tuned = cast(Solver, replace(cast(Any, solver), rtol=tolerance, atol=tolerance))
        process = problem.process()
        integrate(tuned, process, problem.prior(PAIRS, 0), make_grid(GRID, problem.sde, 1), problem.brownian(PAIRS, 0))
        if process.evaluations.rows > budget * PAIRS:
            break
        placed = tuned, 1
    return placed


def _path_errors(solver: Solver, steps: int, problem: FlowProblem) -> Tensor:
    """Distance of each sample from the exact flow, rms over the coordinates, (n,)."""
    x, exact = trajectories(problem, PAIRS, 0)
    result = integrate(solver, problem.process(), x.clone(), make_grid(GRID, problem.sde, steps))
    return (result - exact).square().flatten(1).mean(1).sqrt()


def _law_distances(solver: Solver, steps: int, problem: FlowProblem) -> Tensor:
    """Distance of the samples' law from the exact one for each seed, (seeds,)."""
    distance: Callable[[Tensor, Tensor], float] = gaussian_w2 if isinstance(problem, Gaussian) else sliced_w2
    ts = make_grid(GRID, problem.sde, steps)
    last: LastStep = "mean" if solver.stochastic and not solver.adaptive else "keep"
    found = []
    for seed in range(SEEDS):
        x, brownian = problem.prior(SAMPLES, seed), problem.brownian(SAMPLES, seed)
        result = integrate(solver, problem.process(), x, ts, brownian, last)
        found.append(distance(result, problem.reference(SAMPLES, seed, 0)))
    return torch.tensor(found, dtype=torch.float64)
