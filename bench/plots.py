"""Figures from the tables: quality against evaluations and seconds, and samples side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.bias_figure import bias_figures
from bench.metrics.metric import metric_classes
from bench.problems.problem import ImageProblem, problem_class
from bench.record import Record, file_stem
from bench.standing_plots import standing_figures, values_figure
from bench.standings import Standing
from bench.store import Store
from bench.tables import declared_metrics, settings_text

ADAPTIVE = "adaptive"
MARKERS = "osD^vP*X<>"
# Values that may be negative are shown this far around a converged solve's.
AROUND = 2
# Images a solver and budget in the sample grid.
SHOWN = 6
# Metrics of a problem that are drawn against seconds too.
TIMED = 2


Looks = dict[str, tuple[Any, str]]


def write_figures(
    table: pd.DataFrame, standings: list[Standing], records: list[Record], store: Store, folder: Path
) -> list[Path]:
    """Draw every figure that the records allow, each as PNG and SVG; returns the paths of the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    sns.set_theme(style="whitegrid", context="paper")
    paths = []
    for name, figure in _figures(table, standings, records, store):
        for suffix in (".png", ".svg"):
            # A fixed salt and no date: the same records give the same file.
            with mpl.rc_context({"svg.hashsalt": "scorebench"}):
                figure.savefig(
                    folder / f"{name}{suffix}", dpi=150, metadata={"Date": None} if suffix == ".svg" else None
                )
        plt.close(figure)
        paths.append(folder / f"{name}.png")
    return paths


def _figures(
    table: pd.DataFrame, standings: list[Standing], records: list[Record], store: Store
) -> Iterator[tuple[str, Figure]]:
    """Name and figure, one after the other: few are open at a time."""
    looks = _looks(sorted(table.solver.unique()))
    for standing in standings:
        if not standing.by_evaluations:
            yield f"{file_stem(standing.problem)}_{standing.metric}_values", values_figure(standing, looks)
            continue
        yield from _curves(standing, looks)
        # Ranks, pairs, frontier and targets of what a problem and kind are judged by; the tables have every metric's.
        if standing.metric == declared_metrics(standing.cells.kind.iloc[0], standing.problem)[0]:
            yield from standing_figures(standing, looks)
    yield from bias_figures(records, store)
    yield from _sample_grids(records, store)


def _curves(standing: Standing, looks: Looks) -> Iterator[tuple[str, Figure]]:
    """Quality against counted evaluations, and against seconds."""
    points = standing.points[standing.points.value.notna()]
    if len(points):
        # Most metrics share their cells' seconds: the first ones show them, and those with a solve of their own.
        first = standing.metric in declared_metrics(standing.cells.kind.iloc[0], standing.problem)[:TIMED]
        own = standing.cells[standing.cells.metric == standing.metric].own_seconds.notna().any()
        axes = [("nfe", "network evaluations a sample (counted)"), ("seconds", "seconds a solve")]
        for x, label in axes if first or own else axes[:1]:
            yield (
                f"{file_stem(standing.problem)}_{standing.metric}_{x}",
                _curve(points, standing.title, x, label, looks),
            )


def _looks(solvers: list[str]) -> Looks:
    """The same colour and marker for a solver in every figure of a report."""
    colours = sns.color_palette("husl", len(solvers))
    return {name: (colours[k], MARKERS[k % len(MARKERS)]) for k, name in enumerate(solvers)}


