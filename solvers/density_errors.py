"""What a density from the flow misses at both ends of time, even when the flow is solved exactly.

At t_max the prior stands in for the law of x_t_max. log p at t_min is too large by

    log p_prior(x_T) - log p_t_max(x_T),    in the mean over the data by  -KL(p_t_max || prior).

At t_min the data are taken as states x_t_min, whose law is the data's smoothed. In x~ = x/alpha and tau = sigma/alpha
the law q obeys the heat equation, d log q / d tau^2 = (div grad log q + |grad log q|^2)/2, so that to first order

    log p_t_min(x) - log p_0(x) = sigma^2/2 (div s + |s|^2) + (1 - alpha) x . s - D log alpha,    s = score(x, t_min).

Where the data's density varies over a distance ell the next order is smaller by (tau/ell)^2.

References: Song et al. 2021, Maximum likelihood training of score-based diffusion models, arXiv:2101.09258, sec. 3 and
app. B (the cut-off); the heat equation's form by substitution.
"""

import math

import torch
from torch import Tensor

from solvers.divergence import Divergence
from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE

# Distances held at once, in numbers.
BLOCK = 1 << 24


def mixture_log_density(x: Tensor, data: Tensor, sde: ForwardSDE, t: float) -> Tensor:
    """log of the law at t of data that are N given points, 1/N sum_i N(x; alpha x_0i, sigma^2 I); nats, (n,), float64.

    At t_max, where sigma is far above what distinguishes one point from the next, it is the law of all data that the
    points are a sample of, but for the error of their mean.

    Args:
        x: states at t, (n, ...).
        data: points x_0, (N, ...), in the units of the state.
        sde: the forward process.
        t: time.
    """
    states, centres = x.flatten(1).double(), sde.alpha(t) * data.flatten(1).double()
    var, dim = sde.sigma(t) ** 2, states.shape[1]
    rows = max(1, BLOCK // len(centres))
    parts = [torch.logsumexp(-torch.cdist(part, centres).square() / (2 * var), 1) for part in torch.split(states, rows)]
    return torch.cat(parts) - math.log(len(centres)) - dim / 2 * math.log(2 * math.pi * var)


def prior_mismatch(sde: ForwardSDE, x_end: Tensor, terminal: Tensor) -> Tensor:
    """log p_prior(x_T) - log p_t_max(x_T), nats, (n,): what log p by the prior is too large by.

    Args:
        sde: the forward process.
        x_end: states at t_max that the data were carried to, (n, ...).
        terminal: log-density of the law at t_max there, exact or by :func:`mixture_log_density`, (n,).
    """
    return sde.prior_log_prob(x_end.double()) - terminal


def smoothing(process: ReverseProcess, x: Tensor, t: float, divergence: Divergence) -> Tensor:
    """log p_t(x) - log p_0(x) to first order, nats, (n,), float64: what log p at t is too large by. One evaluation.

    Args:
        process: network and SDE.
        x: data (n, ...), taken as states at t.
        t: t_min.
        divergence: as in the solve.
    """
    score, estimates = process.score_and_divergence(x, t, divergence)
    alpha, sigma = process.sde.alpha(t), process.sde.sigma(t)
    score, x = score.double().flatten(1), x.double().flatten(1)
    curvature = estimates.double().mean(1) + score.square().sum(1)
    return sigma**2 / 2 * curvature + (1 - alpha) * (x * score).sum(1) - x.shape[1] * math.log(alpha)
