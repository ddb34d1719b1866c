"""Finite-difference sliced score matching: projected derivatives from values alone, no derivative of a derivative.

At x+ = x + h v and x- = x - h v, h = distance sigma(t), with n+ and n- the noise there,

    v . n        ~  v . (n+ + n-)/2
    v . (dn/dx) v  ~  v . (n+ - n-)/(2 h)

in the formulas of :mod:`pretrained.objectives.sliced`; the variance-reduced form takes |n+ + n-|^2/4 for |n|^2. Both
points pass through the network as one batch. A network that has an energy, score = -grad E, needs no gradient at all
(E+, E- and E, three points as one batch; there is no variance-reduced form then):

    v . n        ~  sigma (E+ - E-)/(2 h)
    sigma v . (dn/dx) v  ~  sigma^2 (E+ + E- - 2 E)/h^2

Errors of order h^2; none where the score is linear. Rounding grows as 1/h, for energies as 1/h^2.

Reference: Pang et al. 2020, Efficient learning of generative models via finite-difference score matching,
arXiv:2007.03317, sec. 3 and 4.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pretrained.networks.settings import Count, Positive
from pretrained.objectives.directions import Directions, draw_directions
from pretrained.objectives.objective import Objective, inner
from solvers.process import ReverseProcess
from solvers.sde import expand

Energy = Callable[[Tensor, Tensor], Tensor]


class FiniteDifference(Objective):
    """See above.

    Args:
        directions: law of v.
        count: directions a sample, whose e are averaged.
        variance_reduced: replace (v . n)^2 by its mean over v; without effect on energies.
        distance: h/sigma, dimensionless.
    """

    name: Literal["finite_difference"] = "finite_difference"
    directions: Directions = "rademacher"
    count: Count = 1
    variance_reduced: bool = True
    distance: Positive = 0.1

    def error(self, process: ReverseProcess, x: Tensor, t: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
        energy = getattr(process.network, "energy", None)
        sigma = process.sde.sigma(t).to(x.dtype)
        total = torch.zeros_like(sigma)
        for _ in range(self.count):
            v = draw_directions(self.directions, x, generator)
            step = expand(self.distance * sigma, x) * v
            total = total + (
                self._by_noise(process, x, t, v, step)
                if energy is None
                else self._by_energy(process, energy, x, t, step)
            )
        return total / self.count + x[0].numel()

    def _by_noise(self, process: ReverseProcess, x: Tensor, t: Tensor, v: Tensor, step: Tensor) -> Tensor:
        ahead, behind = process.noise(torch.cat([x + step, x - step]), torch.cat([t, t])).chunk(2)
        middle = (ahead + behind) / 2
        square = inner(middle, middle) if self.variance_reduced else inner(v, middle).square()
        return square - inner(v, ahead - behind) / self.distance

    def _by_energy(self, process: ReverseProcess, energy: Energy, x: Tensor, t: Tensor, step: Tensor) -> Tensor:
        points = torch.cat([x + step, x - step, x])
        ahead, behind, here = energy(points, torch.cat([t, t, t]).to(x.dtype)).chunk(3)
        process.evaluations.count(len(points), None)
        first, second = (ahead - behind) / 2, ahead + behind - 2 * here
        return (first.square() - 2 * second) / self.distance**2
