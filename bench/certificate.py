"""Certificates: what a solver claims on an SDE, line by line, against what is measured.

Order: on the Gaussian and on the mixture, see bench.certify (fixed steps) and bench.tolerance (adaptive, whose error
must fall with tolerance and against evaluations at the order). A multistep method whose start ramps up claims two: its
order before the limit, where the SDE's grid shows one, and at most 2 in it. Before the limit is taken where the local
slope is steepest; that it is reached is claimed on VP and sub-VP, elsewhere it is only told. Solvers whose bias no step
size removes claim none; if they take Langevin steps, they claim the bias: its closed form at three snr, and that it
falls as snr^2. Stochastic ones of fixed steps claim the law in the limit, see bench.law. The other claims, of
bench.behaviour, are taken on the mixture.

An SDE that the solver refuses makes one line of verdict "not claimed"; a solver that accepts none fails. A solver that
breaks down makes a line that fails, with the error's text as what was measured.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal, cast

import torch

from bench.behaviour import CLAIMS
from bench.certify import LEVELS, SLACK_ODE, doublings, ode_errors, order, slope_of
from bench.compare import Comparison
from bench.equilibrium import equilibrium
from bench.law import law_gap
from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import FlowProblem
from bench.tolerance import work_precision
from bench.trial import Trial
from solvers.errors import UsageError
from solvers.sde import get_sde
from solvers.solver import AdaptiveSolver, FixedStepSolver, Solver

Verdict = Literal["pass", "fail", "unresolved", "not claimed"] | Comparison

PROBLEMS: dict[str, type[Gaussian] | type[Mixture2d]] = {"gaussian": Gaussian, "mixture_2d": Mixture2d}

ORDER = "order"
BEFORE, LIMIT = "order before the limit", "order in the limit"
ACCEPTS = "accepts the SDE"
FALLS = "error falls with tolerance"
AGAINST_EVALUATIONS = "order against evaluations"
ORDERS = (ORDER, BEFORE, LIMIT, AGAINST_EVALUATIONS)
LAW = "law in the limit"
# SDEs on whose Karras grid a ramp's error is the method's own down to rounding, or nearly.
RAMP_SHOWS = ("vp", "subvp")
# A slope so far above the declared order is superconvergence there, and is marked.
SUPERCONVERGENT = 0.5

# What a solve keeps does not depend on the SDE.
MEMORY_ON = "vp"

SNRS = (0.5, 0.25, 0.125)
# Of a variance at equilibrium: times that move a little, and a predictor between the steps.
CLOSE = 1e-4


@dataclass(frozen=True)
class Line:
    """One claim on one SDE and problem.

    Attributes:
        solver, settings: the solver.
        claim: what is claimed.
        sde, problem: where.
        declared: the order, the count, or the most that a difference may be; None where nothing is claimed.
        measured: what was found; the error's text if the solver broke down.
        interval: of the measured value, where it has one; of times their range.
        verdict: pass, fail, unresolved or not claimed; of comparisons better, worse or undecided.
    """

    solver: str
    settings: dict[str, Any]
    claim: str
    sde: str
    problem: str
    declared: float | None
    measured: float | str | None
    interval: tuple[float, float] | None
    verdict: Verdict

    @property
    def superconvergent(self) -> bool:
        """Whether a measured order lies well above the declared one."""
        known = isinstance(self.measured, float) and self.declared is not None and self.claim in (ORDER, LIMIT)
        return known and cast(float, self.measured) >= cast(float, self.declared) + SUPERCONVERGENT


@cache
def get_problem_on(problem: str, sde: str) -> FlowProblem:
    """A problem of the certificate on an SDE at its defaults."""
    return PROBLEMS[problem](sde=get_sde(sde))


def certificate(solver: Solver, sde: str, quick: bool = False) -> Iterator[Line]:
    """The lines of a solver on an SDE.

    Args:
        solver: the solver.
        sde: its name.
        quick: from coarser levels, without the simulations on the mixture and the memory of adaptive solvers, which
            take most of the time.
    """

    def line(claim: str, problem: str, found: tuple[Any, Any, Any, Verdict]) -> Line:
        declared, measured, interval, verdict = found
        known = interval if interval is not None and all(map(math.isfinite, interval)) else None
        return Line(solver.key, solver.settings, claim, sde, problem, declared, _finite(measured), known, verdict)

    refused = refusal(solver, sde)
    if refused is not None:
        yield line(ACCEPTS, "mixture_2d", (None, refused, None, "not claimed"))
        return
    for problem in ("gaussian",) if quick and solver.stochastic else PROBLEMS:
        for claim, measure in _orders(solver, get_problem_on(problem, sde), quick):
            yield line(claim, problem, _guarded(measure))
    for problem in _laws_on(solver, sde, quick):
        yield line(LAW, problem, _guarded(partial(_law, cast(FixedStepSolver, solver), get_problem_on(problem, sde))))
    if isinstance(solver, FixedStepSolver) and solver.equilibrium_variance is not None:
        for claim, measure in _biases(solver, sde):
            yield line(claim, "gaussian", _guarded(measure))
    for claim, check in CLAIMS.items():
        if claim == "memory" and (sde != MEMORY_ON or (quick and solver.adaptive)):
            continue

        def behaviour(check: Any = check) -> tuple[Any, Any, Any, Verdict]:
            found = check(solver, get_problem_on("mixture_2d", sde))
            verdict: Verdict = "not claimed" if found.holds is None else "pass" if found.holds else "fail"
            return found.declared, found.measured, found.interval, verdict

        yield line(claim, "mixture_2d", _guarded(behaviour))


Found = tuple[Any, Any, Any, Verdict]
"""Declared, measured, interval, verdict."""
Measure = Callable[[], Found]


def _finite(measured: float | str | None) -> float | str | None:
    """JSON knows no NaN, which is nothing measured, and no infinity, which is told in words."""
    if not isinstance(measured, float) or math.isfinite(measured):
        return measured
    return None if math.isnan(measured) else str(measured)


def _guarded(measure: Measure) -> Found:
    """What was found; an error of the solver's is a claim that fails."""
    try:
        return measure()
    except Exception as error:
        return None, f"{type(error).__name__}: {error}", None, "fail"


