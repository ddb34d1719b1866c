"""Tables from records made by hand."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from records import cell, cost, record

from bench.leaderboard import Leaderboard, leaderboard, markdown
from bench.metrics.metric import metric_classes
from bench.problems.gaussian import Gaussian
from bench.record import MetricValue, Record
from bench.standings import standings
from bench.table_files import write_tables
from bench.tables import (
    long_table,
    number,
    settings_text,
    summary_table,
)
from solvers.errors import UsageError

METRIC = "w2_gaussian"


def done(solver: str, value: Any, **spec: Any) -> Record:
    return record(cell(solver, **spec), {METRIC: value})


def seeds(solver: str, value: Any, **spec: Any) -> list[Record]:
    """Three seeds of one value: a reference drawn anew for each decides nothing on fewer."""
    return [done(solver, value, seed=seed, **spec) for seed in range(3)]


def failed(solver: str, status: str, reason: str | None = None, **spec: Any) -> Record:
    return record(cell(solver, **spec), status=status, reason=reason)


def adaptive(tolerance: float, nfe: float, value: Any, **spec: Any) -> Record:
    settings = {"rtol": tolerance, "atol": tolerance}
    spec = {"budget": None, "grid": "adaptive", "settings": settings, **spec}
    return record(cell("torchdiffeq", **spec), {METRIC: value}, cost=cost(nfe=nfe))


def leaderboards(table: pd.DataFrame) -> list[Leaderboard]:
    return [leaderboard(standing) for standing in standings(table)]


def board(*records: Record, metric: str = METRIC) -> Leaderboard:
    (found,) = [b for b in leaderboards(long_table(records)) if b.metric == metric]
    return found


def texts(found: Leaderboard) -> dict[str, list[str]]:
    return {solver: [entry.text for entry in entries] for solver, _, entries in found.rows}


def bold(found: Leaderboard) -> dict[str, list[bool]]:
    return {solver: [entry.best for entry in entries] for solver, _, entries in found.rows}


# The long table.


def test_one_row_a_cell_and_metric_with_their_numbers() -> None:
    records = [
        record(cell(seed=seed), {METRIC: (1.0 + seed, 0.1), "pathwise_rmse": "not an ODE solver"}) for seed in (0, 1)
    ]
    table = long_table(records)
    assert len(table) == 4
    rows = table.set_index(["metric", "seed"])
    assert rows.value[METRIC, 1] == 2.0
    assert rows.standard_error[METRIC, 0] == 0.1
    assert rows.floor[METRIC, 0] == 0.001
    assert np.isnan(rows.value["pathwise_rmse", 0])
    assert rows.reason["pathwise_rmse", 1] == "not an ODE solver"
    assert set(table.cell) == {item.spec.name for item in records}
    assert set(table.commit) == {"0123456789abcdef0123456789abcdef01234567"}
    assert set(table.seconds) == {0.5}


def test_a_cell_without_a_result_has_a_blank_row_a_metric_with_its_reason() -> None:
    table = long_table([failed("euler", "timeout", "took longer than 3 s"), done("heun", 1.0)])
    lost = table[table.status == "timeout"].set_index("metric")
    assert set(lost.index) == set(Gaussian.metrics)
    assert lost.value.isna().all()
    assert lost.reason[METRIC] == "timeout: took longer than 3 s"


def test_a_table_of_failures_alone_can_be_made() -> None:
    table = long_table([failed("euler", "diverged", "too large")])
    assert len(table) == len(Gaussian.metrics)
    assert texts(board(failed("euler", "diverged"))) == {"euler": ["diverged"]}


def test_csv_and_parquet_agree_on_reading(tmp_path: Path) -> None:
    records = [
        done("euler", (1 / 3, 1e-17)),
        done("ddim", 2.0, settings={"eta": 1.0}),
        adaptive(1e-5, 31.5, 0.1),
        failed("heun", "error", 'a "quoted", text\nof two lines'),
    ]
    table = long_table(records)
    write_tables(table, list(standings(table)), tmp_path)
    csv, parquet = pd.read_csv(tmp_path / "long.csv"), pd.read_parquet(tmp_path / "long.parquet")
    assert len(csv) == len(parquet) == len(table) == 3 + len(Gaussian.metrics)
    assert list(csv.columns) == list(parquet.columns) == [column for column in table if column != "replicates"]
    for column in csv:
        a, b = csv[column], parquet[column].replace("", None)
        assert (a.isna() == b.isna()).all(), column
        assert (a[a.notna()].astype(object) == b[b.notna()].astype(object)).all(), column


def test_cells_that_no_column_tells_apart_are_refused() -> None:
    """Otherwise a row would be the mean over different experiments."""
    for change in ({"n": 32}, {"batch_size": 4}, {"device": "cuda"}):
        with pytest.raises(
            UsageError, match=r"report: cells of one row differ in their seeds alone; got '.*, .*'\. Give"
        ):
            long_table([done("euler", 1.0), done("euler", 1.0, **change)])
    assert len(long_table([done("euler", 1.0), done("euler", 1.0, n=32, seed=1)])) == 2


def test_a_record_of_an_unknown_problem_is_told() -> None:
    with pytest.raises(UsageError, match=r"no problem 'gauss'.*Known: .*gaussian"):
        long_table([done("euler", 1.0, problem="gauss")])


def test_settings_are_told_where_they_are_not_the_defaults() -> None:
    assert settings_text("ddim", {"eta": 0.0}) == ""
    assert settings_text("ddim", {"eta": 0.5}) == "eta=0.5"
    assert settings_text("torchdiffeq", {"method": "bosh3", "rtol": 1e-5, "atol": 1e-5}) == "method=bosh3"
    assert settings_text("of a plug-in that is not loaded", {"a": 1, "b": 2}) == "a=1, b=2"


# Means over seeds.


def test_the_mean_over_seeds_and_its_standard_error() -> None:
    spread = summary_table(long_table([done("euler", (v, 0.01), seed=s) for s, v in enumerate((1.0, 2.0, 6.0))]))
    assert spread.value.tolist() == [3.0]
    assert spread.standard_error[0] == pytest.approx(np.sqrt(7 / 3)), "variance 7 between seeds outweighs 1e-4 within"
    tight = summary_table(long_table([done("euler", (1.0, 0.3), seed=s) for s in range(3)]))
    assert tight.standard_error[0] == pytest.approx(0.3 / np.sqrt(3)), "no spread between seeds: the cells' own errors"
    assert tight.seeds.tolist() == [3]
    one = summary_table(long_table([done("euler", (1.0, 0.3))]))
    assert one.standard_error.tolist() == [0.3]


def test_seeds_do_not_average_out_a_reference_that_they_share() -> None:
    records = [record(cell(problem="digits", seed=s), {"fd_digits": (v, 0.3)}) for s, v in enumerate((1.0, 2.0, 6.0))]
    assert summary_table(long_table(records)).standard_error[0] == pytest.approx(np.sqrt(0.09 + (7 - 0.09) / 3))


def test_a_value_of_a_solve_of_its_own_stands_at_what_that_spent() -> None:
    item = record(cell("torchdiffeq", problem="digits", budget=None, grid="adaptive", settings={"rtol": 1.0}))
    values = {
        "bits_per_dim": MetricValue(value=2.0, own_nfe=31.0, own_seconds=7.0),
        "fd_digits": MetricValue(value=1.0),
    }
    found = summary_table(long_table([item.model_copy(update={"metrics": values, "cost": cost(nfe=19.0)})]))
    assert dict(zip(found.metric, found.nfe, strict=True)) == {"bits_per_dim": 31.0, "fd_digits": 19.0}
    assert dict(zip(found.metric, found.seconds, strict=True)) == {"bits_per_dim": 7.0, "fd_digits": 0.5}


def test_a_seed_that_failed_leaves_no_mean_of_the_others() -> None:
    found = board(done("euler", 1.0), failed("euler", "diverged", seed=1), done("heun", 2.0), done("heun", 2.0, seed=1))
    assert texts(found)["euler"] == ["diverged for 1 of 2 seeds"]
    assert bold(found) == {"heun": [True], "euler": [False]}


# Leaderboards.


def test_the_best_and_what_is_not_separable_from_it_are_bold() -> None:
    # Unpaired, the error of a difference is hypot(0.03, 0.04) / sqrt(3) = 0.029; Holm asks 0.05/2 and 0.05/3 of them.
    found = board(
        *seeds("euler", (1.00, 0.03)),
        *seeds("heun", (1.06, 0.04)),  # 2.1 errors, p = 0.04
        *seeds("ddim", (1.08, 0.04)),  # 2.8 errors, p = 0.008
        *seeds("dpmpp_2m", (9.0, 0.01)),
    )
    assert bold(found) == {"euler": [True], "heun": [True], "ddim": [False], "dpmpp_2m": [False]}
    assert list(bold(found)) == ["euler", "heun", "ddim", "dpmpp_2m"], "best first"


def test_each_column_has_its_own_best() -> None:
    records = [*seeds("euler", 1.0, budget=5), *seeds("euler", 4.0), *seeds("ddim", 3.0, budget=5)]
    found = board(*records, *seeds("ddim", 2.0))
    assert found.budgets == [5, 10]
    assert bold(found) == {"ddim": [False, True], "euler": [True, False]}, "ordered by the largest budget"


def test_what_cannot_be_compared_is_not_decided_to_be_worse() -> None:
    """Without an error, or on one seed of a metric whose references are drawn."""
    both = board(*seeds("euler", (1.0, None)), *seeds("heun", (2.0, 0.1)))
    assert bold(both) == {"euler": [True], "heun": [True]}
    drawn = [
        record(cell(solver, problem="mixture_2d"), {"sliced_w2": (value, 0.1)})
        for solver, value in (("euler", 1.0), ("heun", 9.0))
    ]
    assert bold(board(*drawn, metric="sliced_w2")) == {"euler": [True], "heun": [True]}
    exact = [record(cell(solver), {"pathwise_rmse": (v, 0.1)}) for solver, v in (("euler", 1.0), ("heun", 9.0))]
    assert bold(board(*exact, metric="pathwise_rmse")) == {"euler": [True], "heun": [False]}


def test_a_metric_that_ranks_nothing_has_no_best() -> None:
    spec = {"problem": "digits", "n": 4, "kind": "likelihood"}
    records = [record(cell(s, **spec), {"bits_per_dim": v}) for s, v in (("euler", 1.0), ("heun", 2.0))]
    found = board(*records, metric="bits_per_dim")
    assert bold(found) == {"euler": [False], "heun": [False]}
    assert "not ranked" in found.title


def test_spent_evaluations_are_marked_where_they_are_not_the_budget() -> None:
    found = board(done("heun", (1.0, 0.1), budget=5), done("euler", (1.0, 0.1), budget=5))
    assert texts(found) == {"euler": ["1.00 ± 0.10"], "heun": ["1.00 ± 0.10 @4"]}


def test_adaptive_rows_stand_where_their_counted_evaluations_fit() -> None:
    found = board(
        *(done("euler", 9.0, budget=b) for b in (5, 20, 50)),
        adaptive(1e-1, 14, (3.0, 0.1)),
        adaptive(1e-2, 20, (2.0, 0.1)),
        adaptive(1e-3, 51, (1.0, 0.1)),
    )
    assert texts(found)["torchdiffeq"] == ["", "2.00 ± 0.10", "2.00 ± 0.10 @20"]


def test_adaptive_rows_beyond_every_budget_say_from_where() -> None:
    found = board(done("euler", 9.0, budget=5), adaptive(1e-1, 14, 3.0), adaptive(1e-2, 31, 2.0))
    assert texts(found)["torchdiffeq"] == ["from NFE 14"]


def test_adaptive_rows_alone_have_a_column() -> None:
    assert texts(board(adaptive(1e-2, 30.5, (2.0, 0.1)))) == {"torchdiffeq": ["2.00 ± 0.10 @30"]}
    assert [b.metric for b in leaderboards(long_table([adaptive(1e-2, 31, 2.0), failed("heun", "error")]))] == list(
        Gaussian.metrics
    )


def test_an_adaptive_row_that_always_fails_says_so() -> None:
    settings = {"rtol": 0.1, "atol": 0.1}
    lost = failed("torchdiffeq", "timeout", budget=None, grid="adaptive", settings=settings)
    assert texts(board(done("euler", 1.0), lost))["torchdiffeq"] == ["timeout"]
    assert leaderboards(long_table([lost])) == []


def test_a_reason_that_holds_for_a_whole_row_stands_once() -> None:
    records = [
        record(cell("ancestral", budget=b), {"pathwise_rmse": "not an ODE solver", METRIC: 1.0}) for b in (5, 10)
    ]
    assert texts(board(*records, metric="pathwise_rmse")) == {"ancestral": ["not an ODE solver", ""]}


def test_failed_cells_are_places_and_are_counted() -> None:
    found = board(
        *(done("euler", 1.0, budget=b, seed=s) for b in (5, 10) for s in (0, 1)),
        *(failed("heun", "diverged", budget=5, seed=s) for s in (0, 1)),
        *(done("heun", 2.0, budget=10, seed=s) for s in (0, 1)),
        *(failed("ddim", "skipped", budget=b, seed=s) for b in (5, 10) for s in (0, 1)),
        failed("torchsde", "error", budget=10),
    )
    shown = texts(found)
    assert shown["heun"][0] == "diverged"
    assert shown["heun"][1].startswith("2.0")
    assert shown["ddim"] == ["skipped", "skipped"], "a solver without any result keeps its row"
    assert shown["torchsde"] == ["", "error"]
    assert list(shown)[:2] == ["euler", "heun"], "rows without values last"
    (note,) = [note for note in found.notes if note.startswith("Cells without")]
    assert note == "Cells without a result: 4 skipped, 2 diverged, 1 error."


def test_settings_make_rows_of_their_own() -> None:
    found = board(done("ddim", 1.0), done("ddim", 2.0, settings={"eta": 1.0}))
    assert list(texts(found)) == ["ddim", "ddim (eta=1.0)"]


def test_notes_name_seeds_number_and_floor() -> None:
    found = board(*(done("euler", 1.0, seed=s) for s in range(3)))
    assert found.notes[0] == "Means over 3 seeds (± standard error), n = 16 samples a seed."
    assert found.notes[1] == "Floor, of exact samples: 0.00100."


def test_a_reference_that_seeds_share_has_a_floor_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their spread is a small part of it."""
    made = [record(cell("euler", seed=s), {METRIC: MetricValue(value=1.0, floor=0.1 + 0.01 * s)}) for s in range(3)]
    assert board(*made).notes[1] == "Floor, of exact samples: 0.1100 ± 0.0058."
    monkeypatch.setattr(metric_classes()[METRIC], "shared", True)
    assert board(*made).notes[1] == "Floor, of exact samples: 0.110."


