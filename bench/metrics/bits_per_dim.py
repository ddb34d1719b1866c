"""Bits per dimension of held-out data by the row's own solver at its own budget, and the solver's part in it."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.environment import now
from bench.metrics.metric import Metric, Outcome, register_metric, replicates
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


@dataclass(frozen=True)
class _Solve:
    """Bits/dim of each image, (256,), float64; evaluations an image, each with a derivative pass; seconds."""

    bits: Tensor
    nfe: float
    seconds: float


def _solve(problem: Digits, solver: Solver, steps: int, grid: str, seed: int) -> _Solve:
    sde = problem.sde
    ts = make_grid(grid, sde, steps, sde.t_min_likelihood, sde.t_max)
    normals = problem.normals(IMAGES, seed)
    values = problem.reference(IMAGES, seed, 0).to(problem.device)
    # A unit normal's distribution function makes it the uniform that dequantises.
    uniform = torch.special.ndtr(normals.normal("dequantisation"))
    x = problem.scale * dequantise(values, problem.levels, uniform) + problem.offset
    process, probe = problem.process(), rademacher(normals.normal("probe"))
    began = now(problem.device)
    log_p = log_density(solver, process, x, ts, probe)
    seconds = now(problem.device) - began
    bits = bits_per_dim(log_p.double(), x[0].numel(), problem.levels, problem.scale).cpu()
    return _Solve(bits, process.evaluations.rows / IMAGES, seconds)


@lru_cache(maxsize=1)
def _row_solve(outcome: Outcome) -> _Solve:
    """By the row's solver."""
    spec, solver = outcome.spec, outcome.solver
    assert isinstance(outcome.problem, Digits)
    if not isinstance(solver, FixedStepSolver):
        return _solve(outcome.problem, solver, 1, "uniform", spec.seed)
    assert spec.budget is not None
    return _solve(outcome.problem, solver, solver.steps_for(spec.budget), spec.grid, spec.seed)


@lru_cache(maxsize=8)
def _converged_bits(problem: Digits, seed: int) -> Tensor:
    """By the converged solve, the same probe and dequantisation."""
    return _solve(problem, get_solver("torchdiffeq", **CONVERGED), 1, "uniform", seed).bits


class _OwnLikelihood(Metric):
    """A metric of the row's own likelihood solve."""

    unit: ClassVar[str] = "bits per dimension"
    shared: ClassVar[bool] = True
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456, sec. 4.3 and app. D.2"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        if outcome.solver.stochastic:
            return MetricValue(reason="not an ODE solver")
        solve = _row_solve(outcome)
        value = MetricValue(reason="the solve of the likelihood diverged")
        if bool(solve.bits.isfinite().all()):
            assert isinstance(outcome.problem, Digits)
            value = self._value(solve.bits, _converged_bits(outcome.problem, outcome.spec.seed))
        return value.model_copy(update={"own_nfe": solve.nfe, "own_seconds": solve.seconds})

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
        left = replicates(lambda kept: float(kept.mean()), bits)
        floor = float(converged.mean())
        return MetricValue(value=float(bits.mean()), standard_error=error, floor=floor, replicates=left)


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
        error = float(difference.std()) / IMAGES**0.5
        left = replicates(lambda kept: abs(float(kept.mean())), difference)
        return MetricValue(value=abs(float(difference.mean())), standard_error=error, replicates=left)
