"""Data on a line in the plane, in two far clusters: where Langevin dynamics needs annealing."""

from typing import ClassVar

import torch
from torch import Tensor

from bench.problems.problem import Problem, register_problem
from solvers.normals import Normals
from solvers.process import ReverseProcess
from solvers.sde import VP, ForwardSDE, expand


@register_problem
class Line2d(Problem):
    """A mixture of two Gaussians along the diagonal of the plane, of no width across it.

    With u along and v across the diagonal, u_0 ~ weight N(-4, 0.25) + (1 - weight) N(4, 0.25), weight 1/5, and v_0 = 0.
    Across the line the score is -v / sigma(t)^2: as t -> 0 it says nothing but where the line is. Along it, Langevin
    steps short enough for the line cannot carry weight from one cluster to the other.

    Args:
        device: where states live.
        sde: the forward process.
    """

    key: ClassVar[str] = "line_2d"
    summary: ClassVar[str] = "two clusters on a line in 2-D, a one-dimensional manifold; score and density exact"
    metrics: ClassVar[tuple[str, ...]] = (
        "sliced_w2",
        "w2",
        "energy_distance",
        "mmd",
        "mean_error",
        "covariance_error",
        "mode_weights",
    )

    def __init__(self, device: torch.device | str = "cpu", sde: ForwardSDE | None = None) -> None:
        super().__init__(device)
        self.sde = sde or VP()
        self.shape = (2,)
        self.dtype = torch.float64
        self.std = 0.5
        self.centres = torch.tensor([-4.0, 4.0], dtype=self.dtype, device=self.device)
        self.weights = torch.tensor([0.2, 0.8], dtype=self.dtype, device=self.device)
        # Columns: along and across the line.
        self.axes = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=self.dtype, device=self.device) / 2**0.5

    def moments(self, t: float) -> tuple[Tensor, Tensor]:
        centres, weights = self.modes(t)
        along = self.axes[:, :1] @ self.axes[:, :1].T
        noise = self.sde.sigma(t) ** 2 * torch.eye(2).to(centres)
        cov = torch.cov(centres.T, correction=0, aweights=weights) + (self.sde.alpha(t) * self.std) ** 2 * along + noise
        return weights @ centres, cov

    def modes(self, t: float) -> tuple[Tensor, Tensor]:
        return self.sde.alpha(t) * self.centres[:, None] * self.axes[:, 0], self.weights

    def process(self) -> ReverseProcess:
        return ReverseProcess(self.sde, self._score, "score")

    def _score(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = expand(self.sde.alpha(t), x), expand(self.sde.sigma(t), x)
        u, v = (x @ self.axes.to(x.dtype))[:, :, None].unbind(1)
        means, var = alpha * self.centres.to(x.dtype), (alpha * self.std) ** 2 + sigma**2
        posterior = torch.softmax(self.weights.to(x.dtype).log() - (u - means).square() / (2 * var), dim=1)
        along = ((posterior * means).sum(1, keepdim=True) - u) / var
        score: Tensor = torch.cat([along, -v / sigma**2], 1) @ self.axes.to(x.dtype).T
        return score

    def marginal_sample(self, t: float, normals: Normals, stream: str) -> Tensor:
        """Draws of the exact law at t from the normals of a stream, shape (n, 2)."""
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        second = normals.uniform(f"{stream} component") > float(self.weights[0])
        u = alpha * (self.centres[second.long()] + self.std * normals.normal(f"{stream} along")[:, 0])
        clean = torch.stack([u, torch.zeros_like(u)], 1) @ self.axes.T
        return clean + sigma * normals.normal(stream)

    def reference(self, n: int, seed: int, draw: int) -> Tensor:
        return self.marginal_sample(self.sde.t_min, self.normals(n, seed), f"reference {draw}").cpu()
