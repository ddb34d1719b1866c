"""Paired statistics of cells: estimates with their errors, verdicts by Holm's correction, ranks with their intervals.

Cells of one seed share starts, Brownian paths and references, so two of them are compared by their difference, seed by
seed, whose replicates are the differences of the cells' jackknife replicates. With W the mean over seeds of the squared
jackknife error and B the variance between S seeds, the squared error of a mean over seeds is

    V = W/S + max(0, B - W)/S,    where all seeds share one reference:  V = W' + max(0, B - W)/S,

W' the squared jackknife error of the mean itself: in each replicate the same part of the reference is gone for every
seed, so its sampling error does not average out. The ratio of mean and error is held against Student's t, its degrees
of freedom by Satterthwaite's rule from those of the parts: S (K - 1) or, of W', K - 1, for K replicates, and S - 1.

The spread between seeds can only add to the error within them: alone it decides nothing, unless replicates and
standard errors are missing and there are at least 5 seeds; then V = B/S. docs/statistics.md tells how well this keeps
its promises.

References: Efron & Tibshirani 1993, sec. 11.5 (jackknife by blocks); Satterthwaite 1946, Biometrics Bull. 2, 110; Holm
1979, Scand. J. Statist. 6, 65; Mogstad et al. 2024, Rev. Econ. Stud. 91, 476 (ranks from simultaneous verdicts).
"""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from bench.metrics.metric import BLOCKS

Comparison = Literal["better", "worse", "undecided"]
Floats = NDArray[np.float64]

CONFIDENCE = 0.95
# From so many seeds on, their spread alone decides where a cell tells nothing of its own error.
SEEDS_ALONE = 5
# Differences of less than this part of the values are rounding's.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Sampled:
    """Points by seed; NaN where there is nothing.

    Attributes:
        values: (P, S).
        squares: squared standard errors of the single cells, (P, S).
        replicates: (P, S, K).
        n: samples of the cells, (P, S); cells of different n are not compared.
        resolution: differences below it decide nothing; (P,).
        shared: whether all seeds are held against one reference.
        least: differences over fewer seeds decide nothing.
    """

    values: Floats
    squares: Floats
    replicates: Floats
    n: Floats
    resolution: Floats
    shared: bool = False
    least: int = 1

    def part(self, points: slice) -> "Sampled":
        """Some of the points."""
        return Sampled(
            self.values[points],
            self.squares[points],
            self.replicates[points],
            self.n[points],
            self.resolution[points],
            self.shared,
            self.least,
        )

    def minus(self, other: Self, point: int | None = None) -> "Sampled":
        """Paired differences from the other's points in their order, or from one of its points."""
        chosen = slice(None) if point is None else slice(point, point + 1)
        pairs = self.n == other.n[chosen]
        values = np.where(pairs, self.values - other.values[chosen], np.nan)
        replicates = np.where(pairs[..., None], self.replicates - other.replicates[chosen], np.nan)
        resolution = np.fmax(self.resolution, other.resolution[chosen])
        # Where a cell has no replicates the errors add as if unpaired: common noise only makes them smaller.
        return Sampled(
            values, self.squares + other.squares[chosen], replicates, self.n, resolution, self.shared, self.least
        )


