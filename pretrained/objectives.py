"""Denoising score matching: the loss of a score model against the noise that was added.

With x_t = alpha x_0 + sigma z, z ~ N(0, I), and w the weighting,

    loss = w(t) |score(x_t, t) + z/sigma|^2 = w(t)/sigma^2 |noise(x_t, t) - z|^2,

averaged (``mean``) or summed and halved (``half_sum``) over the coordinates. Its expectation over z and x_0 is least at
the exact score. The second form is the one computed: it stays finite as sigma -> 0.

References: Vincent 2011, A connection between score matching and denoising autoencoders; Song et al. 2021,
arXiv:2011.13456, eq. 7 (``sigma2``); Song et al. 2021, Maximum likelihood training of score-based diffusion models,
arXiv:2101.09258 (``likelihood``, and its importance sampling of t).
"""

from typing import Literal

import torch
from torch import Tensor

from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE, expand

Weighting = Literal["sigma2", "likelihood", "unit"]
Reduction = Literal["mean", "half_sum"]
TimeLaw = Literal["uniform", "log_snr"]


def draw_times(sde: ForwardSDE, uniform: Tensor, t_min: float, law: TimeLaw) -> Tensor:
    """Training times in [t_min, t_max] from uniform numbers, float64, shape (n,).

    ``uniform``: t = u (t_max - t_min) + t_min. ``log_snr``: lam uniform between its values at both ends, the density
    g^2/sigma^2 in t; with weighting ``sigma2`` the expected loss is then that of ``uniform`` with ``likelihood`` up to
    a factor, at a far smaller variance.

    Args:
        sde: the forward process.
        uniform: u in [0, 1), shape (n,).
        t_min: earliest time.
        law: see above.
    """
    u = uniform.double()
    if law == "uniform":
        return u * (sde.t_max - t_min) + t_min
    first, last = sde.lam(t_min), sde.lam(sde.t_max)
    return sde.t_of_lam(first + u * (last - first)).clamp(t_min, sde.t_max)


def denoising_loss(
    process: ReverseProcess, x_0: Tensor, t: Tensor, z: Tensor, weighting: Weighting, reduction: Reduction
) -> Tensor:
    """Denoising score matching loss of each sample, shape (n,), differentiable in the network's parameters.

    Args:
        process: the score model.
        x_0: data in the units of the state, (n, ...).
        t: times (n,), float64 where possible: the coefficients are computed in its precision.
        z: standard normals, shape of x_0.
        weighting: ``sigma2`` w = sigma^2, ``likelihood`` w = g^2, ``unit`` w = 1.
        reduction: over the coordinates, ``mean`` or ``half_sum``.
    """
    sde = process.sde
    mean, std = sde.marginal(x_0, t)
    square = (process.noise(mean + std * z, t) - z).square().flatten(1)
    per_sample = square.mean(1) if reduction == "mean" else square.sum(1) / 2
    if weighting == "sigma2":
        return per_sample
    weight = sde.diffusion_squared(t) if weighting == "likelihood" else torch.ones_like(t)
    scaled: Tensor = per_sample * expand(weight / sde.sigma(t) ** 2, per_sample)
    return scaled
