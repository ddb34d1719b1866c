"""The commands ``check`` and ``new-solver``: what they take, print and return."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench import check, cli, new_solver
from bench.certificate import Line
from bench.certificate_tables import summary, tables
from bench.menus import solvers as solver_rows
from bench.rivals import compared, difference_interval, verdict_of
from solvers import registry
from solvers.errors import UsageError
from solvers.registry import get_solver, load_plugin, parse_solver, solver_names
from solvers.sde import SDES

FIELDS = ["solver", "settings", "claim", "sde", "problem", "declared", "measured", "interval", "verdict"]


@pytest.fixture(autouse=True)
def _clean_menu() -> Iterator[None]:
    """Take off the menu what a test put on it."""
    solver_names()
    before = registry.solver_classes()
    yield
    registry._SOLVERS.clear()
    registry._SOLVERS.update(before)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Exit code of the command line."""
    monkeypatch.setattr("sys.argv", ["scorebench", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


@pytest.fixture
def _two_sdes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(SDES) - {"vp", "edm"}:
        monkeypatch.delitem(SDES, name)


@pytest.mark.usefixtures("_two_sdes")
def test_json_is_a_list_of_claims(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "check", "dpm_solver?order=1", "ddim?eta=0.5", "--json", "--jobs", "1") == 0
    claims = json.loads(capsys.readouterr().out)
    assert all(list(claim) == FIELDS for claim in claims)
    assert {claim["verdict"] for claim in claims} == {"pass"}
    titles = list(dict.fromkeys(check.title(claim["solver"], claim["settings"]) for claim in claims))
    assert titles == ["dpm_solver?order=1", "ddim?eta=0.5"]
    (law,) = (
        c for c in claims if (c["solver"], c["claim"], c["sde"], c["problem"]) == ("ddim", "order", "vp", "gaussian")
    )
    assert law["declared"] == 1
    assert law["measured"] == pytest.approx(1, abs=0.1)


BROKEN = """
from dataclasses import dataclass
from typing import ClassVar
from solvers.registry import register
from solvers.methods.euler import Euler as Step

@register
@dataclass(frozen=True)
class Hasty(Step):
    order: ClassVar[int | None] = 2
"""


@pytest.mark.usefixtures("_two_sdes")
def test_a_failing_plugin_ends_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "hasty.py"
    path.write_text(BROKEN)
    assert run(monkeypatch, "check", "--plugin", str(path), "--out", str(tmp_path / "found")) == 1
    assert "4 fail" in capsys.readouterr().out
    lines, where = check.read(tmp_path / "found")
    assert {line.claim for line in lines if line.verdict == "fail"} == {"order"}
    assert where is not None
    assert where.versions["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check"], "check: give solvers or --all. E.g."),
        (["check", "heun", "--all"], "check: give solvers or --all; got ['heun']"),
        (["check", "huen"], "get_solver: no solver 'huen'; did you mean 'heun'"),
        (["check", "ddim?etta=1"], "get_solver: no setting of ddim 'etta'; did you mean 'eta'"),
        (["check", "ddim?eta"], "parse_solver: settings read ?setting=value&..., each once; got 'ddim?eta'"),
        (["check", "heun", "--against", "dpmpp"], "get_solver: no solver 'dpmpp'; did you mean"),
        (["check", "heun", "--plugin", "no.py"], "load_plugin: a plug-in is a Python file"),
        (
            ["new-solver", "Heun"],
            "new-solver: a name is lower snake case, no word of Python's, 60 letters at most; got 'Heun'",
        ),
        (["new-solver", "class"], "new-solver: a name is lower snake case, no word of Python's"),
        (["new-solver", "true"], "new-solver: a name is lower snake case, no word of Python's"),
        (["new-solver", "a" * 300], "new-solver: a name is lower snake case, no word of Python's"),
        (["check", "heun", "--out", "/proc/x"], "check: /proc/x cannot be written; got"),
        (["check", "rk45?rtol=abc"], "rk45: rtol is a number; got 'abc'"),
        (["check", "deis?order=2.0"], "deis: order is a whole number; got 2.0"),
        (["check", "ddim?eta=true"], "ddim: eta is a number; got True"),
        (["check", "torchdiffeq?method=3"], "torchdiffeq: method is text; got 3"),
        (["check", "unipc?corrector=1"], "unipc: corrector is true or false; got 1"),
        (["new-solver", "heun"], "new-solver: the name is free; got 'heun'"),
    ],
)
def test_bad_input_ends_with_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(monkeypatch, *words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(message)
    assert shown.count("\n") == 1


def test_settings_are_written_as_they_are_read() -> None:
    for text in ("heun", "ddim?eta=0.5", "unipc?predictor_order=2&corrector=false", "deis?variant=rhoab"):
        solver = parse_solver(text)
        assert check.title(solver.key, solver.settings) == text
    assert parse_solver("unipc?corrector=false&predictor_order=1").order == 1


def test_a_bare_name_stands_for_what_its_class_certifies() -> None:
    assert check.selected(["dpm_solver"], every=False) == [get_solver("dpm_solver", order=k) for k in (1, 2, 3)]
    assert check.selected(["dpm_solver?order=3"], every=False) == [get_solver("dpm_solver")]
    assert {solver.key for solver in check.selected([], every=True)} == set(solver_names())


@pytest.mark.usefixtures("_two_sdes")
def test_a_solver_of_another_library_is_certified(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Third order is claimed, second is found before and in the limit: the exit code says so."""
    name = "diffusers:DPMSolverMultistepScheduler?solver_order=3"
    assert run(monkeypatch, "check", name, name, "--json", "--jobs", "1") == 1
    found = json.loads(capsys.readouterr().out)
    claims = [c for c in found if (c["sde"], c["claim"]) == ("vp", "order before the limit")]
    assert [c["problem"] for c in claims] == ["gaussian", "mixture_2d"], "named twice, certified once"
    for claim in claims:
        assert (claim["solver"], claim["declared"], claim["verdict"]) == (name.partition("?")[0], 3, "fail")
        assert 1.7 < claim["measured"] < 2.8
    assert {c["verdict"] for c in found if c["claim"] not in ("order before the limit", "accepts the SDE")} == {"pass"}


def test_settings_without_a_number_in_json_are_as_they_are_typed() -> None:
    """Churn up to infinite noise: diffusers' default."""
    solver = parse_solver("diffusers:EulerDiscreteScheduler")
    line = Line(solver.key, solver.settings, "order", "vp", "gaussian", 1, 1.0, None, "pass")
    written = json.loads(check.as_json([line]), parse_constant=pytest.fail)
    assert written[0]["settings"]["s_tmax"] == ".inf"
    assert parse_solver(f"{solver.key}?s_tmax=.inf") == solver
    assert "s_tmax=.inf" in check.title(line.solver, line.settings)


def test_comparisons_are_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "lines_of", pytest.fail)
    assert run(monkeypatch, "check", "heun", "--against", "diffusers:EDMEulerScheduler") == 2
    assert "check: --against compares on vp; got" in capsys.readouterr().err


def test_a_law_that_fails_on_the_gaussian_alone_is_shown() -> None:
    lines = [
        Line("mine", {}, "law in the limit", "vp", problem, 1.0, measured, None, verdict)
        for problem, measured, verdict in (("gaussian", 7.0, "fail"), ("mixture_2d", 0.5, "pass"))
    ]
    console = Console(file=io.StringIO(), width=100)
    for table in tables(lines):  # type: ignore[arg-type]
        console.print(table)
    assert "7 ✗" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_solver_that_accepts_no_sde_fails() -> None:
    tasks = check.tasks_of([get_solver("euler"), get_solver("heun")])
    refused = {
        id(t): Line(t.solver, {}, "accepts the SDE", t.sde, "mixture_2d", None, "no", None, "not claimed")
        for t in tasks
    }
    done = [(t, [refused[id(t)]]) for t in tasks]
    assert {line.verdict for line in check.in_order(done, tasks)} == {"fail"}
    some = [
        (t, [replace(refused[id(t)], claim="order", verdict="pass")]) if t.sde == "vp" else (t, [refused[id(t)]])
        for t in tasks
    ]
    assert {line.verdict for line in check.in_order(some, tasks)} == {"pass", "not claimed"}


def test_the_terminal_shows_every_line_of_a_few_and_what_did_not_pass_of_many() -> None:
    from rich.console import Console

    def line(k: int, verdict: str) -> Line:
        return Line(
            "ddim", {"eta": k / 10}, "order", "vp", "gaussian", 1, 0.4 if verdict == "fail" else 1.0, None, verdict
        )  # type: ignore[arg-type]

    console = Console(width=100, record=True)
    few = [line(k, "pass") for k in range(2)]
    many = [*(line(k, "pass") for k in range(9)), line(9, "fail")]
    for lines, count in ((few, 2), (many, 2)):
        shown = list(tables(lines))
        assert len(shown) == count
        console.print(*shown)
    text = console.export_text()
    assert "0.40 ✗" in text
    assert summary(many) == "10 certificates, 10 claims: 9 pass, 1 fail"


def test_processes_give_the_lines_of_one() -> None:
    tasks = [check.Task("euler", {}, sde) for sde in SDES] + [check.Task("ddim", {"eta": 0.0}, "ve")]
    parallel = check.in_order(check.lines_of(tasks, (), 2), tasks)
    assert [(v.solver, v.sde) for v in parallel if v.claim == "determinism"] == [(t.solver, t.sde) for t in tasks]
    alone = check.in_order(check.lines_of(tasks[:1], (), 1), tasks[:1])
    timeless = [v for v in parallel if v.sde == "vp" and v.claim != "memory"]
    assert timeless == [v for v in alone if v.claim != "memory"]


# Comparisons


def test_a_method_is_better_than_one_of_lower_order() -> None:
    """On the log-SNR grid dpmpp_2m beats DDIM at every budget; a solver ties with itself."""
    lines = list(compared(get_solver("dpmpp_2m"), get_solver("ddim")))
    assert [line.verdict for line in lines] == ["better"] * 6
    assert all(line.measured < line.declared for line in lines)  # type: ignore[operator]
    assert {line.verdict for line in compared(get_solver("ipndm"), get_solver("lms"))} == {"undecided"}


def test_stochastic_solvers_are_compared_by_their_law(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.rivals.BUDGETS", (20,))
    monkeypatch.setattr("bench.rivals.SAMPLES", 500)
    lines = list(compared(get_solver("stochastic_heun"), get_solver("euler_maruyama")))
    assert all(line.claim.startswith("law distance at NFE") for line in lines)
    assert lines[0].verdict == "better"


def test_adaptive_solvers_stay_within_the_budget() -> None:
    lines = list(compared(get_solver("rk45"), get_solver("heun")))
    assert (lines[0].measured, lines[0].verdict) == ("no step within it", "undecided")
    assert lines[2].verdict in ("better", "worse", "undecided")
    assert isinstance(lines[2].measured, float)


def test_verdicts_follow_the_interval() -> None:
    noise = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert verdict_of(difference_interval(noise - 1)) == "better"
    assert verdict_of(difference_interval(noise + 1)) == "worse"
    assert verdict_of(difference_interval(noise)) == "undecided"


# new-solver


@pytest.mark.usefixtures("_two_sdes")
def test_a_new_solver_passes_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "new-solver", "my_own", "--out", str(tmp_path / "mine")) == 0
    path = tmp_path / "mine" / "my_own.py"
    assert f"scorebench check my_own --plugin {path}" in capsys.readouterr().out
    assert run(monkeypatch, "check", "--plugin", str(path), "--jobs", "1") == 0
    row = next(row for row in solver_rows() if row["name"] == "my_own")
    assert (row["order"], row["evaluations per step"]) == (1, 1)
    with pytest.raises(UsageError, match="the name is free"):
        new_solver.new_solver("my_own", tmp_path)


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept.py").write_text("mine")
    with pytest.raises(UsageError, match="never overwritten"):
        new_solver.new_solver("kept", tmp_path)
    assert (tmp_path / "kept.py").read_text() == "mine"


def test_by_default_it_goes_to_the_methods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert new_solver.FOLDER.name == "methods"
    assert (new_solver.FOLDER / "heun.py").is_file()
    monkeypatch.setattr(new_solver, "FOLDER", tmp_path)
    path = new_solver.new_solver("third_way")
    assert path == tmp_path / "third_way.py"
    load_plugin(path)
    assert type(get_solver("third_way")).__name__ == "ThirdWay"
