"""A run's state and its step."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from pretrained.card import TrainingSettings
from pretrained.data import ImageData
from pretrained.results import Precision
from pretrained.tasks import Task
from pretrained.training.processes import Processes
from solvers.errors import UsageError


def rise_and_fall(step: int, warm_up: int, steps: int) -> float:
    """Share of the rate at a step counted from 0: linear rise over ``warm_up`` steps, times a half cosine down to 0."""
    return min(1.0, (step + 1) / max(warm_up, 1)) * (1 + math.cos(math.pi * step / steps)) / 2


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Rate at a step counted from 0, see :func:`rise_and_fall`."""
    return settings.learning_rate * rise_and_fall(step, settings.warm_up, settings.steps)


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
        task: what is trained, its network on the device of this process.
        data: what it is trained on.
        precision: of forward and backward pass.
        processes: that share each batch.

    Raises:
        UsageError: the batch cannot be shared evenly.
    """

    def __init__(
        self, settings: TrainingSettings, task: Task, data: ImageData, precision: Precision, processes: Processes
    ) -> None:
        if settings.batch % processes.count:
            rule = f"training.batch is shared evenly by {processes.count} processes"
            raise UsageError("train", rule, settings.batch, "Change it, or the number of processes")
        self.settings, self.precision = settings, precision
        self.network = task.network
        self.average = copy.deepcopy(task.network).eval().requires_grad_(False)
        self.done = 0
        self.gradient_norm = torch.tensor(math.nan)
        self._optimiser = torch.optim.Adam(task.network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
        task.network = processes.wrap(task.network)
        self._task, self._processes, self._device = task, processes, processes.device
        self._generator = torch.Generator().manual_seed(settings.seed)
        if processes.rank:
            # Each process draws images, times, noise and dropout of its own; only the networks start alike.
            self._generator.manual_seed(settings.seed + (processes.rank << 32))
            torch.manual_seed(settings.seed + (processes.rank << 32))
        self._values, self._labels = data.values.to(self._device), data.labels.to(self._device)
        self._losses: list[float] = []
        # Losses stay on the device until they are looked at: an accelerator is not made to wait for each one.
        self._waiting: list[Tensor] = []

    def step(self) -> None:
        """One step of Adam on one batch."""
        settings = self.settings
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(settings, self.done)
        values, labels = self._batch()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            loss = self._task.loss(values, labels, self._generator)
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.gradient_norm = nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self._optimiser.step()
        update_average(self.average, self.network, settings.ema, self.done)
        self._waiting.append(loss.detach().float())
        self.done += 1

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Values and labels of this process's part of a batch."""
        n = self.settings.batch // self._processes.count
        rows = torch.randint(len(self._values), (n,), generator=self._generator).to(self._device)
        values = self._values[rows]
        if self.settings.flip:
            mirrored = torch.rand(n, generator=self._generator) < 0.5
            values = torch.where(mirrored.to(self._device)[:, None, None, None], values.flip(-1), values)
        return values, self._labels[rows]

    def losses(self) -> list[float]:
        """The loss of every step done, its mean over the processes; waits for the device and for all of them."""
        if self._waiting:
            self._losses += self._processes.mean(torch.stack(self._waiting)).tolist()
            self._waiting.clear()
        return self._losses

    def is_finite(self) -> bool:
        """Whether losses and weights are finite: one infinite gradient spoils the weights before any loss."""
        weights = [parameter.detach() for parameter in self.network.parameters()]
        return all(map(math.isfinite, self.losses())) and all(bool(w.isfinite().all()) for w in weights)

    def final_loss(self) -> float:
        """The mean loss of the last tenth of the steps."""
        return float(torch.tensor(self.losses()[-math.ceil(self.settings.steps / 10) :]).mean())

    def loss_curve(self, points: int = 50) -> tuple[float, ...]:
        """The means over equal parts of the steps, at most so many, in their order and to five digits."""
        losses = torch.tensor(self.losses(), dtype=torch.float64)
        return tuple(float(f"{part.mean():.5g}") for part in losses.tensor_split(min(points, len(losses))))

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on: tensors and plain values; waits for all processes."""
        first, *others = self._processes.gather(self._generators())
        return {
            "done": self.done,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "losses": torch.tensor(self.losses(), dtype=torch.float32),
            **first,
            "others": others,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts the run where it was when :meth:`state` gave that.

        Raises:
            UsageError: another number of processes made it.
        """
        processes = [state, *state.get("others", [])]
        if len(processes) != self._processes.count:
            todo = "Launch as many as began it"
            rule = f"a run of {len(processes)} processes goes on with as many"
            raise UsageError("train", rule, self._processes.count, todo)
        self.done = state["done"]
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._losses, self._waiting = state["losses"].tolist(), []
        mine = processes[self._processes.rank]
        self._generator.set_state(mine["generator"])
        torch.set_rng_state(mine["global_generator"])
        if mine["device_generator"] is not None and self._device.type == "cuda":
            torch.cuda.set_rng_state(mine["device_generator"], self._device)

    def _generators(self) -> dict[str, Tensor | None]:
        """The states of what this process draws from."""
        cuda = self._device.type == "cuda"
        return {
            "generator": self._generator.get_state(),
            "global_generator": torch.get_rng_state(),
            "device_generator": torch.cuda.get_rng_state(self._device) if cuda else None,
        }
