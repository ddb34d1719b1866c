"""``scorebench new-solver``: a solver's one file, with a step that works."""

import keyword
import re
from pathlib import Path

from bench.environment import ROOT
from solvers.errors import UsageError
from solvers.registry import solver_names

FOLDER = ROOT / "solvers" / "methods"

TEMPLATE = '''"""{title}: Euler's method on the probability-flow ODE; put your own step in its place."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class {cls}(FixedStepSolver):
    """{title}: Euler's method on dx/dt = velocity(x, t).

    x_s = x + (s - t) * velocity(x, t)

    Order 1, 1 evaluation a step.

    Reference: Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv:2011.13456, eq. 13.
    """

    family: ClassVar[str] = "probability-flow ODE"
    order: ClassVar[int | None] = 1
    stochastic: ClassVar[bool] = False
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456"

    def nfe(self, steps: int) -> int:
        return steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return x + (s - t) * process.velocity(x, t), state
'''


def new_solver(name: str, folder: Path | None = None) -> Path:
    """Write NAME.py with a working step and return its path.

    Args:
        name: registry key, lower snake case.
        folder: where to; the checkout's ``solvers/methods`` if None, so that nothing else is to do. A file elsewhere is
            a plug-in.

    Raises:
        UsageError: no such name can be registered, it is taken, the file exists, or there is no checkout.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError("new-solver", "a name is lower snake case", name, "E.g. my_solver")
    if name in solver_names():
        raise UsageError("new-solver", "the name is free", name, "Taken: scorebench list solvers")
    target = FOLDER if folder is None else folder
    if folder is None and not (ROOT / "pyproject.toml").is_file():
        raise UsageError("new-solver", "there is no checkout to add it to", str(ROOT), "Give a folder with --out")
    path = target / f"{name}.py"
    if path.exists():
        raise UsageError("new-solver", "a file is never overwritten", str(path), "Take another name or folder")
    target.mkdir(parents=True, exist_ok=True)
    words = name.split("_")
    text = TEMPLATE.format(title=" ".join(words).capitalize(), cls="".join(word.capitalize() for word in words))
    path.write_text(text, encoding="utf-8")
    return path
