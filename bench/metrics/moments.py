"""Errors of mean and covariance against the exact ones."""

from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.exact import AgainstLaw
from bench.metrics.metric import register_metric
from bench.problems.problem import Problem


@register_metric
class MeanError(AgainstLaw):
    """Distance of the samples' mean from the exact one.

    |1/n sum_i x_i - mean|,  Euclidean
    """

    key: ClassVar[str] = "mean_error"
    label: ClassVar[str] = "error of the mean"
    reference: ClassVar[str] = "weak error, Kloeden & Platen 1992, sec. 9.7"

    @staticmethod
    def distance(samples: Tensor, problem: Problem) -> float:
        mean, _ = problem.moments(problem.sde.t_min)
        return float((samples.mean(0) - mean.cpu()).norm())


@register_metric
class CovarianceError(AgainstLaw):
    """Relative distance of the samples' covariance from the exact one.

    |cov(x_i) - cov| / |cov|,  Frobenius
    """

    key: ClassVar[str] = "covariance_error"
    label: ClassVar[str] = "relative error of the covariance"
    unit: ClassVar[str] = "1"
    reference: ClassVar[str] = "weak error, Kloeden & Platen 1992, sec. 9.7"

    @staticmethod
    def distance(samples: Tensor, problem: Problem) -> float:
        cov = problem.moments(problem.sde.t_min)[1].cpu()
        return float((torch.cov(samples.T) - cov).norm() / cov.norm())
