"""Solvers that are one method under two names, limits that they share, and that no others are the same."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import Problem
from solvers.brownian import BrownianPath
from solvers.grids import make_grid
from solvers.normals import Normals
from solvers.process import ReverseProcess
from solvers.registry import get_solver, solver_names
from solvers.sde import SDES, VP
from solvers.solver import FixedStepSolver, integrate

# Registered solvers that are the same method as they stand on the menu.
EQUAL = {frozenset({"euler_maruyama", "torchsde"}), frozenset({"ipndm", "lms"})}


def samples(problem: Problem, name: str, steps: int = 10, n: int = 20, **settings) -> Tensor:
    """Samples of a solver on the common grid, from the same starts and paths."""
    ts = make_grid("log_snr", problem.sde, steps)
    return integrate(get_solver(name, **settings), problem.process(), problem.prior(n, 0), ts, problem.brownian(n, 0))


def same(problem: Problem, first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-10, atol=1e-10 * problem.sde.prior_std)


every_sde = pytest.mark.parametrize(
    "problem", [Mixture2d(sde=cls()) for cls in SDES.values()], ids=lambda p: p.sde.name
)


@every_sde
def test_ddim_with_eta_1_is_ancestral_sampling(problem: Problem):
    assert same(problem, samples(problem, "ddim", eta=1.0), samples(problem, "ancestral"))


@every_sde
def test_torchsde_is_euler_maruyama(problem: Problem):
    assert same(problem, samples(problem, "torchsde"), samples(problem, "euler_maruyama"))


@every_sde
def test_the_first_step_of_dpmpp_2m_is_ddim(problem: Problem):
    assert same(problem, samples(problem, "dpmpp_2m", steps=1), samples(problem, "ddim", steps=1))
    assert not same(problem, samples(problem, "dpmpp_2m", steps=2), samples(problem, "ddim", steps=2))


ONE_STEP = [
    name
    for name, solver in ((name, get_solver(name)) for name in solver_names())
    if isinstance(solver, FixedStepSolver) and not solver.multistep and name != "predictor_corrector"
]


@every_sde
@pytest.mark.parametrize("predictor", ONE_STEP)
def test_without_a_corrector_only_the_predictor_is_left(problem: Problem, predictor: str):
    alone = samples(problem, "predictor_corrector", predictor=predictor, corrector="none")
    assert same(problem, alone, samples(problem, predictor))
    process, pair = problem.process(), get_solver("predictor_corrector", predictor=predictor, corrector="ald")
    ts = make_grid("log_snr", problem.sde, 10)
    corrected = integrate(pair, process, problem.prior(20, 0), ts, problem.brownian(20, 0))
    assert corrected.isfinite().all()
    assert not same(problem, corrected, alone)
    assert isinstance(pair, FixedStepSolver)
    assert process.evaluations.calls == pair.nfe(10) == get_solver(predictor).nfe(10) + 10


def test_on_ve_euler_is_ddim_in_sigma():
    """With alpha = 1 and sigma = t (EDM) DDIM is Euler: x + (s - t) (x - denoised) / t."""
    problem = Mixture2d(sde=SDES["edm"]())
    assert same(problem, samples(problem, "euler"), samples(problem, "ddim"))


@every_sde
def test_reverse_diffusion_mirrors_the_forward_chain(problem: Problem):
    """x_t = a x_s + b z forwards; backwards x_s = x_t - (a - 1) x_t + b^2 score + b z (Song et al. 2021, eq. 46)."""
    sde, x, brownian = problem.sde, problem.prior(20, 0), problem.brownian(20, 0)
    t, s = make_grid("log_snr", sde, 1).tolist()
    a = sde.alpha(t) / sde.alpha(s)
    b = math.sqrt(sde.sigma(t) ** 2 - a**2 * sde.sigma(s) ** 2)
    z = brownian.dw(t, s) / math.sqrt(t - s)
    expected = x - (a - 1) * x + b**2 * problem.process().score(x, t) + b * z
    assert same(problem, samples(problem, "reverse_diffusion", steps=1), expected)


def test_no_two_solvers_are_the_same():
    problem, budget = Mixture2d(), 20
    results = {}
    for name in solver_names():
        solver = get_solver(name)
        steps = solver.steps_for(budget) if isinstance(solver, FixedStepSolver) else budget
        results[name] = samples(problem, name, steps)
    for one, other in itertools.combinations(results, 2):
        difference = (results[one] - results[other]).square().mean().sqrt()
        assert (difference < 1e-6) == (frozenset({one, other}) in EQUAL), (one, other, difference)


@pytest.mark.parametrize("name", ["euler_maruyama", "reverse_diffusion", "ancestral"])
def test_sde_solvers_have_the_same_limit(name: str):
    """E|x|^2 on the mixture, extrapolated from 64 and 128 steps, against its closed form at t_min."""
    problem, n = Mixture2d(), 10_000
    sde = problem.sde
    start = problem.marginal_sample(sde.t_max, problem.normals(n, 0), "start")
    square = []
    for steps in (64, 128):
        ts = make_grid("karras", sde, steps)
        x = integrate(get_solver(name), problem.process(), start, ts, problem.brownian(n, 0))
        square.append(x.square().sum(1))
    limit = 2 * square[1] - square[0]
    exact = sde.alpha(sde.t_min) ** 2 * (4**2 + 2 * problem.std**2) + 2 * sde.sigma(sde.t_min) ** 2
    assert abs(limit.mean() - exact) < 4 * limit.std() / math.sqrt(n)


def equilibrium(corrector: str, snr: float, dim: int, step: float) -> float:
    """Variance that the corrector keeps on the unit Gaussian; times so close leave the predictor little to do."""
    process = ReverseProcess(VP(), lambda x, t: -x, "score")
    solver = get_solver("predictor_corrector", corrector=corrector, snr=snr)
    normals = Normals(0, (100_000 // dim, dim), dtype=torch.float64)
    brownian, x, state = BrownianPath(normals, 1.0), normals.normal("start"), None
    variances = []
    for k in range(90):
        x, state = solver.step(process, x, 0.5 - k * step, 0.5 - (k + 1) * step, brownian, state)
        variances.append(x.var().item())
    return sum(variances[40:]) / 50


@pytest.mark.parametrize(("dim", "snr"), [(2, 0.5), (50, 0.3)])
def test_langevin_corrector_levels_at_a_biased_variance(dim: int, snr: float):
    """x <- (1 - e) x + sqrt(2 e) z keeps V = 1/(1 - e/2), and e = 2 snr^2/V: V = 1 + snr^2, at any spacing."""
    for step in (2e-4, 5e-5):
        assert equilibrium("langevin", snr, dim, step) == pytest.approx(1 + snr**2, rel=4e-3)


def test_ald_corrector_levels_at_a_biased_variance():
    """Here e = 2 (snr sigma)^2 whatever the states: V = 1/(1 - snr^2 sigma^2)."""
    expected = 1 / (1 - (0.5 * VP().sigma(0.5)) ** 2)
    assert equilibrium("ald", 0.5, 50, 5e-5) == pytest.approx(expected, rel=4e-3)


def test_the_corrector_draws_apart_from_the_path():
    """The predictor's increments are the same with and without a corrector."""
    problem = Gaussian()
    taken: dict[str, list] = {"langevin": [], "none": []}

    class Spy(BrownianPath):
        def dw(self, t, s):
            taken[corrector].append((t, s, super().dw(t, s)))
            return taken[corrector][-1][2]

    for corrector in taken:
        ts = make_grid("log_snr", problem.sde, 5)
        source = Spy(problem.normals(4, 0), problem.sde.t_max)
        integrate(
            get_solver("predictor_corrector", corrector=corrector), problem.process(), problem.prior(4, 0), ts, source
        )
    assert len(taken["none"]) == 5
    for (t, s, dw), (t_none, s_none, dw_none) in zip(taken["langevin"], taken["none"], strict=True):
        assert (t, s) == (t_none, s_none)
        assert torch.equal(dw, dw_none)
