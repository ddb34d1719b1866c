"""Metrics on points: known answers, standard errors of repeated draws, and laws that are known without sampling."""

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from records import cell
from test_metrics import normal, outcome
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from bench.certify import law_of
from bench.metrics.discrepancy import EnergyDistance, Mmd, block_sums, discrepancies
from bench.metrics.flow_kl import FlowKl, divergence_terms, log_determinant
from bench.metrics.law import LawKl, LawW2, law_kl, law_w2, prior_law, probed_law
from bench.metrics.metric import BLOCKS, Metric, Outcome, get_metric
from bench.metrics.mode_weights import ModeWeights
from bench.metrics.moments import CovarianceError, MeanError
from bench.metrics.wasserstein import W2, GaussianW2, assignment_w2, gaussian_w2
from bench.problems.gaussian import Gaussian
from bench.problems.line import Line2d
from bench.problems.mixture import Mixture2d
from bench.problems.problem import Problem
from bench.record import MetricValue
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.registry import get_solver
from solvers.sde import VE, VP
from solvers.solver import FixedStepSolver, Solver, integrate


def value_of(metric: type[Metric], problem: Problem, samples: Tensor, **changes: Any) -> float:
    found = metric().measure(outcome(problem, samples, **changes)).value
    assert found is not None
    return found


def with_moments(n: int, mean: Tensor, cov: Tensor) -> Tensor:
    """A sample with exactly that mean and covariance."""
    x = normal(n, len(mean))
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), x.T, upper=False).T
    return mean + white @ torch.linalg.cholesky(cov).T


# What the problems know.


@pytest.mark.parametrize("make", [Gaussian, Mixture2d, Line2d])
@pytest.mark.parametrize("t", [1e-3, 0.2, 1.0])
def test_moments_and_modes_are_those_of_many_exact_draws(make: Callable[[], Any], t: float) -> None:
    problem, n = make(), 40_000
    x = problem.marginal_sample(t, problem.normals(n, 5), "draws")
    mean, cov = problem.moments(t)
    spread = cov.diag().max().sqrt()
    assert float((x.mean(0) - mean).abs().max()) < 4 * spread / n**0.5
    assert float((torch.cov(x.T) - cov).abs().max()) < 8 * spread**2 / n**0.5
    if make is Gaussian:
        with pytest.raises(UsageError, match="gaussian: it is no mixture of known modes"):
            problem.modes(t)
        return
    centres, weights = problem.modes(t)
    assert float(weights.sum()) == pytest.approx(1)
    assert torch.allclose(weights @ centres, mean, atol=1e-12)
    if t < 0.01:
        nearest = torch.cdist(x, centres)
        assert torch.allclose(nearest.argmin(1).bincount().double() / n, weights, atol=0.01)
        assert float(nearest.min(1).values.mean()) < 0.7


def test_digits_know_neither() -> None:
    value = MeanError().measure(outcome(Unknown(), Unknown().prior(10, 0)))
    assert value == MetricValue(reason="gaussian: its moments are not known exactly. Take another metric")


class Unknown(Gaussian):
    """A Gaussian that does not tell."""

    moments = Problem.moments


# Moments.


@pytest.mark.parametrize("make", [Gaussian, Mixture2d])
def test_errors_of_mean_and_covariance_of_known_moments(make: Callable[[], Problem]) -> None:
    problem = make()
    mean, cov = problem.moments(problem.sde.t_min)
    right = with_moments(300, mean, cov)
    assert value_of(MeanError, problem, right) == pytest.approx(0, abs=1e-12)
    assert value_of(CovarianceError, problem, right) == pytest.approx(0, abs=1e-12)
    assert value_of(GaussianW2, problem, right) == pytest.approx(0, abs=1e-6)
    shift = torch.zeros_like(mean)
    shift[:2] = torch.tensor([3.0, -4.0])
    assert value_of(MeanError, problem, right + shift) == pytest.approx(5)
    assert value_of(CovarianceError, problem, right + shift) == pytest.approx(0, abs=1e-12)
    assert value_of(GaussianW2, problem, right + shift) == pytest.approx(5)
    wide = mean + 1.5 * (right - mean)
    assert value_of(CovarianceError, problem, wide) == pytest.approx(1.25)
    assert value_of(GaussianW2, problem, wide) == pytest.approx(0.5 * math.sqrt(float(cov.trace())))


# Mode weights.


