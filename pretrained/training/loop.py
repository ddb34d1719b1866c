"""A run's state and its step."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from pretrained.card import TrainingSettings
from pretrained.data import ImageData
from pretrained.tasks import Task


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Rate at a step counted from 0: linear rise over ``warm_up`` steps, times a half cosine down to 0 at the end."""
    rise = min(1.0, (step + 1) / max(settings.warm_up, 1))
    return settings.learning_rate * rise * (1 + math.cos(math.pi * step / settings.steps)) / 2


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """average <- d average + (1 - d) network, d = min(decay, (1 + step)/(10 + step)): the start is soon forgotten."""
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - d)


class Loop:
    """Network, average, optimiser, generators and losses of a run; ``step`` does one step of it.

    What a run does next depends on :meth:`state` alone: one that loads it goes on to the bit, on one machine with one
    number of threads. Dropout draws from torch's global generators, whose states are part of it.

    Args:
        settings: the card's loop.
        task: what is trained.
        data: what it is trained on.
        device: where.
    """

    def __init__(self, settings: TrainingSettings, task: Task, data: ImageData, device: torch.device) -> None:
        self.settings = settings
        self.network = task.network
        self.average = copy.deepcopy(task.network).eval().requires_grad_(False)
        self.done = 0
        self._task = task
        self._device = device
        self._optimiser = torch.optim.Adam(task.network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._values, self._labels = data.values.to(device), data.labels.to(device)
        self._losses: list[float] = []
        # Losses stay on the device until they are looked at: an accelerator is not made to wait for each one.
        self._waiting: list[Tensor] = []

    def step(self) -> None:
        """One step of Adam on one batch."""
        settings = self.settings
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(settings, self.done)
        rows = torch.randint(len(self._values), (settings.batch,), generator=self._generator).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            loss = self._task.loss(self._values[rows], self._labels[rows], self._generator)
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self._optimiser.step()
        update_average(self.average, self.network, settings.ema, self.done)
        self._waiting.append(loss.detach().float())
        self.done += 1

    def losses(self) -> list[float]:
        """The loss of every step done; waits for the device."""
        if self._waiting:
            self._losses += torch.stack(self._waiting).tolist()
            self._waiting.clear()
        return self._losses

    def is_finite(self) -> bool:
        """Whether losses and weights are finite: one infinite gradient spoils the weights before any loss."""
        weights = [parameter.detach() for parameter in self.network.parameters()]
        return all(map(math.isfinite, self.losses())) and all(bool(w.isfinite().all()) for w in weights)

    def final_loss(self) -> float:
        """The mean loss of the last tenth of the steps."""
        return float(torch.tensor(self.losses()[-math.ceil(self.settings.steps / 10) :]).mean())

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors and plain values."""
        cuda = self._device.type == "cuda"
        return {
            "done": self.done,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "losses": torch.tensor(self.losses(), dtype=torch.float32),
            "generator": self._generator.get_state(),
            "global_generator": torch.get_rng_state(),
            "device_generator": torch.cuda.get_rng_state(self._device) if cuda else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts the run where it was when :meth:`state` gave that."""
        self.done = state["done"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._losses, self._waiting = state["losses"].tolist(), []
        self._generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
        if state["device_generator"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["device_generator"], self._device)
