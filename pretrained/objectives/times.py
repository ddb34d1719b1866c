"""The law of the times, or noise levels, that a loss is taken at: each turns uniform numbers into times.

Stratified uniform numbers (one in each of n equal parts) so become stratified times.
"""

import math
from abc import abstractmethod
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from pretrained.networks.settings import Fraction, Positive, Section
from solvers.errors import UsageError
from solvers.sde import VE, VP, ForwardSDE


class TimeLaw(Section):
    """A law of times."""

    def draw(self, sde: ForwardSDE, uniform: Tensor, t_min: float) -> Tensor:
        """Times (n,), float64, from uniform numbers u in [0, 1), shape (n,).

        Args:
            sde: the forward process.
            uniform: u.
            t_min: earliest time, for laws on [t_min, t_max].
        """
        return self._times(sde, uniform.double(), t_min)

    def check(self, sde: ForwardSDE) -> None:
        """Refuses a process that the law is not of.

        Raises:
            UsageError: it is another's.
        """

    def correction(self, sde: ForwardSDE, t: Tensor, t_min: float) -> Tensor:
        """What the loss at times t (n,) is multiplied by."""
        return torch.ones_like(t)

    @abstractmethod
    def _times(self, sde: ForwardSDE, u: Tensor, t_min: float) -> Tensor:
        """Times of u in double precision."""


class Uniform(TimeLaw):
    """t = u (t_max - t_min) + t_min."""

    law: Literal["uniform"] = "uniform"

    def _times(self, sde: ForwardSDE, u: Tensor, t_min: float) -> Tensor:
        return u * (sde.t_max - t_min) + t_min


class LogSNR(TimeLaw):
    """lam uniform between its values at both ends: the density g^2/sigma^2 in t, since g^2 dt = -2 sigma^2 dlam.

    With weighting ``sigma2`` the expected loss is that of ``uniform`` with ``likelihood`` up to a factor, at a far
    smaller variance. Its distribution function lam(t_min) - lam(t) is inverted in closed form.
    """

    law: Literal["log_snr"] = "log_snr"

    def _times(self, sde: ForwardSDE, u: Tensor, t_min: float) -> Tensor:
        return _by_lam(sde, u, t_min)


class Importance(TimeLaw):
    """Times of ``log_snr``, the loss divided by their density: its expectation is that of ``uniform``.

    With weighting ``likelihood`` every time then counts the same, 2 (lam(t_min) - lam(t_max))/(t_max - t_min), and the
    variance is the least that a law can give where the noise is predicted equally well at all times.

    Reference: Song et al. 2021, arXiv:2101.09258, sec. 5.1.
    """

    law: Literal["importance"] = "importance"

    def _times(self, sde: ForwardSDE, u: Tensor, t_min: float) -> Tensor:
        return _by_lam(sde, u, t_min)

    def correction(self, sde: ForwardSDE, t: Tensor, t_min: float) -> Tensor:
        total = 2 * (sde.lam(t_min) - sde.lam(sde.t_max)) / (sde.t_max - t_min)
        return total * sde.sigma(t) ** 2 / sde.diffusion_squared(t)


class LogNormal(TimeLaw):
    """log(sigma/alpha) ~ N(mean, deviation^2), but for a share ``tails`` of the draws: uniform over the whole range.

    Nearly all that a network can learn of images lies within a few deviations, and there EDM trains it. Samplers and
    likelihoods ask further out, where a network that was never trained may answer anything: sigma/alpha of VP runs from
    1e-3 at t = 1e-5 to 152, that of sub-VP down to 1e-4 at t = 1e-3. Draws of either kind stay in the range.

    Reference: Karras et al. 2022, arXiv:2206.00364, table 1 (the log-normal law alone: ``tails: 0``).

    Args:
        mean: of log(sigma/alpha).
        deviation: of log(sigma/alpha).
        tails: share of draws from the whole range.
        lowest: end of the range, sigma/alpha in units of x_0.
        highest: its other end.
    """

    law: Literal["log_normal"] = "log_normal"
    mean: float = -0.8
    deviation: Positive = 1.2
    tails: Fraction = 0.0
    lowest: Positive = 1e-4
    highest: Positive = 160.0

    def _times(self, sde: ForwardSDE, u: Tensor, t_min: float) -> Tensor:
        low, high = math.log(self.lowest), math.log(self.highest)
        # One uniform number chooses the part and then the place in it, so that stratified ones stratify both.
        inner = ((u - self.tails) / (1 - self.tails)).clamp(min=0)
        middle: Tensor = (self.mean + self.deviation * torch.special.ndtri(inner)).clamp(low, high)
        if self.tails:
            middle = torch.where(u < self.tails, low + (u / self.tails) * (high - low), middle)
        return sde.t_of_lam(-middle)


