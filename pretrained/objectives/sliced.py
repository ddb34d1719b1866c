"""Sliced score matching: the divergence projected on random directions v (:mod:`pretrained.objectives.directions`).

    e = (v . n)^2 - 2 sigma v . (dn/dx) v + D                  n = noise(x, t)
    e = |n|^2     - 2 sigma v . (dn/dx) v + D                  variance-reduced: (v . n)^2 by its mean over v

Both have one mean over v. Their variance over v is that of v . A v (see there), A = n n^T - 2 sigma dn/dx or, reduced,
A = -2 sigma dn/dx: what n n^T adds is 2 D (D - 1) with signs where the noise drowns the data and n is normal.

(dn/dx)^T v is one derivative pass in reverse mode, which the backward pass differentiates once more: samples of a batch
must not depend on each other, and the network needs second derivatives.

Reference: Song et al. 2019, Sliced score matching, arXiv:1905.07088, eq. 8 and sec. 3.1 (SSM, SSM-VR).
"""

from typing import Literal

import torch
from torch import Tensor

from pretrained.networks.settings import Count
from pretrained.objectives.directions import Directions, draw_directions
from pretrained.objectives.objective import Objective, inner
from solvers.process import ReverseProcess


class Sliced(Objective):
    """See above.

    Args:
        directions: law of v.
        count: directions a sample, whose e are averaged.
        variance_reduced: the second form.
    """

    name: Literal["sliced"] = "sliced"
    directions: Directions = "rademacher"
    count: Count = 1
    variance_reduced: bool = True

    def error(self, process: ReverseProcess, x: Tensor, t: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
        x = x.detach().requires_grad_()
        noise = process.noise(x, t)
        sigma = process.sde.sigma(t).to(x.dtype)
        total = torch.zeros_like(sigma)
        for _ in range(self.count):
            v = draw_directions(self.directions, x, generator)
            projected = inner(v, noise)
            (slope,) = torch.autograd.grad(projected.sum(), x, create_graph=True)
            process.evaluations.derivative_passes += 1
            total = total - 2 * sigma * inner(v, slope)
            if not self.variance_reduced:
                total = total + projected.square()
        square = inner(noise, noise) if self.variance_reduced else 0.0
        return square + total / self.count + x[0].numel()
