"""A diagonal Gaussian: score, law, density and probability flow are exact."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from bench.problems.problem import FlowProblem, register_problem
from solvers.normals import Normals
from solvers.process import ReverseProcess
from solvers.sde import VP, ForwardSDE, expand


@register_problem
class Gaussian(FlowProblem):
    """x_0 ~ N(mean, diag(var)) in 8 dimensions, means in [-1, 1], variances 0.02 to 4.

    x_t ~ N(alpha mean, alpha^2 var + sigma^2);  score = -(x - alpha mean) / (alpha^2 var + sigma^2); the flow keeps
    (x - mean_t)/std_t in each coordinate.

    Args:
        device: where states live.
        sde: the forward process.
    """

    key: ClassVar[str] = "gaussian"
    summary: ClassVar[str] = "diagonal Gaussian, 8-D; score, law, density and flow exact"
    metrics: ClassVar[tuple[str, ...]] = (
        "pathwise_rmse",
        "w2_gaussian",
        "law_w2",
        "law_kl",
        "mean_error",
        "covariance_error",
    )
    flow_precision: ClassVar[float] = 1e-12

    def __init__(self, device: torch.device | str = "cpu", sde: ForwardSDE | None = None) -> None:
        super().__init__(device)
        self.sde = sde or VP()
        self.shape = (8,)
        self.dtype = torch.float64
        self.mean = torch.linspace(-1, 1, 8, dtype=self.dtype, device=self.device)
        # Neighbouring coordinates far apart in variance, so that mean and variance do not grow together.
        order = torch.tensor([3, 0, 5, 7, 1, 6, 2, 4], device=self.device)
        self.var = torch.logspace(math.log10(0.02), math.log10(4), 8, dtype=self.dtype, device=self.device)[order]

    def law(self, t: float) -> tuple[Tensor, Tensor]:
        """Mean and variance of x_t, each (8,)."""
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        return alpha * self.mean, alpha**2 * self.var + sigma**2

    def moments(self, t: float) -> tuple[Tensor, Tensor]:
        mean, var = self.law(t)
        return mean, var.diag()

    def process(self) -> ReverseProcess:
        return ReverseProcess(self.sde, self._score, "score")

    def _score(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = expand(self.sde.alpha(t), x), expand(self.sde.sigma(t), x)
        mean, var = self.mean.to(x.dtype), self.var.to(x.dtype)
        score: Tensor = (alpha * mean - x) / (alpha**2 * var + sigma**2)
        return score

    def marginal_sample(self, t: float, normals: Normals, stream: str) -> Tensor:
        mean, var = self.law(t)
        return mean + var.sqrt() * normals.normal(stream)

    def reference(self, n: int, seed: int, draw: int) -> Tensor:
        return self.marginal_sample(self.sde.t_min, self.normals(n, seed), f"reference {draw}").cpu()

    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        mean_t, var_t = self.law(t)
        mean_s, var_s = self.law(s)
        return mean_s + (var_s / var_t).sqrt() * (x - mean_t)

    def log_density(self, x: Tensor, t: float) -> Tensor:
        mean, var = self.law(t)
        return -((x - mean).square() / var + (2 * math.pi * var).log()).sum(1) / 2
