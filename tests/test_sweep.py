"""A sweep on the mixture: verdicts of few samples against the ranking by the exact pathwise error of many."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import cell, compute

from bench.compare import compare_all
from bench.points import sampled
from bench.record import CellSpec
from bench.standings import Standing, standings
from bench.store import Store
from bench.tables import POINT, long_table
from solvers.registry import get_solver, solver_classes
from solvers.solver import FixedStepSolver

METRIC = "pathwise_rmse"
QUICK = ("ddim", "dpmpp_2m", "euler", "heun", "midpoint", "rk45")


def specs(solvers: Iterable[str], budgets: Iterable[int], **changes: Any) -> list[CellSpec]:
    """A solver's cells: its budgets, or three tolerances."""
    found = []
    for name in solvers:
        changes = {"problem": "mixture_2d", **changes}
        if isinstance(get_solver(name), FixedStepSolver):
            found += [cell(name, budget=budget, **changes) for budget in budgets if get_solver(name).nfe(1) <= budget]
        else:
            tolerances = ({"rtol": t, "atol": t} for t in (1e-1, 1e-2, 1e-3))
            found += [cell(name, budget=None, grid="adaptive", settings=t, **changes) for t in tolerances]
    return found


def standing(folder: Path, cells: Iterable[CellSpec]) -> Standing:
    records = [compute(spec, folder) for spec in cells]
    assert {record.status for record in records} == {"done"}
    return next(s for s in standings(long_table(Store(folder).records())) if s.metric == METRIC)


def recovered(
    folder: Path, solvers: Iterable[str], budgets: Iterable[int], n: int, many: int
) -> tuple[int, int, float]:
    """Pairs, those decided, and the largest ratio of true errors among those that are not; all checked on the way."""
    seeds = (spec for seed in range(3) for spec in specs(solvers, budgets, n=n, seed=seed))
    found, true = standing(folder / "few", seeds), standing(folder / "many", specs(solvers, budgets, n=many, seed=99))
    exact = {tuple(map(str, key)): value for *key, value in true.points[[*POINT, "value"]].itertuples(index=False)}
    keys = [tuple(map(str, key)) for key in found.points[POINT].itertuples(index=False)]
    errors = np.array([exact[key] for key in keys])
    better = compare_all(
        sampled([found.cells.loc[list(rows)] for rows in found.points.rows]), lower_is_better=True
    ).better
    truth = np.sign(errors[None] - errors[:, None])
    wrong = [(keys[p], keys[q]) for p, q in np.argwhere(better * truth < 0)]
    assert not wrong, "a verdict contradicts the exact error"
    ratio = np.exp(np.abs(np.log(errors[None] / errors[:, None])))
    missed = [(keys[p], keys[q]) for p, q in np.argwhere((ratio >= 2) & (better == 0))]
    assert not missed, "errors that differ twofold are not told apart"
    pairs = np.triu(np.ones_like(better), 1) > 0
    open_pairs = ratio[pairs & (better == 0)]
    return int(pairs.sum()), int((better[pairs] != 0).sum()), float(open_pairs.max(initial=1))


def test_a_sweep_recovers_the_ranking_by_exact_error(tmp_path: Path) -> None:
    pairs, decided, _ = recovered(tmp_path, QUICK, (5, 10, 20), n=400, many=4000)
    assert pairs == 18 * 17 // 2
    assert decided > 0.8 * pairs


@pytest.mark.slow
def test_a_sweep_of_every_ode_solver_recovers_the_ranking(tmp_path: Path) -> None:
    solvers = [name for name, cls in solver_classes().items() if not cls().stochastic]
    pairs, decided, _ = recovered(tmp_path, solvers, (5, 10, 20, 50, 100), n=2000, many=20000)
    assert decided > 0.9 * pairs
