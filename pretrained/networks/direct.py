"""A network that predicts score, noise, denoised or velocity itself: the core's answer in the scale of the quantity.

    network(x, t) = c(t) F(x / root, lam),       root^2 = alpha^2 s^2 + sigma^2,       lam = log(alpha/sigma)

    score:     c = 1/sigma
    noise:     c = 1
    denoised:  c = s
    velocity:  c^2 = (alpha' s)^2 + sigma'^2         since velocity = alpha' denoised + sigma' noise

for data of standard deviation s: what F has to learn is of order one at every time. Unlike the preconditioned network
(:mod:`pretrained.networks.precondition`) F = 0 is no useful answer, and an error of the noise is a large one of the
denoised where sigma/alpha is large, the other way round where it is small.

References: Salimans & Ho 2022, arXiv:2202.00512, sec. 4 and app. D (which prediction); Song et al. 2021,
arXiv:2011.13456, app. H (the score over sigma).
"""

from torch import Tensor, nn

from solvers.process import Parametrisation
from solvers.sde import ForwardSDE, expand


class Direct(nn.Module):
    """See above.

    Args:
        core: x / root (n, ...) and lam (n,) to a prediction, shape of x.
        sde: the forward process.
        data_std: s, standard deviation of x_0 about zero, units of x.
        parametrisation: what is predicted.
    """

    def __init__(self, core: nn.Module, sde: ForwardSDE, data_std: float, parametrisation: Parametrisation) -> None:
        super().__init__()
        self.core = core
        self.sde = sde
        self.data_std = data_std
        self.parametrisation = parametrisation

    def scale(self, t: Tensor) -> Tensor:
        """c of the times (n,)."""
        sde, s = self.sde, self.data_std
        if self.parametrisation == "velocity":
            f, sigma = sde.drift_coefficient(t), sde.sigma(t)
            rise = sde.diffusion_squared(t) / (2 * sigma) + f * sigma
            return ((f * sde.alpha(t) * s).square() + rise.square()).sqrt()
        if self.parametrisation == "score":
            return 1 / sde.sigma(t)
        return t.new_full((), s if self.parametrisation == "denoised" else 1.0).expand(t.shape)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The prediction, shape of x.

        Args:
            x: states (n, ...).
            t: times (n,).
            labels: classes (n,), for a core that takes them as its third argument.
        """
        root = ((self.sde.alpha(t) * self.data_std).square() + self.sde.sigma(t).square()).sqrt()
        scaled, lam = x / expand(root, x), self.sde.lam(t)
        core = self.core(scaled, lam) if labels is None else self.core(scaled, lam, labels)
        prediction: Tensor = expand(self.scale(t), x) * core
        return prediction
