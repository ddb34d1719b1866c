"""Metrics on inputs whose answers are known."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from records import cell, jackknife
from torch import Tensor

from bench.metrics.discrepancy import EnergyDistance
from bench.metrics.extractors import INCEPTION
from bench.metrics.metric import BLOCKS, Outcome, get_metric, measured, metric_classes, replicates
from bench.metrics.mode_weights import ModeWeights
from bench.metrics.moments import MeanError
from bench.metrics.pathwise import PathwiseRmse, root_mean_square
from bench.metrics.wasserstein import GaussianW2, SlicedW2, gaussian_w2, sliced_w2
from bench.problems.digits import Digits
from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import ImageProblem, Problem, problem_classes
from solvers.errors import UsageError
from solvers.registry import get_solver


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def outcome(problem: Problem, samples: Tensor, solver: str = "euler", **changes: Any) -> Outcome:
    spec = cell(solver, problem=problem.key, n=len(samples), **changes)
    return Outcome(spec, problem, get_solver(solver, **spec.settings), samples)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


# Wasserstein-2 of Gaussian fits.


def w2_by_scipy(a: Tensor, b: Tensor) -> float:
    """Dowson and Landau's formula in its own form, by scipy's matrix square root."""
    cov_a, cov_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    cross = scipy.linalg.sqrtm(cov_a @ cov_b).real
    squared = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(cov_a + cov_b - 2 * cross)
    return float(math.sqrt(squared))


def test_gaussian_w2_is_the_closed_form_of_correlated_samples() -> None:
    mix_a, mix_b = normal(5, 5, seed=1), normal(5, 5, seed=2)
    a, b = normal(300, 5, seed=3) @ mix_a + 1, normal(400, 5, seed=4) @ mix_b
    assert gaussian_w2(a, b) == pytest.approx(w2_by_scipy(a, b), rel=1e-9)
    assert gaussian_w2(b, a) == pytest.approx(gaussian_w2(a, b), rel=1e-9)


def test_gaussian_w2_of_a_shift_and_of_a_scaling() -> None:
    a = normal(500, 3)
    shift = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64)
    assert gaussian_w2(a + shift, a) == pytest.approx(3, rel=1e-6)
    centred = a - a.mean(0)
    scale = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    # Of commuting covariances: the root of the summed squared differences of standard deviations.
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(centred.T)).T)
    assert gaussian_w2(white * scale, white) == pytest.approx(math.sqrt(1 + 0.25), rel=1e-9)


def test_gaussian_w2_of_equal_samples_and_of_a_flat_one() -> None:
    a = normal(100, 4)
    assert gaussian_w2(a, a.flip(0)) == pytest.approx(0, abs=1e-6)
    flat = a.clone()
    flat[:, 0] = 0
    expected = math.sqrt(float(a[:, 0].mean() ** 2 + a[:, 0].var()))
    assert gaussian_w2(flat, a) <= expected
    assert gaussian_w2(a[:, :2], flat[:, :1].expand(-1, 2)) == pytest.approx(
        math.sqrt(float((a[:, :2].mean(0) ** 2 + a[:, :2].var(0)).sum())), rel=1e-6
    )


# Sliced Wasserstein-2.


def test_sliced_w2_of_a_translation_in_the_plane() -> None:
    """By directions spread evenly: |shift| sqrt(mean cos^2) = |shift| / sqrt(2), exactly."""
    a = normal(200, 2)
    for shift in ([3.0, 0.0], [0.0, -3.0], [3 / math.sqrt(2), 3 / math.sqrt(2)]):
        moved = a + torch.tensor(shift, dtype=torch.float64)
        assert sliced_w2(moved, a) == pytest.approx(3 / math.sqrt(2), rel=1e-12)


def test_sliced_w2_of_a_scaling_in_the_plane() -> None:
    """Every projection is stretched by 2: the root of the mean squared projections, |x| / sqrt(2) root mean square."""
    a = normal(200, 2)
    expected = math.sqrt(float(a.square().sum(1).mean()) / 2)
    assert sliced_w2(2 * a, a) == pytest.approx(expected, rel=1e-12)


def test_sliced_w2_of_a_translation_in_eight_dimensions_is_about_its_share_of_a_direction() -> None:
    a = normal(50, 8)
    assert sliced_w2(a + 1, a) == pytest.approx(math.sqrt(8 / 8), rel=0.2)


def test_sliced_w2_takes_64_unit_directions_spread_over_the_sphere() -> None:
    """A unit translation along axis i comes to the mean of u_i^2: one over all axes, an eighth each, within 3.4 sd."""
    a = normal(20, 8)
    squares = [sliced_w2(a + axis, a) ** 2 for axis in torch.eye(8, dtype=torch.float64)]
    assert sum(squares) == pytest.approx(1, rel=1e-12)
    assert squares == pytest.approx([1 / 8] * 8, abs=3.4 * math.sqrt(14 / 640 / 64))


def test_sliced_w2_sees_samples_as_sets() -> None:
    a = normal(200, 2)
    assert sliced_w2(a, a.flip(0)) == pytest.approx(0, abs=1e-15)
    assert sliced_w2(a, normal(200, 2, seed=1)) > 0.01


# Pathwise error.


def test_root_mean_square_of_a_known_shift_and_its_standard_error() -> None:
    value, error = root_mean_square(torch.full((50, 4), -0.3, dtype=torch.float64))
    assert (value, error) == (pytest.approx(0.3), pytest.approx(0, abs=1e-12))
    assert root_mean_square(torch.zeros(5, 2)) == (0, 0)
    values, errors = zip(*(root_mean_square(normal(200, 3, seed=s)) for s in range(200)), strict=True)
    assert np.mean(values) == pytest.approx(1, abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)


@pytest.mark.parametrize(("make", "tolerance"), [(Gaussian, 1e-14), (Mixture2d, 1e-8)])
def test_pathwise_error_of_the_exact_flow_and_of_a_shift(make: Any, tolerance: float) -> None:
    problem = make()
    exact = problem.flow(problem.prior(20, 0), problem.sde.t_max, problem.sde.t_min)
    right = PathwiseRmse().evaluate(outcome(problem, exact))
    assert right.value is not None
    assert right.value <= tolerance
    shifted = PathwiseRmse().evaluate(outcome(problem, exact + 0.25))
    assert shifted.value == pytest.approx(0.25)
    assert shifted.floor == right.floor
    assert shifted.floor is not None
    assert 0 < shifted.floor < tolerance
    other_start = PathwiseRmse().evaluate(outcome(problem, exact, seed=1))
    assert other_start.value is not None
    assert other_start.value > 0.1, "the seed's own starts are compared"


def test_pathwise_error_of_a_stochastic_solver_is_blank_with_the_reason() -> None:
    problem = Gaussian()
    result = PathwiseRmse().evaluate(outcome(problem, problem.prior(20, 0), "euler_maruyama"))
    assert (result.value, result.reason) == (None, "not an ODE solver")


def test_the_exact_law_of_the_gaussian_problem_has_no_distance_beyond_sampling() -> None:
    """Exact samples are as far from the reference as the floor, a wrong law is further."""
    problem = Gaussian()
    n = 4000
    exact = problem.marginal_sample(problem.sde.t_min, problem.normals(n, 99), "other")
    right = GaussianW2().evaluate(outcome(problem, exact))
    wrong = GaussianW2().evaluate(outcome(problem, 1.2 * exact))
    assert right.value is not None
    assert right.floor is not None
    assert max(right.value, right.floor) < 0.15
    assert wrong.floor == right.floor
    _, var = problem.law(problem.sde.t_min)
    mean, _ = problem.law(problem.sde.t_min)
    assert wrong.value == pytest.approx(0.2 * math.sqrt(float((var + mean**2).sum())), rel=0.1)


# Standard errors.


@pytest.mark.parametrize("distance", [gaussian_w2, sliced_w2])
def test_jackknife_errors_are_those_of_repeated_draws(distance: Any) -> None:
    """Away from zero the standard error must be the spread of the distance between fresh pairs of samples."""
    values, errors = [], []
    for seed in range(120):
        a, b = 1.5 * normal(200, 2, seed=2 * seed) + 0.5, normal(200, 2, seed=2 * seed + 1)
        values.append(distance(a, b))
        errors.append(jackknife(distance, a, b))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    a, b = normal(1000, 1), torch.zeros(1000, 1, dtype=torch.float64)
    error = jackknife(lambda x, y: float((x - y).mean()), a, b)
    blocks = a[:, 0].reshape(BLOCKS, -1).mean(1)
    assert error == pytest.approx(float(blocks.std()) / BLOCKS**0.5, rel=1e-9), "blocks of 50 in order"
    assert error == pytest.approx(1 / 1000**0.5, rel=0.5)


def test_a_measured_value_carries_the_replicates_behind_its_error() -> None:
    a, b = normal(43, 2), normal(43, 2, seed=1)
    value = measured(sliced_w2, a, b, floor=0.1)
    assert (value.value, value.floor) == (sliced_w2(a, b), 0.1)
    assert value.replicates is not None
    assert len(value.replicates) == BLOCKS == 20
    kept = [i for i in range(43) if i * 20 // 43 != 7]
    assert value.replicates[7] == sliced_w2(a[kept], b[kept]), "the same samples of both are left out"
    spread = np.var(value.replicates) * 19
    assert value.standard_error == pytest.approx(math.sqrt(spread), rel=1e-12)
    assert len(replicates(lambda x: float(x.mean()), a[:7])) == 7, "a block a sample where there are few"


@pytest.mark.parametrize("metric", [PathwiseRmse, GaussianW2])
def test_replicates_of_cells_of_a_seed_pair(metric: Any) -> None:
    """Two cells whose samples differ in one block alone share the replicate that lacks it, and no other."""
    problem = Gaussian()
    start = problem.prior(60, 0)
    other = start.clone()
    other[3:6] += 1
    one, two = (metric().evaluate(outcome(problem, x)).replicates for x in (start, other))
    assert [a == b for a, b in zip(one, two, strict=True)] == [k == 1 for k in range(20)]


# Floors.


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        (EnergyDistance, Gaussian()),
        (SlicedW2, Mixture2d()),
        (MeanError, Gaussian()),
        (GaussianW2, Gaussian()),
        (ModeWeights, Mixture2d()),
    ],
)
def test_floors_depend_on_number_and_seed_but_not_on_the_samples(metric: Any, problem: Problem) -> None:
    def floor(samples: Tensor, seed: int = 0) -> float:
        value = metric().evaluate(outcome(problem, samples, seed=seed)).floor
        assert value is not None
        return float(value)

    start = problem.prior(50, 0)
    first = floor(start)
    exact = metric().evaluate(outcome(problem, problem.reference(50, 0, 1)))
    assert first == pytest.approx(exact.value), "these are the floor's own samples"
    assert floor(7 * start) == first
    assert floor(start, seed=1) != first
    assert floor(problem.prior(800, 0)) < first, "more samples, a lower floor"


# Digits.


def state(digits: ImageProblem, levels: Tensor) -> Tensor:
    """The states in the middle of the levels' bins."""
    return digits.scale * (levels.float() + 0.5) / digits.levels + digits.offset


