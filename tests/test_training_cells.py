"""Cells of kind training: what a recipe is, what is measured, and the section of the report."""

from typing import Any

import pytest
import torch

from bench.cell import run_cell
from bench.kinds.kind import Cell
from bench.kinds.training import Training, _saved_bytes
from bench.matrix import Matrix, load_matrix
from bench.metrics.metric import get_metric
from bench.metrics.training import Trained
from bench.problems.mixture import Mixture2d
from bench.problems.problem import get_problem
from bench.recipe import Recipe
from bench.record import CellSpec, Record
from bench.report import write_report
from bench.store import Store
from bench.tables import long_table
from bench.training_run import BATCH, Run
from bench.training_section import training_section
from pretrained.objectives.sliced import Sliced
from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.registry import get_solver

CONTENT: dict[str, Any] = {
    "name": "try",
    "seeds": [0],
    "budgets": [30],
    "problems": [{"name": "mixture_2d", "n": 200}],
    "objectives": [
        {"name": "denoising"},
        {"name": "sliced", "settings": {"directions": "sphere", "count": 2}},
        {"name": "finite_difference", "settings": {"energy": True, "times": "uniform"}},
    ],
}


SETTINGS: dict[str, Any] = {"settings": {}, "grid": "log_snr", "budget": 2, "seed": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("run"))
    store.create()
    for spec in Matrix.model_validate(CONTENT).cells("cpu"):
        run_cell(spec, store)
    return store


@pytest.fixture
def records(store: Store) -> dict[str, Record]:
    return {record.spec.solver: record for record in store.records()}


def test_every_objective_is_a_cell(records: dict[str, Record]) -> None:
    assert sorted(records) == ["denoising", "finite_difference", "sliced"]
    for record in records.values():
        assert record.status == "done", record.traceback
        assert all(value.value is not None for value in record.metrics.values())
    assert records["finite_difference"].spec.grid == "uniform"
    assert records["denoising"].spec.grid == "log_snr"


def test_evaluations_and_derivative_passes_are_counted(records: dict[str, Record]) -> None:
    expected = {"denoising": (30, 0), "sliced": (30, 60), "finite_difference": (90, 0)}
    for name, (nfe, passes) in expected.items():
        cost = records[name].cost
        assert cost is not None
        assert (cost.steps, cost.nfe, cost.derivative_passes) == (30, nfe, passes)


def test_second_derivatives_take_memory_and_time(records: dict[str, Record]) -> None:
    def value(name: str, metric: str) -> float:
        found = records[name].metrics[metric].value
        assert found is not None
        return found

    assert value("sliced", "step_memory") > 1.5 * value("denoising", "step_memory")
    assert value("denoising", "step_ratio") == pytest.approx(1, abs=0.5)
    assert value("sliced", "step_ratio") > 1.1


def test_the_error_of_the_score_falls_with_the_steps() -> None:
    problem = Mixture2d()
    errors = []
    for steps in (1, 200):
        run = Run(problem, Recipe.of("denoising", {}), 0, steps)
        for _ in range(steps):
            run.step()
        x = problem.marginal_sample(0.1, problem.normals(2000, 1), "test")
        with torch.no_grad():
            found = ReverseProcess(problem.sde, run.network.double(), "noise").noise(x, 0.1)
        errors.append((found - problem.process().noise(x, 0.1)).square().mean().sqrt().item())
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("off", [0.0, 0.3])
def test_the_metrics_of_known_outcomes(off: float) -> None:
    """A network whose noise is off by 0.3 everywhere; five rounds of steps, median 4 ms, thrice those of denoising."""
    problem = Mixture2d()
    exact = problem.process()
    process = ReverseProcess(problem.sde, lambda x, t: exact.noise(x, t) + off, "noise")
    spec = CellSpec(problem="mixture_2d", n=20, solver="denoising", kind="training", **SETTINGS)
    rounds = [(4e-3, 4e-3 / 3), (1e-3, 1e-3 / 3), (9e-3, 1e-3), (5e-3, 5e-3), (4e-3, 4e-3 / 3)]
    outcome = Trained(spec, problem, get_solver("dpmpp_2m"), problem.prior(20, 0), process, rounds, 5000)
    error, ratio, time, memory = (
        get_metric(name).evaluate(outcome) for name in ("score_error", "step_ratio", "step_time", "step_memory")
    )
    assert (error.value, error.standard_error) == (pytest.approx(off, abs=1e-12), pytest.approx(0, abs=1e-12))
    assert (ratio.value, time.value, memory.value) == (pytest.approx(3), pytest.approx(4), pytest.approx(5))
    # Median deviations: of 4, 1, 9, 5, 4 it is 1; of 3, 3, 9, 1, 3 it is 0.
    assert time.standard_error == pytest.approx(1.2533 * 1.4826 / 5**0.5)
    assert ratio.standard_error == 0


