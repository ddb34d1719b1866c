"""The 8x8 handwritten digits under the project's own score network."""

from typing import ClassVar

import torch
from torch import Tensor

from bench.problems.problem import ImageProblem, register_problem
from pretrained import zoo
from pretrained.data import load_data
from solvers.errors import UsageError
from solvers.process import ReverseProcess


@register_problem
class Digits(ImageProblem):
    """scikit-learn's handwritten digits, 8x8, 17 grey levels, score network ``digits-vp``.

    References are integer grey levels: draw 0 the held-out digits, draw 1 training digits chosen by the seed.

    Args:
        device: where network and states live.
    """

    key: ClassVar[str] = "digits"
    summary: ClassVar[str] = "8x8 handwritten digits, 17 levels, network digits-vp"
    metrics: ClassVar[tuple[str, ...]] = (
        "fd_digits",
        "fd_digits_solver",
        "fd_digits_infinity",
        "kd_digits",
        "precision_digits",
        "recall_digits",
        "trajectory_rmse",
    )
    checkpoint: ClassVar[str] = "digits-vp"
    levels: ClassVar[int] = 17
    n_max: ClassVar[int] = 599

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self._checkpoint = zoo.load(self.checkpoint, self.device)
        self.sde = self._checkpoint.sde
        self.shape = (1, 8, 8)
        self.dtype = torch.float32
        data = self._checkpoint.card.data
        self.scale, self.offset = data.scale, data.offset

    @property
    def hashes(self) -> dict[str, str]:
        return {self.checkpoint: self._checkpoint.sha256}

    def process(self) -> ReverseProcess:
        return ReverseProcess(self.sde, self._checkpoint.network, self._checkpoint.parametrisation)

    def reference(self, n: int, seed: int, draw: int) -> Tensor:
        values = load_data("digits", ("test", "train")[draw]).values
        if n > len(values):
            raise UsageError("digits", f"there are {len(values)} digits to compare with", n, "Lower n in the matrix")
        if draw:
            values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
        return values[:n]
