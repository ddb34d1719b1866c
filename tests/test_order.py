"""How orders of convergence are measured (bench.certify); the registry's are in test_certificates."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from bench import certify
from bench.certify import doublings, is_affine, law_of, order
from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.methods.ddim import Ddim
from solvers.methods.dpmpp_2m import Dpmpp2m
from solvers.methods.euler_maruyama import EulerMaruyama
from solvers.methods.heun import Heun
from solvers.registry import get_solver
from solvers.sde import VE
from solvers.solver import FixedStepSolver


@pytest.mark.parametrize(("solver", "last"), [("ancestral", "keep"), ("predictor_corrector", "mean")])
def test_law_of_is_the_law_of_many_samples(solver: str, last: certify.LastStep):
    settings = {"corrector": "ald", "corrector_steps": 2} if solver == "predictor_corrector" else {}
    problem, n = Gaussian(), 20_000
    ts = make_grid("karras", problem.sde, 12)
    mean, var = law_of(get_solver(solver, **settings), problem, ts, last)
    x = problem.marginal_sample(problem.sde.t_max, problem.normals(n, 0), "start")
    x = certify.integrate(get_solver(solver, **settings), problem.process(), x, ts, problem.brownian(n, 0), last)
    assert ((x.mean(0) - mean).abs() / (var / n).sqrt()).max() < 4
    assert ((x.var(0) / var - 1).abs() / math.sqrt(2 / n)).max() < 4


def test_law_of_is_the_recursion_of_the_moments():
    problem, sde = Gaussian(), Gaussian().sde
    ts = make_grid("uniform", sde, 9)
    mean, var = problem.law(1.0)
    for t, s in zip(ts.tolist(), ts.tolist()[1:], strict=False):
        mean_t, var_t = problem.law(t)
        pull = (t - s) * sde.diffusion(t) ** 2 / var_t
        factor = 1 - (s - t) * -sde.drift_coefficient(t) - pull
        mean, var = factor * mean + pull * mean_t, factor**2 * var + sde.diffusion(t) ** 2 * (t - s)
    got_mean, got_var = law_of(EulerMaruyama(), problem, ts)
    assert torch.allclose(got_mean, mean, rtol=1e-12, atol=1e-12)
    assert torch.allclose(got_var, var, rtol=1e-12, atol=1e-12)


def test_law_of_refuses_a_step_that_depends_on_the_batch():
    problem = Gaussian()
    with pytest.raises(UsageError, match="law_of: predictor_corrector is not affine"):
        law_of(get_solver("predictor_corrector"), problem, make_grid("karras", problem.sde, 4))


def test_no_order_is_measured_where_none_is_declared():
    with pytest.raises(UsageError, match="order: predictor_corrector declares no order"):
        order(get_solver("predictor_corrector"), Gaussian())


# Deliberately broken solvers: each defect must be seen.


class HeunWithAWrongWeight(Heun):
    def step(self, process, x, t, s, brownian, state):
        v_t = process.velocity(x, t)
        v_s = process.velocity(x + (s - t) * v_t, s)
        return x + (s - t) * (0.6 * v_t + 0.4 * v_s), state


class HeunOfAWrongEquation(Heun):
    def step(self, process, x, t, s, brownian, state):
        v_t = process.velocity(x, t)
        v_s = process.velocity(x + (s - t) * v_t, s)
        return x + 1.01 * (s - t) * (v_t + v_s) / 2, state


class Dpmpp2mWithHalfTheDifference(Dpmpp2m):
    """The mean of its step and of ``ddim``, which takes no difference."""

    def step(self, process, x, t, s, brownian, state):
        x_s, state = super().step(process, x, t, s, brownian, state)
        return (x_s + Ddim().step(process, x, t, s, brownian, None)[0]) / 2, state


class EulerMaruyamaWithHalfTheNoise(EulerMaruyama):
    def step(self, process, x, t, s, brownian, state):
        x_s, state = super().step(process, x, t, s, brownian, state)
        return x_s - process.sde.diffusion(t) * brownian.dw(t, s) / 2, state


class EulerMaruyamaThatDiverges(EulerMaruyama):
    def step(self, process, x, t, s, brownian, state):
        return math.inf * x, state


@dataclass(frozen=True)
class EulerMaruyamaWithAPoorNoise(EulerMaruyama):
    """Noise too large by a term of order dt^(1/4): of order 1/4 in law."""

    order: ClassVar[int | None] = 1

    def step(self, process, x, t, s, brownian, state):
        x_s, state = super().step(process, x, t, s, brownian, state)
        return x_s + 0.5 * (t - s) ** 0.25 * process.sde.diffusion(t) * brownian.dw(t, s), state


@pytest.mark.parametrize(
    "solver",
    [HeunWithAWrongWeight(), HeunOfAWrongEquation(), Dpmpp2mWithHalfTheDifference()],
    ids=lambda solver: type(solver).__name__,
)
@pytest.mark.parametrize("problem", [Gaussian(), Mixture2d()], ids=lambda problem: problem.key)
def test_a_broken_ode_solver_fails(solver: FixedStepSolver, problem: certify.FlowProblem):
    assert order(solver, problem).verdict == "fail"


@pytest.mark.parametrize(
    "solver",
    [EulerMaruyamaWithHalfTheNoise(), EulerMaruyamaThatDiverges(), EulerMaruyamaWithAPoorNoise()],
    ids=lambda solver: type(solver).__name__,
)
def test_a_broken_sde_solver_fails_on_the_gaussian(solver: FixedStepSolver):
    assert order(solver, Gaussian()).verdict == "fail"


def test_a_broken_sde_solver_fails_on_the_mixture():
    assert order(EulerMaruyamaWithAPoorNoise(), Mixture2d()).verdict == "fail"


STEPS = (16, 32, 64)


def test_too_much_sampling_error_decides_nothing():
    noise = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = torch.tensor([[0.4], [0.2], [0.1]], dtype=torch.float64)
    assert certify.simulated(1, 0.3, STEPS, levels + noise * 1e-3, 0).verdict == "pass"
    assert certify.simulated(2, 0.3, STEPS, levels + noise * 1e-3, 0).verdict == "fail"
    wide = certify.simulated(1, 0.3, STEPS, levels + noise * 0.7, 0)
    assert wide.verdict == "unresolved"
    assert wide.interval is not None
    assert wide.interval[1] - wide.interval[0] > certify.WIDEST_INTERVAL
    assert certify.simulated(1, 0.3, STEPS, levels + noise * 10, 0).verdict == "unresolved"


def test_a_level_within_its_sampling_error_is_left_out():
    noise = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = torch.tensor([[0.4], [0.2], [0.1], [1e-4]], dtype=torch.float64)
    result = certify.simulated(1, 0.3, (*STEPS, 128), levels + noise * 0.05, 0)
    assert (result.slope, result.verdict) == (pytest.approx(1.0, abs=0.05), "pass")


def test_levels_below_the_precision_are_left_out():
    errors = [8.0, 4.0, 2.0, 1.0, 0.9, 0.8]
    above = certify._judged(1, 0.2, doublings(1024), errors, 0.95)
    assert (above.slope, above.verdict) == (pytest.approx(1.0), "pass")
    assert certify._judged(1, 0.2, doublings(1024), errors, 0.1).verdict == "fail"
    assert certify._judged(1, 0.2, doublings(1024), errors, 3.0).verdict == "unresolved"
    # The last pair alone: a slope of 2, then 0.5.
    assert certify._judged(1, 0.2, doublings(1024), [8.0, 4.0, 2.0, 1.0, 0.25, 0.25 / 2**0.5], 0.0).verdict == "fail"
    assert certify._judged(1, 0.2, doublings(1024), [8.0, 4.0, 2.0, 1.0, 0.5, math.nan], 0.0).verdict == "fail"


def test_the_flow_is_as_precise_as_it_says():
    for problem in (Gaussian(), Mixture2d()):
        x = problem.marginal_sample(problem.sde.t_max, problem.normals(16, 0), "start")
        exact = problem.flow(x, problem.sde.t_max, problem.sde.t_min)
        back = problem.flow(exact, problem.sde.t_min, problem.sde.t_max)
        assert (back - x).square().mean().sqrt() < problem.flow_precision


def test_the_report_holds_what_was_measured():
    result = order(Heun(), Gaussian())
    assert (result.declared, result.steps, len(result.errors)) == (2, (32, 64, 128, 256, 512, 1024), 6)
    assert result.errors[1] == certify.ode_errors(Heun(), Gaussian(), (64,), 0)[0]


def test_levels_may_be_given():
    result = order(Heun(), Gaussian(), levels=(50, 100, 200))
    assert (result.steps, result.verdict) == ((50, 100, 200), "pass")
    assert order(EulerMaruyama(), Gaussian(), levels=(64, 128, 256)).steps == (64, 128, 256)


def test_finer_levels_decide_where_the_first_do_not_show_the_order():
    """DPM-Solver-3's error on Gaussians changes sign near 200 steps."""
    solver = get_solver("dpm_solver", order=3)
    result = order(solver, Gaussian())
    assert (result.verdict, result.steps[-1]) == ("pass", 2048)
    assert order(solver, Gaussian(), quick=True).verdict == "pass"
    # A ramp's high slopes before the limit are no reason to stop there.
    assert order(get_solver("lms", order=4), Gaussian(sde=VE())).verdict == "fail"


def test_a_sampler_is_probed_only_where_it_is_affine():
    assert is_affine(get_solver("restart"), Gaussian())
    assert not is_affine(get_solver("predictor_corrector"), Gaussian())
    assert not is_affine(EulerMaruyamaWithClippedScore(), Gaussian())


class EulerMaruyamaWithClippedScore(EulerMaruyama):
    def step(self, process, x, t, s, brownian, state):
        return super().step(process, x.clamp(-1, 1), t, s, brownian, state)
