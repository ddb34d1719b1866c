"""Converged solves on disk: taken from there when nothing they depend on has changed, and only then."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from records import cell, compute
from torch import Tensor

from bench import likelihood, references
from bench.cell import load_problem
from bench.metrics import converged
from bench.references import kept, kept_in

ROOT = Path(__file__).parent.parent
X = torch.arange(6.0).view(2, 3)
FACTS = {"hashes": {"network": "abc"}, "settings": [1e-8, "rk45"]}


def never() -> dict[str, Tensor]:
    raise AssertionError("it is on disk")


def once() -> dict[str, Tensor]:
    return {"ends": 2 * X, "bits": X[0].double()}


def asked(folder: Path, compute: Callable[[], dict[str, Tensor]], x: Tensor = X, **facts: Any) -> dict[str, Tensor]:
    with kept_in(folder):
        return kept("solve", {"x": x}, {**FACTS, **facts}, compute)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_what_was_computed_is_not_computed_again(tmp_path: Path) -> None:
    asked(tmp_path / "references", once)
    found = asked(tmp_path / "references", never)
    assert {name: x.dtype for name, x in found.items()} == {"ends": torch.float32, "bits": torch.float64}
    assert torch.equal(found["ends"], 2 * X)


def test_another_process_takes_it_from_disk(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from pathlib import Path; from bench.references import kept, kept_in\n"
        "with kept_in(Path(sys.argv[1])):\n"
        f"    kept('solve', {{'x': torch.arange(6.0).view(2, 3)}}, {FACTS!r}, lambda: {{'ends': torch.ones(3)}})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)
    assert torch.equal(asked(tmp_path, never)["ends"], torch.ones(3))


@pytest.mark.parametrize(
    "change",
    [
        {"x": X + 1e-6},
        {"x": X.double()},
        {"x": X.view(3, 2)},
        {"hashes": {"network": "abd"}},
        {"settings": [1e-7, "rk45"]},
        {"dequantiser": "abc"},
    ],
    ids=str,
)
def test_what_it_depends_on_makes_another(change: dict[str, Any], tmp_path: Path) -> None:
    asked(tmp_path, once)
    found = asked(tmp_path, lambda: {"ends": torch.zeros(1)}, **change)
    assert torch.equal(found["ends"], torch.zeros(1))
    assert torch.equal(asked(tmp_path, never)["ends"], 2 * X)


@pytest.mark.parametrize("place", ["bench.references._code", "torch.__version__", "bench.references.device_model"])
def test_code_torch_and_device_make_another(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(tmp_path, once)
    monkeypatch.setattr(place, "2.0" if place.startswith("torch") else lambda *arguments: "another")
    assert torch.equal(asked(tmp_path, lambda: {"ends": torch.zeros(1)})["ends"], torch.zeros(1))


def test_the_code_is_that_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "ROOT", tmp_path)
    (tmp_path / "solvers" / "methods").mkdir(parents=True)
    hashes = set()
    for content in ("x = 1\n", "x = 2\n"):
        (tmp_path / "solvers" / "methods" / "heun.py").write_text(content)
        references._code.cache_clear()
        hashes.add(references._code())
    (tmp_path / "solvers" / "methods" / "heun.py").rename(tmp_path / "solvers" / "heun.py")
    references._code.cache_clear()
    hashes.add(references._code())
    references._code.cache_clear()
    assert len(hashes) == 3


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "of another key"])
def test_a_damaged_file_is_computed_anew(damage: str, tmp_path: Path) -> None:
    asked(tmp_path, once)
    path = only_file(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-2] ^= 1
    elif damage == "of another key":
        asked(tmp_path / "other", lambda: {"ends": torch.zeros(1)}, settings=[])
        content = bytearray(only_file(tmp_path / "other").read_bytes())
    else:
        del content[0 if damage == "empty" else -3 :]
    path.write_bytes(content)
    assert torch.equal(asked(tmp_path, once)["ends"], 2 * X)
    assert torch.equal(asked(tmp_path, never)["ends"], 2 * X), "it is whole again"


def test_nothing_is_kept_outside_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert torch.equal(kept("solve", {"x": X}, FACTS, once)["ends"], 2 * X)
    with pytest.raises(AssertionError, match="on disk"):
        kept("solve", {"x": X}, FACTS, never)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "references").write_text("a file")
    assert torch.equal(asked(tmp_path / "references", once)["ends"], 2 * X)


def forget() -> None:
    likelihood.converged.cache_clear()
    likelihood.resolution.cache_clear()
    converged._tight.cache_clear()


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"kind": "likelihood"}, {"likelihood", "resolution"}), ({"metrics": ("trajectory_rmse",)}, {"trajectories"})],
)
def test_cells_of_a_run_share_theirs(
    changes: dict[str, Any], names: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a second worker would, with nothing in memory; another network, seed or folder has its own.

    What the converged likelihood resolves is of the network: seeds share it, too.
    """
    monkeypatch.setattr(likelihood, "CONVERGED", {"method": "dopri5", "rtol": 1e-1, "atol": 1e-1})
    monkeypatch.setattr(likelihood, "BOUND_DRAWS", 2)
    monkeypatch.setattr(converged, "TIGHT", 1e-1)
    monkeypatch.setattr(converged, "CHECKED", 1e-1)
    solves: list[int] = []
    tight: list[int] = []

    def counted(function: Callable[..., Any], calls: list[int] = solves) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(1)
            return function(*arguments)

        return call

    monkeypatch.setattr(likelihood, "_converged", counted(likelihood._converged))
    monkeypatch.setattr(likelihood, "_distance", counted(likelihood._distance, tight))
    monkeypatch.setattr(converged, "converged_end", counted(converged.converged_end))
    problem = load_problem("digits", "cpu")[0]

    def solved(folder: Path, solver: str = "heun", seed: int = 0) -> tuple[int, Any]:
        forget()
        solves.clear()
        record = compute(cell(solver, problem="digits", n=4, budget=4, seed=seed, **changes), folder)
        assert record.status == "done"
        return len(solves), record.metrics

    first, values = solved(tmp_path / "a")
    assert first > 0
    assert solved(tmp_path / "a", "ddim")[0] == 0
    (tmp_path / "a" / "records").rename(tmp_path / "before")
    assert solved(tmp_path / "a") == (0, values)
    assert solved(tmp_path / "a", seed=1)[0] == first
    assert solved(tmp_path / "b")[0] == first
    monkeypatch.setattr(type(problem), "hashes", {"digits-vp": "another"})
    assert solved(tmp_path / "a", "ipndm")[0] == first
    assert {path.name.partition("-")[0] for path in (tmp_path / "a" / "references").iterdir()} == names
    assert len(tight) == (3 if "resolution" in names else 0)
    forget()