@dataclass(frozen=True, eq=False)
class Estimate:
    """Means over seeds, each array (P,); errors NaN where nothing is known of them.

    Attributes:
        mean: over the seeds that have a value.
        error: standard error.
        freedom: its degrees of freedom.
    """

    mean: Floats
    error: Floats
    freedom: Floats

    @property
    def half_width(self) -> Floats:
        """Of the 95 % intervals."""
        quantile: Floats = student.ppf((1 + CONFIDENCE) / 2, self.freedom)
        return self.error * quantile

    @property
    def p(self) -> Floats:
        """Two-sided probabilities of means so far from 0, if they were 0; NaN where the error is not known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(self.mean == 0, 0.0, np.abs(self.mean) / self.error)
        return np.where(np.isfinite(self.error), 2 * student.sf(ratio, self.freedom), np.nan)


def estimate(sampled: Sampled) -> Estimate:
    """Means over seeds with their standard errors (see the module's text)."""
    values = sampled.values
    there = np.isfinite(values)
    seeds = there.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = _mean(values)
        between = np.where(seeds > 1, _squared_deviations(values) / (seeds - 1), 0.0)
        blocks = np.isfinite(sampled.replicates).sum(-1)
        own = np.where(blocks > 1, jackknife_squares(sampled.replicates), sampled.squares)
        # Of seeds without a value nothing is asked; one whose error is not known leaves that of the mean unknown.
        within = np.where((there & ~np.isfinite(own)).any(-1), np.nan, _mean(np.where(there, own, np.nan)))
        freedom = np.where(there, np.where(blocks > 1, blocks, BLOCKS) - 1.0, 0.0).sum(-1)
        part = within / seeds
        if sampled.shared:
            part = np.where((there & (blocks < 2)).any(-1), within, _of_the_mean(sampled.replicates, there))
            freedom = freedom / seeds
        excess = np.maximum(between - within, 0.0) / seeds
        total = part + excess
        late = np.where(seeds > 1, excess**2 / np.maximum(seeds - 1, 1), 0.0)
        freedom = np.where(total > 0, total**2 / (part**2 / freedom + late), freedom)
        alone = np.isnan(within) & (seeds >= SEEDS_ALONE)
        squared = np.where(alone, between / seeds, total)
        return Estimate(mean, np.sqrt(squared), np.where(alone, seeds - 1.0, freedom))


def jackknife_squares(replicates: Floats) -> Floats:
    """Squared standard errors (K - 1)/K sum (theta_k - mean)^2 over the last axis, NaN apart."""
    blocks = np.isfinite(replicates).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share: Floats = (blocks - 1) / blocks
        return share * _squared_deviations(replicates)


def _of_the_mean(replicates: Floats, there: NDArray[np.bool_]) -> Floats:
    """Squared jackknife error of the mean over seeds."""
    return jackknife_squares(np.where(there[..., None], replicates, 0.0).sum(-2) / there.sum(-1)[..., None])


def _mean(values: Floats) -> Floats:
    there = np.isfinite(values)
    mean: Floats = np.where(there, values, 0.0).sum(-1) / there.sum(-1)
    return mean


def _squared_deviations(values: Floats) -> Floats:
    deviations = np.where(np.isfinite(values), values - _mean(values)[..., None], 0.0)
    squares: Floats = (deviations**2).sum(-1)
    return squares


def p_values(difference: Sampled, one: Floats, other: Floats) -> tuple[Estimate, Floats]:
    """The estimates of differences and their p-values, 1 for those that rounding or the reference's error may make."""
    found = estimate(difference)
    enough = np.isfinite(difference.values).sum(-1) >= difference.least
    p = np.where(enough, found.p, np.nan)
    smallest = np.fmax(ROUNDING * np.fmax(np.abs(one), np.abs(other)), np.nan_to_num(difference.resolution))
    return found, np.where(np.isfinite(p) & (np.abs(found.mean) <= smallest), 1.0, p)


def holm(p: Floats) -> Floats:
    """p-values adjusted for their family, any shape: the chance of one false finding in it stays below the level.

    In rising order p_(i) becomes the largest of (m - j + 1) p_(j), j <= i. NaN does not count and stays.
    """
    flat = p.ravel()
    order = np.argsort(flat)
    known = int(np.isfinite(flat).sum())
    adjusted = np.full_like(flat, np.nan)
    steps = (known - np.arange(known)) * flat[order[:known]]
    adjusted[order[:known]] = np.minimum(np.maximum.accumulate(steps), 1.0) if known else steps
    return adjusted.reshape(p.shape)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Every pair of points of a family; entries (p, q), NaN where a pair cannot be compared.

    Attributes:
        difference: of the value of p less that of q.
        half_width: of the difference's 95 % interval, not adjusted for the family.
        adjusted: p-value by Holm over the family.
        better: 1 where p is better than q, -1 where worse, 0 undecided.
    """

    difference: Floats
    half_width: Floats
    adjusted: Floats
    better: NDArray[np.int_]

    def verdict(self, p: int, q: int) -> Comparison:
        """Of p against q."""
        return verdict_of(int(self.better[p, q]))


def verdict_of(better: int) -> Comparison:
    """The word for 1, -1 and 0."""
    return "better" if better > 0 else "worse" if better < 0 else "undecided"


def compare_all(sampled: Sampled, lower_is_better: bool) -> Pairs:
    """All pairs of points, one family."""
    points = len(sampled.values)
    difference, half_width, p = (np.full((points, points), np.nan) for _ in range(3))
    means = estimate(sampled).mean
    for q in range(points):
        found, chance = p_values(sampled.minus(sampled, q), means, means[q])
        difference[:, q], half_width[:, q], p[:, q] = found.mean, found.half_width, chance
    upper = np.triu(np.ones((points, points), dtype=bool), 1)
    adjusted = holm(np.where(upper, p, np.nan))
    adjusted = np.where(upper, adjusted, adjusted.T)
    return Pairs(difference, half_width, adjusted, decided(difference, adjusted, lower_is_better))


def decided(difference: Floats, adjusted: Floats, lower_is_better: bool) -> NDArray[np.int_]:
    """1 where a difference is a gain, -1 where a loss, 0 where nothing is decided."""
    gain = -np.sign(difference) if lower_is_better else np.sign(difference)
    return np.where(adjusted <= 1 - CONFIDENCE, gain, 0.0).astype(int)


def rank_intervals(pairs: Pairs, valid: NDArray[np.bool_]) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """First and last rank that the verdicts leave to each valid point; together they hold with 95 %.

    1 + the number decided better than it, and the number of points less those decided worse.
    """
    beaten = ((pairs.better < 0) & valid).sum(1)
    beats = ((pairs.better > 0) & valid).sum(1)
    return 1 + beaten, int(valid.sum()) - beats
