"""Verdicts of paired differences: known answers, and how often they are wrong and right."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import t as student

from bench.compare import Floats, Sampled, compare_all, estimate, holm, jackknife_squares, p_values, rank_intervals
from bench.metrics.metric import BLOCKS, replicates
from bench.metrics.wasserstein import gaussian_w2


def sampled(values: object, replicates: object = None, squares: object = None, shared: bool = False) -> Sampled:
    """Points (P, S), by default without an error of their own."""
    found = np.array(values, dtype=float)
    nothing = np.full((*found.shape, 1), np.nan)
    return Sampled(
        found,
        np.full(found.shape, np.nan) if squares is None else np.broadcast_to(np.array(squares, float), found.shape),
        nothing if replicates is None else np.array(replicates, dtype=float),
        np.full(found.shape, 100.0),
        np.full(len(found), np.nan),
        shared,
    )


def spread(value: float, error: float) -> list[float]:
    """Two replicates of a jackknife error."""
    return [value - error, value + error]


# Known answers.


def test_the_error_of_a_mean_is_the_larger_of_those_within_and_between_seeds() -> None:
    within = estimate(sampled([[1.0, 1.0, 1.0]], [[spread(1.0, 0.3)] * 3]))
    assert within.error == pytest.approx(0.3 / 3**0.5)
    assert within.freedom == pytest.approx(3)
    both = estimate(sampled([[0.0, 1.0, 5.0]], [[spread(1.0, 0.3)] * 3]))
    assert both.error == pytest.approx((7 / 3) ** 0.5), "variance 7 between seeds"
    part, excess = 0.09 / 3, (7 - 0.09) / 3
    assert both.freedom == pytest.approx((7 / 3) ** 2 / (part**2 / 3 + excess**2 / 2))
    assert both.half_width == pytest.approx(both.error * student.ppf(0.975, both.freedom))


def test_the_jackknife_by_hand() -> None:
    """Four replicates 0, 0, 0, 4: (3/4) (3 x 1 + 9); a mean of four numbers gives its own standard error."""
    assert jackknife_squares(np.array([0.0, 0.0, 0.0, 4.0])) == pytest.approx(9)
    numbers = np.array([1.0, 2.0, 4.0, 9.0])
    left_out = (numbers.sum() - numbers) / 3
    assert jackknife_squares(left_out) == pytest.approx(numbers.var(ddof=1) / 4)
    assert jackknife_squares(np.append(left_out, np.nan)) == pytest.approx(numbers.var(ddof=1) / 4)


def test_replicates_of_a_shared_reference_do_not_average_out() -> None:
    """Replicates that move together stay as wide in the mean; those that move against each other vanish."""
    together = sampled([[1.0, 1.0]], [[spread(1.0, 0.3), spread(1.0, 0.3)]], shared=True)
    assert estimate(together).error == pytest.approx(0.3)
    assert estimate(together).freedom == pytest.approx(1)
    against = sampled([[1.0, 1.0]], [[spread(1.0, 0.3), spread(1.0, -0.3)]], shared=True)
    assert estimate(against).error == pytest.approx(0, abs=1e-12)


def test_differences_of_paired_replicates() -> None:
    """Replicates that move together leave an error of zero in the difference, though each has one."""
    cells = sampled([[1.0], [2.0], [2.0]], [[spread(1.0, 0.3)], [spread(2.0, 0.3)], [spread(2.0, -0.3)]])
    found = estimate(cells.minus(cells, 0))
    assert found.mean.tolist() == [0, 1, 1]
    assert found.error == pytest.approx([0, 0, 0.6], abs=1e-12)


def test_without_replicates_the_errors_add_as_if_unpaired() -> None:
    cells = sampled([[1.0], [2.0]], squares=[[0.09], [0.16]])
    assert estimate(cells.minus(cells, 0)).error[1] == pytest.approx(0.5)


def test_cells_of_other_numbers_of_samples_are_not_compared() -> None:
    cells = sampled([[1.0, 1.0], [2.0, 2.0]], squares=0.01)
    other = replace(cells, n=np.array([[100.0, 100.0], [100.0, 50.0]]))
    assert np.isfinite(other.minus(other, 0).values).tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize(("seeds", "decides"), [(3, False), (4, False), (5, True)])
def test_the_spread_between_seeds_alone_decides_from_five_on(seeds: int, decides: bool) -> None:
    values = [1 + 1e-3 * s for s in range(seeds)]
    pairs = compare_all(sampled([values, [2 * v for v in values]]), lower_is_better=True)
    assert pairs.verdict(0, 1) == ("better" if decides else "undecided")


def test_a_small_spread_between_seeds_does_not_decide_against_the_error_within() -> None:
    wide = [[spread(1.0, 1.0)] * 8, [spread(2.0, -1.0)] * 8]
    pairs = compare_all(sampled([[1.0] * 8, [2.0] * 8], wide), lower_is_better=True)
    assert pairs.verdict(0, 1) == "undecided"


def test_rounding_and_what_the_reference_does_not_resolve_decide_nothing() -> None:
    sure = [[spread(0.0, 0.0)] * 3] * 2
    cells = sampled([[1.0] * 3, [1.0 + 5e-7] * 3], sure)
    assert compare_all(cells, lower_is_better=True).verdict(0, 1) == "undecided"
    cells = sampled([[1.0] * 3, [1.0 + 5e-6] * 3], sure)
    assert compare_all(cells, lower_is_better=True).verdict(0, 1) == "better"
    coarse = replace(cells, resolution=np.array([1e-5, 1e-6]))
    assert compare_all(coarse, lower_is_better=True).verdict(0, 1) == "undecided"


def test_fewer_seeds_than_a_metric_needs_decide_nothing() -> None:
    cells = sampled([[1.0] * 2, [2.0] * 2], [[spread(0.0, 0.0)] * 2] * 2)
    assert compare_all(cells, lower_is_better=True).verdict(0, 1) == "better"
    assert compare_all(replace(cells, least=3), lower_is_better=True).verdict(0, 1) == "undecided"


def test_holm_by_hand() -> None:
    """Four p-values: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04, which may not fall below the one before."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = holm(np.array([0.03, np.nan, 0.9]))
    assert with_gap[[0, 2]] == pytest.approx([0.06, 0.9])
    assert np.isnan(with_gap[1])


