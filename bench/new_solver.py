"""``scorebench new-solver``: a solver's one file, with a step that works."""

import keyword
import re
from pathlib import Path

from bench.environment import ROOT
from solvers.errors import UsageError
from solvers.registry import solver_names

FOLDER = ROOT / "solvers" / "methods"
LONGEST = 60

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
        UsageError: no such name can be registered, it is taken, the file exists or cannot be written, or there is no
            checkout.
    """
    words = name.split("_")
    cls = "".join(word.capitalize() for word in words)
    reserved = keyword.iskeyword(name) or keyword.iskeyword(cls)
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or reserved or len(name) > LONGEST:
        rule = f"a name is lower snake case, no word of Python's, {LONGEST} letters at most"
        raise UsageError("new-solver", rule, name, "E.g. my_solver")
    if name in solver_names():
        raise UsageError("new-solver", "the name is free", name, "Taken: scorebench list solvers")
    target = FOLDER if folder is None else folder
    if folder is None and not (ROOT / "pyproject.toml").is_file():
        raise UsageError("new-solver", "there is no checkout to add it to", str(ROOT), "Give a folder with --out")
    path = target / f"{name}.py"
    if path.exists():
        raise UsageError("new-solver", "a file is never overwritten", str(path), "Take another name or folder")
    text = TEMPLATE.format(title=" ".join(words).capitalize(), cls=cls)
    try:
        target.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError("new-solver", f"{path} cannot be written", error.strerror, "Give another --out") from error
    return path
