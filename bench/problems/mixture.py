"""Eight Gaussians on a circle: score and density are exact, the flow is solved to 1e-10."""

import math
from typing import ClassVar

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from bench.problems.problem import FlowProblem, register_problem
from solvers.normals import Normals
from solvers.process import ReverseProcess
from solvers.sde import VP, ForwardSDE, expand

# Relative and absolute tolerance of the converged solve.
TOLERANCE = 1e-10


@register_problem
class Mixture2d(FlowProblem):
    """The usual "8 Gaussians": eight equal isotropic Gaussians, standard deviation 0.5, on the circle of radius 4.

    p_t = 1/8 sum_k N(alpha c_k, v I),  v = alpha^2 0.25 + sigma^2;  score = (alpha sum_k w_k(x) c_k - x) / v with the
    posterior weights w_k.

    Args:
        device: where states live.
        sde: the forward process.
    """

    key: ClassVar[str] = "mixture_2d"
    summary: ClassVar[str] = "eight Gaussians on a circle, 2-D; score and density exact, flow solved to 1e-10"
    metrics: ClassVar[tuple[str, ...]] = (
        "pathwise_rmse",
        "sliced_w2",
        "energy_distance",
        "mode_weights",
        "flow_kl",
    )
    flow_precision: ClassVar[float] = 1e-9

    def __init__(self, device: torch.device | str = "cpu", sde: ForwardSDE | None = None) -> None:
        super().__init__(device)
        self.sde = sde or VP()
        self.shape = (2,)
        self.dtype = torch.float64
        self.std = 0.5
        angle = torch.arange(8, dtype=self.dtype, device=self.device) * (math.pi / 4)
        self.centres = 4 * torch.stack([angle.cos(), angle.sin()], 1)

    def _exponents(self, x: Tensor, alpha: Tensor | float, var: Tensor | float) -> Tensor:
        """-|x - alpha c_k|^2 / (2 v), shape (n, 8)."""
        return -(x[:, None] - alpha * self.centres.to(x.dtype)).square().sum(-1) / (2 * var)

    def moments(self, t: float) -> tuple[Tensor, Tensor]:
        centres, _ = self.modes(t)
        var = (self.sde.alpha(t) * self.std) ** 2 + self.sde.sigma(t) ** 2
        return centres.mean(0), torch.cov(centres.T, correction=0) + var * torch.eye(2).to(centres)

    def modes(self, t: float) -> tuple[Tensor, Tensor]:
        return self.sde.alpha(t) * self.centres, torch.full_like(self.centres[:, 0], 1 / 8)

    def process(self) -> ReverseProcess:
        return ReverseProcess(self.sde, self._score, "score")

    def _score(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = expand(self.sde.alpha(t), x), expand(self.sde.sigma(t), x)
        var = (alpha * self.std) ** 2 + sigma**2
        weights = torch.softmax(self._exponents(x, alpha[:, None], var), dim=1)
        score: Tensor = (alpha * (weights @ self.centres.to(x.dtype)) - x) / var
        return score

    def marginal_sample(self, t: float, normals: Normals, stream: str) -> Tensor:
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        centre = self.centres[(normals.uniform(f"{stream} component") * 8).long().clamp(max=7)]
        return alpha * centre + math.sqrt((alpha * self.std) ** 2 + sigma**2) * normals.normal(stream)

    def reference(self, n: int, seed: int, draw: int) -> Tensor:
        return self.marginal_sample(self.sde.t_min, self.normals(n, seed), f"reference {draw}").cpu()

    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        process = self.process()

        def velocity(time: float, flat: np.ndarray) -> np.ndarray:
            states = torch.from_numpy(flat.reshape(-1, 2)).to(x.device)
            return process.velocity(states, float(time)).cpu().numpy().ravel()

        start = x.double().cpu().numpy().ravel()
        solution = solve_ivp(velocity, (t, s), start, method="DOP853", rtol=TOLERANCE, atol=TOLERANCE, t_eval=[s])
        return torch.from_numpy(solution.y[:, -1].reshape(-1, 2)).to(x)

    def log_density(self, x: Tensor, t: float) -> Tensor:
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        var = (alpha * self.std) ** 2 + sigma**2
        return torch.logsumexp(self._exponents(x, alpha, var), dim=1) - math.log(8 * 2 * math.pi * var)
