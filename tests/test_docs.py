"""What the documents say is true: rendered tables, the example solver, the Python example, the commands."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import check, docs
from bench.certificate import Line
from bench.problems.gaussian import Gaussian
from solvers import registry
from solvers.grids import make_grid
from solvers.process import ReverseProcess
from solvers.registry import get_solver, load_plugin
from solvers.solver import FixedStepSolver, integrate

ROOT = Path(__file__).resolve().parent.parent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_tables_are_those_of_registry_and_records() -> None:
    assert docs.update_pages(check=True) == [], "run: scorebench docs"


def test_a_stale_table_is_found_and_mended(tmp_path: Path) -> None:
    for page in docs.PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text((ROOT / page).read_text(encoding="utf-8"), encoding="utf-8")
    page = tmp_path / "docs" / "solvers.md"
    fresh = page.read_text(encoding="utf-8")
    wrong = fresh.replace("| heun | probability-flow ODE | 2 |", "| heun | probability-flow ODE | 3 |")
    assert wrong != fresh
    page.write_text(wrong, encoding="utf-8")
    assert docs.update_pages(check=True, root=tmp_path) == ["docs/solvers.md"]
    assert page.read_text(encoding="utf-8") == wrong, "--check must not write"
    docs.update_pages(check=False, root=tmp_path)
    assert page.read_text(encoding="utf-8") == fresh


def test_measured_orders_come_from_the_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def line(solver: str, settings: dict[str, Any], sde: str, problem: str, measured: float, declared: int = 2) -> Line:
        return Line(solver, settings, "order", sde, problem, declared, measured, None, "pass")

    ramp, started, low = ({"order": k, "start": start} for k, start in ((4, "ramp"), (4, "runge_kutta"), (2, "ramp")))
    lines = [
        line("heun", {}, "vp", "gaussian", 2.004),
        line("heun", {}, "ve", "gaussian", 1.93),
        line("heun", {}, "vp", "mixture_2d", 1.99),
        Line("heun", {}, "accepts the SDE", "edm", "mixture_2d", None, "no", None, "not claimed"),
        # Certified with the start that its order is claimed with, not with a lower order.
        Line("lms", ramp, "order in the limit", "vp", "gaussian", 2, 3.2, None, "pass"),
        line("lms", started, "vp", "gaussian", 4.01, 4),
        line("lms", low, "vp", "gaussian", 2.1, 2),
    ]
    check.write(lines, tmp_path)
    monkeypatch.setattr(docs, "CERTIFICATES", tmp_path)
    table = docs.SECTIONS["solver table"]()
    assert "| heun | probability-flow ODE | 2 | 1.93…2.00 | 1.99 | 2 | vp, ve |" in table
    assert "| lms | linear multistep | 4 | 4.01 | – | 1 | all |" in table
    assert "| euler | probability-flow ODE | 1 | – | – | 1 | – |" in table
    assert "4 certificates, 7 claims: 6 pass, 1 not claimed" in table
    families = docs.SECTIONS["solvers"]()
    assert "`heun` (1.93, 2)" in families
    assert "`lms` (4.01, 1)" in families


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_readme_commands_are_those_of_tox_and_ci() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    for name in ("bench", "tests"):
        assert f"pip install tox && tox run -e {name}" in readme
        assert f"[testenv:{name}]" in (ROOT / "tox.ini").read_text()
    assert "pip install tox && tox run -e tests" in ci


def test_python_example_of_the_readme_runs() -> None:
    (example,) = blocks("README.md", "python")
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("20 tensor(")


@pytest.fixture
def _clean_menu() -> Iterator[None]:
    """Take off the menu what a test put on it."""
    before = registry.solver_classes()
    yield
    registry._SOLVERS.clear()
    registry._SOLVERS.update(before)


@pytest.mark.usefixtures("_clean_menu")
def test_example_solver_of_contributing_is_a_whole_file(tmp_path: Path) -> None:
    (source,) = blocks("CONTRIBUTING.md", "python")
    path = tmp_path / "midpoint_rule.py"
    path.write_text(source, encoding="utf-8")
    load_plugin(path)
    solver = get_solver("midpoint_rule")
    assert isinstance(solver, FixedStepSolver)
    problem = Gaussian()
    start, errors = problem.prior(64, 0), []
    exact = problem.flow(start, problem.sde.t_max, problem.sde.t_min)
    for steps in (64, 128):
        process: ReverseProcess = problem.process()
        ts = make_grid("karras", problem.sde, steps)
        errors.append((integrate(solver, process, start, ts) - exact).square().mean().sqrt())
        assert process.evaluations.calls == solver.nfe(steps)
    assert float(torch.log2(errors[0] / errors[1])) == pytest.approx(2, abs=0.2)


def test_shell_commands_of_the_documents_exist() -> None:
    """Every scorebench command and option that the documents show is one that the program has."""
    for page in ("README.md", "CONTRIBUTING.md", "results/README.md"):
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                words = line.split("#")[0].split()
                if words[:1] != ["scorebench"]:
                    continue
                done = subprocess.run(
                    [sys.executable, "-m", "bench", words[1], "--help"],
                    capture_output=True,
                    text=True,
                    cwd=ROOT,
                    check=True,
                )
                for option in (word for word in words if word.startswith("--")):
                    assert option in done.stdout, line