def test_converged_solves_that_differ_are_a_range() -> None:
    def row(dequantisation: str | None, floor: float) -> Record:
        spec = cell("euler", problem="digits", kind="likelihood", dequantisation=dequantisation)
        return record(spec, {"bits_per_dim": MetricValue(value=2.0, floor=floor)})

    assert board(row(None, 1.9), metric="bits_per_dim").notes[1] == "Converged solve: 1.90."
    both = board(row(None, 1.9), row("variational", 1.8), metric="bits_per_dim")
    assert both.notes[1] == "Converged solve: 1.80 to 1.90."


def test_the_number_of_samples_is_what_the_metric_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_classes()[METRIC], "most", 5)
    assert "n = 5 samples a seed." in board(done("euler", 1.0)).notes[0]
    assert "n = 4, 5 samples a seed." in board(done("euler", 1.0), done("heun", 1.0, n=4)).notes[0]


def test_boards_come_in_the_order_that_the_problem_declares() -> None:
    both = {METRIC: 1.0, "pathwise_rmse": 1.0}
    boards = leaderboards(long_table([record(cell(), both), record(cell(problem="mixture_2d"), {"sliced_w2": 1.0})]))
    assert [(b.problem, b.metric) for b in boards] == [
        ("gaussian", "pathwise_rmse"),
        ("gaussian", METRIC),
        ("mixture_2d", "sliced_w2"),
    ]
    assert boards[0].title == "gaussian: pathwise RMS error [units of x], lower is better"


