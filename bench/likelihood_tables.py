"""Tables of likelihood cells: bits/dim with each of its errors, and the solver that costs least for an error."""

import numpy as np
import pandas as pd

from bench.kinds.likelihood import ERRORS_APART
from bench.tables import ROW, markdown_table, number, plain, summary_table

# Solver errors in bits/dim whose cost is read off.
TARGETS = (1e-1, 1e-2, 1e-3, 1e-4)


def likelihood_section(table: pd.DataFrame) -> list[str]:
    """Lines of a report on its likelihood cells, from the long table; none without such cells."""
    cells = table[table.kind == "likelihood"]
    lines = []
    for names, part in cells.groupby(["problem", "dequantisation"], sort=False, dropna=False):
        if part.value.isna().all():
            continue
        summary, problem = summary_table(part), ", ".join(name for name in names if isinstance(name, str))
        error = "bits_per_dim_error" if "bits_per_dim_error" in set(part.metric) else "log_density_error"
        lines += [f"### {problem}: evaluations to a solver error in bits/dim", "", _cost_table(summary, error), ""]
        if error == "bits_per_dim_error":
            lines += [f"### {problem}: errors of bits/dim apart", "", _common_text(summary), "", _apart(summary), ""]
    return ["## Likelihood", "", *lines] if lines else []


def cost_to(points: pd.DataFrame, target: float) -> float:
    """Fewest evaluations among the points from which on the error stays within the target; NaN if it never does."""
    ordered = points.iloc[_fineness(points).argsort(kind="stable")]
    missed = np.flatnonzero(~(ordered.value.to_numpy() <= target))
    within = ordered.iloc[missed[-1] + 1 if len(missed) else 0 :]
    return float(within.nfe.iloc[0]) if len(within) else float("nan")


def _fineness(points: pd.DataFrame) -> pd.Series:
    """Rises from the coarsest point of a row to the finest, whether they gave a value or not."""
    fineness: pd.Series = points.budget.fillna(-points.tolerance)
    return fineness


def _cost_table(summary: pd.DataFrame, metric: str) -> str:
    rows: list[tuple[str, str, list[float], float]] = []
    for (solver, settings, grid), points in summary[summary.metric == metric].groupby(ROW[2:]):
        costs = [cost_to(points, target) for target in TARGETS]
        name = plain(f"{solver} ({settings})" if settings else str(solver))
        rows.append((name, str(grid), costs, max(points.value.min(), points.floor.max())))
    rows.sort(key=lambda row: ([np.inf if np.isnan(cost) else cost for cost in reversed(row[2])], row[3]))
    heads = ("solver", "grid", *(f"≤ {target:g}" for target in TARGETS), "least error")
    shown = (
        (name, grid, *("not reached" if np.isnan(c) else f"{c:.0f}" for c in costs), _least(least))
        for name, grid, costs, least in rows
    )
    return markdown_table(heads, shown)


def _least(error: float) -> str | None:
    return None if np.isnan(error) else f"{error:.1e}"


def _common_text(summary: pd.DataFrame) -> str:
    """What does not depend on the solver."""
    values = {key: summary[summary.metric == key] for key in (*ERRORS_APART, "bits_per_dim")}
    converged, bound = values["bits_per_dim"], values["bits_bound"]
    ends = (values[f"bits_{name}"] for name in ("prior_mismatch", "smoothing"))
    prior, smoothing = (number(end.value.mean(), end.standard_error.mean()) for end in ends)
    return (
        f"Converged solve: {number(converged.floor.mean())} bits/dim. Variational bound (reverse SDE): "
        f"{number(bound.value.mean(), bound.standard_error.mean())}. Too high by {prior} "
        f"for the prior's mismatch at t_max, and to first order by {smoothing} for the smoothing at t_min. "
        "Below: means over seeds at the largest budget or finest tolerance; ± is the whole standard error, images "
        "included; probes and dequantisation are their own parts of it in one seed, where it has two of each."
    )


def _apart(summary: pd.DataFrame) -> str:
    rows = []
    for (solver, settings, grid), points in summary.groupby(ROW[2:]):
        fineness = _fineness(points)
        last = points[fineness == fineness.max()].set_index("metric")
        bits, error = last.loc["bits_per_dim"], last.loc["bits_per_dim_error"]
        name = plain(f"{solver} ({settings})" if settings else str(solver))
        parts = [last.value.get(f"bits_{part}_error", np.nan) for part in ("probe", "dequantisation")]
        found = (_with_error(bits), _with_error(error), *(None if np.isnan(part) else number(part) for part in parts))
        nfe = None if np.isnan(bits.nfe) else f"{bits.nfe:.0f}"
        rows.append((np.nan_to_num(error.value, nan=np.inf), (name, grid, nfe, *found)))
    heads = ("solver", "grid", "NFE", "bits/dim", "solver error", "probes", "dequantisation")
    return markdown_table(heads, (row for _, row in sorted(rows, key=lambda row: row[0])))


def _with_error(point: pd.Series) -> str | None:
    return None if np.isnan(point.value) else number(point.value, point.standard_error)
