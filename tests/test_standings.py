"""Ranks, frontier, targets and their tables from records made by hand."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records import cell, cost, record

from bench.frontier import frontier, places
from bench.latex import escaped, latex
from bench.leaderboard import leaderboard
from bench.metrics.metric import metric_classes
from bench.record import Record
from bench.standings import Standing, standings
from bench.table_files import write_tables
from bench.tables import long_table
from bench.targets import Reach, markdown, reach, target_table, targets

METRIC = "pathwise_rmse"


def done(solver: str, value: Any, **spec: Any) -> Record:
    return record(cell(solver, **spec), {METRIC: value})


def standing(*records: Record, metric: str = METRIC) -> Standing:
    (found,) = [s for s in standings(long_table(records)) if s.metric == metric]
    return found


def key(solver: str, grid: str = "log_snr") -> tuple[str, str, str]:
    return solver, "", grid


# Columns: pairs and ranks.


def test_ranks_are_what_the_verdicts_leave() -> None:
    found = standing(
        done("euler", 1.0), done("heun", (1.02, 0.01)), done("ddim", 5.0), record(cell("dpmpp_2m"), status="error")
    )
    column = found.columns[10]
    ranks = {
        k[0]: (column.ranks[p], column.first[p], column.last[p]) for p, k in enumerate(column.keys) if column.valid[p]
    }
    assert ranks == {"euler": (1, 1, 2), "heun": (2, 1, 2), "ddim": (3, 3, 3)}
    assert column.best == key("euler")
    assert [column.tied(key(s)) for s in ("euler", "heun", "ddim", "dpmpp_2m", "lms")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_replicates_decide_what_unpaired_errors_leave_open(tmp_path: Path) -> None:
    """Both cells have an error of 0.1 of their own, and it is the same one: their difference has none."""
    shared = np.linspace(-0.1, 0.1, 20)
    records = []
    for solver, value in (("euler", 1.0), ("heun", 1.02)):
        item = done(solver, (value, 0.1))
        left = tuple(value + shared + 1e-4 * np.cos(np.arange(20) * value * 9))
        changed = item.metrics[METRIC].model_copy(update={"replicates": left})
        records.append(item.model_copy(update={"metrics": {METRIC: changed}}))
    paired = standing(*records).columns[10]
    assert paired.pairs is not None
    assert paired.pairs.verdict(paired.keys.index(key("euler")), paired.keys.index(key("heun"))) == "better"
    unpaired = standing(done("euler", (1.0, 0.1)), done("heun", (1.02, 0.1))).columns[10]
    assert unpaired.pairs is not None
    assert not unpaired.pairs.better.any()


# The frontier.


def test_places_on_the_frontier_by_hand() -> None:
    """Points: cheap and bad; dear and good; dear and bad; as dear as the good one, and not told from it."""
    better = np.array([[0, -1, 1, -1], [1, 0, 1, 0], [-1, -1, 0, -1], [1, 0, 1, 0]])
    cost = np.array([1.0, 2.0, 2.0, 2.0])
    assert places(better, cost, cost) == ["frontier", "undecided", "dominated", "undecided"]
    better[1, 3], better[3, 1] = 1, -1
    assert places(better, cost, cost) == ["frontier", "frontier", "dominated", "dominated"]


def test_costs_that_overlap_dominate_nothing() -> None:
    better = np.array([[0, 1], [-1, 0]])
    assert places(better, np.array([1.0, 1.5]), np.array([2.0, 2.5])) == ["frontier", "undecided"]
    assert places(better, np.array([1.0, 2.0]), np.array([2.0, 2.5])) == ["frontier", "dominated"]
    assert places(better, np.array([3.0, 1.0]), np.array([4.0, 2.0])) == ["frontier", "frontier"], "dearer and better"


def test_the_frontier_of_a_standing() -> None:
    found = frontier(
        standing(
            *(done("euler", v, budget=b) for b, v in ((5, 4.0), (10, 2.0), (20, 1.99))),
            *(done("ddim", v, budget=b) for b, v in ((5, 5.0), (10, 1.0))),
        )
    )
    shown = dict(zip(zip(found.solver, found.budget, strict=True), found.by_nfe, strict=True))
    assert shown == {
        ("euler", 5): "frontier",
        ("ddim", 5): "dominated",
        ("euler", 10): "dominated",
        ("ddim", 10): "frontier",
        ("euler", 20): "dominated",
    }
    assert set(found.by_seconds) <= {"frontier", "dominated", "undecided"}


def test_a_metric_that_ranks_nothing_has_no_frontier_and_no_targets() -> None:
    item = record(cell("euler", problem="digits", n=4, kind="likelihood"), {"bits_per_dim": 2.0})
    found = standing(item, metric="bits_per_dim")
    assert len(frontier(found)) == 0
    assert targets(found) == []
    assert markdown(found) == ""


# Targets.


def curve(error: float = 1e-6) -> Standing:
    return standing(
        *(done("euler", (v, error), budget=b) for b, v in ((5, 3.0), (10, 0.9), (20, 0.3), (50, 0.09))),
        *(done("ddim", (v, error), budget=b) for b, v in ((5, 30.0), (10, 12.0), (20, 0.1))),
        record(cell("heun"), {METRIC: "not an ODE solver"}),
    )


def test_targets_lie_between_the_worst_and_the_best_easy_first() -> None:
    assert targets(curve()) == [20.0, 5.0, 0.5, 0.1]
    assert targets(standing(done("euler", 0.7), done("heun", 0.6))) == []


def test_a_metric_that_may_be_negative_sets_no_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert targets(curve())
    monkeypatch.setattr(metric_classes()[METRIC], "limits", (-np.inf, np.inf))
    assert targets(curve()) == []


def test_no_target_lies_beyond_what_figures_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else coarse solves of 1e12 bits/dim would set three of four."""
    monkeypatch.setattr(metric_classes()[METRIC], "shown_to", 10.0)
    assert targets(curve()) == [2.0, 1.0, 0.2, 0.1]


