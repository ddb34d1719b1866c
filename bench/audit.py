"""The audit of other libraries: the order and the evaluations that a sampler claims, against those measured.

Orders are measured as for the project's own solvers (:mod:`bench.certify`), on the Gaussian and on the mixture, in
double precision. Evaluations are counted in the library's own loop over the levels it chooses itself.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench import certify
from bench.environment import peer_versions
from bench.native import native_evaluations
from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import FlowProblem
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.peers.peer import Peer
from solvers.registry import parse_solver
from solvers.sde import EDM, VE, VP, ForwardSDE, RectifiedFlow
from solvers.solver import integrate

# Multiples of 6, so that a run of single steps of order 2 or 3 over the grid's points is whole.
STEPS = (36, 72, 144, 288, 576)
# Order 4 shows in a window of steps only: on the mixture from more on, and until the multistep methods' first step, of
# order 1, shows in the limit. Where it is claimed, the steeper of the slopes on both sets of levels counts.
FINE_STEPS = (*STEPS[1:], 1152)
# Steps of the runs that are counted, and of those in which single precision is compared with double.
COUNTED_STEPS = 20
FLOOR_STEPS = 288
# Rounding above this is told among the findings, units of x.
TELLING_FLOOR = 1e-4
# The first of these that a sampler represents.
SDES: tuple[ForwardSDE, ...] = (VP(), EDM(), VE(), RectifiedFlow())

_MULTISTEP = "diffusers:DPMSolverMultistepScheduler"
_INVERSE = "diffusers:DPMSolverMultistepInverseScheduler"
_SINGLESTEP = "diffusers:DPMSolverSinglestepScheduler"
_EDM = "diffusers:EDMDPMSolverMultistepScheduler"
_SA = "diffusers:SASolverScheduler?lower_order_final=false"
_UNIPC = "diffusers:UniPCMultistepScheduler?lower_order_final=false"
_KINDS = ("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++")

CASES: tuple[str, ...] = (
    "azula:DDPMSampler",
    "azula:DDIMSampler",
    "azula:DDIMSampler?eta=1.0",
    "azula:EulerSampler",
    "azula:HeunSampler",
    "azula:ItoSampler",
    "azula:ItoSampler?eta=0.0",
    *(f"azula:{name}?order={k}" for name in ("zABSampler", "vABSampler", "zEABSampler") for k in (1, 2, 3)),
    *(f"azula:{name}?order={k}" for name in ("xEABSampler", "REABSampler") for k in (1, 2, 3)),
    "azula:PCSampler",
    "diffusers:DDIMScheduler",
    "diffusers:DDIMScheduler?eta=1.0",
    "diffusers:DDIMParallelScheduler",
    "diffusers:CogVideoXDDIMScheduler",
    "diffusers:CogVideoXDPMScheduler",
    "diffusers:DDPMScheduler",
    "diffusers:DDPMParallelScheduler",
    "diffusers:EulerDiscreteScheduler",
    "diffusers:EulerDiscreteScheduler?s_churn=40.0",
    "diffusers:EulerAncestralDiscreteScheduler",
    "diffusers:HeunDiscreteScheduler",
    "diffusers:KDPM2DiscreteScheduler",
    "diffusers:KDPM2AncestralDiscreteScheduler",
    "diffusers:DPMSolverSDEScheduler",
    *(f"diffusers:LMSDiscreteScheduler?order={k}" for k in (1, 2, 3, 4)),
    "diffusers:IPNDMScheduler",
    "diffusers:PNDMScheduler",
    "diffusers:PNDMScheduler?skip_prk_steps=true",
    *(f"diffusers:DEISMultistepScheduler?solver_order={k}" for k in (1, 2, 3)),
    *(f"{_MULTISTEP}?solver_order={k}&algorithm_type={kind}" for kind in _KINDS for k in (1, 2, 3)),
    f"{_MULTISTEP}?solver_order=2&solver_type=heun",
    *(f"{_INVERSE}?solver_order={k}" for k in (1, 2, 3)),
    *(f"{_SINGLESTEP}?solver_order={k}" for k in (1, 2, 3)),
    f"{_SINGLESTEP}?solver_order=3&solver_type=heun",
    f"{_SINGLESTEP}?solver_order=3&algorithm_type=dpmsolver",
    f"{_SINGLESTEP}?solver_order=2&algorithm_type=sde-dpmsolver++",
    *(f"{_UNIPC}&solver_type={kind}&solver_order={k}" for kind in ("bh1", "bh2") for k in (1, 2, 3)),
    f"{_SA}&tau=0.0",
    f"{_SA}&tau=0.0&predictor_order=3&corrector_order=4",
    f"{_SA}&tau=1.0",
    f"{_SA}&tau=1.0&predictor_order=3&corrector_order=4",
    "diffusers:EDMEulerScheduler",
    *(f"{_EDM}?solver_order={k}" for k in (1, 2, 3)),
    f"{_EDM}?solver_order=2&algorithm_type=sde-dpmsolver++",
    "diffusers:CosineDPMSolverMultistepScheduler",
    "diffusers:ScoreSdeVeScheduler?correct_steps=0",
    "diffusers:FlowMatchEulerDiscreteScheduler",
    "diffusers:FlowMatchHeunDiscreteScheduler",
    "diffusers:LTXEulerAncestralRFScheduler",
)


@dataclass(frozen=True)
class Measured:
    """An order on one problem.

    Attributes:
        problem: key of the problem.
        steps: steps of each level.
        errors: error of each level, see :mod:`bench.certify`; None where it is no number.
        slope: measured order; None where too few levels are resolved.
        interval: 95 % interval, where it was measured by simulation.
        verdict: pass, fail, unresolved, or ``not claimed``.
        reason: why nothing was measured.
    """

    problem: str
    steps: tuple[float, ...]
    errors: tuple[float | None, ...]
    slope: float | None
    interval: tuple[float, float] | None
    verdict: str
    reason: str | None = None


@dataclass(frozen=True)
class AuditRow:
    """A sampler of another library with settings.

    Attributes:
        solver: as on the command line.
        library, version: where it is from.
        sde: the SDE it was measured on.
        stochastic: whether it draws noise.
        paired: whether that noise is the common Brownian path's.
        claimed: the order claimed; None where none is.
        claim: where.
        measured: the order on each problem.
        evaluations_claimed: what the library calls its number of steps.
        evaluations_counted: evaluations in the library's own loop of so many steps; None where it fails.
        single_floor: RMS difference on the Gaussian between the library's own precision and double, units of x; None
            where it works in the precision of its states.
        finding: in words, from the numbers.
    """

    solver: str
    library: str
    version: str
    sde: str
    stochastic: bool
    paired: bool
    claimed: int | None
    claim: str
    measured: tuple[Measured, ...]
    evaluations_claimed: int
    evaluations_counted: int | None
    single_floor: float | None
    finding: str


def audit(cases: Sequence[str] = CASES) -> Iterator[AuditRow]:
    """The rows, one after the other.

    Raises:
        UsageError: a case is no sampler of another library, or the library is not installed.
    """
    for case in cases:
        yield audit_one(case)


def audit_one(case: str) -> AuditRow:
    """The row of one sampler.

    Raises:
        UsageError: it is no sampler of another library, or the library is not installed.
    """
    solver = parse_solver(case)
    if not isinstance(solver, Peer):
        raise UsageError("audit", "it is of other libraries' samplers", case, "See scorebench list peers")
    library = solver.key.partition(":")[0]
    sde = _sde_of(solver)
    measured = tuple(_measure(solver, problem) for problem in (Gaussian(sde=sde), Mixture2d(sde=sde)))
    counted, floor = native_evaluations(solver, COUNTED_STEPS), _single_floor(solver, sde)
    return AuditRow(
        solver=case,
        library=library,
        version=peer_versions()[library],
        sde=sde.name,
        stochastic=solver.stochastic,
        paired=solver.paired,
        claimed=solver.order,
        claim=solver.claim,
        measured=measured,
        evaluations_claimed=COUNTED_STEPS,
        evaluations_counted=counted,
        single_floor=floor,
        finding=_finding(solver.order, measured, counted, floor),
    )


def _sde_of(solver: Peer) -> ForwardSDE:
    """The first SDE that it represents."""
    for sde in SDES:
        if solver.represents(sde):
            return sde
    raise UsageError("audit", "a sampler runs on one of the SDEs", solver.key, "Mend its adapter")


def _measure(solver: Peer, problem: FlowProblem) -> Measured:
    if solver.order is None:
        return Measured(problem.key, (), (), None, None, "not claimed", "no order is claimed")
    by_law = solver.stochastic and isinstance(problem, Gaussian)
    if solver.stochastic and not by_law and not solver.paired:
        return Measured(problem.key, (), (), None, None, "unresolved", "its noise is not that of a path")
    try:
        if by_law or not solver.stochastic:
            sets = (STEPS, FINE_STEPS) if solver.order >= 4 else (STEPS,)
            found = max(
                (certify.order(solver, problem, levels=levels) for levels in sets), key=lambda order: order.slope
            )
        else:
            found = certify.order(solver, problem)
    except Exception as error:  # whatever the library raises is a finding
        verdict = "unresolved" if isinstance(error, UsageError) else "fail"
        return Measured(problem.key, (), (), None, None, verdict, f"{type(error).__name__}: {error}")
    slope = None if math.isnan(found.slope) else found.slope
    errors = tuple(error if math.isfinite(error) else None for error in found.errors)
    return Measured(problem.key, found.steps, errors, slope, found.interval, found.verdict)


def _single_floor(solver: Peer, sde: ForwardSDE) -> float | None:
    if "casts" not in solver.settings:
        return None
    problem, n = Gaussian(sde=sde), 16
    ends = []
    for casts in ("lift", "keep"):
        chosen = replace(solver, options={**solver.options, "casts": casts})
        ts = make_grid("karras", sde, FLOOR_STEPS)
        try:
            ends.append(integrate(chosen, problem.process(), problem.prior(n, 0), ts, problem.brownian(n, 0)))
        except Exception:  # told by the measurement of the order
            return None
    return float((ends[0] - ends[1]).square().mean().sqrt())


def _finding(claimed: int | None, measured: Sequence[Measured], counted: int | None, floor: float | None) -> str:
    """What the numbers say."""
    parts = [_order_finding(claimed, measured)]
    if counted == 2 * COUNTED_STEPS:
        parts.append("2n evaluations for n steps")
    elif counted == 2 * COUNTED_STEPS - 1:
        parts.append("2n − 1 evaluations for n steps")
    elif counted is not None and counted != COUNTED_STEPS:
        parts.append(f"n + {counted - COUNTED_STEPS} evaluations for n steps")
    if floor is not None and floor > TELLING_FLOOR:
        parts.append(f"single precision inside costs {floor:.0e}")
    return "; ".join(parts)


def _order_finding(claimed: int | None, measured: Sequence[Measured]) -> str:
    if claimed is None:
        return "no order claimed"
    raised = [m.reason for m in measured if m.verdict == "fail" and m.reason]
    if raised:
        return f"fails, {raised[0]}"
    failed = [m.slope for m in measured if m.verdict == "fail" and m.slope is not None]
    if failed:
        # The Gaussian's, which comes first, is exact; a simulated slope may lie before the limit.
        slope = failed[0]
        return (
            f"order {round(slope)}, claimed {claimed}" if round(slope) < claimed else f"{slope:.1f} of order {claimed}"
        )
    slopes = [m.slope for m in measured if m.verdict == "pass" and m.slope is not None]
    if not slopes:
        return "order unresolved"
    return "order as claimed" if min(slopes) < claimed + 0.5 else f"order {round(min(slopes))}, claimed {claimed}"
