"""What a density from the flow misses at t_max and t_min, against the closed forms on Gaussians; the bound."""

import math

import pytest
import torch
from densities import RotatedMixture
from torch import Tensor

from bench.problems.gaussian import Gaussian
from solvers.bound import variational_bound
from solvers.density_errors import mixture_log_density, prior_mismatch, smoothing
from solvers.divergence import ExactDivergence
from solvers.likelihood import log_density
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import SDES

SOLVER = get_solver("rk45", pair="dormand_prince_853", rtol=1e-7, atol=1e-7)


def divergence_from_prior(problem: Gaussian) -> float:
    """KL(p_t_max || prior), nats."""
    mean, var = problem.law(problem.sde.t_max)
    ratio = var / problem.sde.prior_std**2
    square = (mean / problem.sde.prior_std).square()
    return float((square + ratio - 1 - ratio.log()).sum()) / 2


@pytest.mark.parametrize("sde", SDES)
def test_the_prior_costs_its_divergence(sde: str) -> None:
    """Of log p by the prior and log p by the exact law at t_max, at the end of the same solve."""
    problem, n = Gaussian(sde=SDES[sde]()), 1000
    start, end = problem.sde.t_min_likelihood, problem.sde.t_max
    x = problem.marginal_sample(start, problem.normals(n, 0), "x")
    ts = torch.tensor([start, end], dtype=torch.float64)
    by_prior = log_density(SOLVER, problem.process(), x, ts, ExactDivergence())
    by_law = log_density(SOLVER, problem.process(), x, ts, ExactDivergence(), lambda z: problem.log_density(z, end))
    mismatch = prior_mismatch(problem.sde, by_prior.end, problem.log_density(by_prior.end, end))
    torch.testing.assert_close(by_prior.log_p - by_law.log_p, mismatch, rtol=0, atol=1e-9)
    expected = -divergence_from_prior(problem)
    error = float(mismatch.std()) / n**0.5
    assert abs(float(mismatch.mean()) - expected) < 3 * error


@pytest.mark.parametrize("sde", SDES)
def test_a_sample_of_the_data_tells_the_law_at_the_end(sde: str) -> None:
    """But for the error of the points' mean, which shifts the law by that error times alpha."""
    problem, points = Gaussian(sde=SDES[sde]()), 2000
    end = problem.sde.t_max
    x = problem.marginal_sample(end, problem.normals(400, 0), "x")
    data = problem.mean + problem.var.sqrt() * problem.normals(points, 1).normal("data")
    exact = problem.log_density(x, end)
    miss = (mixture_log_density(x, data, problem.sde, end) - exact).square().mean().sqrt()
    of_the_mean = float(problem.var.sum() / points) ** 0.5 * problem.sde.alpha(end) / problem.sde.sigma(end)
    assert 0.5 * of_the_mean < miss < 1.5 * of_the_mean
    assert miss < 0.1 * prior_mismatch(problem.sde, x, exact).square().mean().sqrt()


@pytest.mark.parametrize("components", [1, 3], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("sde", SDES)
def test_smoothing_is_that_of_the_closed_form(sde: str, components: int) -> None:
    """To first order: tau^2 over the least variance is at most 2e-3 here."""
    problem = RotatedMixture(8, components, SDES[sde]())
    t = problem.sde.t_min_likelihood
    x = problem.sample(t, problem.normals(200, 0), "x")

    class Clean:
        """The forward process at its very start, t = 0, where VE and EDM have no noise either."""

        alpha = staticmethod(lambda t: 1.0)
        sigma = staticmethod(lambda t: 0.0)

    clean = RotatedMixture(8, components, problem.sde)
    clean.sde = Clean()  # type: ignore[assignment]
    exact = problem.log_density(x, t) - clean.log_density(x, 0.0)
    found = smoothing(problem.process(), x, t, ExactDivergence())
    assert exact.abs().max() > 1e-6
    assert (found - exact).abs().max() < 0.02 * exact.abs().max()


def bound(problem: RotatedMixture, n: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Bounds of -log p, and -log p at t = 0, of the score times ``scale``."""
    process = problem.process()
    network = process.network
    process = ReverseProcess(problem.sde, lambda x, t: scale * network(x, t), "score")
    x = problem.sample(problem.sde.t_min_likelihood, problem.normals(n, 0), "x")
    exact = -problem.log_density(x, problem.sde.t_min_likelihood)
    return variational_bound(process, x, problem.normals(n, 5), 32), exact


@pytest.mark.parametrize("components", [1, 3], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("sde", SDES)
def test_an_exact_score_leaves_the_bound_no_gap(sde: str, components: int) -> None:
    """But for the prior's, which VE has most of."""
    problem, n = RotatedMixture(4, components, SDES[sde]()), 4000
    found, exact = bound(problem, n)
    gap = found - exact
    error = float(gap.std()) / n**0.5
    start, end = problem.sde.t_min_likelihood, problem.sde.t_max
    x_end = problem.sample(end, problem.normals(n, 1), "end")
    prior = float((problem.log_density(x_end, end) - problem.sde.prior_log_prob(x_end)).mean())
    assert abs(float(gap.mean()) - prior) < 3 * error + 1e-3
    assert error < 0.02 * problem.dim
    assert start > 0


def test_a_wrong_score_leaves_a_gap() -> None:
    problem, n = RotatedMixture(4, 1, SDES["vp"]()), 2000
    found, exact = bound(problem, n, scale=0.7)
    gap = found - exact
    assert float(gap.mean()) > 5 * float(gap.std()) / math.sqrt(n)
