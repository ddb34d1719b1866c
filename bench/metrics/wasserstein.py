"""Wasserstein-2 distances of samples: of Gaussian fits, and sliced."""

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.metrics.metric import Metric, Outcome, measured, register_metric
from bench.problems.problem import Problem
from bench.record import MetricValue

# Directions of the sliced distance, the same for every cell.
DIRECTIONS = 64


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


@lru_cache(maxsize=32)
def _floor(distance: Callable[[Tensor, Tensor], float], problem: Problem, n: int, seed: int) -> float:
    return distance(problem.reference(n, seed, 1), problem.reference(n, seed, 0))


class _AgainstReference(Metric):
    """A distance between samples and as many exact ones; floor: the distance between two exact samples."""

    unit: ClassVar[str] = "units of x"
    drawn: ClassVar[bool] = True

    @staticmethod
    @abstractmethod
    def distance(a: Tensor, b: Tensor) -> float:
        """The distance of two samples (n, d)."""

    def evaluate(self, outcome: Outcome) -> MetricValue:
        spec, distance = outcome.spec, type(self).distance
        samples, reference = outcome.samples.double(), outcome.problem.reference(spec.n, spec.seed, 0).double()
        floor = _floor(distance, outcome.problem, spec.n, spec.seed)
        return measured(distance, samples, reference, floor=floor)


@register_metric
class GaussianW2(_AgainstReference):
    """Wasserstein-2 distance between Gaussian fits to samples and to exact samples: exact for Gaussian laws."""

    key: ClassVar[str] = "w2_gaussian"
    label: ClassVar[str] = "Wasserstein-2 (Gaussian fit)"
    reference: ClassVar[str] = "Dowson & Landau 1982, J. Multivariate Anal. 12, 450"
    distance = staticmethod(gaussian_w2)


@register_metric
class SlicedW2(_AgainstReference):
    """Sliced Wasserstein-2 distance between samples and exact samples."""

    key: ClassVar[str] = "sliced_w2"
    label: ClassVar[str] = "sliced Wasserstein-2"
    reference: ClassVar[str] = "Bonneel et al. 2015, J. Math. Imaging Vis. 51, 22"
    distance = staticmethod(sliced_w2)
