"""Figures of standings: rank intervals, paired verdicts, Pareto frontier, evaluations to a target."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench.frontier import frontier
from bench.metrics.metric import metric_classes
from bench.record import file_stem
from bench.standings import Key, Standing, row_name
from bench.targets import reach, targets

Looks = dict[str, tuple[Any, str]]

# Inches a row of a figure takes.
ROW = 0.2


def standing_figures(standing: Standing, looks: Looks) -> Iterator[tuple[str, Figure]]:
    """The figures that a standing allows; none where the metric ranks nothing."""
    stem = f"{file_stem(standing.problem)}_{standing.metric}"
    keys = _ranked(standing)
    if len(keys) > 1:
        yield f"{stem}_ranks", _ranks(standing, keys, looks)
        yield f"{stem}_pairs", _pairs(standing, keys)
        yield f"{stem}_frontier", _frontier(standing, looks)
    if keys and targets(standing):
        yield f"{stem}_targets", _targets(standing, keys, looks)


def values_figure(standing: Standing, looks: Looks) -> Figure:
    """A panel a budget: the values of the rows with their intervals, best above."""
    metric = metric_classes()[standing.metric]
    rows = list(standing.rows)
    size = (5 + 2.5 * len(standing.columns), 1.3 + ROW * len(rows))
    figure, axes = plt.subplots(1, len(standing.columns), figsize=size, sharey=True, squeeze=False)
    last = list(standing.columns.values())[-1]
    shown = [key for key in rows if key in last.points and np.isfinite(last.points[key].value)]
    shown.sort(key=lambda key: last.points[key].value, reverse=standing.direction == "higher")
    for axis, (budget, column) in zip(axes[0], standing.columns.items(), strict=True):
        for y, key in enumerate(shown):
            if key in column.points:
                point, colour = column.points[key], looks[key[0]][0]
                half = np.nan_to_num(point.half_width)
                axis.errorbar(point.value, y, xerr=half, color=colour, marker="o", markersize=4, capsize=2)
        axis.set(xlabel=metric.axis_label(), title=f"{budget} steps")
        # An interval may reach below what the values can be.
        axis.set_xlim(left=max(axis.get_xlim()[0], metric.limits[0]))
    axes[0][0].set_yticks(range(len(shown)), [_label(key) for key in shown])
    axes[0][0].set_ylim(len(shown) - 0.5, -0.5)
    figure.suptitle(f"{standing.problem}: values and their 95 % intervals")
    figure.tight_layout()
    return figure


def _ranked(standing: Standing) -> list[Key]:
    """The rows with a rank in some column, best first by their mean rank in the columns where they have one."""
    ranks: dict[Key, list[float]] = {}
    for column in standing.columns.values():
        for p, key in enumerate(column.keys):
            if column.pairs is not None and column.valid[p]:
                ranks.setdefault(key, []).append(float(column.ranks[p]))
    return sorted(ranks, key=lambda key: (float(np.mean(ranks[key])), key))


def _label(key: Key) -> str:
    return f"{row_name(key)}, {key[2]}"


def _ranks(standing: Standing, keys: list[Key], looks: Looks) -> Figure:
    """A panel a budget: rank by value (dot) and the ranks that the verdicts leave (bar)."""
    columns = standing.columns
    size = (3 + 1.7 * len(columns), 1.3 + ROW * len(keys))
    figure, axes = plt.subplots(1, len(columns), figsize=size, sharey=True, squeeze=False)
    for axis, (budget, column) in zip(axes[0], columns.items(), strict=True):
        for y, key in enumerate(keys):
            if key in column.keys and column.valid[p := column.keys.index(key)]:
                colour = looks[key[0]][0]
                axis.plot([column.first[p], column.last[p]], [y, y], color=colour, linewidth=3, alpha=0.45)
                axis.plot(column.ranks[p], y, marker="o", color=colour, markersize=4)
        most = max(int(column.valid.sum()), 2)
        axis.set(title=f"NFE ≤ {budget}", xlabel="rank", xlim=(0.4, most + 0.6))
        axis.set_xticks(sorted({1, *range(5, most, 5), most} - ({most - 1} if most > 5 else set())))
    axes[0][0].set_yticks(range(len(keys)), [_label(key) for key in keys])
    axes[0][0].set_ylim(len(keys) - 0.5, -0.5)
    figure.suptitle(f"{standing.title}\nrank by value (dot), ranks that the paired verdicts leave (bar; 95 % together)")
    figure.tight_layout()
    return figure


def _pairs(standing: Standing, keys: list[Key]) -> Figure:
    """A square of rows: at how many budgets the row is decided to be better and worse than the column."""
    wins = np.zeros((len(keys), len(keys)), dtype=int)
    for column in standing.columns.values():
        places = {key: p for p, key in enumerate(column.keys)}
        shared = [i for i, key in enumerate(keys) if key in places]
        chosen = [places[keys[i]] for i in shared]
        if column.pairs is not None:
            wins[np.ix_(shared, shared)] += column.pairs.better[np.ix_(chosen, chosen)] > 0
    size = 3 + 0.3 * len(keys)
    figure, axis = plt.subplots(figsize=(size, size))
    balance = (wins - wins.T).astype(float)
    np.fill_diagonal(balance, np.nan)
    axis.imshow(balance, cmap="RdBu", vmin=-len(standing.columns), vmax=len(standing.columns))
    for i, j in np.ndindex(wins.shape):
        if wins[i, j] or wins[j, i]:
            dark = abs(balance[i, j]) > 0.6 * len(standing.columns)
            text = f"{wins[i, j]}:{wins[j, i]}"
            axis.text(j, i, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")
    axis.set_xticks(range(len(keys)), [_label(key) for key in keys], rotation=90)
    axis.set_yticks(range(len(keys)), [_label(key) for key in keys])
    axis.grid(visible=False)
    count = len(standing.columns)
    what = f"at how many of {count} budgets the row is\nbetter : worse than the column; the rest is undecided"
    axis.set_title(f"{standing.title}\n{what}", fontsize=8)
    figure.tight_layout()
    return figure


def _frontier(standing: Standing, looks: Looks) -> Figure:
    """Quality against evaluations and against seconds: frontier full, undecided hollow, dominated faint."""
    points = frontier(standing)
    metric = metric_classes()[standing.metric]
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.6), sharey=True)
    for axis, x, places, label in (
        (axes[0], "nfe", "by_nfe", "network evaluations a sample (counted)"),
        (axes[1], "seconds", "by_seconds", "seconds a solve"),
    ):
        for place, style in PLACES.items():
            for solver, part in points[points[places] == place].groupby("solver"):
                colour, marker = looks[str(solver)]
                face = colour if place == "frontier" else "none"
                axis.scatter(part[x], part.value, marker=marker, edgecolors=colour, facecolors=face, **style)
        best = points[points[places] == "frontier"].sort_values(x)
        axis.step(best[x], best.value, where="post", color="0.4", linewidth=0.8)
        axis.set(xscale="log", xlabel=label)
        if x == "nfe":
            _budget_ticks(axis, standing)
        if metric.limits[0] >= 0:
            axis.set_yscale("log")
    axes[0].set_ylabel(metric.axis_label())
    _name_solvers(axes[1], points, looks)
    what = "filled: on the frontier; hollow: undecided; faint: dominated"
    figure.suptitle(f"{standing.title}\n{what}")
    figure.tight_layout()
    return figure


PLACES: dict[str, dict[str, Any]] = {
    "dominated": {"alpha": 0.25, "s": 18},
    "undecided": {"s": 30},
    "frontier": {"s": 45},
}


def _budget_ticks(axis: Axes, standing: Standing) -> None:
    ticks = sorted(standing.columns)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def _name_solvers(axis: Axes, points: pd.DataFrame, looks: Looks) -> None:
    """A legend of the solvers alone, beside the panel."""
    for solver in sorted(points.solver.unique()):
        colour, marker = looks[solver]
        axis.plot([], [], color=colour, marker=marker, linestyle="", label=solver)
    axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)


def _targets(standing: Standing, keys: list[Key], looks: Looks) -> Figure:
    """A panel a target: evaluations at which a row reaches it (dot), from perhaps to surely (bar), or not reached."""
    chosen = targets(standing)
    size = (3 + 2.3 * len(chosen), 1.3 + ROW * len(keys))
    figure, axes = plt.subplots(1, len(chosen), figsize=size, sharey=True, sharex=True, squeeze=False)
    spent = standing.points.nfe[standing.points.value.notna()]
    low, high = spent.min() / 1.3, spent.max() * 1.3
    for axis, target in zip(axes[0], chosen, strict=True):
        for y, key in enumerate(keys):
            found = reach(standing, key, target, "nfe")
            colour = looks[key[0]][0]
            if found.perhaps is not None:
                end = high if found.surely is None else found.surely
                axis.plot([found.perhaps, end], [y, y], color=colour, linewidth=3, alpha=0.45)
            if found.estimate is None:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                axis.text(high, y, "not reached ", ha="right", va="center", fontsize=6, color="0.4", bbox=box)
            else:
                axis.plot(found.estimate, y, marker="o", color=colour, markersize=4)
        axis.set(xscale="log", xlim=(low, high), title=f"to {target:g}", xlabel="NFE a sample (counted)")
        _budget_ticks(axis, standing)
    axes[0][0].set_yticks(range(len(keys)), [_label(key) for key in keys])
    axes[0][0].set_ylim(len(keys) - 0.5, -0.5)
    what = "least NFE measured that reaches the target (dot), from perhaps to surely (bar, 95 %)"
    figure.suptitle(f"{standing.title}\n{what}")
    figure.tight_layout()
    return figure
