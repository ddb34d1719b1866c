"""Solvers and noise on a CUDA device that need not exist.

A fake device refuses any mix with the host, and has shapes but no values. What lives on the host stays real, so that a
solver runs to its end unless it looks at a value on the device. Those of fixed steps never do, since a GPU would be
waited for at every step; a solver that chooses its steps has to.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import torch
import torchdiffeq
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._pytree import tree_leaves

from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import Problem
from solvers.divergence import ExactDivergence, Hutchinson, HutchPlusPlus, make_probes
from solvers.grids import make_grid
from solvers.likelihood import log_density
from solvers.registry import get_solver, solver_names
from solvers.solver import LAST_STEPS, LastStep, integrate

FIXED = [name for name in solver_names() if not get_solver(name).adaptive]
ADAPTIVE = [name for name in solver_names() if get_solver(name).adaptive]

problems = pytest.mark.parametrize("problem", [Gaussian, Mixture2d], ids=lambda problem: problem.key)


class FakeCuda(FakeTensorMode):
    """Tensors on CUDA are fake, tensors on the host are what they are."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        on_host = torch.device(kwargs.get("device") or "cpu").type == "cpu"
        if on_host and not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        return super().__torch_dispatch__(func, types, args, kwargs)


def solve(name: str, problem: type[Problem], last: LastStep = "keep") -> Tensor:
    with FakeCuda():
        on_cuda = problem(device="cuda")
        ts = make_grid("log_snr", on_cuda.sde, 3)
        x, brownian = on_cuda.prior(4, 0), on_cuda.brownian(4, 0)
        return integrate(get_solver(name), on_cuda.process(), x, ts, brownian, last)


CASES = [(name, Mixture2d, "keep") for name in FIXED]
CASES += [("euler_maruyama", Gaussian, last) for last in LAST_STEPS]


@pytest.mark.parametrize(("name", "problem", "last"), CASES)
def test_fixed_steps_stay_on_the_device_and_never_wait_for_it(name: str, problem: type[Problem], last: LastStep):
    x = solve(name, problem, last)
    assert (x.device.type, x.dtype, len(x)) == ("cuda", torch.float64, 4)


@pytest.mark.parametrize("name", [name for name in ADAPTIVE if name != "scipy_rk45"])
def test_adaptive_steps_stay_on_the_device_up_to_their_control(name: str):
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        solve(name, Mixture2d)


@problems
def test_what_torchdiffeq_calls_stays_on_the_device(problem: type[Problem], monkeypatch: pytest.MonkeyPatch):
    def odeint(velocity, x: Tensor, ends: Tensor, *, options, **settings) -> Tensor:
        assert ends.device == options["step_t"].device == x.device
        return torch.stack([x, x + velocity(ends[0], x)])

    monkeypatch.setattr(torchdiffeq, "odeint", odeint)
    assert solve("torchdiffeq", problem).device.type == "cuda"


@problems
def test_what_scipy_calls_stays_on_the_device(problem: type[Problem], monkeypatch: pytest.MonkeyPatch):
    """Its states are on the host by design; the network's are not."""

    def solve_ivp(velocity, span, flat, **settings) -> SimpleNamespace:
        y = np.zeros(len(flat))
        assert velocity(span[0], y).shape == y.shape
        return SimpleNamespace(success=True, y=y[:, None])

    monkeypatch.setattr(scipy.integrate, "solve_ivp", solve_ivp)
    assert solve("scipy_rk45", problem).device.type == "cuda"


@problems
@pytest.mark.parametrize("name", ["heun", "dpmpp_2m"])
def test_likelihood_stays_on_the_device(name: str, problem: type[Problem], monkeypatch: pytest.MonkeyPatch):
    """All but the backward pass itself: torch starts it on a device that has to be there."""

    def grad(raw: Tensor, z: Tensor, v: Tensor, retain_graph: bool) -> tuple[Tensor]:
        assert raw.requires_grad
        assert raw.device == z.device == v.device
        return (torch.zeros_like(z),)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    with FakeCuda():
        on_cuda = problem(device="cuda")
        sde = on_cuda.sde
        ts = make_grid("log_snr", sde, 3, sde.t_min_likelihood, sde.t_max)
        x = on_cuda.prior(4, 0)
        probes = make_probes(on_cuda.normals(4, 0).normal("probe"))[None]
        for divergence in (ExactDivergence(), Hutchinson(probes), HutchPlusPlus(probes, probes)):
            found = log_density(get_solver(name), on_cuda.process(), x, ts, divergence)
            assert found.by_probe.device.type == found.end.device.type == "cuda"


def test_the_check_sees_a_mix_and_a_look():
    with FakeCuda():
        problem = Gaussian(device="cuda")
        x = problem.prior(4, 0)
        with pytest.raises(DataDependentOutputException):
            float(x[0, 0])
        problem.mean = torch.zeros(8, dtype=torch.float64)
        assert not isinstance(problem.mean, FakeTensor)
        with pytest.raises(RuntimeError, match="same device"):
            problem.process().velocity(x, 0.5)
