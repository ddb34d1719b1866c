"""The Pareto frontier of quality against cost: which points are worth their evaluations, or their seconds."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.compare import Floats, compare_all
from bench.points import sampled
from bench.standings import Standing

Place = Literal["frontier", "dominated", "undecided"]


def places(better: NDArray[np.int_], low: Floats, high: Floats) -> list[Place]:
    """The place of each point by verdicts (p, q) and by what a point costs, somewhere in [low, high].

    Dominated: some point is decided to be better and surely costs no more. Frontier: the point is decided to be better
    than every other that may cost as little. Undecided: neither.
    """
    surely, perhaps = high[None] <= low[:, None], low[None] <= high[:, None]
    np.fill_diagonal(perhaps, val=False)
    dominated: NDArray[np.bool_] = np.any(surely & (better < 0), axis=1)
    frontier: NDArray[np.bool_] = np.all(~perhaps | (better > 0), axis=1)
    return ["dominated" if d else "frontier" if f else "undecided" for d, f in zip(dominated, frontier, strict=True)]


def frontier(standing: Standing) -> pd.DataFrame:
    """The points that have a value, with their places by evaluations and by seconds.

    Every pair of them is one family. Evaluations are counted; seconds lie between the fastest and the slowest seed.
    Empty where the metric ranks nothing.
    """
    points = standing.points[standing.points.value.notna()]
    if standing.direction == "none" or not len(points):
        return points.iloc[:0].assign(by_nfe="", by_seconds="")
    samples = sampled([standing.cells.loc[list(rows)] for rows in points.rows])
    better = compare_all(samples, standing.direction == "lower").better
    nfe, low, high = (points[name].to_numpy(float) for name in ("nfe", "seconds_low", "seconds_high"))
    return points.assign(by_nfe=places(better, nfe, nfe), by_seconds=places(better, low, high))
