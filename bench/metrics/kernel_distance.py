"""Kernel distances between image features, through torch-fidelity."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from bench.metrics.extractors import INCEPTION
from bench.metrics.features import FeatureMetric
from bench.metrics.metric import jackknife_error, measured, register_metric
from bench.metrics.own_features import DIGITS, FASHION, OwnMetric
from bench.record import MetricValue
from solvers.errors import UsageError

# Samples of a subset, and the number of subsets where there are more: those of the authors and of torch-fidelity.
SUBSET, SUBSETS = 1000, 100
# From so many disjoint subsets on their spread is the standard error.
DISJOINT = 5


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased MMD^2 of features (n, d) with the kernel (x.y/d + 1)^3: torch-fidelity's own, over random subsets."""
    size = min(SUBSET, len(a), len(b))
    # Subsets of everything are all the same.
    count = SUBSETS if max(len(a), len(b)) > size else 1
    found = kid_features_to_metric(a, b, kid_subsets=count, kid_subset_size=size, verbose=False)
    return float(found[KEY_METRIC_KID_MEAN])


def measured_distance(a: Tensor, b: Tensor) -> MetricValue:
    """With its replicates: the mean over disjoint subsets without one of them where there are some, else the usual."""
    subsets = min(len(a), len(b)) // SUBSET
    if subsets < DISJOINT:
        return measured(kernel_distance, a, b)
    pairs = (torch.arange(k * SUBSET, (k + 1) * SUBSET) for k in range(subsets))
    values = torch.tensor([kernel_distance(a[kept], b[kept]) for kept in pairs], dtype=torch.float64)
    left = tuple(((values.sum() - values) / (subsets - 1)).tolist())
    return MetricValue(value=kernel_distance(a, b), standard_error=jackknife_error(left), replicates=left)


class KernelDistance(FeatureMetric):
    """A kernel distance on an extractor."""

    unit: ClassVar[str] = "squared kernel units"
    limits: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def compare(self, features: Tensor, reference: Tensor) -> MetricValue:
        if len(features) < 2:
            raise UsageError(self.key, "an unbiased estimate needs two samples", len(features), "Take more")
        return measured_distance(features, reference)

    @staticmethod
    def statistic(features: Tensor, reference: Tensor) -> float:
        return kernel_distance(features, reference)


@register_metric
class Kid(KernelDistance):
    """Kernel Inception distance of samples and held-out images.

    E k(x, x') + E k(y, y') - 2 E k(x, y),  k(x, y) = (x.y/2048 + 1)^3

    unbiased, the mean over 100 subsets of 1000 (over everything where n <= 1000), on the 2048 features of
    ``inception-v3-compat``. Unbiased: values below zero mean that the laws are not told apart.
    """

    key: ClassVar[str] = "kid"
    label: ClassVar[str] = "KID"
    extractor: ClassVar[str] = INCEPTION
    reference: ClassVar[str] = "Binkowski et al. 2018, arXiv:1801.01401, by torch-fidelity"


class OwnKernelDistance(OwnMetric, KernelDistance):
    """Kernel distance between features of samples and of held-out $images.

    E k(x, x') + E k(y, y') - 2 E k(x, y),  k(x, y) = (x.y/$dim + 1)^3

    unbiased, the mean over 100 subsets of 1000 (over everything where n <= 1000), on the $dim features of
    ``$extractor``: values below zero mean that the laws are not told apart.
    """

    key: ClassVar[str] = "kd_${name}"
    label: ClassVar[str] = "kernel distance ($extractor)"
    reference: ClassVar[str] = "Binkowski et al. 2018, arXiv:1801.01401, by torch-fidelity with own features"


KdDigits = register_metric(OwnKernelDistance.on(DIGITS))
KdFashion = register_metric(OwnKernelDistance.on(FASHION))
