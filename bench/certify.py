"""Certificates of solvers: the order of convergence, measured where the exact answer is known.

Error of N steps, in units of x, on the last state (last step ``keep``) from the exact law at t_max:

    ODE              e(N) = RMS over samples and coordinates of  x_N - flow(x_T)
    SDE, Gaussian    e(N) = RMS over coordinates of  (mean_N - mean, std_N - std);  no sampling error, see ``law_of``
    SDE, else        e(N) = |mean_j (|x_j^N|^2 - |x_j^2N|^2)|;  both on the same Brownian path, with a standard error

The order is the slope of log e over -log N by regression over the three finest levels above the problem's precision. It
passes from p - 0.2 (ODE) or p - 0.3 (law), if the last pair of levels alone does too. With a standard error, levels
count above 3 of them and the 95 % interval must lie above p - 0.3 and be narrower than 0.5. A larger slope is
superconvergence on that problem: it neither fails nor raises what the solver declares.

An order is a statement on the limit. Where the first levels do not show it, finer ones are taken (simulated: with more
samples), up to the finest that the time allows, and the verdict is theirs; the thresholds stay.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from bench.problems.gaussian import Gaussian
from bench.problems.problem import FlowProblem
from solvers.brownian import BrownianPath, UnitProbes
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.solver import FixedStepSolver, LastStep, integrate

Verdict = Literal["pass", "fail", "unresolved"]

GRID = "karras"
# Finest level at first and at last, in doublings from the coarsest.
COARSEST = 32
ODE_FINEST = (1024, 2048)
LAW_FINEST = (512, 1024)
# Levels and samples of a simulation; where these are not yet in the order's range, finer ones (at which the differences
# of a solver of lower order are still seen, those of the order declared perhaps no more); where they are lost in the
# sampling error, the same with more samples.
COUPLED = ((16, 32, 64, 128), 10_000)
FINER = (((24, 48, 96, 192), 20_000), ((64, 128, 256, 512), 20_000))
MORE = (16, 32, 64, 128), 20_000
# Halvings of an octave: the finest of these grids begins with steps of 2e-5 on the rectified flow.
PATH_LEVELS = 18
LEVELS = 3
# Rounding of a map that is affine, relative to its values.
AFFINE = 1e-9
SLACK_ODE, SLACK_LAW = 0.2, 0.3
# A wider interval of a simulated slope decides nothing.
WIDEST_INTERVAL = 0.5
RESAMPLES = 300


@dataclass(frozen=True)
class Order:
    """A measured order of convergence.

    Attributes:
        declared: what the solver declares.
        steps: steps of each level; for adaptive solvers mean evaluations a sample.
        errors: error of each level, units of x (of x^2 for coupled differences).
        slope: measured order; NaN where fewer than three levels are resolved.
        interval: 95 % interval of the slope where it was measured by simulation.
        verdict: against the declared order.
    """

    declared: int
    steps: tuple[float, ...]
    errors: tuple[float, ...]
    slope: float
    verdict: Verdict
    interval: tuple[float, float] | None = None


def order(
    solver: FixedStepSolver,
    problem: FlowProblem,
    seed: int = 0,
    levels: tuple[int, ...] | None = None,
    *,
    declared: int | None = None,
    quick: bool = False,
) -> Order:
    """Measure a solver's order on a problem.

    Args:
        solver: the solver.
        problem: where the exact answer is known.
        seed: of starts and paths.
        levels: numbers of steps in the place of the usual ones, except by simulation.
        declared: the order to hold it against, the solver's own if None.
        quick: begin with levels up to a fourth of the usual ones.

    Raises:
        UsageError: the solver declares no order.
    """
    declared = solver.order if declared is None else declared
    if declared is None:
        raise UsageError("order", f"{solver.key} declares no order of convergence", solver.settings)
    if not solver.stochastic:

        def ode(steps: Sequence[int]) -> list[float]:
            return ode_errors(solver, problem, steps, seed)

        if levels is not None:
            return _judged(declared, SLACK_ODE, levels, ode(levels), problem.flow_precision)
        return _climb(declared, SLACK_ODE, _tops(ODE_FINEST, quick), ode, problem.flow_precision)
    if isinstance(problem, Gaussian) and is_affine(solver, problem):

        def law(steps: Sequence[int]) -> list[float]:
            return law_errors(solver, problem, steps)

        if levels is not None:
            return _judged(declared, SLACK_LAW, levels, law(levels), problem.flow_precision)
        return _climb(declared, SLACK_LAW, _tops(LAW_FINEST, quick), law, problem.flow_precision)

    def coupled(form: tuple[tuple[int, ...], int]) -> Order:
        steps, n = form
        return simulated(declared, SLACK_LAW, steps[:-1], coupled_differences(solver, problem, steps, seed, n), seed)

    report = coupled(COUPLED)
    if report.verdict == "unresolved":
        report = coupled(MORE)
    for finer in FINER:
        if report.verdict == "fail":
            report = coupled(finer)
    return report


def doublings(finest: int) -> tuple[int, ...]:
    """Levels from the coarsest to the finest."""
    return tuple(COARSEST << k for k in range((finest // COARSEST).bit_length()))


def _tops(finest: tuple[int, int], quick: bool) -> tuple[int, ...]:
    first, last = finest
    return (first // 4, last) if quick else (first, last)


def _climb(
    declared: int,
    slack: float,
    tops: Sequence[int],
    measure: Callable[[Sequence[int]], list[float]],
    precision: float,
) -> Order:
    """The order up to the first of the finest levels at which it shows."""
    errors: list[float] = []
    for top in tops:
        steps = doublings(top)
        errors += measure(steps[len(errors) :])
        report = _judged(declared, slack, steps, errors, precision)
        if report.verdict == "pass":
            break
    return report


def ode_errors(
    solver: FixedStepSolver, problem: FlowProblem, steps: Sequence[int], seed: int, n: int = 16
) -> list[float]:
    """RMS error against the exact flow of n trajectories, for each number of steps."""
    sde = problem.sde
    x, exact = trajectories(problem, n, seed)
    results = (integrate(solver, problem.process(), x.clone(), make_grid(GRID, sde, count)) for count in steps)
    return [float((result - exact).square().mean().sqrt()) for result in results]


@lru_cache(maxsize=32)
def trajectories(problem: FlowProblem, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Starts from the exact law at t_max and the flow's ends at t_min, each (n, ...)."""
    sde = problem.sde
    x = problem.marginal_sample(sde.t_max, problem.normals(n, seed), "start")
    return x, problem.flow(x, sde.t_max, sde.t_min)


