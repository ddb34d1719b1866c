"""Preconditioning: a network whose input and target have unit scale at every noise level becomes a noise predictor.

For data of standard deviation s the total scale of x_t is  root(t)^2 = alpha^2 s^2 + sigma^2, and

    noise(x, t) = (sigma x / root - alpha s F(x / root, lam)) / root,        lam = log(alpha/sigma).

It is EDM's network written for the noise. With y = x/alpha and r = sigma/alpha = e^-lam the denoised is

    D(y; r) = c_skip y + c_out F(c_in y, lam),
    c_skip = s^2/(r^2 + s^2),    c_out = r s/(r^2 + s^2)^(1/2),    c_in = (r^2 + s^2)^(-1/2),

and EDM's c_noise = log(r)/4 is -lam/4. F's target has unit variance for all t, F = 0 is the exact answer for data
N(0, s^2 I), and neither end cancels (the denoiser's form x - alpha D loses all digits as sigma -> 0). F sees the time
through r alone: one core serves every process, D(x/alpha(t); sigma(t)/alpha(t)).

Reference: Karras et al. 2022, arXiv:2206.00364, table 1 and app. B.6.
"""

from torch import Tensor, nn

from pretrained.networks.conservative import Conservative
from solvers.sde import ForwardSDE, expand


class Preconditioned(nn.Module):
    """A noise predictor ``network(x, t)`` around a core ``F(x / root, lam)``.

    Args:
        core: x / root (n, ...) and lam (n,) to a prediction, shape of x.
        sde: the forward process.
        data_std: s, standard deviation of x_0 about zero, units of x.
    """

    def __init__(self, core: nn.Module, sde: ForwardSDE, data_std: float) -> None:
        super().__init__()
        self.core = core
        self.sde = sde
        self.data_std = data_std

    def under(self, sde: ForwardSDE) -> "Preconditioned":
        """The same core as a noise predictor under another process."""
        return type(self)(self.core, sde, self.data_std).train(self.training)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Noise E[z | x_t = x], shape of x.

        Args:
            x: states (n, ...).
            t: times (n,).
            labels: classes (n,), for a core that takes them as its third argument.
        """
        signal, sigma = self.sde.alpha(t) * self.data_std, self.sde.sigma(t)
        root = (signal.square() + sigma.square()).sqrt()
        scaled = x / expand(root, x)
        lam = self.sde.lam(t)
        core = self.core(scaled, lam) if labels is None else self.core(scaled, lam, labels)
        noise: Tensor = expand(sigma / root, x) * scaled - expand(signal / root, x) * core
        return noise


class PreconditionedEnergy(Preconditioned):
    """The same around a core that is a gradient: noise = sigma grad_x energy, score = -grad_x energy."""

    core: Conservative

    def energy(self, x: Tensor, t: Tensor) -> Tensor:
        """E(x, t) = |x / root|^2/2 + (alpha s/sigma) psi(x / root, lam), (n,), up to a function of t."""
        signal, sigma = self.sde.alpha(t) * self.data_std, self.sde.sigma(t)
        scaled = x / expand((signal.square() + sigma.square()).sqrt(), x)
        psi = self.core.potential(scaled, self.sde.lam(t))
        energy: Tensor = scaled.square().flatten(1).sum(1) / 2 + (signal / sigma).to(x.dtype) * psi
        return energy
