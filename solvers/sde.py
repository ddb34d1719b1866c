"""Forward processes: affine Gaussian SDEs  dx = f(t) x dt + g(t) dw,  x_t | x_0 ~ N(alpha(t) x_0, sigma(t)^2 I).

Every coefficient takes a time as a Python float (computed in double precision by ``math``: a step on a fixed grid
allocates no tensor for it), as a tensor of times (one per sample), or as a NumPy array of times (those of a grid, on
which torch takes three times as long), and returns the same kind.

With lam = log(alpha/sigma) the whole family follows from alpha and sigma:

    f(t) = d log alpha / dt,        g(t)^2 = d sigma^2/dt - 2 f sigma^2 = -2 sigma^2 dlam/dt.

References: Song et al. 2021, arXiv:2011.13456, sec. 3.4 and app. C (VP, sub-VP, VE); Karras et al. 2022,
arXiv:2206.00364 (EDM); Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17 (Cosine); Liu et al. 2023, arXiv:2209.03003
(RectifiedFlow).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from solvers.errors import UsageError, unknown_name

Array = NDArray[np.float64]
Time = TypeVar("Time", float, Tensor, Array, float | Tensor)

# Where alpha vanishes lam is infinite: Cosine and RectifiedFlow start this far before the end.
OPEN_END = 1e-3


# For isinstance in every evaluation: by Tensor it takes ten times as long for a number.
NUMBER = float, int


def _lib(t: float | Tensor | Array) -> Any:
    """The module whose functions take ``t``: math for numbers, torch for tensors, NumPy for arrays."""
    if isinstance(t, NUMBER):
        return math
    return np if isinstance(t, np.ndarray) else torch


def _log_sigmoid(u: Time) -> Time:
    """log(1 / (1 + e^-u)) without overflow."""
    if isinstance(u, Tensor):
        return torch.nn.functional.logsigmoid(u)
    if isinstance(u, np.ndarray):
        return -np.logaddexp(0.0, -u)
    return min(u, 0.0) - math.log1p(math.exp(-abs(u)))


def _ones(t: Time) -> Time:
    """1, of the same kind."""
    result: Time = 1.0 if isinstance(t, NUMBER) else _lib(t).ones_like(t)
    return result


def expand(c: Any, x: Tensor) -> Any:
    """A coefficient ready to multiply ``x``: numbers as they are, one value a sample as (n, 1, ..., 1) in x's dtype."""
    if isinstance(c, Tensor) and c.ndim:
        return c.to(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
    return c


# Adding to zero takes the number as it is; a product makes a tensor of it first, in single precision 1 us of 2.4.
_ZERO = torch.zeros(())


def scaled(c: float, x: Tensor) -> Tensor:
    """c x, in a new tensor."""
    return torch.add(_ZERO, x, alpha=c)


@dataclass(frozen=True)
class ForwardSDE(ABC):
    """An affine Gaussian forward process on 0 <= t <= t_max.

    Attributes:
        t_max: end of time, where the prior is drawn.
        t_min: cut-off for sampling.
        t_min_likelihood: cut-off for likelihood.
    """

    @property
    def name(self) -> str:
        """Key of the class in :data:`SDES`."""
        return type(self).__name__.lower()

    @property
    def t_max(self) -> float:
        return 1.0

    @property
    def t_min(self) -> float:
        return 1e-3

    @property
    def t_min_likelihood(self) -> float:
        return 1e-5

    @abstractmethod
    def alpha(self, t: Time) -> Time:
        """Signal scale, dimensionless."""

    @abstractmethod
    def sigma(self, t: Time) -> Time:
        """Marginal standard deviation of the noise, in units of x."""

    @abstractmethod
    def drift_coefficient(self, t: Time) -> Time:
        """f(t) = d log alpha / dt, per unit of time."""

    @abstractmethod
    def diffusion_squared(self, t: Time) -> Time:
        """g(t)^2, squared units of x per unit of time."""

    @abstractmethod
    def lam(self, t: Time) -> Time:
        """log(alpha/sigma), decreasing in t."""

    @abstractmethod
    def t_of_lam(self, lam: Time) -> Time:
        """The time at which log(alpha/sigma) is ``lam``."""

    def levels(self, t: Time) -> tuple[Time, Time, Time]:
        """alpha, sigma and lam at once."""
        return self.alpha(t), self.sigma(t), self.lam(t)

    def diffusion(self, t: Time) -> Time:
        """g(t)."""
        result: Time = _lib(t).sqrt(self.diffusion_squared(t))
        return result

    def drift(self, x: Tensor, t: float | Tensor) -> Tensor:
        """f(t) x, shape of x."""
        result: Tensor = expand(self.drift_coefficient(t), x) * x
        return result

    def marginal(self, x_0: Tensor, t: float | Tensor) -> tuple[Tensor, Any]:
        """Mean and standard deviation of x_t given x_0."""
        return expand(self.alpha(t), x_0) * x_0, expand(self.sigma(t), x_0)

    def transition(self, t: Time, s: Time) -> tuple[Time, Time]:
        """Scale a and variance b^2 of the kernel x_t | x_s ~ N(a x_s, b^2 I), s < t.

        a = alpha(t)/alpha(s),  b^2 = sigma(t)^2 - a^2 sigma(s)^2 = sigma(t)^2 (1 - e^(2 lam(t) - 2 lam(s))).
        """
        log_ratio = self.lam(t) - self.lam(s)
        variance: Time = -(self.sigma(t) ** 2) * _lib(log_ratio).expm1(2 * log_ratio)
        return self.alpha(t) / self.alpha(s), variance

    @property
    def prior_std(self) -> float:
        """Standard deviation of the prior N(0, prior_std^2 I)."""
        return self.sigma(self.t_max)

    def prior_sample(self, unit: Tensor) -> Tensor:
        """A draw of the prior from unit normals ``unit``."""
        return self.prior_std * unit

    def prior_log_prob(self, x: Tensor) -> Tensor:
        """log density of the prior in nats, shape (n,)."""
        dim = x[0].numel()
        square = (x / self.prior_std).square().flatten(1).sum(1)
        return -square / 2 - dim * (math.log(self.prior_std) + math.log(2 * math.pi) / 2)


class _VariancePreserving(ForwardSDE):
    """Processes with alpha^2 + sigma^2 = 1 and prior N(0, I), given log alpha and its derivative."""

    @abstractmethod
    def log_alpha(self, t: Time) -> Time:
        """log of the signal scale."""

    @abstractmethod
    def t_of_log_alpha(self, log_alpha: Time) -> Time:
        """Inverse of :meth:`log_alpha`."""

    @property
    def prior_std(self) -> float:
        return 1.0

    def alpha(self, t: Time) -> Time:
        result: Time = _lib(t).exp(self.log_alpha(t))
        return result

    def sigma(self, t: Time) -> Time:
        return self._sigma(self.log_alpha(t))

    def diffusion_squared(self, t: Time) -> Time:
        return -2 * self.drift_coefficient(t)

    def lam(self, t: Time) -> Time:
        return self._lam(self.log_alpha(t))

    def levels(self, t: Time) -> tuple[Time, Time, Time]:
        log_alpha = self.log_alpha(t)
        return _lib(t).exp(log_alpha), self._sigma(log_alpha), self._lam(log_alpha)

    def t_of_lam(self, lam: Time) -> Time:
        return self.t_of_log_alpha(_log_sigmoid(2 * lam) / 2)

    def _sigma(self, log_alpha: Time) -> Time:
        lib = _lib(log_alpha)
        result: Time = lib.sqrt(-lib.expm1(2 * log_alpha))
        return result

    def _lam(self, log_alpha: Time) -> Time:
        lib = _lib(log_alpha)
        result: Time = log_alpha - lib.log(-lib.expm1(2 * log_alpha)) / 2
        return result


@dataclass(frozen=True)
class VP(_VariancePreserving):
    """Variance preserving: beta(t) = beta_min + t (beta_max - beta_min), f = -beta/2, g^2 = beta.

    Args:
        beta_min: beta(0), per unit of time.
        beta_max: beta(1), per unit of time.

    Raises:
        UsageError: a rate that is negative or not finite, or no noise at t = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not (0 <= self.beta_min < math.inf and 0 < self.beta_max < math.inf):
            rule = "beta_min is 0 or more, beta_max is positive"
            raise UsageError(type(self).__name__.lower(), rule, (self.beta_min, self.beta_max), "E.g. 0.1 and 20")

    def beta(self, t: Time) -> Time:
        """Rate of noise, per unit of time."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Time) -> Time:
        return -(t**2) * ((self.beta_max - self.beta_min) / 4) - t * (self.beta_min / 2)

    def t_of_log_alpha(self, log_alpha: Time) -> Time:
        # The root of the quadratic in the form that does not cancel for small |log alpha|.
        slope = self.beta_max - self.beta_min
        root: Time = _lib(log_alpha).sqrt(self.beta_min**2 - 4 * slope * log_alpha)
        return -4 * log_alpha / (self.beta_min + root)

    def drift_coefficient(self, t: Time) -> Time:
        return -self.beta(t) / 2


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-VP: VP's alpha with sigma = 1 - alpha^2 and g^2 = beta (1 - alpha^4)."""

    def diffusion_squared(self, t: Time) -> Time:
        result: Time = -self.beta(t) * _lib(t).expm1(4 * self.log_alpha(t))
        return result

    def t_of_lam(self, lam: Time) -> Time:
        # (1 - alpha^2)/alpha = e^-lam =: 2u, so alpha = sqrt(u^2 + 1) - u and log alpha = -asinh(u).
        result: Time = self.t_of_log_alpha(-_lib(lam).asinh(_lib(lam).exp(-lam) / 2))
        return result

    def _sigma(self, log_alpha: Time) -> Time:
        result: Time = -_lib(log_alpha).expm1(2 * log_alpha)
        return result

    def _lam(self, log_alpha: Time) -> Time:
        result: Time = log_alpha - _lib(log_alpha).log(self._sigma(log_alpha))
        return result


@dataclass(frozen=True)
class VE(ForwardSDE):
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t; or, with ``base`` b, g = b^t.

    The marginal treats the data as already smoothed by sigma(0) = sigma_min (the reference's convention). In the form
    of a base the data are not smoothed, sigma^2 = (b^(2t) - 1) / (2 ln b), and both noise levels have no meaning.

    Args:
        sigma_min: noise level at t = 0, units of x.
        sigma_max: noise level at t = 1, units of x.
        base: b, above 1, dimensionless; 25 in the tutorial of Song 2021. None for the form of the two noise levels.

    Raises:
        UsageError: a base that is not above 1, or noise levels that are not positive and rising.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    base: float | None = None

    def __post_init__(self) -> None:
        if self.base is not None and not 1 < self.base < math.inf:
            raise UsageError("ve", "base is above 1", self.base, "E.g. 25")
        _check_levels("ve", self.sigma_min, self.sigma_max)

    @property
    def t_min(self) -> float:
        return 1e-5 if self.base is None else 1e-3

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min if self.base is None else self.base)

    def alpha(self, t: Time) -> Time:
        return _ones(t)

    def sigma(self, t: Time) -> Time:
        lib, growth = _lib(t), self._log_ratio
        result: Time
        if self.base is None:
            result = self.sigma_min * lib.exp(t * growth)
        else:
            result = lib.sqrt(lib.expm1(2 * growth * t) / (2 * growth))
        return result

    def drift_coefficient(self, t: Time) -> Time:
        return 0.0 * t

    def diffusion_squared(self, t: Time) -> Time:
        if self.base is None:
            return 2 * self._log_ratio * self.sigma(t) ** 2
        result: Time = _lib(t).exp(2 * self._log_ratio * t)
        return result

    def lam(self, t: Time) -> Time:
        if self.base is None:
            return -math.log(self.sigma_min) - t * self._log_ratio
        result: Time = -_lib(t).log(self.sigma(t))
        return result

    def t_of_lam(self, lam: Time) -> Time:
        if self.base is None:
            return (-math.log(self.sigma_min) - lam) / self._log_ratio
        lib, growth = _lib(lam), self._log_ratio
        result: Time = lib.log1p(2 * growth * lib.exp(-2 * lam)) / (2 * growth)
        return result


@dataclass(frozen=True)
class EDM(ForwardSDE):
    """Karras et al.: alpha = 1, sigma(t) = t on [sigma_min, sigma_max].

    Args:
        sigma_min: cut-off, units of x.
        sigma_max: end of time, units of x.

    Raises:
        UsageError: noise levels that are not positive and rising.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _check_levels("edm", self.sigma_min, self.sigma_max)

    @property
    def t_max(self) -> float:
        return self.sigma_max

    @property
    def t_min(self) -> float:
        return self.sigma_min

    @property
    def t_min_likelihood(self) -> float:
        return self.sigma_min

    def alpha(self, t: Time) -> Time:
        return _ones(t)

    def sigma(self, t: Time) -> Time:
        return 1.0 * t

    def drift_coefficient(self, t: Time) -> Time:
        return 0.0 * t

    def diffusion_squared(self, t: Time) -> Time:
        return 2.0 * t

    def lam(self, t: Time) -> Time:
        result: Time = -_lib(t).log(t)
        return result

    def t_of_lam(self, lam: Time) -> Time:
        result: Time = _lib(lam).exp(-lam)
        return result


@dataclass(frozen=True)
class Cosine(_VariancePreserving):
    """Cosine schedule: alpha = cos(phi(t)) / cos(phi(0)), phi = (t + offset)/(1 + offset) pi/2, alpha^2 + sigma^2 = 1.

    Args:
        offset: keeps the noise rate from vanishing at t = 0, dimensionless.

    Raises:
        UsageError: an offset that is negative or not finite.
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        if not 0 <= self.offset < math.inf:
            raise UsageError("cosine", "offset is 0 or more", self.offset, "E.g. 0.008")

    @property
    def t_max(self) -> float:
        return 1 - OPEN_END

    @property
    def _rate(self) -> float:
        return math.pi / 2 / (1 + self.offset)

    def log_alpha(self, t: Time) -> Time:
        lib = _lib(t)
        result: Time = lib.log(lib.cos(self._rate * (t + self.offset))) - math.log(math.cos(self._rate * self.offset))
        return result

    def t_of_log_alpha(self, log_alpha: Time) -> Time:
        lib = _lib(log_alpha)
        result: Time = lib.acos(lib.exp(log_alpha) * math.cos(self._rate * self.offset)) / self._rate - self.offset
        return result

    def drift_coefficient(self, t: Time) -> Time:
        result: Time = -self._rate * _lib(t).tan(self._rate * (t + self.offset))
        return result


@dataclass(frozen=True)
class RectifiedFlow(ForwardSDE):
    """Straight lines: alpha = 1 - t, sigma = t."""

    @property
    def t_max(self) -> float:
        return 1 - OPEN_END

    def alpha(self, t: Time) -> Time:
        return 1 - t

    def sigma(self, t: Time) -> Time:
        return 1.0 * t

    def drift_coefficient(self, t: Time) -> Time:
        return -1 / (1 - t)

    def diffusion_squared(self, t: Time) -> Time:
        return 2 * t / (1 - t)

    def lam(self, t: Time) -> Time:
        lib = _lib(t)
        result: Time = lib.log(1 - t) - lib.log(t)
        return result

    def t_of_lam(self, lam: Time) -> Time:
        result: Time = _lib(lam).exp(_log_sigmoid(-lam))
        return result


def _check_levels(who: str, low: float, high: float) -> None:
    """Refuse noise levels, units of x, that do not rise from a positive one."""
    if not 0 < low < high < math.inf:
        raise UsageError(who, "0 < sigma_min < sigma_max", (low, high), "E.g. 0.01 and 50")


SDES: dict[str, type[ForwardSDE]] = {cls.__name__.lower(): cls for cls in (VP, SubVP, VE, EDM, Cosine, RectifiedFlow)}


def get_sde(name: str, **settings: float) -> ForwardSDE:
    """The SDE of that name (``vp``, ``subvp``, ``ve``, ``edm``, ``cosine``, ``rectifiedflow``).

    Raises:
        UsageError: the name or a setting is unknown, or the SDE refuses its value.
    """
    if name not in SDES:
        raise unknown_name("get_sde", "SDE", name, SDES)
    cls = SDES[name]
    known = set(cls.__dataclass_fields__)
    for key in settings:
        if key not in known:
            raise UsageError(
                "get_sde", f"{name} has no setting {key!r}", None, f"Known: {', '.join(sorted(known)) or 'none'}"
            )
    return cls(**settings)
