"""The solver's own law on a Gaussian, read off unit probes: distances without any sampling error."""

from abc import abstractmethod
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from bench.certify import is_affine, law_of
from bench.metrics.metric import Metric, Outcome, register_metric
from bench.problems.gaussian import Gaussian
from bench.record import MetricValue
from bench.trial import evaluations_for_steps, last_step_of
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.solver import FixedStepSolver

Law = tuple[Tensor, Tensor]


@lru_cache(maxsize=256)
def _is_affine(solver: FixedStepSolver, problem: Gaussian) -> bool:
    return is_affine(solver, problem)


def prior_law(problem: Gaussian) -> Law:
    """Mean and variance of x_T, as samples of a cell start."""
    zero, one = (problem.sde.prior_sample(x(problem.mean)) for x in (torch.zeros_like, torch.ones_like))
    return zero, (one - zero).square()


@lru_cache(maxsize=1)
def probed_law(outcome: Outcome) -> Law:
    """Mean and variance at t_min of the row's solver, grid and budget from the prior, each (8,).

    Raises:
        UsageError: the problem is no Gaussian, or the solver no affine map of start and noise.
    """
    problem, solver, spec = outcome.problem, outcome.solver, outcome.spec
    if not isinstance(problem, Gaussian):
        raise UsageError("law", "laws are probed on a Gaussian", problem.key, "Take metrics of samples")
    if not isinstance(solver, FixedStepSolver) or not _is_affine(solver, problem):
        rule = "laws are probed of solvers affine in start and noise"
        raise UsageError("law", rule, solver.key, "Take metrics of samples")
    assert spec.budget is not None
    last = spec.last or last_step_of(solver)
    ts = make_grid(spec.grid, problem.sde, solver.steps_for(evaluations_for_steps(spec.budget, last)))
    return law_of(solver, problem, ts, last, prior_law(problem))


def law_w2(a: Law, b: Law) -> float:
    """W2 between diagonal Gaussians of given means and variances (d,)."""
    return float(((a[0] - b[0]).square() + (a[1].sqrt() - b[1].sqrt()).square()).sum().sqrt())


def law_kl(a: Law, b: Law) -> float:
    """KL(a || b) between diagonal Gaussians of given means and variances (d,), nats."""
    ratio = a[1] / b[1]
    return float(((a[0] - b[0]).square() / b[1] + ratio - 1 - ratio.log()).sum() / 2)


class _OfLaw(Metric):
    """Floor: the exact flow from the same prior, whose own mismatch at t_max no ODE solver mends."""

    floor_of: ClassVar[str] = "the exact flow"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        law, problem, metric = probed_law(outcome), outcome.problem, type(self)
        assert isinstance(problem, Gaussian)
        t_max, t_min = problem.sde.t_max, problem.sde.t_min
        mean, var = prior_law(problem)
        flow = problem.flow(mean, t_max, t_min)
        exact = problem.law(t_min)
        floor = metric.distance((flow, (problem.flow(mean + var.sqrt(), t_max, t_min) - flow).square()), exact)
        return MetricValue(value=metric.distance(law, exact), standard_error=0.0, floor=floor)

    @staticmethod
    @abstractmethod
    def distance(a: Law, b: Law) -> float:
        """The distance of two diagonal Gaussians."""


@register_metric
class LawW2(_OfLaw):
    """Wasserstein-2 distance between the solver's own law and the exact one, both Gaussian: no sampling error.

    sqrt(sum_i (m_i - mean_i)^2 + (s_i - std_i)^2)

    with the mean m and standard deviations s that the solver's affine map of x_T and its noise gives, read off unit
    probes. Floor: the exact flow from the same prior, which a stochastic solver may undercut.
    """

    key: ClassVar[str] = "law_w2"
    label: ClassVar[str] = "Wasserstein-2 of the solver's law"
    unit: ClassVar[str] = "units of x"
    reference: ClassVar[str] = "Dowson & Landau 1982, J. Multivariate Anal. 12, 450"
    distance = staticmethod(law_w2)


@register_metric
class LawKl(_OfLaw):
    """Kullback-Leibler divergence of the solver's own law from the exact one, both Gaussian: no sampling error.

    KL = sum_i ((m_i - mean_i)^2 / v_i + s_i^2 / v_i - 1 - ln(s_i^2 / v_i)) / 2

    with the solver's mean m and deviations s, read off unit probes, and the exact variances v. Floor: the exact flow
    from the same prior, which a stochastic solver may undercut.
    """

    key: ClassVar[str] = "law_kl"
    label: ClassVar[str] = "KL of the solver's law"
    unit: ClassVar[str] = "nats"
    reference: ClassVar[str] = "Kullback & Leibler 1951, Ann. Math. Stat. 22, 79"
    distance = staticmethod(law_kl)