def test_mode_weights_are_pearsons_statistic_of_the_counts() -> None:
    """On the line, weights 1/5 and 4/5: 30 of 100 in the first give (0.1^2/0.2 + 0.1^2/0.8)^(1/2) = 1/4."""
    problem = Line2d()
    centres, _ = problem.modes(problem.sde.t_min)
    near = 0.1 * normal(100, 2)
    assert value_of(ModeWeights, problem, near + centres[[0] * 30 + [1] * 70]) == pytest.approx(0.25)
    assert value_of(ModeWeights, problem, near + centres[[0] * 20 + [1] * 80]) == pytest.approx(0, abs=1e-12)
    mixture = Mixture2d()
    one = mixture.modes(mixture.sde.t_min)[0][:1] + near
    assert value_of(ModeWeights, mixture, one) == pytest.approx(math.sqrt(7)), "all in one of eight"


def test_mode_weights_of_exact_samples_are_those_of_chi_squared() -> None:
    """n w^2 has the mean of chi^2, 7 degrees of freedom."""
    problem, n = Mixture2d(), 400
    values = [ModeWeights.distance(problem.reference(n, seed, 0), problem) for seed in range(60)]
    assert n * np.mean(np.square(values)) == pytest.approx(7, abs=3 * math.sqrt(14 / 60))


# Energy distance and maximum mean discrepancy.


@pytest.mark.parametrize("n", [7, 20, 43])
def test_sums_over_blocks_give_the_discrepancy_and_those_with_a_block_left_out(n: int) -> None:
    a, b = normal(n, 2), normal(n, 2, seed=1) + 1
    blocks = min(n, BLOCKS)
    block = torch.arange(n) * blocks // n

    def direct(a: Tensor, b: Tensor) -> float:
        return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())

    kernels = (-torch.cdist(*pair) for pair in ((a, a), (b, b), (a, b)))
    value, left = discrepancies(*(block_sums(k) for k in kernels), n)
    assert value == pytest.approx(direct(a, b), rel=1e-9)
    assert left == pytest.approx([direct(a[block != k], b[block != k]) for k in range(blocks)], rel=1e-9)


def test_energy_distance_of_two_normal_laws() -> None:
    """In each coordinate alone: 2 E|N(m, 2)| - 4/sqrt(pi); of points far apart, twice their distance."""
    problem, n = Gaussian(), 500
    reference = problem.reference(n, 0, 0)
    far = reference + 1e4
    assert value_of(EnergyDistance, problem, far) == pytest.approx(2 * 1e4 * 8**0.5, rel=1e-3)
    a, b = normal(4000, 1) + 1, normal(4000, 1, seed=1)
    sums = (block_sums(-torch.cdist(*pair)) for pair in ((a, a), (b, b), (a, b)))
    value, _ = discrepancies(*sums, 4000)
    mean_abs = math.sqrt(2) * math.sqrt(2 / math.pi) * math.exp(-1 / 4) + math.erf(1 / 2)
    assert value == pytest.approx(2 * mean_abs - 4 / math.sqrt(math.pi), rel=0.06)
    assert value_of(EnergyDistance, problem, reference) == pytest.approx(0, abs=1e-12)


def test_mmd_of_two_normal_laws() -> None:
    """With k = exp(-|x - y|^2/L) and x - y ~ N(m, v I) in d dimensions: E k = (1 + 2v/L)^(-d/2) exp(-m^2/(L + 2v))."""
    problem, n = Gaussian(), 2000
    cov = problem.moments(problem.sde.t_min)[1]
    scale, var = float(cov.trace()), cov.diag()
    own = float((1 + 4 * var / scale).rsqrt().prod())
    shift = torch.full((8,), 2.0, dtype=torch.float64)
    cross = own * math.exp(-float((shift.square() / (scale + 4 * var)).sum()))
    found = value_of(Mmd, problem, problem.reference(n, 0, 1) + shift)
    assert found == pytest.approx(math.sqrt(2 * own - 2 * cross), rel=0.06)
    assert value_of(Mmd, problem, problem.reference(n, 0, 0)) == pytest.approx(0, abs=1e-6)


# Pairing.


def test_w2_is_the_best_of_all_pairings() -> None:
    a, b = normal(6, 2), normal(6, 2, seed=1) + 1
    best = min(float((a - b[list(order)]).square().sum(1).mean()) for order in permutations(range(6)))
    assert assignment_w2(a, b) == pytest.approx(math.sqrt(best))


