"""Fréchet distances between Gaussian fits of image features, through torch-fidelity."""

from typing import ClassVar

from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from bench.metrics.extractors import INCEPTION
from bench.metrics.features import FeatureMetric
from bench.metrics.metric import jackknife_error, register_metric, replicates
from bench.metrics.wasserstein import moments_of, squared_w2_of_moments
from bench.record import MetricValue
from solvers.errors import UsageError

# Below so many samples a feature the distance of two identical laws is a good part of the value.
SAMPLES_A_FEATURE = 15


def frechet(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) of features (n, d): torch-fidelity's own."""
    statistics = [fid_features_to_statistics(features) for features in (a, b)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def frechet_by_roots(a: Tensor, b: Tensor) -> float:
    """The same by symmetric roots, which take a small part of the time where d is large."""
    return squared_w2_of_moments(moments_of(a), moments_of(b))


def check_number(n: int, dim: int) -> str | None:
    """The flag of a Fréchet distance of n samples with dim features, if it deserves one.

    Raises:
        UsageError: n < dim: the covariances are singular, and the distance says little but that.
    """
    if n < dim:
        rule = f"a Fréchet distance of {dim} features needs {dim} samples"
        raise UsageError("frechet", rule, n, f"Take {SAMPLES_A_FEATURE * dim} or more")
    if n < SAMPLES_A_FEATURE * dim:
        return f"n = {n} is below {SAMPLES_A_FEATURE} times the {dim} features: biased upwards"
    return None


class _Frechet(FeatureMetric):
    unit: ClassVar[str] = "squared feature units"

    def compare(self, features: Tensor, reference: Tensor) -> MetricValue:
        flag = check_number(*features.shape)
        left = replicates(frechet_by_roots, features, reference)
        value = self.statistic(features, reference)
        return MetricValue(value=value, standard_error=jackknife_error(left), flag=flag, replicates=left)

    @staticmethod
    def statistic(features: Tensor, reference: Tensor) -> float:
        return max(frechet(features, reference), 0.0)


@register_metric
class Fid(_Frechet):
    """Fréchet Inception distance of samples and held-out images, n of each.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2)

    on the 2048 features of ``inception-v3-compat``, whose weights are read from torch-fidelity's cache or from
    ``--weights FILE``. Samples are clipped and rounded to the data's levels first. Refused below 2048 samples, flagged
    below 15 times as many.
    """

    key: ClassVar[str] = "fid"
    label: ClassVar[str] = "FID"
    extractor: ClassVar[str] = INCEPTION
    reference: ClassVar[str] = "Heusel et al. 2017, arXiv:1706.08500, by torch-fidelity"


@register_metric
class FdDigits(_Frechet):
    """Fréchet distance between features of samples and of held-out digits, n of each.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2)

    on the 16 features of ``digits-features``. Samples are clipped and rounded to the data's 17 levels first. Floor: as
    many training digits against the held-out ones. Not FID: that name means Inception features.
    """

    key: ClassVar[str] = "fd_digits"
    label: ClassVar[str] = "Fréchet distance (digits-features)"
    extractor: ClassVar[str] = "digits-features"
    reference: ClassVar[str] = "Heusel et al. 2017, arXiv:1706.08500, by torch-fidelity with own features"
