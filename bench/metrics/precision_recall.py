"""Precision and recall of image features, through torch-fidelity.

Their standard errors err to the wide side, measured 1.1 to 1.7 times the spread of repeated draws: a block that is left
out moves the neighbours of the others too. The binomial error is 0.65 to 0.9 times it.
"""

from functools import lru_cache
from typing import ClassVar, Literal

from torch import Tensor
from torch_fidelity.metric_prc import calculate_precision_recall_part

from bench.metrics.extractors import INCEPTION
from bench.metrics.features import FeatureMetric
from bench.metrics.metric import jackknife_error, register_metric, replicates
from bench.metrics.own_features import DIGITS, FASHION, OwnMetric
from bench.record import MetricValue
from solvers.errors import UsageError

# The neighbour that a ball reaches to.
NEIGHBOUR = 3


def precision(features: Tensor, reference: Tensor) -> float:
    """Share of samples within a ball around a real image, its radius the distance to its third nearest real one."""
    # Generated first: before torch-fidelity 0.4.0 the two values came swapped.
    return float(calculate_precision_recall_part(features, reference, NEIGHBOUR)[0])


def recall(features: Tensor, reference: Tensor) -> float:
    """Share of real images within a ball around a sample, its radius the distance to its third nearest sample."""
    return float(calculate_precision_recall_part(features, reference, NEIGHBOUR)[1])


@lru_cache(maxsize=1)
def rates(features: Tensor, reference: Tensor) -> tuple[MetricValue, MetricValue]:
    """Precision and recall of features (n, d), each with its standard error."""
    pairs: list[tuple[float, float]] = []

    def both(a: Tensor, b: Tensor) -> float:
        pairs.append(calculate_precision_recall_part(a, b, NEIGHBOUR))
        return pairs[-1][0]

    both(features, reference)
    # The two values come of one computation: its replicates are gathered on the way.
    replicates(both, features, reference)
    found = [
        MetricValue(value=own[0], standard_error=jackknife_error(own[1:]), replicates=own[1:])
        for own in zip(*pairs, strict=True)
    ]
    return found[0], found[1]


class _Neighbours(FeatureMetric):
    unit: ClassVar[str] = "share"
    direction: ClassVar[Literal["lower", "higher", "none"]] = "higher"
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)
    which: ClassVar[int]

    def compare(self, features: Tensor, reference: Tensor) -> MetricValue:
        # The jackknife leaves blocks out, and each sample still has its neighbours.
        if len(features) < 4 * NEIGHBOUR:
            raise UsageError(self.key, f"it needs {4 * NEIGHBOUR} samples", len(features), "Take more")
        return rates(features, reference)[self.which]


class PrecisionOf(_Neighbours):
    """Precision on an extractor."""

    which: ClassVar[int] = 0
    statistic = staticmethod(precision)


class RecallOf(_Neighbours):
    """Recall on an extractor."""

    which: ClassVar[int] = 1
    statistic = staticmethod(recall)


@register_metric
class Precision(PrecisionOf):
    """Share of samples that lie within the real images' manifold: how many of them look real.

    1/n sum_i 1{some j: |x_i - y_j| <= r_j},  r_j the distance of y_j to its third nearest y

    on the 2048 features of ``inception-v3-compat``.
    """

    key: ClassVar[str] = "precision"
    label: ClassVar[str] = "precision (Inception)"
    extractor: ClassVar[str] = INCEPTION
    reference: ClassVar[str] = "Kynkäänniemi et al. 2019, arXiv:1904.06991, by torch-fidelity"


@register_metric
class Recall(RecallOf):
    """Share of real images that lie within the samples' manifold: how much of the data the samples cover.

    1/n sum_j 1{some i: |y_j - x_i| <= r_i},  r_i the distance of x_i to its third nearest x

    on the 2048 features of ``inception-v3-compat``.
    """

    key: ClassVar[str] = "recall"
    label: ClassVar[str] = "recall (Inception)"
    extractor: ClassVar[str] = INCEPTION
    reference: ClassVar[str] = "Kynkäänniemi et al. 2019, arXiv:1904.06991, by torch-fidelity"


class OwnPrecision(OwnMetric, PrecisionOf):
    """Share of samples that lie within the manifold of held-out $images: how many of them look real.

    1/n sum_i 1{some j: |x_i - y_j| <= r_j},  r_j the distance of y_j to its third nearest y

    on the $dim features of ``$extractor``.
    """

    key: ClassVar[str] = "precision_${name}"
    label: ClassVar[str] = "precision ($extractor)"
    reference: ClassVar[str] = "Kynkäänniemi et al. 2019, arXiv:1904.06991, by torch-fidelity with own features"


class OwnRecall(OwnMetric, RecallOf):
    """Share of held-out $images that lie within the samples' manifold: how much of the data the samples cover.

    1/n sum_j 1{some i: |y_j - x_i| <= r_i},  r_i the distance of x_i to its third nearest x

    on the $dim features of ``$extractor``.
    """

    key: ClassVar[str] = "recall_${name}"
    label: ClassVar[str] = "recall ($extractor)"
    reference: ClassVar[str] = OwnPrecision.reference


PrecisionDigits = register_metric(OwnPrecision.on(DIGITS))
PrecisionFashion = register_metric(OwnPrecision.on(FASHION))
RecallDigits = register_metric(OwnRecall.on(DIGITS))
RecallFashion = register_metric(OwnRecall.on(FASHION))