def test_w2_of_translations_permutations_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    a = normal(60, 2)
    shift = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert assignment_w2(a.flip(0) + shift, a) == pytest.approx(5)
    assert assignment_w2(a, a.flip(0)) == pytest.approx(0, abs=1e-12)
    monkeypatch.setattr("bench.metrics.wasserstein.PAIRED", 30)
    other = normal(60, 2, seed=1)
    halves = [assignment_w2(a[part], other[part]) for part in (slice(0, 30), slice(30, 60))]
    assert assignment_w2(a, other) == pytest.approx(math.sqrt(np.mean(np.square(halves))))
    assert assignment_w2(a, a.flip(0)) > 0.1, "blocks are paired each for itself"


def test_w2_in_blocks_is_recorded_with_the_blocks_left_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.metrics.wasserstein.PAIRED", 10)
    a, b = normal(40, 2) + 0.5, normal(40, 2, seed=1)
    found, block = W2.measured(a, b), torch.arange(40) // 10
    left = [assignment_w2(a[block != k], b[block != k]) for k in range(4)]
    assert found.value == pytest.approx(assignment_w2(a, b), rel=1e-12)
    assert found.replicates == pytest.approx(left, rel=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(3 * np.var(left)), rel=1e-9)


# Standard errors, away from zero.


@pytest.mark.parametrize(
    ("metric", "change"),
    [
        (MeanError, lambda x: x + 0.5),
        (CovarianceError, lambda x: 1.5 * x),
        (GaussianW2, lambda x: 1.3 * x + 0.5),
        (EnergyDistance, lambda x: 1.3 * x + 0.5),
        (Mmd, lambda x: 1.3 * x + 0.5),
        (ModeWeights, lambda x: torch.where(x[:, :1] > 3, -x, x)),
        (W2, lambda x: 1.3 * x + 0.5),
    ],
)
def test_standard_errors_are_those_of_repeated_draws(
    metric: type[Metric], change: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.metrics.wasserstein.PAIRED", 50)
    problem, found = Mixture2d(), []
    for seed in range(80):
        samples = change(problem.marginal_sample(problem.sde.t_min, problem.normals(300, seed), "fresh"))
        found.append(metric().measure(outcome(problem, samples, seed=seed)))
    spread = np.std([value.value or math.nan for value in found])
    assert np.mean([value.standard_error or math.nan for value in found]) == pytest.approx(spread, rel=0.3)
    floors = [value.floor or math.nan for value in found]
    assert np.mean(floors) < np.mean([value.value or math.nan for value in found])


# The law by probing.


def row(solver: str, problem: Problem, n: int = 50, **changes: Any) -> Outcome:
    return outcome(problem, problem.prior(n, 0), solver, **changes)


def solved(solver: Solver, problem: Problem, n: int, budget: int) -> Tensor:
    assert isinstance(solver, FixedStepSolver)
    ts = make_grid("log_snr", problem.sde, solver.steps_for(budget))
    last: Any = "mean" if solver.stochastic else "keep"
    return integrate(solver, problem.process(), problem.prior(n, 3), ts, problem.brownian(n, 3), last)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "euler_maruyama", "ancestral"])
@pytest.mark.parametrize("sde", [VP(), VE()])
def test_the_probed_law_is_that_of_many_samples_from_the_prior(name: str, sde: Any) -> None:
    problem, n = Gaussian(sde=sde), 20_000
    mean, var = probed_law(row(name, problem))
    x = solved(get_solver(name), problem, n, 10)
    assert float(((x.mean(0) - mean) / (var / n).sqrt()).abs().max()) < 4
    assert float((x.var(0) / var - 1).abs().max()) < 5 * (2 / n) ** 0.5


def test_the_probed_law_ends_as_the_cell_does() -> None:
    """A stochastic solver's last step is its mean, and less spread than with the noise."""
    problem = Gaussian()
    solver = get_solver("ancestral")
    assert isinstance(solver, FixedStepSolver)
    ts = make_grid("log_snr", problem.sde, 10)
    _, var = probed_law(row("ancestral", problem))
    assert torch.equal(var, law_of(solver, problem, ts, "mean", prior_law(problem))[1])
    assert bool((var < law_of(solver, problem, ts, "keep", prior_law(problem))[1]).all())


