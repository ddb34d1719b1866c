"""The processes that share the batches of a run: one alone, or several through accelerate, a GPU for each."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from solvers.errors import UsageError


class Processes:
    """One process alone.

    Attributes:
        rank: number of this process, from 0; the first one writes and shows.
        count: how many share each batch.
        device: where this one trains.
    """

    rank = 0
    count = 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network whose backward pass gives the mean of the processes' gradients."""
        return network

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes, entry by entry."""
        return values

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so."""
        return flag

    def gather(self, item: Any) -> list[Any]:
        """The item of every process, in their order."""
        return [item]


class Accelerated(Processes):
    """One of the processes that ``accelerate launch`` or ``torchrun`` started.

    Args:
        device: its kind; each process takes its own of that kind.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            todo = "Install it: pip install 'scorebench[gpus]'"
            raise UsageError("train", "several processes share a run through accelerate", str(error), todo) from error
        self._accelerator = Accelerator(cpu=device.type == "cpu")
        super().__init__(self._accelerator.device)
        self.rank = self._accelerator.process_index
        self.count = self._accelerator.num_processes

    def wrap(self, network: nn.Module) -> nn.Module:
        """See :meth:`Processes.wrap`."""
        wrapped: nn.Module = self._accelerator.prepare_model(network)
        return wrapped

    def mean(self, values: Tensor) -> Tensor:
        """See :meth:`Processes.mean`."""
        mean: Tensor = self._accelerator.reduce(values, "mean")
        return mean

    def any(self, flag: bool) -> bool:
        """See :meth:`Processes.any`."""
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def gather(self, item: Any) -> list[Any]:
        """See :meth:`Processes.gather`."""
        from accelerate.utils import gather_object

        items: list[Any] = gather_object([item])
        return items


def is_first() -> bool:
    """Whether this process is alone or the first one, known before any of them has spoken to another."""
    return int(os.environ.get("RANK", "0")) == 0


def processes_on(device: torch.device) -> Processes:
    """The processes of this run: alone, unless a launcher started it among others (``WORLD_SIZE``)."""
    return Accelerated(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Processes(device)
