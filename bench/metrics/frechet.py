"""Fréchet distances between Gaussian fits of image features, through torch-fidelity."""

import math
from typing import ClassVar

from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from bench.metrics.extractors import INCEPTION, get_extractor
from bench.metrics.features import (
    FeatureMetric,
    converged_features,
    feature_hashes,
    image_problem,
    reference_features,
    sample_features,
)
from bench.metrics.metric import Outcome, jackknife_error, measured, register_metric, replicates
from bench.metrics.own_features import DIGITS, FASHION, OwnMetric
from bench.metrics.wasserstein import moments_of, squared_w2_of_moments
from bench.problems.problem import Problem
from bench.record import CellSpec, MetricValue
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


class Frechet(FeatureMetric):
    """A Fréchet distance on an extractor."""

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
class Fid(Frechet):
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


class FrechetOfOwn(OwnMetric, Frechet):
    """Fréchet distance between features of samples and of held-out $images, n of each.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2)

    on the $dim features of ``$extractor``. Samples are clipped and rounded to the data's $levels levels first. Floor:
    as many training images against the held-out ones. Not FID: that name means Inception features.
    """

    key: ClassVar[str] = "fd_${name}"
    label: ClassVar[str] = "Fréchet distance ($extractor)"
    reference: ClassVar[str] = "Heusel et al. 2017, arXiv:1706.08500, by torch-fidelity with own features"


FdDigits = register_metric(FrechetOfOwn.on(DIGITS))
FdFashion = register_metric(FrechetOfOwn.on(FASHION))


class FrechetExcess(OwnMetric):
    """What the solver adds to the Fréchet distance: that of its samples less that of the converged solve.

    FD(samples, held-out $images) - FD(converged samples, held-out $images)

    from the same x_T, paired, on ``$extractor``; converged by ``rk45`` at 1e-5, a small part of a grey level from the
    solve at 1e-8. The rest of the Fréchet distance is the network's: ``converged`` in the record. Below zero the
    solver's error makes up for some of the network's.
    """

    key: ClassVar[str] = "fd_${name}_solver"
    label: ClassVar[str] = "solver's part of the Fréchet distance ($extractor)"
    unit: ClassVar[str] = "squared feature units"
    limits: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    shared: ClassVar[bool] = True
    reference: ClassVar[str] = "Heusel et al. 2017, arXiv:1706.08500, paired on common starts"

    def hashes(self, problem: Problem, spec: CellSpec) -> dict[str, str]:
        return feature_hashes(self.extractor, problem, spec)

    def evaluate(self, outcome: Outcome) -> MetricValue:
        if outcome.solver.stochastic:
            return MetricValue(reason="not an ODE solver")
        problem, spec, name = image_problem(outcome.problem), outcome.spec, self.extractor
        extractor = get_extractor(name, problem.device)
        layer = extractor.layers[0]
        features = sample_features(name, outcome)[layer]
        flag = check_number(*features.shape)
        reference = reference_features(extractor, problem.compared_with(spec.n, spec.seed, 0))[layer]
        converged = converged_features(name, problem, spec.n, spec.seed)[layer]
        value = measured(excess, features, converged, reference)
        return value.model_copy(update={"converged": frechet_by_roots(converged, reference), "flag": flag})


def excess(features: Tensor, converged: Tensor, reference: Tensor) -> float:
    """Fréchet distance from the reference of features (n, d) less that of others on the same starts."""
    return frechet_by_roots(features, reference) - frechet_by_roots(converged, reference)


FdDigitsSolver = register_metric(FrechetExcess.on(DIGITS))
FdFashionSolver = register_metric(FrechetExcess.on(FASHION))
