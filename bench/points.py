"""Rows of the long table as points of the paired statistics."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.compare import Sampled
from bench.metrics.metric import metric_classes

# Of a metric whose references are drawn anew for each seed.
SEEDS_DRAWN = 3


def sampled(groups: Sequence[pd.DataFrame]) -> Sampled:
    """A point a group of the long table's rows, all of one metric; a group's rows differ in their seeds.

    A point of which one seed has no value has none.
    """
    metric = metric_classes()[groups[0].metric.iloc[0]]
    seeds = sorted({int(seed) for group in groups for seed in group.seed})
    known = [item for group in groups for item in group.replicates if item is not None]
    shape, blocks = (len(groups), len(seeds)), max(map(len, known), default=1)
    values, squares, n = (np.full(shape, np.nan) for _ in range(3))
    replicates, resolution = np.full((*shape, blocks), np.nan), np.full(len(groups), np.nan)
    for p, group in enumerate(groups):
        places = [seeds.index(int(seed)) for seed in group.seed]
        n[p, places] = group.n
        if metric.resolves:
            resolution[p] = group.floor.max()
        if group.value.isna().any():
            continue
        values[p, places], squares[p, places] = group.value, group.standard_error**2
        for place, item in zip(places, group.replicates, strict=True):
            if item is not None:
                replicates[p, place, : len(item)] = item
    least = SEEDS_DRAWN if metric.drawn else 1
    return Sampled(values, squares, replicates, n, resolution, metric.shared, least)
