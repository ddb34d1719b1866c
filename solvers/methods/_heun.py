"""Heun's step in sigma/alpha, shared by the methods of Karras et al. and those built on them.

With y = x/alpha and r = sigma/alpha every probability flow is  dy/dr = noise:  EDM's equation on every SDE.
"""

import math
from typing import Any

from torch import Tensor

from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE


def ratio(sde: ForwardSDE, t: float) -> float:
    """sigma/alpha at t."""
    return math.exp(-sde.lam(t))


def heun_step(process: ReverseProcess, x: Tensor, t: float, s: float) -> Tensor:
    """One step from t to s, two evaluations."""
    sde = process.sde
    alpha_t, alpha_s = sde.alpha(t), sde.alpha(s)
    step = alpha_s * (ratio(sde, s) - ratio(sde, t))
    scaled = alpha_s / alpha_t * x
    noise_t = process.noise(x, t)
    return scaled + step / 2 * (noise_t + process.noise(scaled + step * noise_t, s))


def raise_noise(sde: ForwardSDE, x: Tensor, s: float, t: float, z: Any) -> Tensor:
    """A draw of the forward kernel x_t | x_s, s < t, from unit normals z."""
    a, b2 = sde.transition(t, s)
    raised: Tensor = a * x + math.sqrt(b2) * z
    return raised
