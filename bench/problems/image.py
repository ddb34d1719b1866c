"""Images under a checkpoint: a network, its process, and held-out and training images to hold samples against."""

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.problems.problem import ImageProblem
from pretrained import zoo
from pretrained.data import load_data
from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE

SPLITS = ("test", "train")


class InParts(nn.Module):
    """A network that takes a batch in parts, because the memory of its activations is limited."""

    def __init__(self, network: nn.Module, rows: int) -> None:
        super().__init__()
        self.network = network
        self.rows = rows

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The prediction, shape of x; x (n, ...), t (n,)."""
        parts = (slice(first, first + self.rows) for first in range(0, len(x), self.rows))
        return torch.cat([self.network(x[part], t[part]) for part in parts])


class CheckpointProblem(ImageProblem):
    """Images of a data set under a checkpoint of the zoo.

    References are integer levels: draw 0 the held-out images in order, draw 1 training images chosen by the seed.

    Attributes:
        checkpoint: name of the network.
        folder: where it lies, if it is neither shipped nor published.
        data: name of the data set.
        rows: images a pass of the network; all at once without it. The solver's batch is the cell's either way.
        under: the process, where it is not the one that the network was trained under.

    Args:
        device: where network and states live.

    Raises:
        MissingCheckpointError: the network's weights are not here.
        UsageError: they are damaged.
    """

    checkpoint: ClassVar[str]
    folder: ClassVar[Path | None] = None
    data: ClassVar[str]
    rows: ClassVar[int | None] = None
    under: ClassVar[ForwardSDE | None] = None

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        checkpoint = zoo.load(self.checkpoint, self.device, self.folder)
        self._checkpoint = checkpoint if self.under is None else checkpoint.under(self.under)
        network = self._checkpoint.network
        self._network = InParts(network, self.rows) if self.rows else network
        self.sde = self._checkpoint.sde
        self.shape = self._checkpoint.shape
        self.dtype = torch.float32
        self._values: dict[str, Tensor] = {}
        state = self._checkpoint.card.data
        self.scale, self.offset = state.scale, state.offset

    @classmethod
    def ends(cls) -> tuple[float, float]:
        state = zoo.card_of(cls.checkpoint).data
        return state.offset, state.offset + state.scale

    @property
    def hashes(self) -> dict[str, str]:
        return {self.checkpoint: self._checkpoint.sha256}

    def process(self) -> ReverseProcess:
        return ReverseProcess(self.sde, self._network, self._checkpoint.parametrisation)

    def reference(self, n: int, seed: int, draw: int) -> Tensor:
        return self.images(SPLITS[draw], n, seed if draw else None)

    def values(self, split: str) -> Tensor:
        """All images of a part of the data."""
        if split not in self._values:
            self._values[split] = self._read(split)
        return self._values[split]

    def _read(self, split: str) -> Tensor:
        return load_data(self.data, split).values

    def images(self, split: str, n: int, seed: int | None = None) -> Tensor:
        """n images of a part of the data, the first or those that a seed chooses.

        Raises:
            UsageError: there are fewer.
        """
        values = self.values(split)
        if n > len(values):
            raise UsageError(self.key, f"there are {len(values)} {split} images", n, "Lower n in the matrix")
        if seed is not None:
            values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
        return values[:n]
