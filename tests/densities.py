"""Densities that are known, in any dimension, for the likelihood's tests."""

import math

import torch
from torch import Tensor

from solvers.normals import Normals
from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE, expand


class RotatedMixture:
    """Equal Gaussians with centres about 2 from the origin, variances 0.05 to 2 along axes at an angle; float64.

    p_t = 1/K sum_k N(alpha c_k, alpha^2 S_k + sigma^2 I). The axes are one rotation for all components, not the
    coordinates': the Jacobian of the score is not diagonal and a probe does not give its trace.
    """

    def __init__(self, dim: int, components: int, sde: ForwardSDE) -> None:
        generator = torch.Generator().manual_seed(dim)
        self.dim, self.sde = dim, sde
        self.rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
        self.centres = 2 / dim**0.5 * torch.randn(components, dim, generator=generator, dtype=torch.float64)
        spread = torch.rand(components, dim, generator=generator, dtype=torch.float64)
        self.variances = 0.05 * 40**spread

    def normals(self, n: int, seed: int) -> Normals:
        return Normals(seed, (n, self.dim), dtype=torch.float64)

    def process(self) -> ReverseProcess:
        return ReverseProcess(self.sde, self._score, "score")

    def log_density(self, x: Tensor, t: float) -> Tensor:
        """log p_t(x), nats, (n,)."""
        return torch.logsumexp(self._logs(x @ self.rotation, self.sde.alpha(t), self.sde.sigma(t) ** 2)[0], 1)

    def sample(self, t: float, normals: Normals, stream: str) -> Tensor:
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        k = (normals.uniform(f"{stream} component") * len(self.centres)).long().clamp(max=len(self.centres) - 1)
        std = (alpha**2 * self.variances[k] + sigma**2).sqrt()
        return (alpha * self.centres[k] + std * normals.normal(stream)) @ self.rotation.T

    def _logs(self, z: Tensor, alpha: Tensor | float, square: Tensor | float) -> tuple[Tensor, Tensor]:
        """log p_k(z)/K, (n, K), and its gradient, (n, K, D), in the rotated coordinates."""
        var = expand(alpha, z[:, None]) ** 2 * self.variances + expand(square, z[:, None])
        gap = expand(alpha, z[:, None]) * self.centres - z[:, None]
        logs = -(gap.square() / var + (2 * math.pi * var).log()).sum(2) / 2
        return logs - math.log(len(self.centres)), gap / var

    def _score(self, x: Tensor, t: Tensor) -> Tensor:
        logs, slopes = self._logs(x @ self.rotation, self.sde.alpha(t), self.sde.sigma(t) ** 2)
        weights = torch.softmax(logs, 1)
        score: Tensor = torch.einsum("nk,nkd->nd", weights, slopes) @ self.rotation.T
        return score
