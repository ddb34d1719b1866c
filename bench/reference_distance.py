"""The Fréchet distance of a model's samples from held-out images, beside that of other real images."""

import torch
from torch import Tensor

from bench.feature_statistics import FeatureStatistics, images_of
from bench.metrics.extractors import Extractor
from bench.metrics.features import CLIPPED
from bench.metrics.frechet import check_number
from bench.metrics.metric import measured
from bench.metrics.wasserstein import moments_of, squared_w2_of_moments
from bench.record import MetricValue
from pretrained.card import DataSettings
from pretrained.data import SPLITS
from pretrained.evaluation import Distance


def distance_of(
    levels: Tensor,
    data: DataSettings,
    reference: FeatureStatistics,
    extractor: Extractor,
    seed: int,
    outside: float = 0.0,
) -> Distance:
    """Fréchet distance of images (n, ...) from the reference, and of as many real ones of the other split.

    Args:
        levels: images, uint8.
        data: theirs.
        reference: moments of the reference's features.
        extractor: of those features.
        seed: that chooses the real images.
        outside: share of the samples' values beyond the data's range.
    """
    n, about = len(levels), reference.about
    value = _frechet(levels, reference, extractor)
    floor = _floor(data, n, seed, reference, extractor)
    flags = [check_number(min(n, about.n), about.features)]
    flags.append(f"{outside:.0%} of all values lay outside the data's range" if outside > CLIPPED else None)
    flags.append(f"no floor: fewer than {n} other images" if floor is None else None)
    assert value.value is not None
    assert value.standard_error is not None
    return Distance(
        value=value.value,
        standard_error=value.standard_error,
        floor=floor.value if floor else None,
        floor_error=floor.standard_error if floor else None,
        n=n,
        features=about.features,
        extractor=about.extractor,
        extractor_sha256=about.extractor_sha256,
        reference=f"{about.data.name}, {about.split}",
        reference_n=about.n,
        reference_sha256=reference.sha256,
        flag="; ".join(filter(None, flags)) or None,
    )


def _frechet(levels: Tensor, reference: FeatureStatistics, extractor: Extractor) -> MetricValue:
    """The distance; its standard error is of these images, the reference held fixed."""
    moments = reference.mean, reference.cov
    features = extractor(levels)[extractor.layers[0]]
    return measured(lambda kept: squared_w2_of_moments(moments_of(kept), moments), features)


def _floor(
    data: DataSettings, n: int, seed: int, reference: FeatureStatistics, extractor: Extractor
) -> MetricValue | None:
    other = next(split for split in SPLITS if split != reference.about.split)
    values = images_of(data, other).values
    if len(values) < n:
        return None
    chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))[:n]
    return _frechet(values[chosen], reference, extractor)
