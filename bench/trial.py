"""One watched solve: its result, what it cost, when the network was called, what its tensors took at the peak."""

import math
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.problems.problem import Problem
from solvers.brownian import Brownian
from solvers.grids import make_grid
from solvers.solver import LastStep, Solver, integrate


def last_step_of(solver: Solver) -> LastStep:
    """How a cell ends: by the mean of the last step for a solver that has one, otherwise by the last state."""
    return "mean" if solver.stochastic and solver.takes_path and not solver.adaptive else "keep"


def evaluations_for_steps(budget: int, last: LastStep) -> int:
    """What a cell's budget leaves to the grid: Tweedie's step is an evaluation too."""
    return budget - (last == "tweedie")


class Trial:
    """A solve on the common grid from the prior, watched at the network.

    Args:
        solver: the solver.
        problem: the problem.
        n: samples.
        first: index of the first sample.
        steps: steps of the grid.
        seed: of start and path.
        last: the last step's form.
        brownian: source of randomness in the place of the problem's.

    Attributes:
        x: the result, (n, ...).
        ts: the grid.
        calls, rows: calls of the network, and samples summed over them, counted at the network itself.
        span: lowest and highest time that the network was called at.
        evaluations: what the process counted.
        kept: whether the start was left as it was.
    """

    def __init__(
        self,
        solver: Solver,
        problem: Problem,
        *,
        n: int = 6,
        first: int = 0,
        steps: int = 8,
        seed: int = 0,
        last: LastStep = "keep",
        brownian: Brownian | None = None,
    ) -> None:
        self.calls, self.rows, self.span = 0, 0, (math.inf, -math.inf)
        self.ts = make_grid("log_snr", problem.sde, steps)
        process = problem.process()
        network = process.network

        def spy(x: Tensor, t: Tensor) -> Tensor:
            self.calls += 1
            self.rows += len(t)
            self.span = min(self.span[0], float(t.min())), max(self.span[1], float(t.max()))
            return network(x, t)

        process.network = spy
        start = problem.prior(n, seed, first)
        before = start.clone()
        self.x = integrate(solver, process, start, self.ts, brownian or problem.brownian(n, seed, first), last)
        self.kept = torch.equal(start, before)
        self.evaluations = process.evaluations


class PeakBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class hook
    """Bytes of the tensors that are alive at once, at the peak: what is made inside the block, on any device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive = 0
        self._watched: set[int] = set()
        # Tensors on each storage, and its size.
        self._storages: dict[int, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(item, Tensor) and id(item) not in self._watched:
                self._watch(item)
        return result

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        pointer, size = storage.data_ptr(), storage.nbytes()
        entry = self._storages.setdefault(pointer, [0, size])
        if not entry[0]:
            self._alive += size
            self.peak = max(self.peak, self._alive)
        entry[0] += 1
        self._watched.add(id(tensor))
        weakref.finalize(tensor, self._drop, id(tensor), pointer).atexit = False

    def _drop(self, name: int, pointer: int) -> None:
        self._watched.discard(name)
        entry = self._storages[pointer]
        entry[0] -= 1
        if not entry[0]:
            self._alive -= entry[1]
            del self._storages[pointer]
