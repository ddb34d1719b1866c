"""Score models of discrete images with their data: what a likelihood or an encoding needs of one."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from pretrained import zoo
from pretrained.card import StateSettings
from pretrained.data import get_data_set
from solvers.errors import UsageError
from solvers.normals import Normals
from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE


class ImageModel(Protocol):
    """A score model of discrete images, x_0 = scale v + offset; problems of images and checkpoints are such."""

    sde: ForwardSDE
    device: torch.device
    scale: float
    offset: float
    shape: tuple[int, ...]

    def __hash__(self) -> int:
        """By identity: what was solved for a model is kept."""

    @property
    def hashes(self) -> dict[str, str]:
        """Hash of the network's weights, by its name."""

    @property
    def levels(self) -> int:
        """Grey or colour levels of the data."""

    def process(self) -> ReverseProcess:
        """A new process, its counters at zero."""

    def normals(self, n: int, seed: int, first: int = 0) -> Normals:
        """Addressed normals of images first ... first + n - 1."""

    def reference(self, n: int, seed: int, draw: int) -> Tensor:
        """n images, integer levels: draw 0 those whose likelihood is asked, draw 1 training images."""


class CheckpointModel:
    """A checkpoint and a split of its data.

    Args:
        name: of a shipped or published checkpoint, or of one in ``folder``.
        split: whose likelihood is asked, ``train`` or ``test``.
        device: where network and states live.
        folder: of a checkpoint trained here.

    Attributes:
        checkpoint: network, process and card.

    Raises:
        UsageError: no such checkpoint, split or data set.
    """

    def __init__(self, name: str, split: str, device: torch.device | str = "cpu", folder: Path | None = None) -> None:
        self.checkpoint = zoo.load(name, device, folder)
        self._split = split
        self.name = name
        self.device = torch.device(device)
        self.sde = self.checkpoint.sde
        data = self.checkpoint.card.data
        if self.checkpoint.levels is None:
            raise UsageError(f"checkpoint {name}", "its data are images with levels", data.name, "Take another one")
        self.levels = self.checkpoint.levels
        self.scale, self.offset = data.scale, data.offset
        self.shape = self.checkpoint.shape
        data_set = data.build() if isinstance(data, StateSettings) else get_data_set(data.name)
        self._values = {part: data_set.load(part).values for part in {split, "train"}}

    @property
    def hashes(self) -> dict[str, str]:
        """Hash of the network's weights."""
        return {self.name: self.checkpoint.sha256}

    @property
    def size(self) -> int:
        """Images in the split."""
        return len(self._values[self._split])

    def process(self) -> ReverseProcess:
        """A new process, its counters at zero."""
        return ReverseProcess(self.sde, self.checkpoint.network, self.checkpoint.parametrisation)

    def normals(self, n: int, seed: int, first: int = 0) -> Normals:
        """Addressed normals of images first ... first + n - 1."""
        return Normals(seed, (n, *self.shape), first=first, device=self.device)

    def reference(self, n: int, seed: int, draw: int) -> Tensor:
        """The first n images of the split, or for draw 1 of the training images."""
        values = self._values["train" if draw else self._split]
        if n > len(values):
            raise UsageError(f"checkpoint {self.name}", f"there are {len(values)} images", n, "Lower n")
        return values[:n]
