"""Every registered solver's certificate, in its quick form; and what breaks one."""

import copy
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import pytest
import torch

from bench import behaviour
from bench.certificate import AGAINST_EVALUATIONS, BEFORE, LAW, LIMIT, ORDER, Line, certificate, get_problem_on
from bench.certify import doublings, ode_errors
from bench.check import title
from bench.equilibrium import equilibrium
from bench.problems.mixture import Mixture2d
from bench.tolerance import work_precision
from bench.trial import PeakBytes, Trial
from solvers import process
from solvers.methods.euler import Euler
from solvers.methods.euler_maruyama import EulerMaruyama
from solvers.methods.heun import Heun
from solvers.methods.langevin import Langevin
from solvers.methods.rk45 import Rk45
from solvers.registry import get_solver, solver_classes
from solvers.sde import EDM, SDES, VP
from solvers.solver import AdaptiveSolver, Solver

CERTIFIED = [get_solver(name, **settings) for name, cls in solver_classes().items() for settings in cls.certified]
NAMES = [title(solver.key, solver.settings) for solver in CERTIFIED]


def admitted(line: Line, solver: Solver) -> bool:
    """Sampling error may leave a stochastic solver undecided on the mixture, and nothing else."""
    undecided = line.verdict == "unresolved" and solver.stochastic and line.problem == "mixture_2d"
    return line.verdict in ("pass", "not claimed") or undecided


@pytest.mark.parametrize(("index", "solver"), list(enumerate(CERTIFIED)), ids=NAMES)
def test_quick_certificate(index: int, solver: Solver) -> None:
    """On one of the six SDEs, in turn; the full form runs on all of them: scorebench check --all."""
    sde = list(SDES)[index % len(SDES)]
    lines = list(certificate(solver, sde, quick=True))
    if solver.settings.get("discretisation") == "song" and sde not in ("vp", "subvp", "ve"):
        assert [(line.claim, line.verdict) for line in lines] == [("accepts the SDE", "not claimed")]
        lines = list(certificate(solver, "vp", quick=True))
    assert [line for line in lines if not admitted(line, solver)] == []
    claims = {line.claim for line in lines}
    assert set(behaviour.CLAIMS) - claims <= {"memory"}
    assert sum(claim in claims for claim in (ORDER, AGAINST_EVALUATIONS, LIMIT)) == 1
    (split,) = (line for line in lines if line.claim == "batch split")
    assert (split.verdict == "not claimed") == solver.batch_coupled
    if solver.batch_coupled:
        assert isinstance(split.measured, float)
        # fehlberg2's estimate is so small that its steps grow as fast as they may, in any batch.
        assert split.measured > 1e-9 or solver.settings.get("method") == "fehlberg2", "it does not couple the batch"


def test_orders_are_simulated_on_the_mixture_in_the_full_form() -> None:
    lines = certificate(get_solver("euler_maruyama"), "vp")
    (line,) = (line for line in lines if (line.claim, line.problem) == (ORDER, "mixture_2d"))
    assert (line.verdict, line.interval is not None) == ("pass", True)


# unipc corrects its first step, which is then of order 2.
@pytest.mark.parametrize(("name", "p", "limit"), [("lms", 4, 2), ("dpmpp_3m", 3, 2), ("unipc", 4, 3)])
def test_a_ramp_claims_its_order_before_the_limit_and_less_in_it(name: str, p: int, limit: int) -> None:
    lines = {line.claim: line for line in certificate(get_solver(name), "vp", quick=True) if line.problem == "gaussian"}
    assert (lines[BEFORE].declared, lines[LIMIT].declared) == (p, limit)
    assert lines[BEFORE].measured >= p - 0.2  # type: ignore[operator]
    assert ORDER not in lines
    started = get_solver(name, start="runge_kutta")
    lines = {line.claim: line for line in certificate(started, "vp", quick=True) if line.problem == "gaussian"}
    assert lines[ORDER].declared == p


def test_the_ramp_shows_in_the_limit() -> None:
    """Adams–Bashforth of order 4 on VE falls to 2; from Runge–Kutta it stays at 4."""
    problem = get_problem_on("gaussian", "ve")
    slopes = []
    for start in ("ramp", "runge_kutta"):
        errors = ode_errors(get_solver("lms", start=start), problem, doublings(2048)[-2:], 0)  # type: ignore[arg-type]
        slopes.append(math.log2(errors[0] / errors[1]))
    assert slopes[0] < 2.8
    assert slopes[1] > 3.8


