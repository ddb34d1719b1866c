"""Discrepancies between the means of a kernel: energy distance and maximum mean discrepancy."""

import math
from abc import abstractmethod
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.exact import exact_samples
from bench.metrics.metric import BLOCKS, Metric, Outcome, jackknife_error, register_metric
from bench.problems.problem import Problem
from bench.record import MetricValue


def block_sums(kernel: Tensor) -> Tensor:
    """Sums of a kernel matrix (n, n) over pairs of blocks, (K, K), K = min(20, n)."""
    n = len(kernel)
    blocks = min(BLOCKS, n)
    block = torch.arange(n) * blocks // n
    member = torch.nn.functional.one_hot(block, blocks).to(kernel)
    return member.T @ kernel @ member


def discrepancies(own: Tensor, reference: Tensor, cross: Tensor, n: int) -> tuple[float, list[float]]:
    """mean k(a, a') + mean k(b, b') - 2 mean k(a, b), pairs of equals included: of all, and with each block left out.

    Args:
        own, reference, cross: block sums of k(a, a'), k(b, b') and k(a, b).
        n: samples of a, and of b.
    """
    total = own + reference - cross - cross.T
    blocks = len(total)
    sizes = torch.bincount(torch.arange(n) * blocks // n)
    left = [
        (total.sum() - total[k].sum() - total[:, k].sum() + total[k, k]) / (n - sizes[k]) ** 2 for k in range(blocks)
    ]
    return float(total.sum()) / n**2, [float(value) for value in left]


@lru_cache(maxsize=64)
def _reference_sums(metric: type["_Discrepancy"], problem: Problem, n: int, seed: int, draw: int) -> Tensor:
    reference = exact_samples(problem, n, seed, draw)
    return block_sums(metric.kernel(reference, reference, problem))


@lru_cache(maxsize=64)
def _floor(metric: type["_Discrepancy"], problem: Problem, n: int, seed: int) -> float:
    first, second = (exact_samples(problem, n, seed, draw) for draw in (1, 0))
    own, reference = (_reference_sums(metric, problem, n, seed, draw) for draw in (1, 0))
    return metric.root(discrepancies(own, reference, block_sums(metric.kernel(first, second, problem)), n)[0])


class _Discrepancy(Metric):
    drawn: ClassVar[bool] = True

    def evaluate(self, outcome: Outcome) -> MetricValue:
        metric, problem, n, seed = type(self), outcome.problem, outcome.spec.n, outcome.spec.seed
        samples, reference = outcome.samples.double(), exact_samples(problem, n, seed, 0)
        own = block_sums(metric.kernel(samples, samples, problem))
        cross = block_sums(metric.kernel(samples, reference, problem))
        value, left = discrepancies(own, _reference_sums(metric, problem, n, seed, 0), cross, n)
        roots = tuple(metric.root(one) for one in left)
        error, floor = jackknife_error(roots), _floor(metric, problem, n, seed)
        return MetricValue(value=metric.root(value), standard_error=error, floor=floor, replicates=roots)

    @staticmethod
    @abstractmethod
    def kernel(a: Tensor, b: Tensor, problem: Problem) -> Tensor:
        """The kernel of all pairs of samples (n, d) and (m, d), shape (n, m)."""

    @staticmethod
    @abstractmethod
    def root(value: float) -> float:
        """The value reported of a discrepancy, which rounding may leave below zero."""


@register_metric
class EnergyDistance(_Discrepancy):
    """Energy distance between samples and exact samples, pairs of equals included.

    2 E|x - y| - E|x - x'| - E|y - y'|
    """

    key: ClassVar[str] = "energy_distance"
    label: ClassVar[str] = "energy distance"
    unit: ClassVar[str] = "units of x"
    reference: ClassVar[str] = "Székely & Rizzo 2013, J. Stat. Plan. Inference 143, 1249"

    @staticmethod
    def kernel(a: Tensor, b: Tensor, problem: Problem) -> Tensor:
        return torch.cdist(a, b).neg_()

    @staticmethod
    def root(value: float) -> float:
        return max(value, 0.0)


@register_metric
class Mmd(_Discrepancy):
    """Maximum mean discrepancy between samples and exact samples with a Gaussian kernel, pairs of equals included.

    sqrt(E k(x, x') + E k(y, y') - 2 E k(x, y)),  k(x, y) = exp(-|x - y|^2 / tr cov)

    with the covariance of the exact law.
    """

    key: ClassVar[str] = "mmd"
    label: ClassVar[str] = "maximum mean discrepancy"
    unit: ClassVar[str] = "1"
    reference: ClassVar[str] = "Gretton et al. 2012, JMLR 13, 723"

    @staticmethod
    def kernel(a: Tensor, b: Tensor, problem: Problem) -> Tensor:
        scale = float(problem.moments(problem.sde.t_min)[1].trace())
        return torch.cdist(a, b).square_().div_(-scale).exp_()

    @staticmethod
    def root(value: float) -> float:
        return math.sqrt(max(value, 0.0))
