"""Bits per dimension of held-out data by the row's own solver at its own budget, and the solver's part in it."""

import math
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.metrics.metric import Metric, Outcome, register_metric
from bench.problems.digits import Digits
from bench.record import MetricValue
from pretrained.data import dequantise
from solvers.grids import make_grid
from solvers.likelihood import bits_per_dim, log_density, rademacher
from solvers.registry import get_solver
from solvers.solver import FixedStepSolver, Solver

# Held-out images a value is the mean of.
IMAGES = 256
# The converged solve that the solver's error is measured against.
CONVERGED = {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}


def _bits(problem: Digits, solver: Solver, steps: int, grid: str, seed: int) -> Tensor:
    """Bits/dim of each image, shape (256,), float64."""
    sde = problem.sde
    ts = make_grid(grid, sde, steps, sde.t_min_likelihood, sde.t_max)
    normals = problem.normals(IMAGES, seed)
    values = problem.reference(IMAGES, seed, 0).to(problem.device)
    # A unit normal's distribution function makes it the uniform that dequantises.
    uniform = torch.special.ndtr(normals.normal("dequantisation"))
    x = problem.scale * dequantise(values, problem.levels, uniform) + problem.offset
    log_p = log_density(solver, problem.process(), x, ts, rademacher(normals.normal("probe")))
    return bits_per_dim(log_p.double(), x[0].numel(), problem.levels, problem.scale).cpu()


@lru_cache(maxsize=1)
def _row_bits(outcome: Outcome) -> Tensor:
    """By the row's solver."""
    spec, solver = outcome.spec, outcome.solver
    assert isinstance(outcome.problem, Digits)
    if not isinstance(solver, FixedStepSolver):
        return _bits(outcome.problem, solver, 1, "uniform", spec.seed)
    assert spec.budget is not None
    return _bits(outcome.problem, solver, solver.steps_for(spec.budget), spec.grid, spec.seed)


@lru_cache(maxsize=8)
def _converged_bits(problem: Digits, seed: int) -> Tensor:
    """By the converged solve, the same probe and dequantisation."""
    return _bits(problem, get_solver("torchdiffeq", **CONVERGED), 1, "uniform", seed)


class _OwnLikelihood(Metric):
    """A metric of the row's own likelihood solve."""

    unit: ClassVar[str] = "bits per dimension"
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456, sec. 4.3 and app. D.2"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        if outcome.solver.stochastic:
            return MetricValue(reason="not an ODE solver")
        bits = _row_bits(outcome)
        if not bool(bits.isfinite().all()):
            return MetricValue(reason="the solve of the likelihood diverged")
        assert isinstance(outcome.problem, Digits)
        return self._value(bits, _converged_bits(outcome.problem, outcome.spec.seed))

    def _value(self, bits: Tensor, converged: Tensor) -> MetricValue:
        raise NotImplementedError


@register_metric
class BitsPerDim(_OwnLikelihood):
    """-log2 p(x)/D - log2(scale) + log2(L) of 256 held-out digits, uniformly dequantised, under the flow's density.

    The row's solver integrates state and log-determinant upwards from t = 1e-5 on its own grid at its own budget (or
    tolerance), the divergence by one Rademacher probe fixed for the solve. The value is what that solve gives, not a
    bound: a coarse solve errs to either side, so it does not rank solvers. Floor: the converged solve's value.
    """

    key: ClassVar[str] = "bits_per_dim"
    label: ClassVar[str] = "bits/dim by the row's own solver"
    direction: ClassVar[Literal["lower", "higher", "none"]] = "none"
    limits: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def _value(self, bits: Tensor, converged: Tensor) -> MetricValue:
        error = float(bits.std()) / IMAGES**0.5
        return MetricValue(value=float(bits.mean()), standard_error=error, floor=float(converged.mean()))


@register_metric
class BitsPerDimError(_OwnLikelihood):
    """|mean difference| in bits/dim between the row's solve and a converged one, same images, dequantisation and probe.

    The solver's part of ``bits_per_dim``. The converged solve is dopri5 at 1e-6, so errors below about 1e-5 are not
    resolved.
    """

    key: ClassVar[str] = "bits_per_dim_error"
    label: ClassVar[str] = "solver error in bits/dim"

    def _value(self, bits: Tensor, converged: Tensor) -> MetricValue:
        difference = bits - converged
        return MetricValue(value=abs(float(difference.mean())), standard_error=float(difference.std()) / IMAGES**0.5)
