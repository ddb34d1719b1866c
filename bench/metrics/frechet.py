"""Fréchet distances of features, through torch-fidelity."""

from functools import cache, lru_cache
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

from bench.metrics.metric import Metric, Outcome, measured, register_metric
from bench.problems.digits import Digits
from bench.problems.problem import Problem
from bench.record import MetricValue
from pretrained import zoo
from pretrained.data import quantise

EXTRACTOR = "digits-features"
LAYER = "features"


class DigitsFeatures(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity is untyped
    """The project's own feature extractor in torch-fidelity's form: grey levels 0..16 (uint8) in, 16 features out."""

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, features_list)
        self.checkpoint = zoo.load_features(EXTRACTOR)
        self.network = self.checkpoint.network
        self.levels = Digits.levels

    def forward(self, levels: Tensor) -> tuple[Tensor]:
        """Features of images of grey levels (n, 1, 8, 8), each at the middle of its bin."""
        return (self.network.features((levels.float() + 0.5) / self.levels),)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The one layer there is."""
        return (LAYER,)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The same layer for every metric."""
        return LAYER

    @staticmethod
    def can_be_compiled() -> bool:
        """Not worth it at this size."""
        return False


register_feature_extractor(EXTRACTOR, DigitsFeatures)


class Images(Dataset[Tensor]):
    """Images as torch-fidelity takes them: uint8, one at a time."""

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index]


@cache
def _extractor() -> Any:
    return create_feature_extractor(EXTRACTOR, [LAYER], cuda=False, verbose=False)


def digit_features(levels: Tensor) -> Tensor:
    """Features of grey levels (n, 1, 8, 8) uint8, shape (n, 16), float64."""
    found = get_featuresdict_from_dataset(Images(levels), _extractor(), 1024, False, True, False)
    features: Tensor = found[LAYER].double()
    return features


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between Gaussian fits of features (n, d): torch-fidelity's own."""
    statistics = [fid_features_to_statistics(features) for features in (a, b)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


@lru_cache(maxsize=8)
def _reference_features(problem: Problem, n: int, seed: int, draw: int) -> Tensor:
    return digit_features(problem.reference(n, seed, draw))


@register_metric
class FdDigits(Metric):
    """Fréchet distance between features of samples and of held-out digits, n of each.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) on the 16 features of ``digits-features``. Samples are clipped and
    rounded to the data's 17 levels first. Floor: as many training digits against the held-out ones. Not FID: that name
    means Inception features.
    """

    key: ClassVar[str] = "fd_digits"
    label: ClassVar[str] = "Fréchet distance (digits-features)"
    unit: ClassVar[str] = "squared feature units"
    shared: ClassVar[bool] = True
    reference: ClassVar[str] = "Heusel et al. 2017, arXiv:1706.08500, by torch-fidelity with own features"

    @property
    def hashes(self) -> dict[str, str]:
        return {EXTRACTOR: _extractor().checkpoint.sha256}

    def evaluate(self, outcome: Outcome) -> MetricValue:
        problem, n, seed = outcome.problem, outcome.spec.n, outcome.spec.seed
        assert isinstance(problem, Digits)
        levels = quantise((outcome.samples.float() - problem.offset) / problem.scale, problem.levels)
        features, reference = digit_features(levels), _reference_features(problem, n, seed, 0)
        floor = frechet(_reference_features(problem, n, seed, 1), reference)
        return measured(frechet, features, reference, floor=floor)