# Each defect must be seen, by the claim it breaks and by no other.


def failing(solver: Solver) -> set[str]:
    type(solver).key = "broken"
    return {line.claim for line in certificate(solver, "vp", quick=True) if line.verdict == "fail"}


class CountsTooFew(Heun):
    def nfe(self, steps: int) -> int:
        return 2 * steps - 1


class CountsTooFewLater(Euler):
    def step(self, process, x, t, s, brownian, state):
        steps = (state or 0) + 1
        if steps > 16:
            process.velocity(x, t)
        return super().step(process, x, t, s, brownian, None)[0], steps


class NeverCallsTheNetwork(Euler):
    def step(self, process, x, t, s, brownian, state):
        return x * s, state


class ComputesInSinglePrecision(Euler):
    def step(self, process, x, t, s, brownian, state):
        y = x.float()
        return (y + (s - t) * process.velocity(y.to(x.dtype), t).float()).to(x.dtype), state


class HalvesItsNoise(EulerMaruyama):
    """Its levels agree with each other, not with the law."""

    def step(self, process, x, t, s, brownian, state):
        g = process.sde.diffusion(t)
        drift = process.sde.drift_coefficient(t) * x - g**2 * process.score(x, t)
        return x + (s - t) * drift + g * brownian.dw(t, s) / 2, state


class HalvesItsNoiseUnseen(HalvesItsNoise):
    """Not affine, so that no exact law of it is known on the Gaussian either."""

    def step(self, process, x, t, s, brownian, state):
        x_s, state = super().step(process, x, t, s, brownian, state)
        return x_s + 1e-3 * (s - t) * torch.sin(x), state


class SmoothsTheScore(EulerMaruyama):
    """Exact where the score is linear."""

    def step(self, process, x, t, s, brownian, state):
        g = process.sde.diffusion(t)
        score = (process.score(x + 1, t) + process.score(x - 1, t)) / 2
        x_s = x + (s - t) * (process.sde.drift_coefficient(t) * x - g**2 * score) + g * brownian.dw(t, s)
        return x_s, state

    def nfe(self, steps: int) -> int:
        return 2 * steps


class ProbesOutside(Euler):
    def step(self, process, x, t, s, brownian, state):
        process.network(x, torch.full((len(x),), s - 1e-3, dtype=x.dtype))
        return super().step(process, x, t, s, brownian, state)


class CouplesTheBatch(Euler):
    def step(self, process, x, t, s, brownian, state):
        x_s, state = super().step(process, x, t, s, brownian, state)
        return x_s + 1e-6 * (s - t) ** 2 * x.mean(0), state


class DrawsFromTheGlobalGenerator(Euler):
    def step(self, process, x, t, s, brownian, state):
        return super().step(process, x + 1e-14 * torch.randn_like(x), t, s, brownian, state)


class ChangesItsStart(Euler):
    def step(self, process, x, t, s, brownian, state):
        x_s, state = super().step(process, x, t, s, brownian, state)
        return x.copy_(x_s), state


class ForgetsItsPrecision(Euler):
    def step(self, process, x, t, s, brownian, state):
        return super().step(process, x.float().to(x.dtype), t, s, brownian, state)


class KeepsItsHistory(Euler):
    def init(self, process, x, ts):
        return []

    def step(self, process, x, t, s, brownian, state):
        return super().step(process, x, t, s, brownian, None)[0], [*state, x]


class BreaksDown(Euler):
    def step(self, process, x, t, s, brownian, state):
        raise RuntimeError("no step today")


