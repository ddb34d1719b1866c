"""What solvers and noise cost beside the network: ``pytest tests/performance``.

A network that returns its input, 256 samples of 2 coordinates in double precision, one thread, 50 steps a solve; the
noise alone next to the generator that it replaces. Figures are seconds a solve or a draw; divide by ``evaluations``.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from solvers.brownian import BrownianPath
from solvers.grids import make_grid
from solvers.normals import Normals
from solvers.process import ReverseProcess
from solvers.registry import get_solver, solver_classes
from solvers.sde import VP
from solvers.solver import FixedStepSolver, integrate

SHAPE = (256, 2)
STEPS = 50
FIXED = [name for name, cls in solver_classes().items() if not cls.adaptive]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def start() -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def normals() -> Normals:
    return Normals(0, SHAPE, dtype=torch.float64)


@pytest.mark.parametrize("name", FIXED)
def test_overhead_of_a_solver(name: str, benchmark: Any) -> None:
    solver, sde, x = get_solver(name), VP(), start()
    assert isinstance(solver, FixedStepSolver)
    ts = make_grid("log_snr", sde, STEPS)

    def solve() -> ReverseProcess:
        process = ReverseProcess(sde, lambda x, t: -x)
        brownian = BrownianPath(normals(), sde.t_max) if solver.stochastic else None
        integrate(solver, process, x, ts, brownian)
        return process

    process = benchmark.pedantic(solve, rounds=20, iterations=1, warmup_rounds=2)
    assert process.evaluations.calls == solver.nfe(STEPS)
    benchmark.extra_info["evaluations"] = process.evaluations.calls
    benchmark.extra_info["microseconds_per_evaluation"] = 1e6 * benchmark.stats["median"] / process.evaluations.calls


@pytest.mark.parametrize("grid", ["uniform", "log_snr"])
def test_draws_of_a_brownian_path(grid: str, benchmark: Any) -> None:
    ts = make_grid(grid, VP(), STEPS).tolist()

    def draw() -> Tensor:
        path = BrownianPath(normals(), ts[0])
        return torch.stack([path.dw(t, s) for t, s in pairwise(ts)])

    increments = benchmark.pedantic(draw, rounds=20, iterations=1, warmup_rounds=2)
    assert increments.shape == (STEPS, *SHAPE)
    benchmark.extra_info["microseconds_per_draw"] = 1e6 * benchmark.stats["median"] / STEPS


def test_draws_of_addressed_normals(benchmark: Any) -> None:
    source = normals()
    assert benchmark(source.normal, "stream").shape == SHAPE


def test_draws_of_torch_for_comparison(benchmark: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    assert benchmark(torch.randn, SHAPE, dtype=torch.float64, generator=generator).shape == SHAPE
