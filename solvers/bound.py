"""The variational bound: an upper bound of -log p(x_0) under the reverse SDE, from the denoising loss.

With lam = log(alpha/sigma), x_t = alpha x_0 + sigma z and tau = sigma/alpha at t_min,

    -log p(x_0) <= KL(N(alpha x_0, sigma^2 I) at t_max || prior)
                   + integral of E |noise(x_t, t) - z|^2 over lam from lam(t_max) to lam(t_min)
                   + E |noise(x_t, t) - z|^2 / 2 + D/2 log(2 pi tau^2) at t_min.

The last line is a decoder N(denoised(x_t_min), tau^2 I). In continuous time an exact score leaves no gap beyond the
decoder's and the prior's; a trained one is bounded by more than the density of its probability flow, which is another
model with the same score.

At high lam the prediction is small beside z and |noise - z|^2 is |z|^2, whose mean D is known: w (|z|^2 - D) is taken
off, w = 1/(1 + (tau/s)^2)^2, its factor where the data is spread by s about their mean. Any s leaves the mean as it is.

References: Kingma et al. 2021, Variational Diffusion Models, arXiv:2107.00630, eq. 11 and 15; Song et al. 2021,
arXiv:2101.09258, theorem 3 (the same bound in the score).
"""

import math

import torch
from torch import Tensor

from solvers.normals import Normals
from solvers.process import ReverseProcess


def variational_bound(
    process: ReverseProcess, x_0: Tensor, normals: Normals, draws: int, spread: float = 0.3
) -> Tensor:
    """Unbiased estimates of the bound on -log p(x_0), nats, (n,), float64; ``draws`` + 1 evaluations a sample.

    lam is drawn in ``draws`` equal strata of its range, all shifted by one uniform a sample. Estimates of different
    samples are independent, so their spread over the samples gives the mean's standard error.

    Args:
        process: network and SDE.
        x_0: data in the units of the state, (n, ...).
        normals: randomness of these samples.
        draws: times a sample.
        spread: s, units of x; for dequantised data the width of a bin.
    """
    sde = process.sde
    low, high = sde.lam(sde.t_max), sde.lam(sde.t_min_likelihood)
    uniform = normals.uniform("bound").double()
    total = torch.zeros_like(uniform)
    with torch.no_grad():
        for k in range(draws):
            t = sde.t_of_lam(low + (high - low) * (k + uniform) / draws).clamp(sde.t_min_likelihood, sde.t_max)
            total += _square(process, x_0, t, normals.normal(f"bound {k}"), spread)
        last = torch.full_like(uniform, sde.t_min_likelihood)
        decoding = _square(process, x_0, last, normals.normal("bound, decoder"), spread) / 2
    dim = x_0[0].numel()
    decoding += dim / 2 * math.log(2 * math.pi) - dim * high
    return _prior_part(process, x_0) + (high - low) / draws * total + decoding


def _square(process: ReverseProcess, x_0: Tensor, t: Tensor, z: Tensor, spread: float) -> Tensor:
    """|noise(x_t, t) - z|^2 - w (|z|^2 - D) of each sample, (n,), float64."""
    sde = process.sde
    mean, std = sde.marginal(x_0, t)
    miss = (process.noise(mean + std * z, t) - z).double().square().flatten(1).sum(1)
    weight = (1 + (torch.exp(-sde.lam(t)) / spread) ** 2) ** -2
    return miss - weight * (z.double().square().flatten(1).sum(1) - x_0[0].numel())


def _prior_part(process: ReverseProcess, x_0: Tensor) -> Tensor:
    """KL(N(alpha x_0, sigma^2 I) || N(0, s^2 I)), nats, (n,)."""
    sde = process.sde
    ratio = (sde.sigma(sde.t_max) / sde.prior_std) ** 2
    square = (sde.alpha(sde.t_max) / sde.prior_std * x_0.double()).square().flatten(1).sum(1)
    return (square + x_0[0].numel() * (ratio - 1 - math.log(ratio))) / 2