def test_no_target_lies_below_what_the_reference_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    found = standing(*(done("euler", v, budget=b) for b, v in ((5, 0.1), (10, 2e-3), (20, 2e-5))))
    assert min(targets(found)) == 0.002, "the floor is 0.001"
    monkeypatch.setattr(metric_classes()[METRIC], "resolves", False)
    assert min(targets(found)) == 2e-5


def test_what_a_row_needs_for_a_target() -> None:
    assert reach(curve(), key("euler"), 0.5, "nfe") == Reach(20, 20, 20)
    assert reach(curve(), key("ddim"), 0.05, "nfe") == Reach(None, None, None)
    # Half width of the 95 % interval: 0.1 times the quantile of t with 19 degrees of freedom, 2.09.
    wide = curve(0.1)
    assert reach(wide, key("euler"), 0.8, "nfe") == Reach(20, 20, 10)
    assert reach(wide, key("euler"), 0.4, "nfe") == Reach(20, 50, 20)
    assert reach(wide, key("euler"), 0.25, "nfe") == Reach(50, None, 20)
    assert reach(wide, key("ddim"), 0.05, "nfe") == Reach(None, None, 20)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Reach(20, 20, 10), "20"),
        (Reach(20, 50, 20), "20 (surely 50)"),
        (Reach(50, None, 20), "50 (not sure)"),
        (Reach(None, None, 20), "not reached (perhaps 20)"),
        (Reach(None, None, None), "not reached"),
    ],
)
def test_texts_of_targets(found: Reach, text: str) -> None:
    assert found.text == text