def test_the_error_of_the_score_is_taken_where_the_law_is_at_times_uniform_in_lam() -> None:
    """Of a prediction of nothing: the root mean square of the exact noise, over many more points."""
    problem, n = Mixture2d(), 4000
    process = ReverseProcess(problem.sde, lambda x, t: torch.zeros_like(x), "noise")
    spec = CellSpec(problem="mixture_2d", n=n, solver="denoising", kind="training", **SETTINGS)
    outcome = Trained(spec, problem, get_solver("dpmpp_2m"), problem.prior(n, 0), process, [], 0)
    found = get_metric("score_error").evaluate(outcome)
    squares = []
    for lam in torch.linspace(problem.sde.lam(problem.sde.t_max), problem.sde.lam(problem.sde.t_min), 101).tolist():
        t = float(problem.sde.t_of_lam(torch.tensor(lam, dtype=torch.float64)))
        x = problem.marginal_sample(t, problem.normals(2000, 1), "test")
        squares.append(problem.process().noise(x, t).square().mean().item())
    assert found.value is not None
    assert found.standard_error is not None
    assert abs(found.value - (sum(squares) / 101) ** 0.5) < 4 * found.standard_error < 0.02


def test_memory_is_that_of_the_tensors_kept() -> None:
    """Of loss = sum over the batch of (x w)^2 autograd keeps x (the parameter apart) and x w."""

    class Squares:
        network = torch.nn.Linear(3, 5, bias=False)

        def loss(self) -> torch.Tensor:
            x = torch.ones(BATCH, 3)
            return self.network(x).square().sum()

    assert _saved_bytes(Squares()) == 4 * BATCH * (3 + 5)  # type: ignore[arg-type]


def test_the_report_shows_objectives_side_by_side(store: Store) -> None:
    table = long_table(list(store.records()))
    lines = training_section(table)
    rows = [row for line in lines for row in line.splitlines() if "log_snr" in row or "uniform" in row]
    assert lines[0] == "## Objectives"
    assert len(rows) == 3
    finite = next(row for row in rows if row.startswith("| finite_difference (energy=True, times=uniform) | uniform |"))
    assert finite.endswith("| 3 | 0 |")
    report = write_report(store.folder)
    stems = {path.stem for path in report.figures}
    assert stems == {f"mixture_2d_{metric}_values" for metric in Training.metrics(Mixture2d)}, "no axis of evaluations"
    page = report.page.read_text()
    assert all(f"figures/{stem}.png" in page for stem in stems)
    assert "reaches the target" not in page
    assert "| objective | times | steps 30 |" in page
    assert "## Objectives" in page
    assert training_section(table[table.kind == "sampling"]) == []


def test_the_shipped_matrix_crosses_objectives_and_seeds() -> None:
    cells = load_matrix("objectives").cells("cpu")
    assert len(cells) == 36
    assert {cell.kind for cell in cells} == {"training"}
    assert len({cell.name for cell in cells}) == 36


def test_a_recipe_takes_the_objectives_settings_beside_its_own() -> None:
    recipe = Recipe.of("sliced", {"count": 3, "energy": True, "times": {"law": "log_normal", "tails": 0.1}})
    assert recipe.objective == Sliced(count=3)
    assert (recipe.energy, recipe.weighting, recipe.times.law) == (True, "sigma2", "log_normal")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"objectives": [{"name": "slice"}]}, r"no objective 'slice'; did you mean 'sliced'"),
        ({"objectives": [{"name": "sliced", "settings": {"counts": 2}}]}, r"no key 'objective\.counts'; did you mean"),
        ({"objectives": []}, r"a problem has solvers, .* or the matrix has objectives"),
        ({"kinds": ["training"]}, "no kind 'training'"),
    ],
)
def test_a_wrong_matrix_of_objectives_says_what_is_wrong(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Matrix.model_validate(CONTENT | change)


def test_a_problem_without_an_exact_law_is_refused() -> None:
    spec = CellSpec(problem="digits", n=10, solver="denoising", kind="training", **SETTINGS)
    with pytest.raises(UsageError, match="law is known exactly; got 'digits'"):
        Training().measure(Cell(spec, get_problem("digits"), [], 0.0))
