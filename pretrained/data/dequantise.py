"""The maps between levels and the unit interval.

A pixel holds one of L levels k. Uniform dequantisation spreads it over its bin, v = (k + u)/L with u in [0, 1); the
state of a score model is x_0 = scale v + offset. Training, likelihood and the inverse (:func:`quantise`) share these.

Source of uniform dequantisation: Theis et al. 2016, A note on the evaluation of generative models, arXiv:1511.01844.
"""

import torch
from torch import Tensor


def dequantise(values: Tensor, levels: int, uniform: Tensor) -> Tensor:
    """v = (k + u)/L in [0, 1), the shape and the dtype of ``uniform``.

    Args:
        values: levels k in 0..L-1.
        levels: L.
        uniform: u in [0, 1), shape of ``values``.
    """
    v = (values.to(uniform.dtype) + uniform) / levels
    # u just below 1 may round up into the next bin, for k = L-1 to v = 1.
    upper = torch.nextafter((values.to(v.dtype) + 1) / levels, torch.zeros_like(v))
    return torch.minimum(v, upper)


def quantise(v: Tensor, levels: int) -> Tensor:
    """The bin a value lies in, clip(floor(v L), 0, L-1), uint8; undoes :func:`dequantise`."""
    return (v * levels).floor().clamp(0, levels - 1).to(torch.uint8)


def draw_values(values: Tensor, levels: int | None, generator: torch.Generator) -> Tensor:
    """Values v of a batch, float32: levels are dequantised with fresh u, continuous values are what they are.

    Args:
        values: levels or continuous values, (n, ...).
        levels: L, or None.
        generator: on the CPU, so that the draws are the same whatever the device.
    """
    if levels is None:
        return values
    uniform = torch.rand(values.shape, generator=generator).to(values.device)
    return dequantise(values, levels, uniform)