@pytest.mark.parametrize("lower", [True, False])
def test_verdicts_are_antisymmetric_and_follow_the_direction(lower: bool) -> None:
    cells = sampled([[1.0], [2.0], [2.01], [np.nan]], squares=[[1e-4], [1e-4], [1e-4], [np.nan]])
    pairs = compare_all(cells, lower)
    assert (
        pairs.better.tolist()
        == (np.array([[0, 1, 1, 0], [-1, 0, 0, 0], [-1, 0, 0, 0], [0] * 4]) * (1 if lower else -1)).tolist()
    )
    assert pairs.difference[0, 1] == -1
    valid = np.isfinite(cells.values[:, 0])
    first, last = rank_intervals(pairs, valid)
    assert (first[:3].tolist(), last[:3].tolist()) == (([1, 2, 2], [1, 3, 3]) if lower else ([3, 1, 1], [3, 2, 2]))


# How often verdicts are wrong, and right. Truth is known because the solvers of a scenario are exchangeable: their
# samples are drawn by one rule from the same starts, so that every difference is false.

COMPARISONS, N = 1000, 200
Statistic = Callable[[Floats, Floats], Floats]


def rms(x: Floats, reference: Floats) -> Floats:
    return np.asarray(np.sqrt(((x - reference) ** 2).mean((-2, -1))))


def absolute_mean(x: Floats, reference: Floats) -> Floats:
    return np.abs((x - reference).mean((-2, -1)))


def w2(x: Floats, y: Floats) -> Floats:
    """W2 of Gaussian fits in the plane: there tr (C_x C_y)^1/2 = sqrt(tr C_x C_y + 2 sqrt(det C_x C_y))."""

    def fit(z: Floats) -> tuple[Floats, Floats]:
        # The transpose lies so that numpy's own matrix product is fast.
        along = np.ascontiguousarray(z.swapaxes(-1, -2))
        mean = along.mean(-1)
        along -= mean[..., None]
        return mean, along @ along.swapaxes(-1, -2) / (z.shape[-2] - 1)

    (m, c), (m_y, c_y) = fit(x), fit(y)
    product = c @ c_y
    cross = np.sqrt(np.trace(product, axis1=-2, axis2=-1) + 2 * np.sqrt(np.linalg.det(product)))
    traces = np.trace(c + c_y, axis1=-2, axis2=-1)
    return np.asarray(np.sqrt(np.maximum(((m - m_y) ** 2).sum(-1) + traces - 2 * cross, 0)))


def frechet(x: Floats, y: Floats) -> Floats:
    return w2(x, y) ** 2


def sorted_w2(x: Floats, y: Floats) -> Floats:
    return np.asarray(np.sqrt(((np.sort(x, -2) - np.sort(y, -2)) ** 2).mean((-2, -1))))


