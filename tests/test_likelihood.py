"""Likelihood against exact densities: the converged solve, each solver's order, Hutchinson's estimator, bits/dim."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from densities import RotatedMixture

from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import FlowProblem
from solvers.divergence import Divergence, ExactDivergence, Hutchinson, HutchPlusPlus, make_probes
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.likelihood import bits_per_dim, log_density
from solvers.process import ReverseProcess
from solvers.registry import get_solver, solver_names
from solvers.sde import SDES
from solvers.solver import FixedStepSolver, Solver


def upwards(problem: FlowProblem, steps: int = 1) -> torch.Tensor:
    return make_grid("karras", problem.sde, steps, problem.sde.t_min_likelihood, problem.sde.t_max)


def data(problem: FlowProblem, n: int = 10) -> torch.Tensor:
    return problem.marginal_sample(problem.sde.t_min_likelihood, problem.normals(n, 0), "data")


def misses(solver: Solver, problem: Any, steps: int = 1, n: int = 10) -> float:
    """Mean absolute error of log p at t_min_likelihood, bits/dim, given the exact law at t_max."""
    x, sde = data(problem, n), problem.sde
    got = log_density(
        solver,
        problem.process(),
        x,
        upwards(problem, steps),
        ExactDivergence(),
        lambda z: problem.log_density(z, sde.t_max),
    ).log_p
    exact = problem.log_density(x, sde.t_min_likelihood)
    return float((got - exact).abs().mean()) / (x[0].numel() * math.log(2))


@pytest.mark.parametrize("dim", [2, 16, 64])
@pytest.mark.parametrize("components", [1, 4], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("sde", SDES)
def test_a_tight_solve_gives_the_exact_density(sde: str, components: int, dim: int):
    """Mean absolute error of log p at t_min in bits/dim, the exact law at t_max given; the largest measured is 2e-6."""
    problem = RotatedMixture(dim, components, SDES[sde]())
    start, end = problem.sde.t_min_likelihood, problem.sde.t_max
    x = problem.sample(start, problem.normals(4, 0), "x")
    found = log_density(
        get_solver("rk45", pair="dormand_prince_853", rtol=1e-6, atol=1e-6),
        problem.process(),
        x,
        torch.tensor([start, end], dtype=torch.float64),
        ExactDivergence(),
        lambda z: problem.log_density(z, end),
    )
    misses = (found.log_p - problem.log_density(x, start)).abs() / (dim * math.log(2))
    assert misses.mean() < 1e-5


@pytest.mark.parametrize("name", [name for name in solver_names() if not get_solver(name).stochastic])
def test_each_ode_solver_converges_to_it(name: str):
    """At its order, of which third can be told at these steps; with its tolerance."""
    solver, problem = get_solver(name), Mixture2d()
    if isinstance(solver, FixedStepSolver):
        assert solver.order is not None
        coarse, fine = misses(solver, problem, 48), misses(solver, problem, 96)
        assert math.log2(coarse / fine) > min(solver.order, 3) - 0.4
        assert fine < 0.5
    else:
        coarse, fine = (misses(get_solver(name, rtol=tol, atol=tol), problem) for tol in (1e-3, 1e-6))
        assert fine < min(coarse / 20, 2e-3)


@pytest.mark.parametrize("sde", ["vp", "ve"])
def test_a_likelihood_is_solved_in_time_whatever_the_variable(sde: str):
    """In the angle, where the log-determinant would be taken over alpha, the error at 1e-3 is 0.1 bits and more."""
    problem = Mixture2d(sde=SDES[sde]())
    in_angle, in_time = (misses(get_solver("rk45", variable=variable), problem) for variable in ("angle", "time"))
    assert in_angle == in_time < 0.05


@pytest.mark.parametrize(
    ("name", "settings", "steps"), [("torchdiffeq", {"rtol": 1e-8, "atol": 1e-8}, 1), ("dpm_solver", {}, 200)]
)
def test_the_density_of_states_at_any_time(name: str, settings: dict[str, float], steps: int):
    """Far from t = 0, where alpha is not 1: a solver that takes the velocity, and one that does not."""
    problem = Gaussian()
    x = problem.marginal_sample(0.3, problem.normals(10, 0), "x")
    ts = make_grid("karras", problem.sde, steps, 0.3, problem.sde.t_max)
    terminal = partial(problem.log_density, t=problem.sde.t_max)
    got = log_density(get_solver(name, **settings), problem.process(), x, ts, ExactDivergence(), terminal).log_p
    assert torch.allclose(got, problem.log_density(x, 0.3), rtol=0, atol=1e-4)


def test_the_prior_is_the_terminal_density_unless_given():
    """On the unit Gaussian under VP the law at t_max is the prior, and the density is known."""
    problem = Gaussian()
    process = ReverseProcess(problem.sde, lambda x, t: -x, "score")
    x = problem.normals(10, 0).normal("x")
    solver = get_solver("torchdiffeq", rtol=1e-9, atol=1e-9)
    got = log_density(solver, process, x, upwards(problem), ExactDivergence()).log_p
    expected = torch.distributions.Normal(torch.zeros_like(x), torch.ones_like(x)).log_prob(x).sum(1)
    assert torch.allclose(got, expected, rtol=0, atol=1e-6)


def test_images_are_taken_as_they_come():
    problem = Gaussian()
    network = problem.process().network
    process = ReverseProcess(problem.sde, lambda x, t: network(x.flatten(1), t).view_as(x))
    x, ts = data(problem), upwards(problem, 20)
    flat = log_density(get_solver("heun"), problem.process(), x, ts, ExactDivergence())
    image = x.reshape(-1, 2, 2, 2)
    found = log_density(get_solver("heun"), process, image, ts, ExactDivergence())
    assert torch.allclose(found.log_p, flat.log_p, rtol=1e-10)
    assert torch.allclose(found.end.flatten(1), flat.end, rtol=1e-10)
    assert found.end.shape == image.shape


def test_estimates_of_the_divergence_leave_the_density_unbiased():
    """The states do not depend on the probes, so that log p is linear in them: unbiased at any step size."""
    problem, n = Mixture2d(), 2000
    x, ts, solver = data(problem, n), upwards(problem, 24), get_solver("heun")
    exact = log_density(solver, problem.process(), x, ts, ExactDivergence()).log_p
    normals = problem.normals(n, 7)
    drawn = torch.stack([normals.normal(f"probe {k}") for k in range(3)])
    found: list[Divergence] = [Hutchinson(make_probes(drawn[:2])), Hutchinson(drawn[:2])]
    for divergence in [*found, HutchPlusPlus(drawn[2:], drawn[:2])]:
        likelihood = log_density(solver, problem.process(), x, ts, divergence)
        gap = likelihood.log_p - exact
        error = gap.std() / math.sqrt(n)
        assert error > 1e-4, "on this problem the estimator has a variance"
        assert abs(gap.mean()) < 3 * error
        # The spread over the probes tells that variance without the exact density.
        variance = likelihood.by_probe.double().var(1) / 2
        assert variance.mean().sqrt().item() == pytest.approx(gap.std().item(), rel=0.1)


@pytest.mark.parametrize("name", ["heun", "dpm_solver"])
def test_probes_side_by_side_are_those_alone(name: str):
    """A solver that takes the velocity, and one that does not."""
    problem = Mixture2d()
    x, ts = data(problem), upwards(problem, 8)
    probes = make_probes(torch.stack([problem.normals(10, 3).normal(f"probe {k}") for k in range(2)]))
    together = log_density(get_solver(name), problem.process(), x, ts, Hutchinson(probes)).by_probe
    for k in range(2):
        alone = log_density(get_solver(name), problem.process(), x, ts, Hutchinson(probes[k : k + 1])).by_probe
        torch.testing.assert_close(together[:, k : k + 1], alone, rtol=1e-10, atol=1e-10)
    assert (together[:, 0] - together[:, 1]).abs().max() > 0.1


def test_value_and_divergence_take_one_pass():
    problem = Mixture2d()
    process, x = problem.process(), data(problem)
    probes = Hutchinson(torch.ones(3, *x.shape, dtype=x.dtype))
    log_density(get_solver("heun"), process, x, upwards(problem, 5), probes)
    assert (process.evaluations.calls, process.evaluations.derivative_passes) == (10, 30)


def test_refusals():
    problem = Gaussian()
    x, ts = data(problem), upwards(problem, 4)
    with pytest.raises(
        UsageError, match=r"log_density: likelihood needs an ODE solver; got 'ancestral'. Take e.g. 'heun'"
    ):
        log_density(get_solver("ancestral"), problem.process(), x, ts, ExactDivergence())
    with pytest.raises(UsageError, match="log_density: the grid runs from t_min up to t_max; got"):
        log_density(get_solver("heun"), problem.process(), x, ts.flip(0), ExactDivergence())


# Bits per dimension


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (2.0, -1.0), (0.5, 3.0)])
def test_uniform_data_take_log2_of_the_levels(levels: int, scale: float, offset: float):
    dim = 5
    x = scale * torch.rand(4, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset
    log_p = (
        torch.distributions.Uniform(torch.tensor(offset).double(), torch.tensor(offset + scale).double())
        .log_prob(x)
        .sum(1)
    )
    assert bits_per_dim(log_p, dim, levels, scale).tolist() == pytest.approx([math.log2(levels)] * 4)


def test_bits_are_those_of_the_discrete_law_of_its_dequantised_form():
    """A density constant on each level's cell has exactly the discrete law's code length."""
    probabilities = torch.tensor([0.5, 0.25, 0.2, 0.05], dtype=torch.float64)
    levels, scale, dim = 4, 2.0, 3
    k = torch.tensor([[0, 1, 3], [2, 2, 0]])
    density = probabilities[k] * levels / scale
    expected = -probabilities[k].log2().mean(1)
    assert torch.allclose(bits_per_dim(density.log().sum(1), dim, levels, scale), expected, rtol=1e-12)
