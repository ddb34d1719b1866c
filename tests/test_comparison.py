"""Two runs side by side, from records made by hand and from real cells."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from records import cell, compute, cost, environment, fill, record

from bench import cli
from bench.comparison import Change, RunsCompared, compare_runs
from bench.problems.gaussian import Gaussian
from bench.record import Record
from solvers.errors import UsageError

METRIC = "pathwise_rmse"
SEEDS = (0, 1, 2)


def done(solver: str, value: Any, seed: int = 0, **changes: Any) -> Record:
    return record(cell(solver, seed=seed), {METRIC: value, "w2_gaussian": "left out"}, **changes)


def three(solver: str, value: float, error: float = 0.01, **changes: Any) -> list[Record]:
    return [done(solver, (value, error), seed, **changes) for seed in SEEDS]


def compared(tmp_path: Path, before: Sequence[Record], after: Sequence[Record]) -> RunsCompared:
    for name, records in (("a", before), ("b", after)):
        fill(tmp_path / name, list(records))
    return compare_runs(tmp_path / "a", tmp_path / "b")


def verdicts(found: RunsCompared) -> dict[str, str]:
    return {change.point["solver"]: change.verdict for change in found.changes}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["scorebench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_verdicts_on_the_second_run(tmp_path: Path) -> None:
    before = [*three("euler", 1.0), *three("heun", 1.0), *three("ddim", 1.0)]
    found = compared(tmp_path, before, [*three("euler", 1.1), *three("heun", 0.9), *three("ddim", 1.0)])
    assert verdicts(found) == {"euler": "worse", "heun": "better", "ddim": "undecided"}
    by_solver = {change.point["solver"]: change for change in found.changes}
    euler = by_solver["euler"]
    assert [euler.before, euler.after, euler.seeds] == pytest.approx([1.0, 1.1, 3])
    assert euler.difference == pytest.approx(0.1)
    assert [change.identical for change in by_solver.values()].count(True) == 1
    assert by_solver["ddim"].identical


def test_all_comparisons_are_one_family(tmp_path: Path) -> None:
    """2.9 errors apart decide alone (p = 0.005), not as one of eleven."""
    shift = 2.9 * 0.01 * (2 / 3) ** 0.5
    alone = compared(tmp_path / "alone", three("euler", 1.0), three("euler", 1.0 + shift))
    assert verdicts(alone) == {"euler": "worse"}
    others = [
        done("heun", (1.0, 0.01), seed).model_copy(update={"spec": cell("heun", seed=seed, budget=b)})
        for seed in SEEDS
        for b in range(2, 22, 2)
    ]
    many = compared(tmp_path / "many", [*three("euler", 1.0), *others], [*three("euler", 1.0 + shift), *others])
    assert verdicts(many)["euler"] == "undecided"
    assert len(many.changes) == 11


def test_failures_are_worse_and_their_end_is_better(tmp_path: Path) -> None:
    lost = record(cell("euler", seed=1), status="diverged", reason="too large")
    whole, part = three("euler", 1.0), [done("euler", 1.0), lost, done("euler", 1.0, 2)]
    (worse,) = [c for c in compared(tmp_path / "1", whole, part).changes if c.point["metric"] == METRIC]
    assert worse.verdict == "worse"
    assert worse.reason == "no failure in A, diverged for 1 of 3 seeds in B"
    assert worse.difference is None
    (better,) = [c for c in compared(tmp_path / "2", part, whole).changes if c.point["metric"] == METRIC]
    assert better.verdict == "better"
    same = compared(tmp_path / "3", [*part, *three("heun", 1.0)], [*part, *three("heun", 1.0)])
    assert verdicts(same) == {"euler": "undecided", "heun": "undecided"}


@pytest.mark.parametrize(("lost", "side"), [(0, "A"), (1, "B")])
def test_a_value_that_one_run_alone_has_is_told(tmp_path: Path, lost: int, side: str) -> None:
    runs = [three("euler", 1.0), [done("euler", "pathwise_rmse is not finite", seed) for seed in SEEDS]]
    (change,) = compared(tmp_path, *(runs if lost else runs[::-1])).changes
    assert (change.verdict, change.difference) == ("undecided", None)
    assert change.reason == f"no value in {side}: pathwise_rmse is not finite"


def test_only_matched_cells_are_compared_and_the_others_are_listed(tmp_path: Path) -> None:
    before = [*three("euler", 1.0), *three("heun", 1.0)]
    after = [done("euler", (2.0, 0.01), 0), done("euler", (9.0, 0.01), 7), *three("ddim", 1.0)]
    found = compared(tmp_path, before, after)
    (change,) = found.changes
    assert (change.seeds, change.after) == (1, 2.0)
    assert found.only_before == [r.spec.name for r in sorted(before[1:], key=lambda r: r.spec.name)]
    assert len(found.only_after) == 4


def test_cells_match_whatever_device_and_batch_size_and_that_is_told(tmp_path: Path) -> None:
    def spec(seed: int, **changes: Any) -> Record:
        return done("euler", 1.0, seed).model_copy(update={"spec": cell("euler", seed=seed, **changes)})

    where = environment(device="a GPU", versions={"python": "3.12"}, commit="f" * 40)
    after = [spec(s, device="cuda", batch_size=4).model_copy(update={"environment": where}) for s in SEEDS]
    found = compared(tmp_path, [spec(s) for s in SEEDS], after)
    assert len(found.changes) == 1
    assert found.differing["device"] == (["cpu"], ["a GPU"])
    assert found.differing["batch_size"] == (["None"], ["4"])
    assert found.differing["version of python"] == (["3.11"], ["3.12"])
    assert set(found.differing) == {"device", "batch_size", "version of python", "commit"}


def test_cells_of_another_network_are_not_compared(tmp_path: Path) -> None:
    before = [*three("euler", 1.0, hashes={"net": "1"}), *three("heun", 1.0, hashes={"net": "1", "solver heun": "1"})]
    after = [*three("euler", 9.0, hashes={"net": "2"}), *three("heun", 9.0, hashes={"net": "1", "solver heun": "2"})]
    found = compared(tmp_path, before, after)
    assert verdicts(found) == {"heun": "worse"}, "a solver's own file is what a comparison is for"
    assert len(found.other_files) == 3


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"3 and 3 cells, 0 of them matched, 0 made with other files'\. Compare runs of"
    ):
        compared(tmp_path / "1", three("euler", 1.0), three("heun", 1.0))
    with pytest.raises(UsageError, match="a run's folder holds records"):
        compared(tmp_path / "2", three("euler", 1.0), [])
    twice = [done("euler", 1.0), done("euler", 1.0).model_copy(update={"spec": cell("euler", device="cuda")})]
    with pytest.raises(UsageError, match="a folder holds a cell once"):
        compared(tmp_path / "3", twice, twice)


@pytest.mark.parametrize(("value", "code"), [(1.0, 0), (0.5, 0), (1.5, 1)])
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, value: float, code: int
) -> None:
    fill(tmp_path / "a", three("euler", 1.0))
    fill(tmp_path / "b", [*three("euler", value, cost=cost(nfe=12.0)), *three("heun", 1.0)])
    assert run(monkeypatch, "compare", str(tmp_path / "a"), str(tmp_path / "b")) == code
    shown = capsys.readouterr().out
    words = {1.0: "0 better, 0 worse, 1 undecided; 1 identical", 0.5: "1 better, 0 worse", 1.5: "0 better, 1 worse"}
    assert words[value] in shown
    assert "1 of them spend other numbers of evaluations" in shown
    assert "3 cells only in B: gaussian-heun" in shown
    assert run(monkeypatch, "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json") == code
    content = json.loads(capsys.readouterr().out)
    assert sum(content["counts"].values()) == len(content["changes"]) == 1
    assert content["changes"][0]["solver"] == "euler"
    assert content["changes"][0]["after"] == pytest.approx(value)
    assert (content["changes"][0]["nfe_before"], content["changes"][0]["nfe_after"]) == (10, 12)


def test_a_comparison_that_cannot_be_made_ends_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fill(tmp_path / "a", three("euler", 1.0))
    fill(tmp_path / "b", three("heun", 1.0))
    assert run(monkeypatch, "compare", str(tmp_path / "a"), str(tmp_path / "b")) == 2
    assert "compare: both runs hold cells with values" in capsys.readouterr().err
    assert run(monkeypatch, "compare", str(tmp_path / "a"), str(tmp_path / "none")) == 2


def test_real_cells_repeat_themselves_and_pairing_finds_a_small_change(tmp_path: Path) -> None:
    """The same cells anew are identical; one more step is found though its change is far below the values' errors."""
    for seed in SEEDS:
        compute(cell("euler", n=64, seed=seed, budget=40), tmp_path / "a")
        compute(cell("euler", n=64, seed=seed, budget=40), tmp_path / "b")
    same = compare_runs(tmp_path / "a", tmp_path / "b")
    assert len(same.changes) == len(Gaussian.metrics)
    assert all(change.identical and change.verdict == "undecided" for change in same.changes)
    finer = [compute(cell("euler", n=64, seed=seed, budget=41), tmp_path / "c") for seed in SEEDS]
    renamed = [r.model_copy(update={"spec": cell("euler", n=64, seed=r.spec.seed, budget=40)}) for r in finer]
    fill(tmp_path / "d", renamed)
    changes: dict[str, Change] = {c.point["metric"]: c for c in compare_runs(tmp_path / "a", tmp_path / "d").changes}
    found = changes[METRIC]
    assert found.verdict == "better"
    assert found.difference is not None
    assert found.half_width is not None
    errors = [r.metrics[METRIC].standard_error for r in finer]
    assert abs(found.difference) < min(e for e in errors if e), "far below what unpaired cells would tell"