def law_errors(solver: FixedStepSolver, problem: Gaussian, steps: Sequence[int]) -> list[float]:
    """RMS error of mean and standard deviation of the law at t_min, for each number of steps."""
    mean, var = problem.law(problem.sde.t_min)
    errors = []
    for count in steps:
        mean_n, var_n = law_of(solver, problem, make_grid(GRID, problem.sde, count))
        errors.append(float(((mean_n - mean).square() + (var_n.sqrt() - var.sqrt()).square()).mean().sqrt()))
    return errors


def law_of(
    solver: FixedStepSolver,
    problem: Gaussian,
    ts: Tensor,
    last: LastStep = "keep",
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and variance of a solver's output on a diagonal Gaussian, each (8,), exact up to rounding.

    ``start`` holds mean and variance of x at ts[0], those of the exact law unless given.

    The score is linear and does not mix coordinates, hence so is the sampler in x_T and each of its draws: a run on a
    batch whose row 0 has no noise, row 1 one standard deviation in x_T, row k + 2 a unit in draw k reads it all off.

    Raises:
        UsageError: the solver's step depends on norms over the batch, so that it is not affine.
    """
    if solver.batch_coupled:
        raise UsageError("law_of", f"{solver.key} is not affine, its step depends on the batch", solver.settings)
    mean, var = problem.law(float(ts[0])) if start is None else start
    probes = UnitProbes(mean[None])
    integrate(solver, problem.process(), mean[None], ts, probes, last)
    x = mean.repeat(probes.count + 2, 1)
    x[1] += var.sqrt()
    result = integrate(solver, problem.process(), x, ts, UnitProbes(x, first=2), last)
    return result[0], (result[1:] - result[0]).square().sum(0)


def is_affine(solver: FixedStepSolver, problem: Gaussian) -> bool:
    """Whether a solver maps x_T and its draws affinely on a Gaussian, so that :func:`law_of` is its law."""
    if solver.batch_coupled:
        return False
    mean, var = problem.law(problem.sde.t_max)
    ts = make_grid(GRID, problem.sde, 4)
    # Row 0 without noise, the others with a unit in one draw: none, one and two deviations apart in x_T.
    rows = [mean.repeat(6, 1) + k * var.sqrt() for k in range(3)]
    try:
        none, one, two = (integrate(solver, problem.process(), x, ts, UnitProbes(x, first=1)) for x in rows)
    except UsageError:
        return False
    gain = one[:1] - none[:1]
    off = torch.maximum((one - none - gain).abs().max(), (two - one - gain).abs().max())
    # What is no number is for the law to tell.
    return not bool(off > AFFINE * none.abs().max())


def coupled_differences(
    solver: FixedStepSolver, problem: FlowProblem, steps: Sequence[int], seed: int, n: int = 10_000
) -> Tensor:
    """|x|^2 of one level less that of the next on the same paths, (levels - 1, n)."""
    sde = problem.sde
    x = problem.marginal_sample(sde.t_max, problem.normals(n, seed), "start")

    def paths() -> BrownianPath:
        return BrownianPath(problem.normals(n, seed), sde.t_max, PATH_LEVELS)

    squares = [
        integrate(solver, problem.process(), x, make_grid(GRID, sde, count), paths()).square().flatten(1).sum(1)
        for count in steps
    ]
    return torch.stack(squares).diff(dim=0)


def slope_of(steps: Tensor, errors: Tensor, weights: Tensor | None = None) -> float:
    """Regression of log error on -log steps, weighted or even."""
    weights = torch.ones_like(steps) if weights is None else weights
    u = -steps.log()
    u = u - (weights * u).sum() / weights.sum()
    return float((weights * u * errors.log()).sum() / (weights * u.square()).sum())


def _judged(declared: int, slack: float, steps: tuple[int, ...], errors: Sequence[float], precision: float) -> Order:
    """The order from errors that have no sampling error; one that is not finite fails."""
    finest = [(n, e) for n, e in zip(steps, errors, strict=True) if not e <= precision][-LEVELS:]
    report = Order(declared, steps, tuple(errors), math.nan, "unresolved")
    if len(finest) < LEVELS:
        return report
    levels, resolved = torch.tensor(finest, dtype=torch.float64).T
    slope, last = slope_of(levels, resolved), slope_of(levels[-2:], resolved[-2:])
    verdict: Verdict = "pass" if slope >= declared - slack and last >= declared - slack else "fail"
    return replace(report, slope=slope, verdict=verdict)


def simulated(declared: int, slack: float, steps: Sequence[float], differences: Tensor, seed: int) -> Order:
    """The order from coupled differences (levels, n) at so many steps, with a bootstrap interval over the samples."""
    n = differences.shape[1]
    mean, error = differences.mean(1), differences.std(1) / math.sqrt(n)
    finest = torch.nonzero(mean.abs() > 3 * error)[-LEVELS:, 0]
    report = Order(declared, tuple(steps), tuple(mean.abs().tolist()), math.nan, "unresolved")
    if len(finest) < LEVELS:
        return report
    levels = torch.tensor(steps, dtype=torch.float64)[finest]
    rows, weights = differences[finest], (mean / error)[finest].square()
    generator = torch.Generator().manual_seed(seed)
    draws = (rows[:, torch.randint(n, (n,), generator=generator)].mean(1) for _ in range(RESAMPLES))
    slopes = torch.tensor([slope_of(levels, draw.abs(), weights) for draw in draws])
    low, high = slopes.quantile(torch.tensor([0.025, 0.975])).tolist()
    least, narrow = declared - slack, high - low < WIDEST_INTERVAL
    verdict: Verdict = "pass" if narrow and low >= least else "fail" if narrow or high < least else "unresolved"
    return replace(report, slope=slope_of(levels, mean[finest].abs(), weights), verdict=verdict, interval=(low, high))
