"""The bias of Langevin steps: the variance that they keep on a Gaussian, at one noise level.

On data at 0 the law at t is N(0, sigma^2 I) and the score is -x / sigma^2. Steps at times that hardly move are taken
until the start is forgotten; then the variance, in units of sigma^2, is averaged over samples, coordinates and steps.
The chain  y <- (1 - e) y + sqrt(2 e) z,  e = 2 snr^2, on the same draws keeps exactly 1 / (1 - snr^2): measured is the
difference to its sample variance, so that most of the sampling error cancels.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE, expand
from solvers.solver import FixedStepSolver

SAMPLES, DIM = 1000, 64
# Between the first and the last time, in units of the time: no noise level to speak of.
SPREAD = 1e-6
# Steps before and in the average, in units of the steps in which a variance comes back to its own, 1 / (4 snr^2).
BURN_IN, AVERAGE = 6, 8
# Standard errors to either side.
ERRORS = 3


@dataclass(frozen=True)
class Bias:
    """A measured variance at equilibrium, in units of sigma^2.

    Attributes:
        variance: the mean.
        interval: three standard errors to either side.
    """

    variance: float
    interval: tuple[float, float]


class _Fresh:
    """New normals at each question; carries the control chain along with those apart from the path."""

    def __init__(self, snr: float, seed: int) -> None:
        self._draws, self._path = (torch.Generator().manual_seed(2 * seed + k) for k in range(2))
        self._step = 2 * snr**2
        self.var = 1 / (1 - snr**2)
        self.control = math.sqrt(self.var) * _normals(self._path)

    def normal(self, stream: str) -> Tensor:
        z = _normals(self._draws)
        self.control = (1 - self._step) * self.control + math.sqrt(2 * self._step) * z
        return z

    def dw(self, t: Any, s: Any) -> Tensor:
        return math.sqrt(t - s) * _normals(self._path)


def _normals(generator: torch.Generator) -> Tensor:
    return torch.randn((SAMPLES, DIM), generator=generator, dtype=torch.float64)


def equilibrium(solver: FixedStepSolver, sde: ForwardSDE, seed: int = 0) -> Bias:
    """The variance that a solver's Langevin steps keep in the middle of the interval of log-SNR.

    Raises:
        UsageError: the solver has no setting ``snr``.
    """
    if "snr" not in solver.settings:
        raise UsageError("equilibrium", f"{solver.key} takes no Langevin steps of some snr", solver.settings)
    snr = solver.settings["snr"]
    back = 1 / (4 * snr**2)
    burn_in, average = math.ceil(BURN_IN * back), math.ceil(AVERAGE * back)
    middle = float(sde.t_of_lam((sde.lam(sde.t_max) + sde.lam(sde.t_min)) / 2))
    ts = middle * (1 + SPREAD * torch.linspace(1, 0, burn_in + average + 1, dtype=torch.float64))
    process = ReverseProcess(sde, lambda x, t: -x / expand(sde.sigma(t), x) ** 2, "score")
    source, var = _Fresh(snr, seed), sde.sigma(middle) ** 2
    x = math.sqrt(var) * source.control
    state, gap = solver.init(process, x, ts), torch.zeros(SAMPLES, dtype=torch.float64)
    times: list[float] = ts.tolist()
    for k in range(burn_in + average):
        x, state = solver.step(process, x, times[k], times[k + 1], source, state)
        if k >= burn_in:
            gap += (x.square() / var - source.control.square()).mean(1) / average
    mean, error = source.var + float(gap.mean()), ERRORS * float(gap.std()) / math.sqrt(SAMPLES)
    return Bias(mean, (mean - error, mean + error))
