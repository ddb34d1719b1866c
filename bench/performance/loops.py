"""Hand-written minimal loops, coefficients computed beforehand: the least that a method costs in torch.

Each takes the network, the states and a grid, and returns samples and the number of evaluations.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from solvers.process import Network
from solvers.sde import ForwardSDE

Loop = Callable[[Network, Tensor, Tensor], Tensor]


def ddim(sde: ForwardSDE, ts: list[float]) -> Loop:
    """DDIM on a noise prediction."""
    rows = []
    for t, s in pairwise(ts):
        a = sde.alpha(s) / sde.alpha(t)
        rows.append((a, sde.sigma(s) - a * sde.sigma(t)))

    def run(network: Network, x: Tensor, draws: Tensor) -> Tensor:
        t = x.new_ones(len(x))
        for a, b in rows:
            x = (a * x).add_(network(x, t), alpha=b)
        return x

    return run


def dpmpp_2m(sde: ForwardSDE, ts: list[float]) -> Loop:
    """DPM-Solver++(2M) on a noise prediction, by way of denoised."""
    rows, h_before = [], None
    for t, s in pairwise(ts):
        h = sde.lam(s) - sde.lam(t)
        gain, weight = -sde.alpha(s) * math.expm1(-h), h / (2 * h_before) if h_before else 0.0
        denoise = (1 / sde.alpha(t), -sde.sigma(t) / sde.alpha(t))
        rows.append((denoise, sde.sigma(s) / sde.sigma(t), gain * (1 + weight), -gain * weight))
        h_before = h

    def run(network: Network, x: Tensor, draws: Tensor) -> Tensor:
        t, before = x.new_ones(len(x)), torch.zeros_like(x)
        for (c, d), a, b, b_before in rows:
            denoised = (c * x).add_(network(x, t), alpha=d)
            x = (a * x).add_(denoised, alpha=b).add_(before, alpha=b_before)
            before = denoised
        return x

    return run


def euler_maruyama(sde: ForwardSDE, ts: list[float]) -> Loop:
    """Euler–Maruyama on a noise prediction and pre-drawn normals."""
    rows = []
    for t, s in pairwise(ts):
        dt, g2 = s - t, sde.diffusion_squared(t)
        rows.append((1 + dt * sde.drift_coefficient(t), dt * g2 / sde.sigma(t), math.sqrt(-dt * g2)))

    def run(network: Network, x: Tensor, draws: Tensor) -> Tensor:
        t = x.new_ones(len(x))
        for (a, b, std), z in zip(rows, draws, strict=False):
            x = (a * x).add_(network(x, t), alpha=b).add_(z, alpha=std)
        return x

    return run


LOOPS: dict[str, Callable[[ForwardSDE, list[float]], Loop]] = {
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "euler_maruyama": euler_maruyama,
}
