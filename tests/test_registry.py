"""The menu of solvers: names, near names, plug-in files."""

import bisect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.problems.gaussian import Gaussian
from solvers import registry
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.methods.euler import Euler
from solvers.registry import get_solver, load_plugin, register, solver_names
from solvers.solver import integrate

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar

from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Midpoint(FixedStepSolver):
    family: ClassVar[str] = "plug-in"
    order: ClassVar[int | None] = 2
    stochastic: ClassVar[bool] = False
    reference: ClassVar[str] = "Runge 1895"

    def nfe(self, steps):
        return 2 * steps

    def step(self, process, x, t, s, brownian, state):
        middle = x + (s - t) / 2 * process.velocity(x, t)
        return x + (s - t) * process.velocity(middle, (s + t) / 2), state
"""


@pytest.fixture(autouse=True)
def _menu(monkeypatch: pytest.MonkeyPatch):
    """Leaves the menu and the loaded modules as they were."""
    solver_names()
    monkeypatch.setattr(registry, "_SOLVERS", registry.solver_classes())
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("scorebench_plugins."):
            del sys.modules[name]


def test_an_unknown_solver_gets_a_near_name():
    with pytest.raises(UsageError, match=r"^get_solver: no solver 'huen'; did you mean 'heun'.* Known: ancestral, "):
        get_solver("huen")
    with pytest.raises(UsageError, match=r"^get_solver: no solver 'zzz'. Known: ancestral"):
        get_solver("zzz")


def test_a_plugin_is_a_solver_like_the_others(tmp_path: Path):
    file = tmp_path / "midpoint_plugin.py"
    file.write_text(PLUGIN)
    load_plugin(file)
    assert "midpoint_plugin" in solver_names()
    problem = Gaussian()
    x = problem.marginal_sample(1.0, problem.normals(8, 0), "x")
    ts = make_grid("karras", problem.sde, 100)
    result = integrate(get_solver("midpoint_plugin"), problem.process(), x, ts)
    assert torch.allclose(result, problem.flow(x, 1.0, problem.sde.t_min), atol=5e-3)
    # Once more is no clash with itself.
    load_plugin(file)


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        (
            "broken_plugin.py",
            "import nothing_of_that_name",
            'does not import; got "ModuleNotFoundError: No module named',
        ),
        ("empty_plugin.py", "", "load_plugin: a plug-in registers a solver; got .*Decorate its class"),
        ("exit_plugin.py", "raise SystemExit(3)", "does not import; got .SystemExit: 3"),
        (
            "nameless_plugin.py",
            PLUGIN.replace("    reference:", "    # reference:"),
            "a solver declares reference; got",
        ),
        (
            "setting_plugin.py",
            PLUGIN.replace("    def nfe", "    k: int\n\n    def nfe"),
            "every setting has a default; got",
        ),
        (
            "free_plugin.py",
            PLUGIN.replace("2 * steps", "0"),
            r"nfe\(steps\) grows .* got \(0, 0\)\. Mend free_plugin.nfe",
        ),
        ("text_plugin.txt", PLUGIN, "load_plugin: a plug-in's name ends in .py; got"),
    ],
)
def test_a_file_that_is_no_plugin_is_refused(tmp_path: Path, name: str, text: str, match: str):
    (tmp_path / name).write_text(text)
    before, modules = solver_names(), set(sys.modules)
    with pytest.raises(UsageError, match=match):
        load_plugin(tmp_path / name)
    assert solver_names() == before
    assert set(sys.modules) == modules


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="load_plugin: a plug-in is a Python file; got"):
        load_plugin(tmp_path / "none_plugin.py")


def test_a_name_is_taken_once(tmp_path: Path):
    file = tmp_path / "heun.py"
    file.write_text(PLUGIN)
    with pytest.raises(UsageError, match=r"register: the name 'heun' is taken by solvers.methods.heun; got .* Rename"):
        load_plugin(file)
    assert type(get_solver("heun")).__module__ == "solvers.methods.heun"


def test_a_plugin_takes_no_modules_place(tmp_path: Path):
    file = tmp_path / "bisect.py"
    file.write_text(PLUGIN)
    load_plugin(file)
    assert sys.modules["bisect"] is bisect
    assert type(get_solver("bisect")).__name__ == "Midpoint"


def test_registering_twice_from_one_module_is_allowed():
    heun = type(get_solver("heun"))
    assert register(heun) is heun


@dataclass(frozen=True)
class _Typed(Euler):
    """Settings of many types."""

    anything: Any = None
    path: "Path" = Path()
    size: int | None = None
    share: float = 0.5


def test_settings_are_checked_where_their_type_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._SOLVERS, "typed", _Typed)
    for given in ({"anything": [1]}, {"path": "a"}, {"size": None}, {"size": np.int64(3)}, {"share": np.float32(0.5)}):
        get_solver("typed", **given)
    for given, text in (({"size": True}, "a whole number or null"), ({"share": "1e-5"}, "In YAML write 1.000000e-05")):
        with pytest.raises(UsageError, match=text):
            get_solver("typed", **given)
    monkeypatch.setitem(_Typed.__annotations__, "path", "OnlyForTypeCheckers")
    get_solver("typed")
    get_solver("typed", share=0.1)