def test_markdown_is_a_table_whatever_the_texts_hold() -> None:
    records = [
        done("euler", (1.0, 0.01), budget=5),
        done("euler", (1.0, 0.01), budget=10),
        record(cell("heun", budget=5), {METRIC: "a | b\nc"}),
        done("heun", (1.1, 0.01), budget=10),
    ]
    text = markdown(board(*records))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}, "every line has the same cells"
    assert set(lines[1]) == {"|", "-"}
    assert "| euler | log_snr | **1.000 ± 0.010** | **1.000 ± 0.010** |" in lines
    assert r"a \| b c" in text


# Numbers.


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23456, 0.0123, "1.235 ± 0.012"),
        (123.456, 12.3, "123 ± 12"),
        (0.0123456, 0.00012, "0.01235 ± 0.00012"),
        (0.000123456, 0.0000012, "1.23e-04 ± 1e-06"),
        (-5.4321, 0.3, "-5.43 ± 0.30"),
        (1.0, None, "1.00"),
        (7913553.0, 161496.0, "7.91e+06 ± 2e+05"),
        (1234.5, None, "1234"),
        (1.0, float("nan"), "1.00"),
        (1.0, 0.0, "1.00"),
    ],
)
def test_numbers_show_their_error_to_two_digits(value: float, error: float | None, text: str) -> None:
    assert number(value, error) == text or (value == 1234.5 and number(value, error) in ("1.23e+03", "1234"))