def test_tables_of_targets_name_what_is_not_reached_and_leave_out_what_has_no_value() -> None:
    table = target_table(curve())
    assert set(table.solver) == {"euler", "ddim"}
    assert len(table) == 2 * 4 * 2
    hardest = table[(table.target == 0.1) & (table.cost == "nfe")].set_index("solver").text
    assert hardest.to_dict() == {"euler": "50", "ddim": "20 (not sure)"}
    text = markdown(curve())
    assert "| solver | grid | NFE to 20 | NFE to 5 | NFE to 0.5 | NFE to 0.1 |" in text
    assert "seconds to 0.1" in text
    assert "heun" not in text
    assert "not reached" in markdown(standing(*(done(s, v) for s, v in (("euler", 3.0), ("ddim", 0.09)))))


# Files.


def test_latex_is_a_booktabs_table_with_ties_bold_and_failures_marked() -> None:
    text = latex(
        leaderboard(
            standing(
                done("euler", (1.0, 0.1), budget=5),
                done("heun", (1.1, 0.1), budget=5),
                done("ddim", (9.0, 1e-6), budget=5, settings={"eta": 1.0}),
                record(cell("dpmpp_2m", budget=5), status="diverged", reason="a & b"),
            )
        )
    )
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    rows = dict(re.findall(r"^(.*?) & log\\_snr & (.*) \\\\$", text, re.MULTILINE))
    assert rows["euler"] == r"$\mathbf{1.00 \pm 0.21}$", "0.1 times 2.09"
    assert rows["heun"] == r"$\mathbf{1.10 \pm 0.21}$ @4"
    assert rows["ddim (eta=1.0)"] == r"$9.00 \cdot 10^{0} \pm 2 \cdot 10^{-6}$"
    assert rows["dpmpp\\_2m"] == r"diverged$^\dag$"
    assert escaped("a_b & 5 % | {x}") == r"a\_b \& 5 \% | \{x\}"


def test_files_hold_points_ranks_pairs_and_targets(tmp_path: Path) -> None:
    records = [done(s, v, budget=b) for b in (5, 10) for s, v in (("euler", 1.0 / b), ("ddim", 2.0 / b))]
    records.append(record(cell("heun", problem="digits", n=4, kind="likelihood"), {"bits_per_dim": 2.0}))
    table = long_table(records)
    written = write_tables(table, list(standings(table)), tmp_path)
    assert {path.name for path in written} == {
        *("long.csv", "long.parquet", "summary.csv", "summary.json", "ranks.csv", "pairs.parquet", "targets.csv"),
        *("leaderboard.md", "leaderboard.tex"),
    }
    summary = pd.read_json(tmp_path / "summary.json").set_index(["solver", "budget"])
    assert summary.by_nfe["euler", 5] == "frontier"
    assert summary.by_nfe["ddim", 10] == "dominated"
    assert summary.half_width["euler", 5] == pytest.approx(0.01 * 2.093, rel=1e-3)
    assert len(summary) == len(pd.read_csv(tmp_path / "summary.csv")) == 5
    assert pd.read_csv(tmp_path / "ranks.csv")["first"].tolist() == [2, 1, 2, 1]
    pairs = pd.read_parquet(tmp_path / "pairs.parquet")
    assert pairs.verdict.tolist() == ["worse", "worse"], "ddim against euler, both budgets"
    assert pairs.difference.tolist() == pytest.approx([0.2, 0.1])


def test_adaptive_points_keep_their_own_place() -> None:
    spec = {"budget": None, "grid": "adaptive"}
    loose, tight = (
        record(cell("torchdiffeq", settings={"rtol": t, "atol": t}, **spec), {METRIC: v}, cost=cost(nfe=nfe))
        for t, v, nfe in ((0.1, 2.0, 8.0), (0.01, 0.1, 19.0))
    )
    found = standing(loose, tight, done("euler", 1.0), done("euler", 0.5, budget=20))
    assert {b: column.best for b, column in found.columns.items()} == {
        10: key("euler"),
        20: ("torchdiffeq", "", "adaptive"),
    }
    assert reach(found, ("torchdiffeq", "", "adaptive"), 0.2, "nfe").estimate == 19
