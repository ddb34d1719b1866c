"""Kullback-Leibler divergence of an ODE solver's law, whose density is pulled back through the solver's map."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.metric import Metric, Outcome, register_metric
from bench.problems.problem import FlowProblem
from bench.record import MetricValue
from bench.trial import evaluations_for_steps, last_step_of
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.solver import FixedStepSolver, LastStep, integrate

# Starts that the mean is taken over, the cell's first.
STARTS = 500
# Half the distance, units of the prior's deviation, of the starts whose ends give the map's derivatives.
STEP = 1e-4


def log_determinant(
    solver: FixedStepSolver, problem: FlowProblem, x: Tensor, ts: Tensor, last: LastStep = "keep"
) -> tuple[Tensor, Tensor]:
    """The map's ends of starts (n, d) and log |det dx_end/dx_start|, (n,), by central differences.

    Raises:
        UsageError: the determinant is not positive somewhere: the map folds, and is not one-to-one.
    """
    n, dim = x.shape
    step = STEP * problem.sde.prior_std
    shift = step * torch.eye(dim, dtype=x.dtype, device=x.device)[:, None]
    starts = torch.cat([x[None], x + shift, x - shift]).reshape(-1, dim)
    ends = integrate(solver, problem.process(), starts, ts, None, last).reshape(2 * dim + 1, n, dim)
    jacobian = (ends[1 : dim + 1] - ends[dim + 1 :]).transpose(0, 1) / (2 * step)
    sign, log_det = torch.linalg.slogdet(jacobian)
    if not bool((sign > 0).all()):
        rule = "the solver's map is one-to-one"
        raise UsageError(
            "flow_kl", rule, f"a determinant that is not positive at {int((sign <= 0).sum())} of {n} starts"
        )
    return ends[0], log_det


def divergence_terms(log_ratio: Tensor) -> Tensor:
    """r - 1 - ln r, none below zero, whose mean under q is KL(q || p); ``log_ratio`` is ln r = ln p - ln q."""
    return log_ratio.expm1() - log_ratio


@register_metric
class FlowKl(Metric):
    """KL(q || p) of an ODE solver's own law q from the exact law p at t_min, over the row's first 500 starts.

    ln q(x_end) = ln prior(x_T) - ln |det dx_end/dx_T|,  KL = E_q[p/q - 1 - ln p/q]

    with the derivatives of the solver's map by central differences. Blank where the density is not known: stochastic
    and adaptive solvers, and maps that fold. Floor: the exact flow's, KL(prior || p at t_max), on the same starts.
    """

    key: ClassVar[str] = "flow_kl"
    label: ClassVar[str] = "KL of the solver's law"
    floor_of: ClassVar[str] = "the exact flow"
    most: ClassVar[int | None] = STARTS
    unit: ClassVar[str] = "nats"
    reference: ClassVar[str] = "Chen et al. 2018, arXiv:1806.07366, sec. 4; estimator: Schulman 2020, joschu.net"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        problem, solver, spec = outcome.problem, outcome.solver, outcome.spec
        if solver.stochastic:
            return MetricValue(reason="not an ODE solver")
        if not isinstance(solver, FixedStepSolver) or spec.budget is None:
            return MetricValue(reason="an adaptive solver's map is not smooth")
        assert isinstance(problem, FlowProblem)
        x, t_max, t_min = problem.prior(spec.n, spec.seed)[:STARTS], problem.sde.t_max, problem.sde.t_min
        log_prior = problem.sde.prior_log_prob(x)
        last = spec.last or last_step_of(solver)
        ts = make_grid(spec.grid, problem.sde, solver.steps_for(evaluations_for_steps(spec.budget, last)))
        end, log_det = log_determinant(solver, problem, x, ts, last)
        terms = divergence_terms(problem.log_density(end, t_min) - (log_prior - log_det))
        floor = divergence_terms(problem.log_density(x, t_max) - log_prior)
        error = float(terms.std()) / math.sqrt(len(terms))
        return MetricValue(value=float(terms.mean()), standard_error=error, floor=float(floor.mean()))