@given(value=st.floats(-1e8, 1e8), error=st.none() | st.floats(1e-12, 1e6))
def test_a_shown_number_is_the_number_to_its_error_or_three_digits(value: float, error: float | None) -> None:
    assume(value == 0 or abs(value) > 1e-300)
    text = number(value, error)
    assert "\n" not in text
    assert "|" not in text
    if error is None:
        assert float(text) == pytest.approx(value, rel=0.0051)
        return
    shown, _, shown_error = text.partition(" ± ")
    assert float(shown_error) == pytest.approx(error, rel=0.5)
    assert abs(float(shown) - value) <= max(0.51 * error, 0.0051 * abs(value))
    if "e" not in text:
        assert abs(float(shown) - value) <= 0.051 * error + 1e-12 * abs(value) or error > 10


def test_a_kind_that_does_not_take_a_solver_says_so_in_its_row() -> None:
    spec = {"problem": "digits", "n": 4, "kind": "likelihood"}
    reason = {"status": "skipped", "reason": "not an ODE solver"}
    found = board(
        record(cell("euler", **spec), {"bits_per_dim_error": 1.0}),
        *(record(cell("ancestral", budget=b, **spec), **reason) for b in (5, 10)),
        metric="bits_per_dim_error",
    )
    assert texts(found)["ancestral"] == ["skipped: not an ODE solver", ""]


