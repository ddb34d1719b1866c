"""Denoising score matching: the loss of a score model against the noise that was added.

With x_t = alpha x_0 + sigma z, z ~ N(0, I), and w the weighting (:mod:`pretrained.objectives.weighting`),

    loss = w(t) |score(x_t, t) + z/sigma|^2 = w(t)/sigma^2 |noise(x_t, t) - z|^2,

averaged (``mean``) or summed and halved (``half_sum``) over the coordinates. Its expectation over z and x_0 is least at
the exact score. The second form is the one computed: it stays finite as sigma -> 0.

Reference: Vincent 2011, A connection between score matching and denoising autoencoders, Neural Computation 23(7).
"""

from typing import Literal

from torch import Tensor

from pretrained.objectives.weighting import Weighting, noise_weight
from solvers.process import ReverseProcess

Reduction = Literal["mean", "half_sum"]


def reduce(values: Tensor, reduction: Reduction) -> Tensor:
    """Mean, or half the sum, over the coordinates of each sample; values (n, ...), result (n,)."""
    flat = values.flatten(1)
    return flat.mean(1) if reduction == "mean" else flat.sum(1) / 2


def denoising_loss(
    process: ReverseProcess,
    x_0: Tensor,
    t: Tensor,
    z: Tensor,
    weighting: Weighting,
    reduction: Reduction,
    data_std: float = 1.0,
) -> Tensor:
    """Denoising score matching loss of each sample, shape (n,), differentiable in the network's parameters.

    Args:
        process: the score model.
        x_0: data in the units of the state, (n, ...).
        t: times (n,), float64 where possible: the coefficients are computed in its precision.
        z: standard normals, shape of x_0.
        weighting: see :mod:`pretrained.objectives.weighting`.
        reduction: over the coordinates, ``mean`` or ``half_sum``.
        data_std: standard deviation of the data, for weighting ``edm``.
    """
    mean, std = process.sde.marginal(x_0, t)
    per_sample = reduce((process.noise(mean + std * z, t) - z).square(), reduction)
    if weighting == "sigma2":
        return per_sample
    return per_sample * noise_weight(weighting, process.sde, t, data_std).to(per_sample.dtype)
