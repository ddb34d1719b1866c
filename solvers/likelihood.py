"""Log-density along the probability-flow ODE, by any ODE solver of the registry.

With x~ = x / alpha and tau = sigma / alpha the flow is dx~/dtau = noise(x, t), so the log-determinant of x~'s map obeys
dl/dtau = div_x~ noise = alpha div_x noise = -alpha sigma div score. Carried as one more coordinate y = alpha l it has
the flow's own form, with the score alpha div score:

    dy/dt = f y - g^2/2 (alpha div score).

A solver that only knows ``score | noise | denoised`` therefore integrates state and log-determinant together, each at
its own order, exponential multistep methods included. A solver that takes the ``velocity`` of x has no use for that
form, in which an error of y counts 1/alpha(t_max) times: for it the coordinate is L = log |dx_t / dx_tmin| itself,
with dL/dt = div velocity. From t_min up to t_max

    log p(x_tmin) = log p_prior(x_tmax) + L,    L = D log(alpha(t_max)/alpha(t_min)) + y(t_max)/alpha(t_max).

Several estimates of the divergence, one a probe, are carried side by side as coordinates of their own: one solve gives
the density by each, and their spread is the probes' part in the error.

References: Chen et al. 2018, arXiv:1806.07366; Grathwohl et al. 2019, arXiv:1810.01367 (Hutchinson's estimator, one
probe for the whole solve); Song et al. 2021, arXiv:2011.13456, sec. 4.3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from solvers.divergence import Divergence
from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.sde import expand
from solvers.solver import Solver, integrate

LogDensity = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Likelihood:
    """log p of data under the flow's density at ts[0], and where the flow carried them.

    Attributes:
        by_probe: log p in nats by each estimate of the divergence, (n, k).
        end: states at ts[-1], the data's encoding, shape of the data.
    """

    by_probe: Tensor
    end: Tensor

    @property
    def log_p(self) -> Tensor:
        """Mean over the estimates, nats, (n,), float64."""
        return self.by_probe.double().mean(1)


class LogDetProcess(ReverseProcess):
    """The process of the pair (x, y) or (x, L), flattened to (n, D + k); see the module's text.

    Raises:
        UsageError: a solver asks for the velocity and for another prediction, whose last coordinates differ.

    Args:
        process: the process of x; its evaluations are counted there.
        shape: shape of one sample of x.
        divergence: k estimates of the divergence, see :meth:`ReverseProcess.score_and_divergence`.
    """

    # Over alpha an error of L would count 1/alpha(t_max) times.
    rescalable: ClassVar[bool] = False

    def __init__(self, process: ReverseProcess, shape: torch.Size, divergence: Divergence) -> None:
        super().__init__(process.sde, process.network, "score")
        self.evaluations = process.evaluations
        self._inner = process
        self._shape = shape
        self._dim = math.prod(shape)
        self._divergence = divergence
        # Shared by the parts of the batch.
        self._asked: set[bool] = set()

    def enter(self, x: Tensor) -> Tensor:
        """The pair at the start of a solve, (n, D + k)."""
        return torch.cat([x.flatten(1), x.new_zeros(len(x), self._divergence.columns)], 1)

    def state(self, pair: Tensor) -> Tensor:
        """x of a pair."""
        return pair[:, : self._dim].reshape(-1, *self._shape)

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Drift of x and its divergences, (n, D + k)."""
        score, divergence = self._score(x, t, plain=True)
        drift = self.sde.drift_coefficient(t)
        half = self.sde.diffusion_squared(t) / 2
        velocity = expand(drift, x) * x[:, : self._dim] - expand(half, score) * score
        trace = expand(drift, divergence) * self._dim - expand(half, divergence) * divergence
        return torch.cat([velocity, trace.to(x.dtype)], 1)

    def log_det(self, pair: Tensor, start: float, end: float) -> Tensor:
        """L of the pairs at the end of a solve, (n, k)."""
        carried = pair[:, self._dim :]
        if self._asked == {True}:
            return carried
        alpha = self.sde.alpha(end)
        return carried / alpha + self._dim * math.log(alpha / self.sde.alpha(start))

    def at(self, rows: Tensor, n: int) -> Self:
        """The process for a part of the batch, its probes those of these samples."""
        part = super().at(rows, n)
        part._inner = self._inner.at(rows, n)
        part._divergence = self._divergence.at(rows)
        return part

    def _evaluate(self, x: Tensor, t: float | Tensor) -> Tensor:
        score, divergence = self._score(x, t, plain=False)
        return torch.cat([score, (expand(self.sde.alpha(t), divergence) * divergence).to(x.dtype)], 1)

    def _score(self, x: Tensor, t: float | Tensor, plain: bool) -> tuple[Tensor, Tensor]:
        """Score of x, (n, D), and its divergences, (n, k)."""
        self._asked.add(plain)
        if len(self._asked) > 1:
            raise UsageError(
                "log_density", "a solver takes the velocity or other predictions, not both", None, "Take one"
            )
        score, divergence = self._inner.score_and_divergence(self.state(x), t, self._divergence)
        return score.flatten(1), divergence


def log_density(
    solver: Solver,
    process: ReverseProcess,
    x: Tensor,
    ts: Tensor,
    divergence: Divergence,
    terminal: LogDensity | None = None,
) -> Likelihood:
    """log p(x) of the flow's density at ts[0], in nats.

    Args:
        solver: an ODE solver.
        process: network and SDE; its evaluations and derivative passes are counted.
        x: data (n, ...), taken as states at ts[0].
        ts: increasing grid, from t_min_likelihood to t_max.
        divergence: exact, or by probes of these n samples; one that is differentiable makes log p so in x, and x has
            to require a gradient.
        terminal: log-density at ts[-1], (n, ...) to (n,); the prior's unless given.

    Raises:
        UsageError: the solver is stochastic, or the grid decreases.
    """
    if solver.stochastic:
        raise UsageError("log_density", "likelihood needs an ODE solver", solver.key, "Take e.g. 'heun'")
    times: list[float] = ts.tolist()
    start, end = times[0], times[-1]
    if start > end:
        raise UsageError("log_density", "the grid runs from t_min up to t_max", times, "Reverse it")
    joint = LogDetProcess(process, x.shape[1:], divergence)
    pair = integrate(solver, joint, joint.enter(x), ts, differentiable=divergence.differentiable)
    x_end = joint.state(pair)
    base = (terminal or process.sde.prior_log_prob)(x_end)
    return Likelihood(base[:, None] + joint.log_det(pair, start, end), x_end)


def bits_per_dim(log_p: Tensor, dim: int, levels: int, scale: float) -> Tensor:
    """Bits per dimension of discrete data from the log-density (nats) of its dequantised form.

    -log2 p(x)/D - log2(scale) + log2(levels)   for  x = scale v + offset,  v = (k + u)/levels in [0, 1]

    Reference: Theis et al. 2016, arXiv:1511.01844, sec. 3.1.
    """
    return -log_p / (dim * math.log(2)) - math.log2(scale) + math.log2(levels)