def test_the_boards_of_samples_come_first() -> None:
    cells = [cell("euler", problem="digits", n=4, kind=kind) for kind in ("likelihood", "sampling")]
    values = ({"bits_per_dim_error": 1.0}, {"fd_digits": 2.0})
    boards = leaderboards(long_table(record(spec, value) for spec, value in zip(cells, values, strict=True)))
    assert [found.metric for found in boards] == ["fd_digits", "bits_per_dim_error"]


@pytest.mark.parametrize("name", ["digits-features", "digits-features reference", "digits-vp"])
def test_a_table_never_mixes_networks_extractors_or_references(name: str) -> None:
    def hashed(seed: int, value: str) -> Record:
        hashes = {"solver euler": str(seed), name: value}
        return record(cell(problem="digits", seed=seed), {"fd_digits": 1.0}, hashes=hashes)

    assert len(long_table([hashed(0, "a"), hashed(1, "a")])) == 2, "another solver's file is told in the report"
    with pytest.raises(UsageError, match=f"one table holds values of one {name}; got 'a and b'"):
        long_table([hashed(0, "a"), hashed(1, "b")])


def test_flags_and_the_networks_own_value_stand_below_the_leaderboard() -> None:
    value = MetricValue(value=3.0, standard_error=0.1, converged=2.5, flag="n = 20 is few")
    item = record(cell(problem="digits", n=20)).model_copy(update={"metrics": {"fd_digits_solver": value}})
    (board,) = leaderboards(long_table([item]))
    assert "The network's own value, of the converged solve: 2.50." in board.notes
    assert "Flagged: n = 20 is few (euler on log_snr, NFE 10)." in board.notes


def test_flags_say_whose_they_are_and_how_many_more_there_are() -> None:
    def flagged(solver: str, flag: str | None, budget: int = 10) -> Record:
        return record(cell(solver, budget=budget), {METRIC: MetricValue(value=1.0, flag=flag)})

    found = board(flagged("euler", "a", 5), flagged("heun", "a"), flagged("euler", "b"), flagged("midpoint", None))
    assert [note for note in found.notes if "lagged" in note] == [
        "Flagged: a (euler on log_snr, NFE 5, heun on log_snr, NFE 10).",
        "Flagged: b (euler on log_snr, NFE 10).",
    ]
    many = board(
        *(flagged("euler", f"{k}", 10 + k) for k in range(5)), *(flagged("heun", "0", 10 + k) for k in range(5))
    )
    notes = [note for note in many.notes if "lag" in note]
    assert notes[0] == "Flagged: 0 (euler on log_snr, NFE 10, heun on log_snr, NFE 10, heun on log_snr, NFE 11, …)."
    assert notes[-1] == "2 more flags stand in the records."
