"""Matrix files: what they expand to, what a selection changes, and what is refused."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cell import run_cell
from bench.kinds.sampling import Sampling
from bench.matrix import MATRICES, Matrix, load_matrix, matrix_names
from bench.record import CellSpec
from bench.store import Store
from solvers.errors import UsageError
from solvers.grids import GRIDS
from solvers.registry import get_solver, solver_classes

BASE: dict[str, Any] = {
    "name": "small",
    "seeds": [0, 1],
    "budgets": [5, 10],
    "problems": [{"name": "gaussian", "n": 4}],
    "solvers": [{"name": "euler"}],
}


def matrix(**changes: Any) -> Matrix:
    return Matrix.model_validate({**BASE, **changes})


# What quick expands to, counted by hand from the issue.


@pytest.fixture(scope="module")
def quick() -> list[CellSpec]:
    return load_matrix("quick").cells("cpu")


def test_quick_has_the_problems_seeds_and_budgets_of_the_issue(quick: list[CellSpec]) -> None:
    assert {cell.problem for cell in quick} == {"gaussian", "mixture_2d", "digits"}
    assert {cell.seed for cell in quick} == {0, 1, 2}
    budgets = {
        p: {c.budget for c in quick if c.problem == p and c.budget} for p in ("gaussian", "mixture_2d", "digits")
    }
    assert budgets == {"gaussian": {5, 10, 20, 50, 100}, "mixture_2d": {5, 10, 20, 50, 100}, "digits": {5, 10, 20, 50}}


def test_quick_crosses_every_solver_with_every_budget_and_seed_on_the_common_grid(quick: list[CellSpec]) -> None:
    asked = ["euler_maruyama", "reverse_diffusion", "ancestral", "predictor_corrector", "torchsde"]
    asked += ["euler", "heun", "ddim", "dpmpp_2m"]
    found = {(c.problem, c.solver, c.budget, c.seed) for c in quick if c.grid == "log_snr"}
    wanted = {
        (problem, solver, budget, seed)
        for problem, budgets in (("gaussian", (5, 10, 20, 50, 100)), ("digits", (5, 10, 20, 50)))
        for solver in asked
        for budget in budgets
        for seed in (0, 1, 2)
    }
    assert wanted <= found


def test_quick_sweeps_the_adaptive_solver_over_tolerances_without_budget(quick: list[CellSpec]) -> None:
    cells = [c for c in quick if c.solver == "torchdiffeq" and (c.problem, c.kind) == ("digits", "sampling")]
    content = yaml.safe_load((MATRICES / "quick.yaml").read_text())
    (tolerances,) = [entry["tolerances"] for entry in content["solvers"] if entry["name"] == "torchdiffeq"]
    assert len(tolerances) >= 3
    assert sorted((c.settings["rtol"], c.seed) for c in cells) == sorted((t, s) for t in tolerances for s in range(3))
    assert {(c.budget, c.grid) for c in cells} == {(None, "adaptive")}
    assert all(c.settings["rtol"] == c.settings["atol"] for c in cells)


def test_a_solver_with_a_recommended_grid_gets_a_second_row_and_no_other() -> None:
    solvers = [name for name, cls in solver_classes().items() if not cls.adaptive]
    chosen = matrix(solvers=[{"name": name} for name in solvers])
    for name in solvers:
        grids = {cell.grid for cell in chosen.cells("cpu") if cell.solver == name}
        assert grids == {"log_snr"} | ({get_solver(name).recommended_grid} - {None}), name
    assert {c.grid for c in matrix(solvers=[{"name": "heun"}]).cells("cpu")} == {"log_snr", "karras"}
    assert {c.grid for c in matrix(solvers=[{"name": "heun"}], recommended_grids=False).cells("cpu")} == {"log_snr"}


def test_settings_decide_whether_a_row_has_budgets_or_tolerances() -> None:
    """One key, fixed and adaptive: the budgets of the one, the tolerances of the other."""
    rows = [
        ("torchdiffeq", {"method": "rk4"}, True),
        ("torchdiffeq", {"method": "bosh3"}, False),
        ("torchsde", {"method": "srk"}, True),
        ("torchsde", {"method": "srk", "stepping": "adaptive"}, False),
    ]
    for name, chosen, fixed in rows:
        cells = matrix(solvers=[{"name": name, "settings": chosen, "tolerances": [1e-2]}]).cells("cpu")
        assert {cell.grid for cell in cells} == {"log_snr" if fixed else "adaptive"}
        assert all((cell.budget is not None) == fixed for cell in cells)
        assert all(get_solver(name, **cell.settings).adaptive != fixed for cell in cells)
        assert all(cell.settings.get("rtol") == (None if fixed else 1e-2) for cell in cells)


def test_a_recommended_grid_that_is_asked_for_anyway_is_one_row() -> None:
    cells = matrix(solvers=[{"name": "heun"}], grids=["karras"]).cells("cpu")
    assert [cell.grid for cell in cells] == ["karras"] * 4


def test_a_problem_overrides_budgets_and_grids() -> None:
    problem = {"name": "gaussian", "n": 4, "budgets": [7], "grids": ["uniform", "quadratic"]}
    found = {(c.budget, c.grid) for c in matrix(problems=[problem]).cells("cpu")}
    assert found == {(7, "uniform"), (7, "quadratic")}


def test_what_stands_nearest_to_the_solver_holds() -> None:
    """Of budgets, grids, kinds, n and batch size; a problem's own solvers replace the matrix's."""
    own = [
        {"name": "heun", "budgets": [9], "grids": ["uniform"], "n": 2, "batch_size": 1, "last": "tweedie"},
        {"name": "euler"},
    ]
    problems = [
        {"name": "gaussian", "n": 4, "budgets": [7], "batch_size": 3, "solvers": own},
        {"name": "line_2d", "n": 5},
    ]
    chosen = matrix(problems=problems, seeds=[0], recommended_grids=False)
    found = {(c.problem, c.solver, c.budget, c.grid, c.n, c.batch_size, c.last) for c in chosen.cells("cpu")}
    assert found == {
        ("gaussian", "heun", 9, "uniform", 2, 1, "tweedie"),
        ("gaussian", "euler", 7, "log_snr", 4, 3, None),
        ("line_2d", "euler", 5, "log_snr", 5, None, None),
        ("line_2d", "euler", 10, "log_snr", 5, None, None),
    }
    part = chosen.select(solvers=["heun", "ddim"], budgets=[20]).cells("cpu")
    assert {(c.problem, c.solver, c.budget, c.n) for c in part} == {
        ("gaussian", "heun", 20, 2),
        ("gaussian", "ddim", 20, 4),
        ("line_2d", "heun", 20, 5),
        ("line_2d", "ddim", 20, 5),
    }
    assert matrix(problems=problems[:1], solvers=[]).cells("cpu")


def test_a_last_step_that_is_asked_for_is_another_cell(quick: list[CellSpec]) -> None:
    """The names of cells without one stay what they were when the committed records were made."""
    committed = MATRICES.parents[1] / "results" / "reference" / "quick" / "records"
    for spec in (quick[0], quick[-1]):
        assert (committed / f"{spec.name}.json").is_file()
        assert spec.model_copy(update={"last": "tweedie"}).name != spec.name


def test_every_grid_runs_in_a_matrix(tmp_path: Path) -> None:
    grids = [*GRIDS, "karras_3"]
    cells = matrix(grids=grids, problems=[{"name": "gaussian", "n": 4, "budgets": [7]}], seeds=[0]).cells("cpu")
    assert sorted(c.grid for c in cells) == sorted(grids)
    store = Store(tmp_path)
    store.create()
    assert all(store.read(run_cell(cell, store)).status == "done" for cell in cells)


def test_coupled_solvers_are_not_cut_into_batches() -> None:
    problem = {"name": "gaussian", "n": 4, "batch_size": 2}
    cells = matrix(problems=[problem], solvers=[{"name": "euler"}, {"name": "predictor_corrector"}]).cells("cpu")
    assert {(c.solver, c.batch_size) for c in cells} == {("euler", 2), ("predictor_corrector", None)}


def test_settings_reach_the_cells_with_the_defaults_beside_them() -> None:
    (cell, *_) = matrix(solvers=[{"name": "predictor_corrector", "settings": {"snr": 0.3}}]).cells("cpu")
    assert cell.settings == {**get_solver("predictor_corrector").settings, "snr": 0.3}


# Names and order.


def test_names_are_unique_and_of_their_spec_alone(quick: list[CellSpec]) -> None:
    assert len({cell.name for cell in quick}) == len(quick)
    again = CellSpec.model_validate_json(quick[0].model_dump_json())
    assert again.name == quick[0].name


@pytest.mark.parametrize(
    "change",
    [
        {"problem": "mixture_2d"},
        {"n": 8},
        {"solver": "heun"},
        {"settings": {"eta": 0.5}},
        {"grid": "uniform"},
        {"budget": 6},
        {"seed": 1},
        {"device": "cuda"},
        {"batch_size": 2},
        {"kind": "likelihood"},
    ],
)
def test_every_field_of_a_spec_is_in_its_name(change: dict[str, Any]) -> None:
    spec = CellSpec(
        problem="gaussian", n=4, solver="ddim", settings={"eta": 0.0}, grid="log_snr", budget=5, seed=0, device="cpu"
    )
    assert spec.model_copy(update=change).name != spec.name


def test_a_name_never_changes_or_old_runs_would_be_computed_again() -> None:
    spec = CellSpec(
        problem="gaussian", n=4, solver="ddim", settings={"eta": 0.0}, grid="log_snr", budget=5, seed=0, device="cpu"
    )
    assert spec.name == "gaussian-ddim-log_snr-nfe5-seed0-e689d40942"


def test_order_is_fixed_and_shuffled_within_a_problem(quick: list[CellSpec]) -> None:
    assert [c.name for c in load_matrix("quick").cells("cpu")] == [c.name for c in quick]
    problems = [cell.problem for cell in quick]
    assert problems == sorted(problems, key=["gaussian", "mixture_2d", "digits"].index), "problems stay together"
    solvers = [cell.solver for cell in quick if cell.problem == "gaussian"]
    runs = 1 + sum(a != b for a, b in pairwise(solvers))
    assert runs > len(solvers) / 2, "solvers are interleaved in time"


def test_a_seed_budget_or_entry_given_twice_is_computed_once() -> None:
    doubled = matrix(seeds=[0, 1, 0], budgets=[5, 10, 5], solvers=[{"name": "euler"}, {"name": "euler"}])
    assert {c.name for c in doubled.cells("cpu")} == {c.name for c in matrix().cells("cpu")}
    assert len(doubled.cells("cpu")) == 4


# Selections.


def test_selection_keeps_the_named_problems_and_solvers() -> None:
    cells = load_matrix("quick").select(problems=["digits"], solvers=["heun", "ddim"]).cells("cpu")
    assert {c.problem for c in cells} == {"digits"}
    assert {c.solver for c in cells} == {"heun", "ddim"}


def test_a_selected_cell_is_the_cell_of_the_whole_matrix(quick: list[CellSpec]) -> None:
    cells = load_matrix("quick").select(problems=["gaussian"], solvers=["torchdiffeq"], seeds=[1]).cells("cpu")
    assert cells
    whole = {c.name for c in quick if (c.problem, c.solver, c.seed) == ("gaussian", "torchdiffeq", 1)}
    assert {c.name for c in cells} == whole


def test_selection_adds_a_registered_solver() -> None:
    cells = matrix().select(solvers=["heun"]).cells("cpu")
    assert {c.solver for c in cells} == {"heun"}
    assert {c.solver for c in matrix().select(solvers=["heun", "euler"]).cells("cpu")} == {"heun", "euler"}


def test_selection_keeps_settings_and_tolerances_of_listed_solvers() -> None:
    listed = [{"name": "ddim", "settings": {"eta": 1.0}}, {"name": "torchdiffeq", "tolerances": [0.5]}]
    cells = matrix(solvers=listed).select(solvers=["ddim", "torchdiffeq"]).cells("cpu")
    assert {c.settings["eta"] for c in cells if c.solver == "ddim"} == {1.0}
    assert {c.settings["rtol"] for c in cells if c.solver == "torchdiffeq"} == {0.5}


def test_selection_replaces_budgets_of_problems_too_and_seeds() -> None:
    cells = load_matrix("quick").select(solvers=["euler"], budgets=[7], seeds=[40]).cells("cpu")
    assert {(c.budget, c.seed) for c in cells} == {(7, 40)}


def test_selection_leaves_the_matrix_alone() -> None:
    chosen = matrix()
    chosen.select(solvers=["heun"], budgets=[1], seeds=[9])
    assert chosen == matrix()


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            {"problems": ["mixture"]},
            r"matrix quick: no problem 'mixture'; did you mean 'mixture_2d'\? Known: .*gaussian",
        ),
        ({"solvers": ["huen"]}, r"matrix quick: no solver 'huen'; did you mean 'heun'\? Known: "),
        ({"budgets": [0]}, r"matrix quick: budgets.0: .*greater than 0; got 0\. "),
        ({"seeds": [-1]}, r"matrix quick: seeds.0: .*; got -1\. "),
    ],
)
def test_selection_refuses(selection: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_matrix("quick").select(**selection)


def test_selection_refuses_a_problem_that_exists_but_is_not_in_the_matrix() -> None:
    with pytest.raises(UsageError, match="matrix small: no problem 'digits'"):
        matrix().select(problems=["digits"])


# Files with mistakes.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sovlers": []}, r"no key 'sovlers'; did you mean 'solvers'\? Known: .*seeds"),
        (
            {"problems": [{"name": "gaussian", "n": 4, "budget": [5]}]},
            r"no key 'problems.0.budget'; did you mean .*budgets",
        ),
        ({"solvers": [{"name": "ddim", "eta": 1}]}, r"no key 'solvers.0.eta'.* Known: .*solvers.0.settings"),
        ({"solvers": [{"name": "huen"}]}, r"no solver 'huen'; did you mean 'heun'\?"),
        ({"problems": [{"name": "gausian", "n": 4}]}, r"no problem 'gausian'; did you mean 'gaussian'\?"),
        (
            {"grids": ["karras_seven"]},
            r"the exponent of karras_RHO is 0.1 to 1000 in size; got 'karras_seven'",
        ),
        ({"grids": ["logsnr"]}, r"no grid 'logsnr'; did you mean 'log_snr'\?"),
        (
            {"problems": [{"name": "gaussian", "n": 4, "grids": ["uniforn"]}]},
            r"no grid 'uniforn'; did you mean 'uniform'\?",
        ),
        ({"solvers": [{"name": "ddim", "settings": {"ata": 1}}]}, r"no setting of ddim 'ata'; did you mean 'eta'\?"),
        ({"solvers": [{"name": "heun", "settings": {"eta": 1}}]}, r"heun has no settings; got 'eta'"),
        ({"solvers": [{"name": "ddim", "settings": {"eta": "much"}}]}, r"ddim: eta is a number; got 'much'"),
        ({"solvers": [{"name": "ddim", "settings": {"eta": 2.0}}]}, r"ddim: .*; got 2\.0"),
        ({"solvers": [{"name": "torchdiffeq", "tolerances": [0.0]}]}, r"tolerances.0: .*; got 0\.0\. "),
        ({"solvers": [{"name": "torchdiffeq", "tolerances": [float("inf")]}]}, r"tolerances.0: .*; got inf\. "),
        ({"budgets": [5, 0]}, r"budgets.1: Input should be greater than 0; got 0\. "),
        ({"budgets": []}, r"budgets: .*at least 1.*; got \[\]\. "),
        ({"budgets": [True]}, r"budgets.0: .*integer; got True\. "),
        ({"budgets": ["5"]}, r"budgets.0: .*integer; got '5'\. "),
        ({"problems": [{"name": "gaussian", "n": -4}]}, r"problems.0.n: .*greater than or equal to 2; got -4\. "),
        (
            {"problems": [{"name": "gaussian", "n": 4}, {"name": "gaussian", "n": 8}]},
            r"a problem is listed once; got 'g",
        ),
        (
            {"solvers": [{"name": "torchdiffeq", "settings": {"rtol": 0.1}}]},
            r"solver torchdiffeq: tolerances are swept; got 'rtol'\. Move it to the entry's tolerances",
        ),
        ({"budgets": [10**20]}, r"budgets.0: .*less than or equal to 1000000000; got 1"),
        ({"problems": [{"name": "digits", "n": 600}]}, r"digits: there are 599 reference samples; got 600\. Lower n"),
        ({"problems": [{"name": "gaussian"}]}, r"key 'problems.0.n' is required\. "),
        ({"problems": ["gaussian"]}, r"problems.0: .*; got 'gaussian'\. "),
        ({"problems": []}, r"problems: .*; got \[\]\. "),
        ({"solvers": ...}, r"a problem has solvers, .* or the matrix has objectives; got 'gaussian'\. "),
        ({"seeds": ...}, r"key 'seeds' is required\. "),
        ({"seeds": [0.5]}, r"seeds.0: .*integer; got 0\.5\. "),
        ({"seeds": [2**64]}, r"seeds.0: .*; got 18446744073709551616\. "),
        ({"timeout_seconds": 0}, r"timeout_seconds: .*greater than 0; got 0\. "),
        ({"name": "../../elsewhere"}, r"name: .*; got '\.\./\.\./elsewhere'\. "),
        ({3: 4}, r"got 3\. "),
    ],
)
def test_a_mistake_in_a_file_is_told(tmp_path: Path, changes: dict[Any, Any], message: str) -> None:
    content = {key: value for key, value in {**BASE, **changes}.items() if value is not ...}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        load_matrix(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the file holds a mapping; got 'NoneType'\. "),
        ("- a\n- b\n", r"the file holds a mapping; got 'list'\. "),
        ("just words", r"the file holds a mapping; got 'str'\. "),
        ("a: 1\nb: {c: 1, c: 2}\n", r"the file is YAML; got .*given twice.* line 2"),
        ("a: [1, 2", r"the file is YAML; got .*line 1.*Correct its syntax"),
        ("a: 1\n\tb: 2\n", r"the file is YAML; got .*line 2"),
        ("!!python/object/apply:os.getcwd []", r"the file is YAML; got .*could not determine a constructor"),
        (b"\xff\xfe\x00", r"the file is YAML; got "),
    ],
)
def test_a_file_that_is_no_matrix_is_told(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=message) as caught:
        load_matrix(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_matrices_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"load_matrix: no matrix 'quik'; did you mean 'quick'\? Known: .*quick"):
        load_matrix("quik")
    with pytest.raises(UsageError, match=r"matrix: no such file; got '.*nowhere\.yaml'\. "):
        load_matrix(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize("name", matrix_names())
def test_shipped_matrices_load(name: str) -> None:
    assert load_matrix(name).name == name, "the file's name is the default folder of its runs"


# Any valid matrix.

fixed_solvers = st.sampled_from([name for name, cls in solver_classes().items() if not cls.adaptive])
grid_lists = st.lists(st.sampled_from(sorted(GRIDS)), min_size=1, max_size=3, unique=True)
budget_lists = st.lists(st.integers(1, 200), min_size=1, max_size=3, unique=True)
problem_entries = st.fixed_dictionaries(
    {"name": st.sampled_from(["gaussian", "mixture_2d", "digits"]), "n": st.integers(2, 500)},
    optional={"budgets": budget_lists, "grids": grid_lists, "batch_size": st.integers(1, 64)},
)
solver_entries = st.one_of(
    st.fixed_dictionaries({"name": fixed_solvers}),
    st.fixed_dictionaries(
        {
            "name": st.just("torchdiffeq"),
            "tolerances": st.lists(st.floats(1e-8, 1), min_size=1, max_size=3, unique=True),
        }
    ),
)
matrices = st.fixed_dictionaries(
    {
        "name": st.just("generated"),
        "seeds": st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True),
        "budgets": budget_lists,
        "problems": st.lists(problem_entries, min_size=1, max_size=2, unique_by=lambda entry: entry["name"]),
        "solvers": st.lists(solver_entries, min_size=1, max_size=3, unique_by=lambda entry: entry["name"]),
    },
    optional={"grids": grid_lists, "recommended_grids": st.booleans()},
)


@given(content=matrices)
@settings(max_examples=60, deadline=None)
def test_any_matrix_survives_its_file_and_expands_to_its_product(content: dict[str, Any]) -> None:
    chosen = Matrix.model_validate(yaml.safe_load(yaml.safe_dump(content)))
    cells = chosen.cells("cpu")
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert names == [cell.name for cell in chosen.select().cells("cpu")]
    expected = 0
    for problem in content["problems"]:
        grids = problem.get("grids") or content.get("grids") or ["log_snr"]
        budgets = problem.get("budgets") or content["budgets"]
        for entry in content["solvers"]:
            if "tolerances" in entry:
                expected += len(entry["tolerances"])
                continue
            own = get_solver(entry["name"]).recommended_grid
            extra = content.get("recommended_grids", True) and own is not None and own not in grids
            expected += (len(grids) + extra) * len(budgets)
    assert len(cells) == expected * len(content["seeds"])
    assert {cell.seed for cell in cells} == set(content["seeds"])


def test_every_kind_crosses_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.matrix.kind_classes", lambda: {"sampling": Sampling, "other": Sampling})
    both = matrix(kinds=["sampling", "other"]).cells("cpu")
    by_kind = {
        kind: {cell.model_copy(update={"kind": ""}).name for cell in both if cell.kind == kind}
        for kind in ("sampling", "other")
    }
    assert by_kind["sampling"] == by_kind["other"]
    assert len({cell.name for cell in both}) == 2 * len(by_kind["other"])


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no kind 'samplin'; did you mean 'sampling'"):
        matrix(kinds=["samplin"])


def test_likelihood_cells_take_what_the_problem_says() -> None:
    entry = {"name": "digits", "n": 500, "kinds": ["sampling", "likelihood"]}
    own = matrix(problems=[{**entry, "likelihood": {"n": 256, "draws": 1, "probes": 3}}]).cells("cpu")
    sizes = {(cell.kind, cell.n, cell.draws, cell.probes) for cell in own}
    assert sizes == {("sampling", 500, None, None), ("likelihood", 256, 1, 3)}
    plain = matrix(problems=[entry]).cells("cpu")
    assert {(cell.kind, cell.n, cell.draws) for cell in plain} == {("sampling", 500, None), ("likelihood", 500, None)}
    with pytest.raises(ValueError, match="there are 599 reference samples; got 600"):
        matrix(problems=[{**entry, "likelihood": {"n": 600}}])


def test_a_matrix_may_take_some_of_a_problems_metrics(tmp_path: Path) -> None:
    entry = {"name": "gaussian", "n": 4, "metrics": ["law_w2"]}
    (spec, *_) = matrix(problems=[entry]).cells("cpu")
    store = Store(tmp_path)
    store.create()
    assert list(store.read(run_cell(spec, store)).metrics) == ["law_w2"]
    with pytest.raises(ValueError, match="problem gaussian: no metric 'law_w'; did you mean 'law_w2'"):
        matrix(problems=[entry | {"metrics": ["law_w"]}])
