"""Denoising score matching: e = |noise(x_t, t) - z|^2, the error against the noise that was added.

That is w |score + z/sigma|^2 in the form that stays finite as sigma -> 0. One forward and one backward pass.

Reference: Vincent 2011, A connection between score matching and denoising autoencoders, Neural Computation 23(7).
"""

from typing import Literal

import torch
from torch import Tensor

from pretrained.objectives.objective import Objective
from solvers.process import ReverseProcess


class Denoising(Objective):
    """See above."""

    name: Literal["denoising"] = "denoising"

    def error(self, process: ReverseProcess, x: Tensor, t: Tensor, z: Tensor, generator: torch.Generator) -> Tensor:
        return (process.noise(x, t) - z).square().flatten(1).sum(1)
