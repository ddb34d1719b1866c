"""Score matching with the exact trace, for low dimension:  e = |n|^2 - 2 sigma div n + D,  n = noise(x, t).

The divergence takes one derivative pass for each of the D coordinates.

Reference: Hyvarinen 2005, Estimation of non-normalized statistical models by score matching, JMLR 6, thm. 1.
"""

from typing import Literal

import torch
from torch import Tensor

from pretrained.objectives.objective import Objective, inner
from solvers.errors import UsageError
from solvers.process import ReverseProcess

DIMENSION = 100


class Exact(Objective):
    """See above.

    Raises:
        UsageError: more than 100 dimensions, when the loss is taken.
    """

    name: Literal["exact"] = "exact"

    def error(self, process: ReverseProcess, x: Tensor, t: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
        dimension = x[0].numel()
        if dimension > DIMENSION:
            raise UsageError("objective exact", f"at most {DIMENSION} dimensions", dimension, "Choose 'sliced'")
        x = x.detach().requires_grad_()
        noise = process.noise(x, t)
        total = noise.flatten(1).sum(0)
        rows = (torch.autograd.grad(column, x, create_graph=True)[0].flatten(1)[:, i] for i, column in enumerate(total))
        process.evaluations.derivative_passes += dimension
        divergence = torch.stack(list(rows)).sum(0)
        return inner(noise, noise) - 2 * process.sde.sigma(t).to(x.dtype) * divergence + dimension
