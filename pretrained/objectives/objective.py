"""What every objective has in common: noised data, the weighting, the reduction.

All of them measure the squared error of the predicted noise, e = |noise(x_t, t) - z|^2 with x_t = alpha x_0 + sigma z,
or something of the same expectation for every network: by Stein's identity E[z . n] = sigma E[div n],

    E |n - z|^2 = E[ |n|^2 - 2 sigma div n ] + D,        n = noise(x_t, t) = -sigma score,

which is D plus 2 sigma^2 times Hyvarinen's  |score|^2/2 + div score  and needs no z. The losses of all objectives can
so be compared. Each is

    loss = w(t)/sigma^2 e,        averaged over the D coordinates (``mean``) or halved (``half_sum``).

References: Hyvarinen 2005, Estimation of non-normalized statistical models by score matching, JMLR 6; Vincent 2011, A
connection between score matching and denoising autoencoders, Neural Computation 23(7).
"""

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from pretrained.networks.settings import Section
from pretrained.objectives.weighting import Weighting, noise_weight
from solvers.process import ReverseProcess

Reduction = Literal["mean", "half_sum"]


class Objective(Section):
    """A loss whose expectation is least at the exact score of x_t."""

    def loss(
        self,
        process: ReverseProcess,
        x_0: Tensor,
        t: Tensor,
        z: Tensor,
        generator: torch.Generator,
        weighting: Weighting = "sigma2",
        reduction: Reduction = "mean",
        data_std: float = 1.0,
    ) -> Tensor:
        """Loss of each sample, (n,), differentiable in the network's parameters.

        Args:
            process: the score model.
            x_0: data in the units of the state, (n, ...).
            t: times (n,), float64 where possible: the coefficients are computed in its precision.
            z: standard normals, shape of x_0.
            generator: of what else an objective draws, on the CPU.
            weighting: see :mod:`pretrained.objectives.weighting`.
            reduction: over the coordinates, ``mean`` or ``half_sum``.
            data_std: standard deviation of the data, for weighting ``edm``.
        """
        mean, std = process.sde.marginal(x_0, t)
        error = self.error(process, mean + std * z, t, z, generator)
        per_sample = error / x_0[0].numel() if reduction == "mean" else error / 2
        return per_sample * noise_weight(weighting, process.sde, t, data_std).to(per_sample.dtype)

    @abstractmethod
    def error(self, process: ReverseProcess, x: Tensor, t: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
        """e of each sample, (n,); x (n, ...) the states at t, (n,), and z the noise in them."""


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Sum over the coordinates of the product, (n,)."""
    return (a * b).flatten(1).sum(1)
