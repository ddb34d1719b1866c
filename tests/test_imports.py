"""Imports point one way: solvers <- pretrained <- bench; solvers needs torch and NumPy until an adapter is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    # NumPy, which torch loads itself, computes the coefficients of a grid in a third of torch's time.
    "solvers": {"solvers", "torch", "numpy"},
    "pretrained": {"solvers", "pretrained"},
    "bench": {"solvers", "pretrained", "bench"},
}
OURS = {"solvers", "pretrained", "bench", "tests"}
# Adapters' libraries, imported inside the function that uses them.
ADAPTED = {"torchsde", "torchdiffeq", "scipy", "diffusers", "azula"}


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of what the nodes below ``tree`` import."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_package_imports_one_above_it(package: str):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        names = imported(ast.parse(file.read_text()))
        assert names & OURS <= MAY_IMPORT[package], file
        if package == "solvers":
            allowed = sys.stdlib_module_names | MAY_IMPORT[package]
            assert names - allowed <= ADAPTED, file


def test_importing_every_solver_loads_torch_alone():
    """Measured against what torch itself loads."""
    modules = "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    ours = "from solvers import likelihood, peers, registry; registry.solver_names(); peers.peer_claims()"
    code = f"import sys, torch, torch.func; {modules}; {ours}; {modules}"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = (set(ast.literal_eval(line)) for line in run.stdout.splitlines())
    assert "solvers" in after
    assert after & {"torchsde", "torchdiffeq", "scipy", "diffusers", "azula", "pandas", "pretrained", "bench"} == set()
    assert after - before - sys.stdlib_module_names == {"solvers"}
