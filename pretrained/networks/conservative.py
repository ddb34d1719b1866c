"""A core that is a gradient, so that the score is one too: score = -grad_x E(x, t).

With the scalar  psi(u) = <u, G(u, lam)>  of any core G, the core  F(u, lam) = -grad_u psi(u)  goes into the
preconditioning (:mod:`pretrained.networks.precondition`) with u = x/root, and the noise is sigma grad_x E of the energy

    E(x, t) = |u|^2/2 + (alpha s/sigma) psi(u).

psi = 0 is the energy of Gaussian data. Every prediction costs one derivative pass more, also under ``no_grad``.

Reference: Salimans & Ho 2021, Should EBMs model the energy or the score?, ICLR workshop on energy-based models.
"""

import torch
from torch import Tensor, nn


class Conservative(nn.Module):
    """F(u, lam) = -grad_u <u, G(u, lam)>.

    Args:
        core: G, with second derivatives; samples of a batch must not depend on each other.
    """

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def potential(self, scaled: Tensor, lam: Tensor, labels: Tensor | None = None) -> Tensor:
        """psi, (n,); arguments as for the core."""
        value = self.core(scaled, lam) if labels is None else self.core(scaled, lam, labels)
        psi: Tensor = (scaled * value).flatten(1).sum(1)
        return psi

    def forward(self, scaled: Tensor, lam: Tensor, labels: Tensor | None = None) -> Tensor:
        """-grad psi, shape of ``scaled``; differentiable itself where gradients are being recorded."""
        recording = torch.is_grad_enabled()
        with torch.enable_grad():
            u = scaled if recording and scaled.requires_grad else scaled.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.potential(u, lam, labels).sum(), u, create_graph=recording)
        return -slope
