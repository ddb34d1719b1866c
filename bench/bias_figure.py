"""Figures of Fréchet distances against the number of samples, with the lines that carry them to infinity."""

import contextlib
from collections import Counter
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bench.metrics.bias import AtInfinity, against_n, at_infinity
from bench.metrics.extractors import get_extractor
from bench.metrics.metric import metric_classes
from bench.problems.problem import ImageProblem, get_problem
from bench.record import Record, file_stem
from bench.store import Store
from solvers.errors import UsageError

# Rows that a figure has room for, the best.
ROWS = 8


def bias_figures(records: list[Record], store: Store) -> Iterator[tuple[str, Figure]]:
    """A figure for each problem and Fréchet distance carried to infinity, of kept samples of the first seed."""
    for key, metric in metric_classes().items():
        if not issubclass(metric, AtInfinity):
            continue
        with_value = [r for r in records if key in r.metrics and r.metrics[key].value is not None]
        for problem in sorted({r.spec.problem for r in with_value}):
            rows = _rows([r for r in with_value if r.spec.problem == problem], key, store)
            figure = _figure(problem, metric, rows) if rows else None
            if figure is not None:
                yield f"{file_stem(problem)}_{key}_n", figure


def _rows(records: list[Record], key: str, store: Store) -> list[tuple[Record, Tensor]]:
    """The best rows at the budget and grid that most share, the larger budget of two, with their samples."""
    seed = min(r.spec.seed for r in records)
    fixed = [r for r in records if r.spec.budget and r.spec.seed == seed]
    if not fixed:
        return []
    shared = Counter((r.spec.budget or 0, r.spec.grid) for r in fixed)
    most = max(shared, key=lambda pair: (shared[pair], pair))
    chosen = [r for r in fixed if (r.spec.budget, r.spec.grid) == most]
    found = [(r, store.samples(r.spec)) for r in sorted(chosen, key=lambda r: r.metrics[key].value or 0.0)]
    return [(r, samples) for r, samples in found if samples is not None][:ROWS]


def _figure(name: str, metric: type[AtInfinity], rows: list[tuple[Record, Tensor]]) -> Figure | None:
    """The figure; None where the problem's images, or one of both networks, are not here any more."""
    spec = rows[0][0].spec
    try:
        problem = get_problem(name)
        assert isinstance(problem, ImageProblem)
        extractor = get_extractor(metric.extractor, problem.device)
        images = problem.compared_with(spec.n, spec.seed, 0)
    except UsageError:
        return None
    layer = extractor.layers[metric.layer]
    reference = extractor(images)[layer]
    figure, axis = plt.subplots(figsize=(6.6, 4.2))
    for record, samples in rows:
        _line(axis, record.spec.solver, extractor(problem.to_levels(samples))[layer], reference)
    # Without so many other real images there is no line of theirs.
    with contextlib.suppress(UsageError):
        others = extractor(problem.compared_with(spec.n, spec.seed, 1))[layer]
        _line(axis, "other real images", others, reference, "0.3")
    axis.set(xlabel="1/n", ylabel=f"Fréchet distance of n and n [{metric.unit}]", xlim=(0, None))
    axis.set_title(f"{name}, NFE {spec.budget}, {spec.grid}, seed {spec.seed}: lines to infinitely many samples")
    axis.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    return figure


def _line(axis: Axes, label: str, features: Tensor, reference: Tensor, colour: str | None = None) -> None:
    """Distances of parts, and the line through them down to 1/n = 0."""
    sizes, values = against_n(features, reference)
    inverse = 1 / np.array(sizes)
    end = at_infinity(sizes, values)
    (drawn,) = axis.plot(inverse, values, "o", markersize=4, color=colour, label=f"{label}: {end:.1f}")
    slope = float(np.polynomial.polynomial.polyfit(inverse, values, 1)[1])
    ends = np.array([0, inverse[-1]])
    axis.plot(ends, end + slope * ends, "-", linewidth=1, color=drawn.get_color())