class Scenario:
    """Solvers that are alike, on a number of comparisons at once."""

    def __init__(
        self, statistic: Statistic, dim: int, shared: bool = False, drawn: bool = False, mirrored: bool = False
    ) -> None:
        self.statistic, self.dim, self.shared, self.drawn, self.mirrored = statistic, dim, shared, drawn, mirrored

    def draw(self, rng: np.random.Generator, solvers: int) -> tuple[list[Floats], Floats]:
        """Samples (R, n, d) of each solver from the same starts, and a reference."""
        normal = normals(rng, self.dim)
        if self.statistic is rms:
            # Errors of a sample: hard starts are hard for all, and few samples carry most of the sum.
            hard = normal()
            return [np.exp(hard + 0.5 * normal()) for _ in range(solvers)], np.zeros((COMPARISONS, N, self.dim))
        if self.statistic is absolute_mean:
            hard = np.sinh(normal()) + 0.3
            return [hard + 0.3 * normal() for _ in range(solvers)], np.zeros((COMPARISONS, N, self.dim))
        if self.mirrored:
            # Laws shifted each to another side of the reference's: which is nearer depends on the reference drawn.
            start, reference, angle = normal(), normal(), 2 * np.pi * np.arange(solvers) / solvers
            return [start + 0.1 * np.array([np.cos(a), np.sin(a)]) for a in angle], reference
        start, reference = np.exp(normal() / 2), np.exp(normal() / 2)
        return [start * (1.1 + 0.1 * np.exp(normal() / 2)) for _ in range(solvers)], reference

    def cells(self, seeds: int, solvers: int) -> list[Sampled]:
        """The solvers' points, one a comparison."""
        rng = np.random.default_rng(seeds + 10 * solvers)
        values, left = (np.empty((solvers, COMPARISONS, seeds, k)) for k in (1, BLOCKS))
        block, kept_reference = np.arange(N) * BLOCKS // N, None
        for seed in range(seeds):
            samples, reference = self.draw(rng, solvers)
            if self.shared:
                kept_reference = reference if kept_reference is None else kept_reference
                reference = kept_reference
            for k, x in enumerate(samples):
                values[k, :, seed, 0] = self.statistic(x, reference)
                for b in range(BLOCKS):
                    left[k, :, seed, b] = self.statistic(x[:, block != b], reference[:, block != b])
        return [sampled(v[..., 0], r, shared=self.shared) for v, r in zip(values, left, strict=True)]


def normals(rng: np.random.Generator, dim: int) -> Callable[[], Floats]:
    return lambda: rng.standard_normal((COMPARISONS, N, dim))


SCENARIOS = {
    "rms of skewed errors": Scenario(rms, 1),
    "absolute mean": Scenario(absolute_mean, 1),
    "W2 of Gaussian fits": Scenario(w2, 2, drawn=True),
    "W2 of mirrored laws": Scenario(w2, 2, drawn=True, mirrored=True),
    "sorted W2": Scenario(sorted_w2, 1, drawn=True),
    "Fréchet distance, one reference": Scenario(frechet, 2, shared=True),
}
CASES = [(name, seeds) for name, s in SCENARIOS.items() for seeds in (1, 3, 5) if not (s.drawn and seeds < 3)]


def test_the_statistics_of_the_simulation_are_the_metrics_own() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 60, 2)) * [[[1.0, 2.0]], [[0.5, 1.0]]]
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    assert w2(x, y) == pytest.approx(gaussian_w2(a, b), rel=1e-9)
    block = np.arange(60) * BLOCKS // 60
    own = [w2(x[block != k], y[block != k]) for k in range(BLOCKS)]
    assert own == pytest.approx(replicates(gaussian_w2, a, b), rel=1e-9)


def chances(difference: Sampled) -> Floats:
    one = np.ones(len(difference.values))
    return p_values(difference, one, one)[1]


@pytest.mark.parametrize(("name", "seeds"), CASES)
def test_false_verdicts_are_as_rare_as_promised_and_shifts_are_found(name: str, seeds: int) -> None:
    """At most 5 % within binomial error; a shift of four standard errors (true ones) in at least 85 %."""
    one, two = SCENARIOS[name].cells(seeds, 2)
    difference = two.minus(one)
    false = float((chances(difference) < 0.05).mean())
    assert false <= 0.065
    shift = 4 * difference.values.mean(1).std()
    moved = replace(difference, values=difference.values + shift, replicates=difference.replicates + shift)
    found = float((chances(moved) < 0.05).mean())
    assert found >= 0.85


@pytest.mark.parametrize(
    ("name", "seeds"), [("rms of skewed errors", 1), ("rms of skewed errors", 3), ("W2 of Gaussian fits", 3)]
)
def test_a_family_has_one_false_verdict_in_at_most_five_percent(name: str, seeds: int) -> None:
    """All pairs of six solvers that are alike; without the correction it is many times as often."""
    cells = SCENARIOS[name].cells(seeds, 6)
    p = np.stack([chances(two.minus(one)) for one, two in combinations(cells, 2)], 1)
    family = float(np.mean([(holm(row) < 0.05).any() for row in p]))
    plain = float((p < 0.05).any(1).mean())
    assert family <= 0.065
    assert plain > 0.1