def test_the_step_to_zero_is_part_of_the_budget_and_of_the_law() -> None:
    """Nine steps and Tweedie's in ten evaluations; the density pulled back is that of the same end."""
    problem = Gaussian()
    solver = get_solver("euler")
    assert isinstance(solver, FixedStepSolver)
    ended = row("euler", problem, n=500, budget=10, last="tweedie")
    nine = law_of(solver, problem, make_grid("log_snr", problem.sde, 9), "tweedie", prior_law(problem))
    torch.testing.assert_close(probed_law(ended), nine, rtol=0, atol=0)
    closed, found = LawKl().measure(ended).value, FlowKl().measure(ended)
    assert closed is not None
    assert found.value is not None
    assert found.standard_error is not None
    assert abs(found.value - closed) < 4 * found.standard_error < 0.4 * closed


def test_distances_of_laws_are_the_closed_forms() -> None:
    a = (normal(5), normal(5, seed=1).exp())
    b = (normal(5, seed=2), normal(5, seed=3).exp())
    first, second = (Independent(Normal(mean, var.sqrt()), 1) for mean, var in (a, b))
    assert law_kl(a, b) == pytest.approx(float(kl_divergence(first, second)))
    x, y = (with_moments(200, mean, var.diag()) for mean, var in (a, b))
    assert law_w2(a, b) == pytest.approx(gaussian_w2(x, y))
    assert law_kl(a, a) == law_w2(a, a) == 0


def test_laws_of_a_fine_solve_come_down_to_the_priors_mismatch() -> None:
    problem = Gaussian()
    for metric in (LawW2(), LawKl()):
        values = [metric.measure(row("heun", problem, budget=budget)) for budget in (10, 100, 1000)]
        errors = [value.value or math.nan for value in values]
        assert errors[0] > 10 * errors[1] > 10 * errors[2] > 0
        floor = values[2].floor
        assert floor is not None
        assert floor > 0
        assert errors[2] == pytest.approx(floor, rel=0.2)
        assert values[2].standard_error == 0
    mismatch = law_kl(prior_law(problem), problem.law(problem.sde.t_max))
    assert LawKl().measure(row("heun", problem)).floor == pytest.approx(mismatch, rel=1e-6), "a flow keeps KL"


def test_the_law_is_that_of_the_rows_grid_and_solver() -> None:
    problem = Gaussian()
    values = {
        (name, grid, budget): LawW2().measure(row(name, problem, grid=grid, budget=budget)).value
        for name in ("euler", "euler_maruyama")
        for grid in ("log_snr", "uniform")
        for budget in (10, 20)
    }
    assert len(set(values.values())) == 8


@pytest.mark.parametrize(
    ("solver", "reason"),
    [
        (
            "predictor_corrector",
            "law: laws are probed of solvers affine in start and noise; got 'predictor_corrector'.",
        ),
        ("torchdiffeq", "law: laws are probed of solvers affine in start and noise; got 'torchdiffeq'."),
    ],
)
def test_laws_that_cannot_be_probed_are_blank_with_the_reason(solver: str, reason: str) -> None:
    problem = Gaussian()
    changes: dict[str, Any] = {}
    if solver == "torchdiffeq":
        changes = {"budget": None, "grid": "adaptive", "settings": {"rtol": 1e-3, "atol": 1e-3}}
    assert LawKl().measure(row(solver, problem, **changes)) == MetricValue(reason=f"{reason} Take metrics of samples")
    other = LawKl().measure(row("euler", Mixture2d()))
    assert other.reason == "law: laws are probed on a Gaussian; got 'mixture_2d'. Take metrics of samples"


# The density pulled back through an ODE solver.


def test_the_determinant_is_that_of_a_linear_map() -> None:
    problem = Gaussian()
    solver = get_solver("dpmpp_2m")
    assert isinstance(solver, FixedStepSolver)
    ts = make_grid("log_snr", problem.sde, 10)
    x = problem.prior(5, 0)
    end, log_det = log_determinant(solver, problem, x, ts)
    assert torch.equal(end, integrate(solver, problem.process(), x, ts))
    _, var = probed_law(row("dpmpp_2m", problem, budget=10))
    assert torch.allclose(log_det, (var.log().sum() / 2).expand(5), atol=1e-6)


