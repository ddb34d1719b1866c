"""Memory: the most that tensors hold at once in a solve of 100 000 two-dimensional samples, at NFE 10 and 1000.

Counted, not sampled: every tensor that an operation makes is followed until it is freed, so that the figure is exact
and the same on every machine; the resident set of a process is not. Coefficients, Python numbers, are not in it: a
multistep solver's table holds about a kilobyte a step.
"""

import weakref
from typing import Any

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.performance.overhead import network, one_thread
from solvers.brownian import BrownianPath
from solvers.grids import make_grid
from solvers.normals import Normals
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import VP
from solvers.solver import FixedStepSolver, integrate

SAMPLES = 100_000
BUDGETS = (10, 1000)
SOLVERS = ("ddim", "dpmpp_2m", "unipc", "euler_maruyama")


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages of tensors made inside it; ``peak`` bytes at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        self._bytes: int = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._follow(value.untyped_storage())
        return result

    def _follow(self, storage: Any) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._known:
            return

        def freed(_: Any) -> None:
            del self._known[address]
            self._bytes -= size

        self._known[address] = weakref.ref(storage, freed)
        self._bytes += size
        self.peak = max(self.peak, self._bytes)


def peak_bytes(solver: FixedStepSolver, nfe: int, samples: int = SAMPLES) -> int:
    """Bytes that tensors hold at the peak of a solve, the start and the source of noise left out or made inside it."""
    sde = VP()
    start = Normals(0, (samples, 2)).normal("start")
    ts = make_grid("log_snr", sde, solver.steps_for(nfe))
    live = LiveTensors()
    with one_thread(), live:
        path = BrownianPath(Normals(0, (samples, 2)), sde.t_max) if solver.stochastic else None
        integrate(solver, ReverseProcess(sde, network, "noise"), start, ts, path)
    return live.peak


def measure() -> pd.DataFrame:
    """A row a solver: bytes at each budget."""
    rows = []
    for key in SOLVERS:
        solver = get_solver(key)
        assert isinstance(solver, FixedStepSolver)
        rows.append({"solver": key} | {f"nfe_{nfe}": peak_bytes(solver, nfe) for nfe in BUDGETS})
    return pd.DataFrame(rows)
