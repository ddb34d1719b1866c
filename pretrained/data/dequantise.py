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
