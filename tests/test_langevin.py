"""Langevin dynamics: its bias in closed form, and the line where it fails without annealing."""

import pytest
import torch
from torch import Tensor

from bench.problems.line import Line2d
from solvers.grids import make_grid
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import EDM, VE, VP, ForwardSDE
from solvers.solver import integrate


class Stream:
    """Fresh normals at each question: equilibrium needs many."""

    def __init__(self, n: int, dim: int) -> None:
        self._shape = (n, dim)
        self._generator = torch.Generator().manual_seed(0)

    def normal(self, stream: str) -> Tensor:
        return torch.randn(self._shape, generator=self._generator, dtype=torch.float64)

    def dw(self, t: float, s: float) -> Tensor:
        raise AssertionError("Langevin steps take no increments")


def equilibrium(rule: str, snr: float) -> float:
    """Variance that the rule keeps on N(0, I) in 64 dimensions, at sigma = 1."""
    stream = Stream(2000, 64)
    process = ReverseProcess(EDM(), lambda x, t: -x, "score")
    solver = get_solver("langevin", corrector=rule, snr=snr)
    ts = torch.linspace(1.0001, 1, 61, dtype=torch.float64)
    return float(integrate(solver, process, stream.normal("x"), ts, stream).var())


@pytest.mark.parametrize("snr", [0.25, 0.5])
def test_the_bias_at_equilibrium_is_the_closed_form(snr: float) -> None:
    # v = (1 - e)^2 v + 2 e gives v = 1/(1 - e/2): e = 2 snr^2 for ald, 2 snr^2/v for langevin. Standard error 4e-3.
    assert equilibrium("ald", snr) == pytest.approx(1 / (1 - snr**2), abs=0.015)
    assert equilibrium("langevin", snr) == pytest.approx(1 + snr**2, abs=0.015)


@pytest.mark.parametrize("sde", [VP(), VE()], ids=lambda sde: sde.name)
def test_on_a_line_langevin_fails_and_annealing_does_not(sde: ForwardSDE) -> None:
    problem = Line2d(sde=sde)
    x = problem.prior(500, 0)
    ts = make_grid("log_snr", sde, 1000)

    def along_and_across(name: str) -> tuple[Tensor, Tensor]:
        found = integrate(get_solver(name), problem.process(), x, ts, problem.brownian(500, 0))
        along, across = (found @ problem.axes).unbind(1)
        return along, across

    along, across = along_and_across("langevin")
    assert float(across.std()) < 0.02  # it finds the line,
    assert float((along.abs() - 4).abs().mean()) > 2.0  # and not what lies on it
    along, across = along_and_across("annealed_langevin")
    assert float(across.std()) < 0.02
    assert float((along.abs() - 4).abs().mean()) < 0.8
    assert float((along > 0).double().mean()) == pytest.approx(0.8, abs=0.1)


def test_the_line_has_the_score_of_its_density() -> None:
    problem = Line2d()
    x = problem.marginal_sample(0.3, problem.normals(16, 0), "x").requires_grad_()
    alpha, sigma = problem.sde.alpha(0.3), problem.sde.sigma(0.3)
    u, v = (x @ problem.axes).unbind(1)
    var = (0.5 * alpha) ** 2 + sigma**2
    density = sum(w * torch.exp(-((u - alpha * c) ** 2) / (2 * var)) for w, c in ((0.2, -4.0), (0.8, 4.0)))
    log_density = torch.as_tensor(density).log() - v**2 / (2 * sigma**2)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    assert torch.allclose(problem.process().score(x.detach(), 0.3), gradient, rtol=1e-9)