def refusal(solver: Solver, sde: str) -> str | None:
    """The text with which the solver refuses the SDE, if it does."""
    try:
        Trial(solver, get_problem_on("mixture_2d", sde), n=2)
    except UsageError as error:
        return str(error)
    except Exception:
        # The claims will tell.
        return None
    return None


def _orders(solver: Solver, problem: FlowProblem, quick: bool) -> Iterator[tuple[str, Measure]]:
    """The claims about the error."""
    if solver.order is None:
        yield ORDER, lambda: (None, None, None, "not claimed")
    elif isinstance(solver, AdaptiveSolver):
        swept = cache(lambda: work_precision(solver, problem))
        yield FALLS, lambda: (1.0, swept().worst, None, "pass" if swept().worst < 1 else "fail")
        yield AGAINST_EVALUATIONS, lambda: _order_found(swept().order)
    elif isinstance(solver, FixedStepSolver):
        ramped = solver.ramps and solver.limit_order != solver.order
        if ramped:
            yield BEFORE, lambda: _before(solver, problem)
        claim = LIMIT if ramped else ORDER
        yield claim, lambda: _order_found(order(solver, problem, quick=quick, declared=solver.limit_order))


def _laws_on(solver: Solver, sde: str, quick: bool) -> tuple[str, ...]:
    """The problems on which the law's limit is claimed: an order from a solver's own finer levels does not tell it."""
    if not solver.stochastic or solver.order is None or not isinstance(solver, FixedStepSolver):
        return ()
    return tuple(PROBLEMS) if not quick else ("mixture_2d",) if sde == MEMORY_ON else ()


def _law(solver: FixedStepSolver, problem: FlowProblem) -> Found:
    gap = law_gap(solver, problem)
    return 1.0, gap, None, "pass" if gap <= 1 else "fail"


def _order_found(found: Any) -> Found:
    return found.declared, found.slope, found.interval, found.verdict


def _before(solver: FixedStepSolver, problem: FlowProblem) -> Found:
    """The steepest regression over three neighbouring levels."""
    assert solver.order is not None
    steps = doublings(512)
    errors = ode_errors(solver, problem, steps, 0)
    known = [(n, e) for n, e in zip(steps, errors, strict=True) if e > problem.flow_precision]
    levels, resolved = torch.tensor(known, dtype=torch.float64).T
    windows = range(len(known) - LEVELS + 1)
    slope = max((slope_of(levels[k : k + LEVELS], resolved[k : k + LEVELS]) for k in windows), default=math.nan)
    shown: Verdict = "pass" if slope >= solver.order - SLACK_ODE else "fail"
    return solver.order, slope, None, shown if problem.sde.name in RAMP_SHOWS else "not claimed"


def _biases(solver: FixedStepSolver, sde: str) -> Iterator[tuple[str, Measure]]:
    """The claims about the bias of Langevin steps."""
    kept = cache(lambda snr: equilibrium(cast(FixedStepSolver, replace(cast(Any, solver), snr=snr)), get_sde(sde)))

    def variance(snr: float) -> Found:
        found, expected = kept(snr), replace(cast(Any, solver), snr=snr).equilibrium_variance
        low, high = found.interval
        verdict: Verdict = "pass" if low - CLOSE <= expected <= high + CLOSE else "fail"
        return expected, found.variance, found.interval, verdict

    def slope() -> Found:
        first, last = ([edge - 1 for edge in kept(snr).interval] for snr in SNRS[-2:])
        low, high = (
            math.log2(a / b) if a > 0 and b > 0 else math.nan for a, b in zip(first, reversed(last), strict=True)
        )
        measured = math.log2((kept(SNRS[-2]).variance - 1) / (kept(SNRS[-1]).variance - 1))
        return 2, measured, (low, high), "pass" if low >= 2 - SLACK_ODE else "fail"

    for snr in SNRS:
        yield f"variance at snr {snr}", partial(variance, snr)
    yield "bias against snr", slope
