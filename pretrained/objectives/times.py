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
from solvers.sde import ForwardSDE


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
        first, last = sde.lam(t_min), sde.lam(sde.t_max)
        return sde.t_of_lam(first + u * (last - first)).clamp(t_min, sde.t_max)


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
        middle = (self.mean + self.deviation * torch.special.ndtri(inner)).clamp(low, high)
        if self.tails == 0:
            return sde.t_of_lam(-middle)
        outer = low + (u / self.tails) * (high - low)
        return sde.t_of_lam(-torch.where(u < self.tails, outer, middle))


def _named(value: Any) -> Any:
    """A law's bare name stands for it with its defaults."""
    return {"law": value} if isinstance(value, str) else value


Times = Annotated[Annotated[Uniform | LogSNR | LogNormal, Field(discriminator="law")], BeforeValidator(_named)]
