"""From time to what the networks of Karras et al. are told, c_noise, a function of the noise level sigma:

    EDM   log(sigma) / 4              F of the preconditioning of data of standard deviation 0.5
    VP    999 t                       the noise, see :class:`pretrained.networks.labelled.Labelled`
    VE    log(sigma / 2)              minus the noise: the denoised image is x + sigma F

Positional features are made of c_noise, Fourier features too: not of its logarithm, as in NCSN++.

Reference: Karras et al. 2022, arXiv:2206.00364, table 1.
"""

from torch import Tensor, nn

from solvers.sde import VE


class EDMCore(nn.Module):
    """``core(x, c_noise)`` as the core of a :class:`pretrained.networks.precondition.Preconditioned` network."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, scaled: Tensor, lam: Tensor) -> Tensor:
        """F, shape of x; x over its scale (n, ...), lam = -log(sigma) (n,)."""
        prediction: Tensor = self.core(scaled, -lam / 4)
        return prediction


class VELabelled(nn.Module):
    """A noise predictor ``network(x, t)`` around ``core(x, c_noise)`` under VE for data in [-1, 1]."""

    def __init__(self, core: nn.Module, sde: VE) -> None:
        super().__init__()
        self.core = core
        self.sde = sde

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noise, shape of x; x (n, ...), t (n,)."""
        noise: Tensor = -self.core(x, (self.sde.sigma(t) / 2).log())
        return noise