@pytest.mark.parametrize(("solver", "budget"), [("euler", 20), ("heun", 20), ("dpmpp_2m", 10)])
def test_the_pulled_back_kl_is_that_of_the_probed_law(solver: str, budget: int) -> None:
    """On the Gaussian both are known: one by closed form, the other over 500 starts."""
    problem = Gaussian()
    closed = LawKl().measure(row(solver, problem, budget=budget)).value
    found = FlowKl().measure(row(solver, problem, n=500, budget=budget))
    assert closed is not None
    assert found.value is not None
    assert found.standard_error is not None
    assert abs(found.value - closed) < 4 * found.standard_error
    assert found.standard_error < 0.3 * closed


def test_the_pulled_back_kl_on_the_mixture_falls_to_its_floor() -> None:
    problem = Mixture2d()
    values = [FlowKl().measure(row("unipc", problem, n=500, budget=budget)) for budget in (10, 30, 200)]
    errors = [value.value or math.nan for value in values]
    assert errors[0] > 5 * errors[1] > 5 * errors[2] > 0
    assert values[2].floor is not None
    assert errors[2] == pytest.approx(values[2].floor, rel=0.5)


def test_terms_of_the_divergence_are_not_negative_and_average_to_it() -> None:
    x = normal(200_000)
    log_ratio = -((x - 0.3) ** 2) / 2 + x**2 / 2
    terms = divergence_terms(log_ratio)
    assert float(terms.min()) >= 0
    assert float(terms.mean()) == pytest.approx(0.3**2 / 2, rel=0.02)
    assert float(terms.std()) < float(log_ratio.std())


def test_a_density_that_is_not_known_is_blank_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Mixture2d()
    assert FlowKl().measure(row("euler_maruyama", problem)).reason == "not an ODE solver"
    tolerances = {"rtol": 1e-3, "atol": 1e-3}
    adaptive = row("torchdiffeq", problem, budget=None, grid="adaptive", settings=tolerances)
    assert FlowKl().measure(adaptive).reason == "an adaptive solver's map is not smooth"
    # A fold: the last coordinate comes out as its absolute value, less where it was negative.
    flow = integrate

    def folded(*arguments: Any) -> Tensor:
        x = flow(*arguments)
        return torch.stack([x[:, 0], x[:, 1].abs()], 1)

    monkeypatch.setattr("bench.metrics.flow_kl.integrate", folded)
    value = FlowKl().measure(row("euler", problem, budget=20))
    assert value.value is None
    assert value.reason is not None
    assert "the solver's map is one-to-one; got 'a determinant that is not positive at" in value.reason


# Samples that are none.


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda x: x[:0], r"they have the shape \(20, 8\); got \(0, 8\)"),
        (lambda x: x[:-1], r"they have the shape \(20, 8\); got \(19, 8\)"),
        (lambda x: x[:, :-1], r"they have the shape \(20, 8\); got \(20, 7\)"),
        (lambda x: torch.where(x == x.max(), math.nan, x), "they are finite; got '1 values that are not'"),
        (lambda x: torch.where(x == x.max(), math.inf, x), "they are finite"),
        (lambda x: x[:1].expand(20, 8), "they differ from one another; got '20 times the same'"),
    ],
)
@pytest.mark.parametrize(
    "name", ["w2_gaussian", "energy_distance", "mean_error", "covariance_error", "pathwise_rmse", "law_w2"]
)
def test_no_metric_gives_a_number_of_samples_that_are_none(
    name: str, spoil: Callable[[Tensor], Tensor], reason: str
) -> None:
    problem = Gaussian()
    spec = cell("euler", n=20)
    samples = spoil(problem.prior(20, 0))
    value = get_metric(name).measure(Outcome(spec, problem, get_solver("euler"), samples))
    assert (value.value, value.standard_error, value.floor) == (None, None, None)
    assert value.reason is not None
    with pytest.raises(UsageError, match=f"samples of euler: {reason}"):
        raise UsageError(value.reason)


def test_a_value_beyond_its_limits_or_not_finite_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Gaussian()
    monkeypatch.setattr(MeanError, "distance", staticmethod(lambda samples, problem: -1.0))
    value = MeanError().measure(row("euler", problem))
    assert value == MetricValue(reason="mean_error lies in [0, inf], computed was -1")
    monkeypatch.setattr(MeanError, "distance", staticmethod(lambda samples, problem: math.nan))
    assert MeanError().measure(row("euler", problem)) == MetricValue(reason="mean_error is not finite")
