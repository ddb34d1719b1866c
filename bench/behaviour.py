"""What a certificate claims of a solver beside its order: cost, times, and what a result depends on.

Each claim is taken on the common log-SNR grid from the prior, and gives what is declared (a count, or the most that a
difference may be) and what was measured.
"""

import contextlib
import copy
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from bench.problems.problem import Problem
from bench.trial import PeakBytes, Trial
from solvers.errors import UsageError
from solvers.solver import FixedStepSolver, Solver

STEPS = (1, 2, 5, 12, 60)
# Of these a solver may refuse so many, the first, as too few.
FEWEST = 3
# Where one number of steps is enough: above 20, below which the reference's chain on VP has no square root.
USUAL = 24
# Rounding of two runs that do the same operations in batches of different size, relative to 1 + |x|.
SPLIT = 1e-9
# Single against double precision, relative to 1 + |x|; an adaptive solver may take other steps.
SINGLE, SINGLE_ADAPTIVE = 1e-3, 0.02
# Peak memory of many steps over that of few. A history that grew with the steps would show as several times.
MEMORY, MEMORY_SAMPLES = 1.2, 3000
FEW, MANY = 8, 64
# Tolerances for few and for many steps of an adaptive solver, of the ODE and of the SDE.
LOOSE_TIGHT = {False: (1e-2, 1e-4), True: (0.3, 0.1)}


@dataclass(frozen=True)
class Finding:
    """One claim's outcome.

    Attributes:
        declared: what is claimed.
        measured: what was found; a text where something else than a number is wrong.
        holds: whether the claim holds; None where the solver does not make it.
        interval: range of what was measured, where it has one.
    """

    declared: float | None
    measured: float | str | None
    holds: bool | None
    interval: tuple[float, float] | None = None


def difference(a: Tensor, b: Tensor) -> float:
    """max |a - b| / (1 + |b|); infinite where one is no number and the other is."""
    gap = (a.double() - b.double()).abs() / (1 + b.double().abs())
    same = (a.isnan() & b.isnan()) | (a == b)
    return float(gap.masked_fill(same, 0).nan_to_num(nan=torch.inf).max())


def _numbers_of_steps(solver: Solver, problem: Problem) -> tuple[int, ...]:
    """One for a solver that chooses its own; from the fewest on that the solver does not refuse."""
    if solver.adaptive:
        return STEPS[:1]
    for k, steps in enumerate(STEPS[:FEWEST]):
        with contextlib.suppress(UsageError):
            Trial(solver, problem, n=2, steps=steps)
            return STEPS[k:]
    return STEPS[FEWEST:]


def evaluations(solver: Solver, problem: Problem) -> Finding:
    """Evaluations a sample: declared, or for adaptive solvers as recorded, against those that the network saw.

    Of rejected steps, probes and correctors too; at five numbers of steps, of which the first that differs is told.
    """
    n = 6
    for steps in _numbers_of_steps(solver, problem):
        trial = Trial(solver, problem, n=n, steps=steps)
        calls, rows = trial.calls, trial.rows
        measured = rows / n
        declared = float(solver.nfe(steps)) if isinstance(solver, FixedStepSolver) else trial.evaluations.rows / n
        recorded = (trial.evaluations.calls, int(trial.evaluations.per_sample(n).sum()))
        if measured != declared or recorded != (calls, rows):
            return Finding(declared, measured, False)
    return Finding(declared, measured, True)


def tweedie(solver: Solver, problem: Problem) -> Finding:
    """Evaluations with last step tweedie: one more, and the state is the denoised one."""
    keep, last = Trial(solver, problem, steps=USUAL), Trial(solver, problem, last="tweedie", steps=USUAL)
    denoised = problem.process().denoised(keep.x, float(keep.ts[-1]))
    before = solver.nfe(USUAL) if isinstance(solver, FixedStepSolver) else keep.calls
    declared, measured = float(before + 1), float(last.calls)
    return Finding(declared, measured, measured == declared and torch.equal(last.x.nan_to_num(), denoised.nan_to_num()))


def times(solver: Solver, problem: Problem) -> Finding:
    """How far outside [t_min, t_max] the network is called; the interval is the range of times."""
    spans = [Trial(solver, problem, steps=steps).span for steps in _numbers_of_steps(solver, problem)]
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    if low > high:
        return Finding(0.0, "never calls the network", False)
    outside = max(problem.sde.t_min - low, high - problem.sde.t_max, 0.0)
    return Finding(0.0, outside, outside == 0, (low, high))


def batch_split(solver: Solver, problem: Problem) -> Finding:
    """Difference between one batch and two; not claimed by solvers that couple the batch."""
    whole = Trial(solver, problem, n=10, steps=USUAL).x
    parts = torch.cat([Trial(solver, problem, n=4, steps=USUAL).x, Trial(solver, problem, n=6, first=4, steps=USUAL).x])
    gap = difference(whole, parts)
    return Finding(None, gap, None) if solver.batch_coupled else Finding(SPLIT, gap, gap <= SPLIT)


def determinism(solver: Solver, problem: Problem) -> Finding:
    """Difference between two runs under one seed; the global generator and the start stay as they were."""
    before = torch.get_rng_state()
    first, again = Trial(solver, problem, steps=USUAL), Trial(solver, problem, steps=USUAL)
    if not torch.equal(torch.get_rng_state(), before):
        return Finding(0.0, "draws from the global generator", False)
    if not first.kept:
        return Finding(0.0, "changes the start it is given", False)
    if difference(first.x, Trial(solver, problem, seed=1, steps=USUAL).x) < SPLIT:
        return Finding(0.0, "gives the same samples under another seed", False)
    gap = difference(again.x, first.x)
    return Finding(0.0, gap, gap == 0)


def precision(solver: Solver, problem: Problem) -> Finding:
    """Difference between single and double precision."""
    single = copy.copy(problem)
    single.dtype = torch.float32
    low, high = Trial(solver, single, steps=USUAL).x, Trial(solver, problem, steps=USUAL).x
    if low.dtype != torch.float32:
        return Finding(SINGLE, f"returns {low.dtype} for float32", False)
    bound = SINGLE_ADAPTIVE if solver.adaptive else SINGLE
    gap = difference(low, high)
    if high.dtype == torch.float64 and torch.equal(high.float().double(), high):
        return Finding(bound, "computes in single precision throughout", False)
    return Finding(bound, gap, gap <= bound)


def memory(solver: Solver, problem: Problem) -> Finding:
    """Peak memory of 64 steps over that of 8, of tensors and arrays; for adaptive solvers of a tight tolerance."""
    peaks = []
    for steps, tolerance in zip((FEW, MANY), LOOSE_TIGHT[solver.stochastic], strict=True):
        tuned = replace(cast(Any, solver), rtol=tolerance, atol=tolerance) if solver.adaptive else solver
        # What is imported and tabled once for these steps, or makes a table of all solvers grow, comes before.
        with PeakBytes():
            Trial(tuned, problem, n=2, steps=steps)
        tracemalloc.start()
        try:
            with PeakBytes() as tensors:
                Trial(tuned, problem, n=MEMORY_SAMPLES, steps=steps)
            peaks.append(tensors.peak + tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    ratio = peaks[1] / peaks[0]
    return Finding(MEMORY, ratio, ratio <= MEMORY)


CLAIMS: dict[str, Callable[[Solver, Problem], Finding]] = {
    "evaluations": evaluations,
    "evaluations, tweedie": tweedie,
    "times outside": times,
    "batch split": batch_split,
    "determinism": determinism,
    "float32": precision,
    "memory": memory,
}
