"""Inception score, through torch-fidelity."""

import math
from typing import ClassVar, Literal

from torch import Tensor
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

from bench.metrics.extractors import INCEPTION
from bench.metrics.features import FeatureMetric
from bench.metrics.metric import register_metric
from bench.record import MetricValue
from solvers.errors import UsageError

SPLITS = 10
# Published scores are means over splits of 5000; smaller ones score lower.
USUAL = 50_000


@register_metric
class InceptionScore(FeatureMetric):
    """Inception score: how sure the classes of single samples are, and how many of them there are.

    exp(mean over samples of KL(p(y|x) || p(y))), its mean over 10 splits

    with the class probabilities of ``inception-v3-compat``. Standard error: the spread of the splits. Floor: the score
    of as many real images. Flagged below 50 000 samples, the number of published scores.
    """

    key: ClassVar[str] = "inception_score"
    label: ClassVar[str] = "inception score"
    unit: ClassVar[str] = "effective classes"
    direction: ClassVar[Literal["lower", "higher", "none"]] = "higher"
    limits: ClassVar[tuple[float, float]] = (1.0, 1008.0)
    shared: ClassVar[bool] = False
    extractor: ClassVar[str] = INCEPTION
    layer: ClassVar[int] = 1
    reference: ClassVar[str] = "Salimans et al. 2016, arXiv:1606.03498, by torch-fidelity"

    def compare(self, features: Tensor, reference: Tensor) -> MetricValue:
        n = len(features)
        if n < 2 * SPLITS:
            rule = f"each of its {SPLITS} splits holds two samples"
            raise UsageError(self.key, rule, f"{n} samples", f"Take {USUAL}")
        found = isc_features_to_metric(features, SPLITS)
        # The spread is torch-fidelity's, over SPLITS and not SPLITS - 1.
        error = found[KEY_METRIC_ISC_STD] / math.sqrt(SPLITS - 1)
        flag = f"n = {n} is below {USUAL}: biased downwards" if n < USUAL else None
        return MetricValue(value=found[KEY_METRIC_ISC_MEAN], standard_error=error, flag=flag)

    @staticmethod
    def statistic(features: Tensor, reference: Tensor) -> float:
        return float(isc_features_to_metric(features, SPLITS)[KEY_METRIC_ISC_MEAN])
