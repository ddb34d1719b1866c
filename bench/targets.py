"""What it takes to reach a quality: network evaluations and seconds to a target, by solver and grid."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.metrics.metric import metric_classes
from bench.standings import Key, Standing, row_name
from bench.tables import markdown_table, plain

# Targets a problem and metric.
MOST = 4


@dataclass(frozen=True)
class Reach:
    """What a row needs for a target; None where no point of it gets there.

    Attributes:
        estimate: least cost at which the value reaches it.
        surely: at which the whole 95 % interval does.
        perhaps: at which some of the interval does.
    """

    estimate: float | None
    surely: float | None
    perhaps: float | None

    @property
    def text(self) -> str:
        """For tables: the estimate, and from where it is sure; or that it is not reached."""
        if self.estimate is None:
            return "not reached" + (f" (perhaps {_short(self.perhaps)})" if self.perhaps is not None else "")
        if self.surely == self.estimate:
            return _short(self.estimate)
        return f"{_short(self.estimate)} ({'not sure' if self.surely is None else f'surely {_short(self.surely)}'})"


def _short(cost: float | None) -> str:
    return f"{cost:.3g}"


def targets(standing: Standing) -> list[float]:
    """Up to four values of the series 1, 2, 5 between the worst and the best of the points, spread evenly, easy first.

    Points beyond what figures of the metric show set no target, nor those below what its reference resolves. None where
    the metric ranks nothing or may be negative.
    """
    metric = metric_classes()[standing.metric]
    values = standing.points.value[standing.points.value > 0]
    values = values[values <= metric.shown_to]
    if metric.resolves:
        values = values[values >= standing.points.floor.max()]
    if standing.direction == "none" or metric.limits[0] < 0 or not len(values):
        return []
    low, high = values.min(), values.max()
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    series = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    series = [value for value in series if low <= value <= high]
    chosen = sorted({round(place) for place in np.linspace(0, len(series) - 1, min(MOST, len(series)))})
    return [series[place] for place in chosen][:: -1 if standing.direction == "lower" else 1]


def reach(standing: Standing, key: Key, target: float, cost: str) -> Reach:
    """What a row needs for a target, in ``nfe`` or ``seconds``."""
    row = standing.rows[key]
    row = row[row.value.notna()].sort_values(cost)
    sign = 1 if standing.direction == "lower" else -1
    over, half = sign * (row.value - target), row.half_width

    def least(reached: pd.Series) -> float | None:
        return float(row[cost][reached].iloc[0]) if reached.any() else None

    return Reach(least(over <= 0), least(over + half <= 0), least(over - half <= 0))


def target_table(standing: Standing) -> pd.DataFrame:
    """A line a row of the standing, target and cost; rows without any value left out."""
    lines = []
    for key, row in standing.rows.items():
        for target in targets(standing) if row.value.notna().any() else []:
            for cost in ("nfe", "seconds"):
                found = reach(standing, key, target, cost)
                line = dict(zip(("solver", "settings", "grid"), key, strict=True))
                place = {"problem": standing.problem, "metric": standing.metric, **line, "target": target, "cost": cost}
                lines.append({**place, **vars(found), "text": found.text})
    return pd.DataFrame(lines)


def markdown(standing: Standing) -> str:
    """Evaluations and seconds to each target; nothing where there are no targets."""
    chosen = targets(standing)
    rows = [(key, row) for key, row in standing.rows.items() if row.value.notna().any()]
    if not chosen or not rows:
        return ""
    parts = []
    for cost, head in (("nfe", "NFE"), ("seconds", "seconds")):
        reached = {key: [reach(standing, key, target, cost) for target in chosen] for key, _ in rows}
        order = sorted(reached, key=lambda key: [_last(found.estimate) for found in reversed(reached[key])])
        lines = [[plain(row_name(key)), key[2], *(found.text for found in reached[key])] for key in order]
        parts.append(markdown_table(["solver", "grid", *(f"{head} to {target:g}" for target in chosen)], lines))
    return "\n\n".join(parts) + "\n"


def _last(cost: float | None) -> float:
    return math.inf if cost is None else cost