def test_more_references_than_there_are_digits_are_refused(digits: Digits) -> None:
    with pytest.raises(UsageError, match="there are 599 test images; got 600"):
        digits.reference(600, 0, 0)
    assert len(digits.reference(Digits.n_max, 0, 0)) == 599


# The menu.


def test_every_metric_of_a_problem_is_on_the_menu_and_says_what_it_is() -> None:
    for problem in problem_classes().values():
        for name in problem.metrics:
            metric = get_metric(name)
            assert metric.key == name
            assert metric.limits[0] < metric.limits[1]
            assert metric.label
            assert metric.unit
            assert metric.reference
    for name, cls in metric_classes().items():
        assert not name.startswith("fid") or getattr(cls, "extractor", None) == INCEPTION, (
            "FID means Inception features"
        )
    with pytest.raises(UsageError, match=r"no metric 'fd_digit'; did you mean 'fd_digits'"):
        get_metric("fd_digit")


# What says more of the problem than of the solver ranks nobody.
HIGHER = {"inception_score", *(f"{kind}{on}" for kind in ("precision", "recall") for on in ("", "_digits", "_fashion"))}
UNRANKED = {
    "bits_bound",
    "bits_dequantisation_error",
    "bits_per_dim",
    "bits_prior_mismatch",
    "bits_probe_error",
    "bits_smoothing",
}


def test_every_metric_ranks_in_its_own_direction() -> None:
    found: dict[str, set[str]] = {direction: set() for direction in ("lower", "higher", "none")}
    for key, metric in metric_classes().items():
        found[metric.direction].add(key)
    assert found["higher"] == HIGHER
    assert found["none"] == UNRANKED