def _curve(points: pd.DataFrame, title: str, x: str, label: str, looks: Looks) -> Figure:
    """The grid that most solvers share, then the others: a line a solver, bands of 95 %, the floor."""
    metric = metric_classes()[points.metric.iloc[0]]
    fixed = [grid for grid in points.grid.unique() if grid != ADAPTIVE]
    grids = sorted(fixed, key=lambda grid: (-points[points.grid == grid].solver.nunique(), grid))
    panels = [grids[:1], grids[1:]] if len(grids) > 1 else [grids]
    # As high as the legend, with a line for each solver and setting.
    height = max(4.2, 0.2 * points.groupby(["solver", "settings"]).ngroups + 1)
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels) + 2, height), sharey=True, squeeze=False)
    cut = metric.direction == "none" and metric.limits[0] < 0 and points.floor.notna().any()
    for axis, shown in zip(axes[0], panels, strict=True):
        styles = dict(zip(shown, ("-", "--", "-.", (0, (1, 1))), strict=False))
        panel = points[points.grid.isin([*shown, ADAPTIVE])]
        for (solver, settings, grid), line in panel.groupby(["solver", "settings", "grid"]):
            name = f"{solver} {settings}".strip()
            _line(axis, line.sort_values("nfe"), x, name, looks[str(solver)], styles.get(grid, ":"))
        _floor(axis, points, metric.direction)
        names = {"-": "solid", "--": "dashed", "-.": "dash-dotted"}
        heading = ", ".join(
            f"{grid} {names.get(style, 'dotted')}" if len(shown) > 1 else grid for grid, style in styles.items()
        )
        axis.set(xscale="log", xlabel=label, title=f"grid: {heading}" if heading else ADAPTIVE)
        if metric.limits[0] >= 0:
            axis.set_yscale("log")
            if points.value.max() > metric.shown_to:
                axis.set_ylim(top=metric.shown_to)
        elif not cut:
            # Unbiased estimates of distances, below zero where nothing is told apart.
            axis.set_yscale("symlog", linthresh=max(2 * float(points.standard_error.median()), 1e-12))
        else:
            axis.set_ylim(points.floor.mean() - AROUND, points.floor.mean() + AROUND)
        if x == "nfe":
            ticks = sorted({int(budget) for budget in points.budget.dropna()})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
    axes[0][0].set_ylabel(metric.axis_label())
    handles: dict[str, Artist] = {}
    for axis in axes[0]:
        handles |= {text: handle for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    told = f"\nvalues further than {AROUND} from the dashed line are not shown" if cut else ""
    if points.value.max() > metric.shown_to:
        told = f"\nvalues above {metric.shown_to:g} are not shown"
    figure.suptitle(title + told)
    figure.tight_layout(rect=(0, 0, 1 - 2 / figure.get_figwidth(), 1))
    figure.legend(list(handles.values()), list(handles), loc="center right", frameon=False)
    return figure


def _floor(axis: Axes, points: pd.DataFrame, direction: str) -> None:
    """The floor, dashed; one far below all values would flatten the curves: the table names it."""
    floor = points.floor.dropna()
    if len(floor) and (direction == "none" or floor.mean() > points.value.min() / 10):
        text = "converged solve" if direction == "none" else "floor"
        axis.axhline(floor.mean(), color="0.3", linestyle="--", linewidth=1, label=text)


def _line(axis: Axes, line: pd.DataFrame, x: str, label: str, look: tuple[Any, str], style: Any) -> None:
    colour, marker = look
    axis.plot(
        line[x], line.value, color=colour, label=label, marker=marker, markersize=4, linewidth=1.2, linestyle=style
    )
    half = line.half_width.fillna(0)
    low = (line.value - half).clip(lower=line.value / 10) if (line.value > 0).all() else line.value - half
    axis.fill_between(line[x], low, line.value + half, color=colour, alpha=0.12, linewidth=0)


def _sample_grids(records: list[Record], store: Store) -> Iterator[tuple[str, Figure]]:
    """A figure for each problem of images whose cells are done."""
    for name in sorted({r.spec.problem for r in records}):
        problem = problem_class(name)
        chosen = [r for r in records if r.spec.problem == name and r.spec.kind == "sampling"]
        chosen = [r for r in chosen if r.status == "done" and r.cost]
        if chosen and issubclass(problem, ImageProblem):
            yield f"{file_stem(name)}_samples", _sample_grid(chosen, problem, store)


def _sample_grid(chosen: list[Record], problem: type[ImageProblem], store: Store) -> Figure:
    """The first images of the first seed: a row a solver and grid, a block a budget, a column an x_T."""
    seed = min(r.spec.seed for r in chosen)
    chosen = [r for r in chosen if r.spec.seed == seed]
    budgets = sorted({r.spec.budget for r in chosen if r.spec.budget}) or [
        max(int(r.cost.nfe) for r in chosen if r.cost)
    ]
    rows: dict[tuple[str, str, str], list[Record]] = {}
    for record in chosen:
        spec = record.spec
        rows.setdefault((spec.solver, settings_text(spec.solver, spec.settings), spec.grid), []).append(record)
    figure, axes = plt.subplots(
        len(rows), len(budgets), figsize=(0.5 * SHOWN * len(budgets) + 2.4, 0.5 * len(rows) + 0.8), squeeze=False
    )
    for line, ((solver, settings, grid), members) in zip(axes, sorted(rows.items()), strict=True):
        for axis, budget in zip(line, budgets, strict=True):
            # Adaptive rows have no budgets of their own.
            none = "none within the budget" if members[0].spec.budget is None else "not run"
            _strip(axis, _within(members, budget), problem, store, none)
        text = f"{solver} {settings}".strip() + f"\n{grid}"
        line[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=7)
    for axis, budget in zip(axes[0], budgets, strict=True):
        axis.set_title(f"NFE ≤ {budget}", fontsize=9)
    figure.suptitle(f"{problem.key}: samples from the same x_T in every row (seed {seed})", fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.98), h_pad=0.2, w_pad=0.6)
    return figure


def _within(members: list[Record], budget: int) -> Record | None:
    """The cell of a budget; of an adaptive row the one with most evaluations within it."""
    fitting = [
        r for r in members if r.spec.budget == budget or (r.spec.budget is None and r.cost and r.cost.nfe <= budget)
    ]
    return max(fitting, key=lambda r: r.cost.nfe if r.cost else 0) if fitting else None


def _strip(axis: Axes, record: Record | None, problem: type[ImageProblem], store: Store, none: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    sns.despine(ax=axis, left=True, bottom=True)
    samples = store.samples(record.spec) if record else None
    if samples is None:
        text = none if record is None else "samples not kept"
        axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="0.5", transform=axis.transAxes)
        return
    low, high = problem.ends()
    images = ((samples[:SHOWN].float() - low) / (high - low)).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    padded = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=1)
    # One channel is grey.
    axis.imshow(np.concatenate(list(padded), axis=1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