@pytest.mark.parametrize(
    ("solver", "claims"),
    [
        (CountsTooFew(), {"evaluations", "evaluations, tweedie"}),
        (CountsTooFewLater(), {"evaluations", "evaluations, tweedie"}),
        (NeverCallsTheNetwork(), {ORDER, "determinism", "evaluations", "evaluations, tweedie", "times outside"}),
        (ComputesInSinglePrecision(), {"float32"}),
        (HalvesItsNoise(), {ORDER, LAW}),
        (HalvesItsNoiseUnseen(), {LAW}),
        (SmoothsTheScore(), {LAW}),
        (ProbesOutside(), {"evaluations", "evaluations, tweedie", "times outside"}),
        (CouplesTheBatch(), {"batch split"}),
        (DrawsFromTheGlobalGenerator(), {"determinism", "evaluations, tweedie"}),
        (ChangesItsStart(), {"determinism"}),
        (KeepsItsHistory(), {"memory"}),
        (BreaksDown(), {ORDER, *behaviour.CLAIMS}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_defect_fails_the_claim_it_breaks(solver: Solver, claims: set[str]) -> None:
    assert failing(copy.copy(solver)) == claims


def test_an_error_is_told_in_its_line() -> None:
    lines = [line for line in certificate(BreaksDown(), "vp") if line.claim == ORDER]
    assert [line.measured for line in lines] == ["RuntimeError: no step today"] * 2


def test_single_precision_must_stay_what_it_is() -> None:
    found = behaviour.precision(ForgetsItsPrecision(), Mixture2d())
    assert found.holds, "rounding to single precision is within what single precision is allowed"

    class Upcasts(Euler):
        def step(self, process, x, t, s, brownian, state):
            return super().step(process, x.double(), t, s, brownian, state)

    assert behaviour.precision(Upcasts(), Mixture2d()).measured == "returns torch.float64 for float32"


@dataclass(frozen=True)
class StuckTolerance(Rk45):
    """Takes no account of its tolerances below 1e-4."""

    def solve(self, process, x, ts, brownian):
        tolerance = max(self.rtol, 1e-4)
        return Rk45.solve(replace(self, rtol=tolerance, atol=tolerance), process, x, ts, brownian)


@dataclass(frozen=True)
class OfOrderThree(Rk45):
    """Bogacki–Shampine that says it has order 5."""

    pair: Any = "bogacki_shampine"
    order: ClassVar[int | None] = 5  # type: ignore[misc]


@dataclass(frozen=True)
class OfOrderFive(Rk45):
    """Dormand–Prince that says it has order 8."""

    order: ClassVar[int | None] = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("solver", "holds"),
    [
        (Rk45(), True),
        (Rk45(pair="dormand_prince_853"), True),
        (StuckTolerance(), False),
        (OfOrderThree(), False),
        (OfOrderFive(), False),
    ],
)
def test_an_adaptive_solver_converges_with_its_tolerance(solver: AdaptiveSolver, holds: bool) -> None:
    found = work_precision(solver, get_problem_on("gaussian", "vp"))
    assert (found.order.verdict == "pass" and found.worst < 1) == holds
    assert list(found.evaluations) == sorted(found.evaluations)


# Langevin's bias


@pytest.mark.parametrize("sde", [VP(), EDM()], ids=lambda sde: sde.name)
def test_the_bias_at_equilibrium_is_the_closed_form(sde: Any) -> None:
    for rule, expected in (("langevin", 1.25), ("ald", 1 / (1 - 0.25))):
        solver = Langevin(corrector=rule, snr=0.5)  # type: ignore[arg-type]
        assert solver.equilibrium_variance == expected
        assert equilibrium(solver, sde).variance == pytest.approx(expected, abs=3e-3)


def test_a_wrong_bias_fails() -> None:
    class WithTooMuchNoise(Langevin):
        def step(self, process, x, t, s, brownian, state):
            x_s, state = super().step(process, x, t, s, brownian, state)
            return 1.001 * x_s, state

    assert failing(WithTooMuchNoise()) >= {"variance at snr 0.5", "variance at snr 0.125", "bias against snr"}


# How it is watched


def test_peak_bytes_are_those_alive_at_once() -> None:
    with PeakBytes() as few:
        x = torch.zeros(1000, dtype=torch.float64)
        for _ in range(20):
            x = x + 1
    with PeakBytes() as many:
        kept = [torch.zeros(1000, dtype=torch.float64)]
        for _ in range(20):
            kept.append(kept[-1] + 1)
            kept[-1].view(10, 100)
    assert few.peak == 2 * 8000
    assert many.peak == 21 * 8000


def test_a_trial_sees_calls_rows_and_times() -> None:
    trial = Trial(EulerMaruyama(), Mixture2d(), n=3, steps=4)
    assert (trial.calls, trial.rows) == (4, 12)
    assert trial.span == (float(trial.ts[3]), 1.0)
    assert trial.kept


def test_a_cache_that_grows_is_no_memory_of_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of 5461 entries takes twice the room at the next: as seen before, 1.24 for ``restart``."""
    conversion = lru_cache(maxsize=1 << 14)(process.conversion)
    monkeypatch.setattr(process, "_known_conversion", conversion)
    for k in range(5459):
        conversion(VP(), "noise", "score", 0.5 + k * 1e-6)
    problem = get_problem_on("mixture_2d", "vp")
    assert behaviour.memory(get_solver("restart", low=0.06, high=0.3, rounds=1, share=0.2), problem).measured < 1.1
