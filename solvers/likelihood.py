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

References: Chen et al. 2018, arXiv:1806.07366; Grathwohl et al. 2019, arXiv:1810.01367 (Hutchinson's estimator, one
probe for the whole solve); Song et al. 2021, arXiv:2011.13456, sec. 4.3.
"""

import math
from collections.abc import Callable
from typing import ClassVar, Self

import torch
from torch import Tensor

from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.sde import expand
from solvers.solver import Solver, integrate

LogDensity = Callable[[Tensor], Tensor]


class LogDetProcess(ReverseProcess):
    """The process of the pair (x, y) or (x, L), flattened to (n, D + 1); see the module's text.

    Raises:
        UsageError: a solver asks for the velocity and for another prediction, whose last coordinates differ.

    Args:
        process: the process of x; its evaluations are counted there.
        shape: shape of one sample of x.
        probes: (k, n, ...) as in :meth:`ReverseProcess.score_and_divergence`.
    """

    # Over alpha an error of L would count 1/alpha(t_max) times.
    rescalable: ClassVar[bool] = False

    def __init__(self, process: ReverseProcess, shape: torch.Size, probes: Tensor) -> None:
        super().__init__(process.sde, process.network, "score")
        self.evaluations = process.evaluations
        self._inner = process
        self._shape = shape
        self._probes = probes
        # Shared by the parts of the batch.
        self._asked: set[bool] = set()

    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Drift of x and its divergence, (n, D + 1)."""
        score, divergence = self._score(x, t, plain=True)
        drift = self.sde.drift_coefficient(t)
        half = self.sde.diffusion_squared(t) / 2
        velocity = expand(drift, x) * x[:, :-1] - expand(half, score) * score
        trace = expand(drift, divergence) * score.shape[1] - expand(half, divergence) * divergence
        return torch.cat([velocity, trace[:, None].to(x.dtype)], 1)

    def log_det(self, pair: Tensor, start: float, end: float) -> Tensor:
        """L of the pairs at the end of a solve, (n,)."""
        if self._asked == {True}:
            return pair[:, -1]
        alpha = self.sde.alpha(end)
        return pair[:, -1] / alpha + (pair.shape[1] - 1) * math.log(alpha / self.sde.alpha(start))

    def at(self, rows: Tensor, n: int) -> Self:
        """The process for a part of the batch, its probes those of these samples."""
        part = super().at(rows, n)
        part._inner = self._inner.at(rows, n)
        part._probes = self._probes[:, rows]
        return part

    def _evaluate(self, x: Tensor, t: float | Tensor) -> Tensor:
        score, divergence = self._score(x, t, plain=False)
        return torch.cat([score, (self.sde.alpha(t) * divergence)[:, None].to(x.dtype)], 1)

    def _score(self, x: Tensor, t: float | Tensor, plain: bool) -> tuple[Tensor, Tensor]:
        """Score of x, (n, D), and its divergence, (n,)."""
        self._asked.add(plain)
        if len(self._asked) > 1:
            raise UsageError(
                "log_density", "a solver takes the velocity or other predictions, not both", None, "Take one"
            )
        state = x[:, :-1].reshape(-1, *self._shape)
        score, divergence = self._inner.score_and_divergence(state, t, self._probes)
        return score.flatten(1), divergence


def rademacher(unit: Tensor) -> Tensor:
    """One probe with entries -1 or 1 of unit normals (n, ...); shape (1, n, ...)."""
    return torch.where(unit < 0, -1.0, 1.0).to(unit.dtype)[None]


def exact_probes(x: Tensor) -> Tensor:
    """The D probes sqrt(D) e_i, shape (D, n, ...), which make the divergence exact: for low dimension."""
    dim = x[0].numel()
    basis = math.sqrt(dim) * torch.eye(dim, dtype=x.dtype, device=x.device)
    return basis.reshape(dim, 1, *x.shape[1:]).expand(dim, *x.shape)


def log_density(
    solver: Solver,
    process: ReverseProcess,
    x: Tensor,
    ts: Tensor,
    probes: Tensor,
    terminal: LogDensity | None = None,
) -> Tensor:
    """log p(x) of the flow's density at ts[0], in nats, shape (n,).

    Args:
        solver: an ODE solver.
        process: network and SDE; its evaluations are counted, a derivative pass for each probe.
        x: data (n, ...), taken as states at ts[0].
        ts: increasing grid, from t_min_likelihood to t_max.
        probes: :func:`rademacher` or :func:`exact_probes`.
        terminal: log-density at ts[-1]; the prior's unless given.

    Raises:
        UsageError: the solver is stochastic, or the grid decreases.
    """
    if solver.stochastic:
        raise UsageError("log_density", "likelihood needs an ODE solver", solver.key, "Take e.g. 'heun'")
    times: list[float] = ts.tolist()
    start, end = times[0], times[-1]
    if start > end:
        raise UsageError("log_density", "the grid runs from t_min up to t_max", times, "Reverse it")
    sde = process.sde
    pair = torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], 1)
    joint = LogDetProcess(process, x.shape[1:], probes)
    pair = integrate(solver, joint, pair, ts)
    result: Tensor = (terminal or sde.prior_log_prob)(pair[:, :-1].reshape(x.shape)) + joint.log_det(pair, start, end)
    return result


def bits_per_dim(log_p: Tensor, dim: int, levels: int, scale: float) -> Tensor:
    """Bits per dimension of discrete data from the log-density (nats) of its dequantised form.

    -log2 p(x)/D - log2(scale) + log2(levels)   for  x = scale v + offset,  v = (k + u)/levels in [0, 1]

    Reference: Theis et al. 2016, arXiv:1511.01844, sec. 3.1.
    """
    return -log_p / (dim * math.log(2)) - math.log2(scale) + math.log2(levels)
