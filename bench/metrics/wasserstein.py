"""Wasserstein-2 distances of samples: of Gaussian fits, sliced, and by pairing."""

import math
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bench.metrics.exact import AgainstLaw, AgainstSamples
from bench.metrics.metric import jackknife_error, measured, register_metric
from bench.problems.problem import Problem
from bench.record import MetricValue

# Directions of the sliced distance, the same for every cell.
DIRECTIONS = 64
# Samples that are paired exactly at once.
PAIRED = 500


Moments = tuple[Tensor, Tensor]


def moments_of(samples: Tensor) -> Moments:
    """Mean (d,) and unbiased covariance (d, d) of a sample (n, d)."""
    return samples.mean(0), torch.cov(samples.T)


def squared_w2_of_moments(a: Moments, b: Moments) -> float:
    """W2^2 between the Gaussians of two means and covariances.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)                  (Dowson & Landau 1982)
    """
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    mean = (mean_a - mean_b).square().sum()
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean + cov_a.trace() + cov_b.trace() - 2 * cross).clamp(min=0))


def gaussian_w2(a: Tensor, b: Tensor) -> float:
    """W2 between the Gaussian fits of two samples (n, d)."""
    return math.sqrt(squared_w2_of_moments(moments_of(a), moments_of(b)))


def sliced_w2(a: Tensor, b: Tensor) -> float:
    """sqrt(mean over 64 directions of W2^2 of the projections) of two samples (n, d) of equal size.

    In one dimension W2^2 is the mean square difference of sorted values. In the plane the directions are spread evenly;
    above, drawn once from the sphere.

    Reference: Rabin et al. 2011, SSVM, LNCS 6667, 435; Bonneel et al. 2015, J. Math. Imaging Vis. 51, 22.
    """
    directions = _directions(a.shape[1]).to(a)
    # numpy sorts rows of doubles ten times faster than torch does.
    sorted_a, sorted_b = (np.sort((directions.T @ x.T).numpy(), axis=1) for x in (a, b))
    return float(np.sqrt(np.mean((sorted_a - sorted_b) ** 2)))


@lru_cache
def _directions(dim: int) -> Tensor:
    if dim == 2:
        angle = (torch.arange(DIRECTIONS, dtype=torch.float64) + 0.5) * (torch.pi / DIRECTIONS)
        return torch.stack([angle.cos(), angle.sin()])
    normal = torch.randn(dim, DIRECTIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    directions: Tensor = normal / normal.norm(dim=0)
    return directions


def assignment_w2(a: Tensor, b: Tensor) -> float:
    """sqrt(mean over blocks of min over pairings of mean |a_i - b_pi(i)|^2) of two samples (n, d) of equal size.

    Exact W2 of each block's two empirical laws, of at most 500 samples: the time of a pairing grows with n^3.
    """
    return math.sqrt(sum(costs := _block_costs(a, b)) / len(costs))


def _block_costs(a: Tensor, b: Tensor) -> list[float]:
    """Squared W2 of each of the blocks, which differ by one in size at most."""
    blocks = -(-len(a) // PAIRED)
    costs = []
    for x, y in zip(a.tensor_split(blocks), b.tensor_split(blocks), strict=True):
        cost = torch.cdist(x, y).square().numpy()
        costs.append(float(cost[linear_sum_assignment(cost)].mean()))
    return costs


@register_metric
class GaussianW2(AgainstLaw):
    """Wasserstein-2 distance of a Gaussian fit to the samples from the Gaussian of the exact mean and covariance.

    W2^2 = |m - mean|^2 + tr(C + cov - 2 (C^1/2 cov C^1/2)^1/2)

    The distance of the laws where both are Gaussian.
    """

    key: ClassVar[str] = "w2_gaussian"
    label: ClassVar[str] = "Wasserstein-2 (Gaussian fit)"
    reference: ClassVar[str] = "Dowson & Landau 1982, J. Multivariate Anal. 12, 450"

    @staticmethod
    def distance(samples: Tensor, problem: Problem) -> float:
        mean, cov = problem.moments(problem.sde.t_min)
        return math.sqrt(squared_w2_of_moments(moments_of(samples), (mean.cpu(), cov.cpu())))


@register_metric
class SlicedW2(AgainstSamples):
    """Sliced Wasserstein-2 distance between samples and exact samples.

    sqrt(mean over 64 directions u of W2^2 of the projections u.x)
    """

    key: ClassVar[str] = "sliced_w2"
    label: ClassVar[str] = "sliced Wasserstein-2"
    unit: ClassVar[str] = "units of x"
    reference: ClassVar[str] = "Bonneel et al. 2015, J. Math. Imaging Vis. 51, 22"
    distance = staticmethod(sliced_w2)


@register_metric
class W2(AgainstSamples):
    """Wasserstein-2 distance between samples and exact samples, by the best pairing.

    min over pairings pi of sqrt(mean |x_i - y_pi(i)|^2)

    exact, in blocks of at most 500 samples, whose squares are averaged: its floor, two exact samples, is that of a
    block. ``sliced_w2`` takes any number at once.
    """

    key: ClassVar[str] = "w2"
    label: ClassVar[str] = "Wasserstein-2, blocks of 500"
    unit: ClassVar[str] = "units of x"
    reference: ClassVar[str] = "Villani 2009, Optimal Transport, ch. 6; pairing: Crouse 2016, IEEE TAES 52, 1679"
    distance = staticmethod(assignment_w2)

    @classmethod
    def measured(cls, a: Tensor, b: Tensor) -> MetricValue:
        costs = _block_costs(a, b)
        if len(costs) == 1:
            return measured(assignment_w2, a, b)
        # A block's pairing is its own: to leave it out, none need be sought again.
        left = tuple(math.sqrt((sum(costs) - cost) / (len(costs) - 1)) for cost in costs)
        value = math.sqrt(sum(costs) / len(costs))
        return MetricValue(value=value, standard_error=jackknife_error(left), replicates=left)
