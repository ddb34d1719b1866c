"""Solvers and noise on a CUDA device that need not exist: fake tensors refuse any mix of devices.

Fake tensors have no values, so a solver whose step control looks at values stops there, and only there.
"""

import pytest
import torch
import torchdiffeq
import torchsde
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import Problem
from solvers.grids import make_grid
from solvers.likelihood import exact_probes, log_density, rademacher
from solvers.registry import get_solver, solver_names
from solvers.solver import LAST_STEPS, LastStep, integrate

# Solvers whose library looks at values: at the tolerances' errors, at the grid.
LOOK_AT_VALUES = {"torchdiffeq", "torchsde"}

problems = pytest.mark.parametrize("problem", [Gaussian, Mixture2d], ids=lambda problem: problem.key)


def solve(name: str, problem: type[Problem], last: LastStep = "keep") -> Tensor:
    ts = make_grid("log_snr", problem().sde, 3)
    with FakeTensorMode():
        on_cuda = problem(device="cuda")
        x, brownian = on_cuda.prior(4, 0), on_cuda.brownian(4, 0)
        return integrate(get_solver(name), on_cuda.process(), x, ts, brownian, last)


@problems
@pytest.mark.parametrize("last", LAST_STEPS)
@pytest.mark.parametrize("name", [name for name in solver_names() if name not in LOOK_AT_VALUES])
def test_a_solve_stays_on_its_device(name: str, problem: type[Problem], last: LastStep):
    x = solve(name, problem, last)
    assert (x.device.type, x.dtype, len(x)) == ("cuda", torch.float64, 4)


@problems
@pytest.mark.parametrize("name", sorted(LOOK_AT_VALUES))
def test_a_solver_that_looks_at_values_stops_there_and_nowhere_else(name: str, problem: type[Problem]):
    with pytest.raises(DataDependentOutputException):
        solve(name, problem)


@problems
def test_what_torchdiffeq_calls_stays_on_the_device(problem: type[Problem], monkeypatch: pytest.MonkeyPatch):
    def odeint(velocity, x: Tensor, ends: Tensor, *, options, **settings) -> Tensor:
        assert ends.device == options["step_t"].device == x.device
        return torch.stack([x, x + velocity(ends[0], x)])

    monkeypatch.setattr(torchdiffeq, "odeint", odeint)
    assert solve("torchdiffeq", problem).device.type == "cuda"


@problems
def test_what_torchsde_calls_stays_on_the_device(problem: type[Problem], monkeypatch: pytest.MonkeyPatch):
    def sdeint(sde, y: Tensor, index: Tensor, *, bm, **settings) -> Tensor:
        assert bm.device == y.device
        return torch.stack([y, y + sde.f(0.0, y) + sde.g(0.0, y) * bm(0.0, 1.0)])

    monkeypatch.setattr(torchsde, "sdeint", sdeint)
    assert solve("torchsde", problem).device.type == "cuda"


def test_likelihood_stays_on_the_device():
    """On the Gaussian: torch's fake tensors cannot differentiate the mixture's views forwards."""
    sde = Gaussian().sde
    ts = make_grid("log_snr", sde, 3, sde.t_min_likelihood, sde.t_max)
    with FakeTensorMode():
        on_cuda = Gaussian(device="cuda")
        x = on_cuda.prior(4, 0)
        for probes in (exact_probes(x), rademacher(on_cuda.normals(4, 0).normal("probe"))):
            assert log_density(get_solver("heun"), on_cuda.process(), x, ts, probes).device.type == "cuda"


def test_the_check_sees_a_mix():
    with FakeTensorMode():
        problem = Gaussian(device="cuda")
        problem.mean = torch.zeros(8, dtype=torch.float64)
        with pytest.raises(RuntimeError, match="device"):
            problem.process().velocity(problem.prior(4, 0), 0.5)
