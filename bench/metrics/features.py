"""What metrics of image features share: the features of samples and of held-out images, each computed once."""

from abc import abstractmethod
from collections import OrderedDict
from functools import lru_cache
from typing import ClassVar

from torch import Tensor

from bench.image_model import ImageModel
from bench.metrics.converged import converged_samples
from bench.metrics.extractors import Extractor, get_extractor
from bench.metrics.metric import Metric, Outcome
from bench.problems.problem import ImageProblem, Problem
from bench.record import CellSpec, MetricValue
from pretrained import provenance
from solvers.errors import UsageError

# Features of reference images, by extractor and images: seeds, solvers and budgets share them.
_KNOWN: OrderedDict[tuple[str, str], dict[str, Tensor]] = OrderedDict()
_KEPT = 8
# After an extractor's name in a record: the hash of the images that its features were held against.
REFERENCE = " reference"
# More values than this share clearly beyond the data's range, clipped before features are taken, are told.
CLIPPED = 0.25
# So far beyond, in units of the range: half the pixels of clothes lie on its edge, and a level or two are nothing.
MARGIN = 1 / 16


def hash_of(images: Tensor) -> str:
    """Hash of images (n, channels, height, width), uint8."""
    return provenance.sha256(images.numpy().tobytes())


@lru_cache(maxsize=32)
def _reference_hash(problem: Problem, n: int, seed: int) -> str:
    return hash_of(image_problem(problem).compared_with(n, seed, 0))


def image_problem(problem: Problem) -> ImageProblem:
    """The problem, if its samples are images.

    Raises:
        UsageError: they are not.
    """
    if not isinstance(problem, ImageProblem):
        raise UsageError("features", "they are of images", problem.key, "Take metrics of points")
    return problem


@lru_cache(maxsize=1)
def sample_features(name: str, outcome: Outcome) -> dict[str, Tensor]:
    """Features of a cell's samples, brought to the data's levels first, a tensor (n, d) a layer."""
    problem = image_problem(outcome.problem)
    extractor = get_extractor(name, problem.device)
    extractor.check(problem.shape, problem.levels)
    return extractor(problem.to_levels(outcome.samples))


def reference_features(extractor: Extractor, images: Tensor) -> dict[str, Tensor]:
    """Features of reference images, a tensor (n, d) a layer."""
    key = (extractor.sha256, hash_of(images))
    if key not in _KNOWN:
        _KNOWN[key] = extractor(images)
    _KNOWN.move_to_end(key)
    while len(_KNOWN) > _KEPT:
        _KNOWN.popitem(last=False)
    return _KNOWN[key]


@lru_cache(maxsize=8)
def converged_features(name: str, problem: ImageProblem, n: int, seed: int) -> dict[str, Tensor]:
    """Features of the converged solve of a cell's starts."""
    return get_extractor(name, problem.device)(problem.to_levels(converged_samples(problem, n, seed)))


def clipped_share(model: ImageModel, samples: Tensor) -> float:
    """Share of values beyond the data's range by more than a part of it that is seen."""
    v = (samples.float() - model.offset) / model.scale
    return float(((v < -MARGIN) | (v > 1 + MARGIN)).float().mean())


def feature_hashes(name: str, problem: Problem, spec: CellSpec) -> dict[str, str]:
    """Hashes of an extractor and of the images that a cell's are compared with, if both are here."""
    try:
        sha256 = get_extractor(name, problem.device).sha256
        return {name: sha256, f"{name}{REFERENCE}": _reference_hash(problem, spec.n, spec.seed)}
    except UsageError:
        # Without weights or images there is no value either, and its reason says why.
        return {}


class FeatureMetric(Metric):
    """A metric of features of images, against as many held-out ones; floor: other real images in the samples' place."""

    extractor: ClassVar[str]
    layer: ClassVar[int] = 0
    floor_of: ClassVar[str] = "other real images"
    shared: ClassVar[bool] = True

    def hashes(self, problem: Problem, spec: CellSpec) -> dict[str, str]:
        return feature_hashes(self.extractor, problem, spec)

    def evaluate(self, outcome: Outcome) -> MetricValue:
        problem, spec = image_problem(outcome.problem), outcome.spec
        extractor = get_extractor(self.extractor, problem.device)
        layer = extractor.layers[self.layer]
        reference = reference_features(extractor, problem.compared_with(spec.n, spec.seed, 0))[layer]
        features = sample_features(self.extractor, outcome)[layer]
        value = self.compare(features, reference)
        share = clipped_share(problem, outcome.samples)
        flag = f"{share:.0%} of all values lay outside the data's range" if share > CLIPPED else None
        return value.model_copy(
            update={
                "floor": _floor(type(self), problem, spec.n, spec.seed),
                "flag": "; ".join(filter(None, (value.flag, flag))) or None,
            }
        )

    @abstractmethod
    def compare(self, features: Tensor, reference: Tensor) -> MetricValue:
        """Value and standard error of features (n, d) against those of held-out images (n, d)."""

    @staticmethod
    @abstractmethod
    def statistic(features: Tensor, reference: Tensor) -> float:
        """The value alone."""


@lru_cache(maxsize=64)
def _floor(metric: type[FeatureMetric], problem: ImageProblem, n: int, seed: int) -> float | None:
    try:
        images = [problem.compared_with(n, seed, draw) for draw in (1, 0)]
    except UsageError:
        # Too few other real images for a floor do not make the value wrong.
        return None
    extractor = get_extractor(metric.extractor, problem.device)
    layer = extractor.layers[metric.layer]
    return metric.statistic(*(reference_features(extractor, one)[layer] for one in images))
