"""Random directions v with E[v v^T] = I, on which a divergence is projected: E[v . J v] = tr J.

    rademacher:  signs, v_i = +-1
    gaussian:    v ~ N(0, I)
    sphere:      uniform on the sphere of radius sqrt(D)

The variance of v . A v, with S = (A + A^T)/2, is for signs 2 sum_{i != j} S_ij^2, for normals 2 |S|^2 (all entries), on
the sphere 2D/(D + 2) (|S|^2 - (tr S)^2/D).

Reference: Hutchinson 1990; Song et al. 2019, Sliced score matching, arXiv:1905.07088, sec. 3.
"""

from typing import Literal

import torch
from torch import Tensor

from solvers.sde import expand

Directions = Literal["rademacher", "gaussian", "sphere"]


def draw_directions(law: Directions, x: Tensor, generator: torch.Generator) -> Tensor:
    """v, shape, dtype and device of x (n, ...); drawn on the CPU: the same whatever the device."""
    if law == "rademacher":
        return (2 * torch.randint(2, x.shape, generator=generator) - 1).to(x)
    v = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    if law == "sphere":
        v = v * expand(v[0].numel() ** 0.5 / v.flatten(1).norm(dim=1), v)
    return v.to(x.device)