class NCSN(TimeLaw):
    """One of ``count`` noise levels of VE in geometric progression, sigma_min ... sigma_max, all as likely.

    Reference: Song & Ermon 2019, arXiv:1907.05600, sec. 4.2.
    """

    law: Literal["ncsn"] = "ncsn"
    count: Annotated[int, Field(ge=2)] = 1000

    def check(self, sde: ForwardSDE) -> None:
        if not isinstance(sde, VE) or sde.base is not None:
            raise UsageError(
                "times ncsn", "the process is ve with two noise levels", sde.name, "Choose it or other times"
            )

    def _times(self, sde: ForwardSDE, u: Tensor, t_min: float) -> Tensor:
        first, last = sde.lam(0.0), sde.lam(sde.t_max)
        index = (u * self.count).floor().clamp(max=self.count - 1)
        return sde.t_of_lam(first + index / (self.count - 1) * (last - first))


class DDPM(TimeLaw):
    """One of the ``count`` noise levels of DDPM's chain, all as likely, at the times of VP with the same alpha/sigma.

    alpha_i^2 = prod_{j <= i} (1 - beta_j),  beta_j from beta_min/count to beta_max/count in equal steps: at
    beta_min = 0.1, beta_max = 20 and a thousand levels Ho et al.'s 1e-4 ... 0.02. The last lies at t = 1.003.

    Reference: Ho et al. 2020, arXiv:2006.11239, sec. 2 and 4.
    """

    law: Literal["ddpm"] = "ddpm"
    count: Annotated[int, Field(ge=2)] = 1000

    def check(self, sde: ForwardSDE) -> None:
        if sde.name != "vp":
            raise UsageError("times ddpm", "the process is vp", sde.name, "Choose it or other times")
        assert isinstance(sde, VP)
        if self.count <= sde.beta_max:
            rule = f"count is more than beta_max, {sde.beta_max:g}: every beta_j of the chain is below 1"
            raise UsageError("times ddpm", rule, self.count, "Take more levels")

    def _times(self, sde: ForwardSDE, u: Tensor, t_min: float) -> Tensor:
        assert isinstance(sde, VP)
        beta = torch.linspace(sde.beta_min, sde.beta_max, self.count, dtype=torch.float64) / self.count
        log_alpha2 = torch.log1p(-beta).cumsum(0)
        lam = (log_alpha2 - torch.log(-torch.expm1(log_alpha2))) / 2
        index = (u * self.count).long().clamp(max=self.count - 1)
        return sde.t_of_lam(lam.to(u.device)[index])


def _by_lam(sde: ForwardSDE, u: Tensor, t_min: float) -> Tensor:
    """Times with lam uniform."""
    first, last = sde.lam(t_min), sde.lam(sde.t_max)
    lam: Tensor = first + u * (last - first)
    return sde.t_of_lam(lam).clamp(t_min, sde.t_max)


def _named(value: Any) -> Any:
    """A law's bare name stands for it with its defaults."""
    return {"law": value} if isinstance(value, str) else value


Laws = Uniform | LogSNR | Importance | LogNormal | NCSN | DDPM
Times = Annotated[Annotated[Laws, Field(discriminator="law")], BeforeValidator(_named)]
