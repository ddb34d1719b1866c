"""How much each time counts in a loss.

A denoising loss is  w(t) |score + z/sigma|^2 = w/sigma^2 |noise - z|^2:

    sigma2:      w = sigma^2                 every time's noise counts the same
    likelihood:  w = g^2                     the integral over t bounds the Kullback-Leibler divergence from above
    unit:        w = 1                       the score's own error
    edm:         w = sigma^2 (1 + r^2/s^2)   r = sigma/alpha: EDM's (r^2 + s^2)/(r s)^2 on the error of the denoised

with s the standard deviation of the data. Under ``edm`` the preconditioned core has a target of unit variance at every
time, see :mod:`pretrained.networks.precondition`.

References: Song et al. 2021, arXiv:2011.13456, eq. 7 (``sigma2``); Song et al. 2021, Maximum likelihood training of
score-based diffusion models, arXiv:2101.09258, thm. 1 (``likelihood``); Karras et al. 2022, arXiv:2206.00364, table 1
(``edm``).
"""

from typing import Literal

import torch
from torch import Tensor

from solvers.sde import ForwardSDE

Weighting = Literal["sigma2", "likelihood", "unit", "edm"]


def noise_weight(weighting: Weighting, sde: ForwardSDE, t: Tensor, data_std: float = 1.0) -> Tensor:
    """w/sigma^2, the weight of the squared error of the noise, shape of t.

    Args:
        weighting: see above.
        sde: the forward process.
        t: times, any shape.
        data_std: s of ``edm``, units of x_0.
    """
    if weighting == "sigma2":
        return torch.ones_like(t)
    if weighting == "edm":
        return 1 + (-2 * sde.lam(t)).exp() / data_std**2
    weight = sde.diffusion_squared(t) if weighting == "likelihood" else 1
    return weight / sde.sigma(t) ** 2
