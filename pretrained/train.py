"""Training: a card in, a checkpoint and the card with its result out."""

import copy
import math
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save
from torch import Tensor, nn

from pretrained import provenance
from pretrained.card import Card, ClassifierCard, ClassifierResult, Machine, ScoreResult, TrainingSettings, dump_card
from pretrained.data import ImageData, load_data
from pretrained.tasks import Task, build_task
from solvers.errors import UsageError

# Losses stay on the device between checks, so that an accelerator is not made to wait for each one.
CHECK_EVERY = 20


def train(card: Card, out: Path, device: torch.device | str = "cpu", progress: bool = True) -> Card:
    """Trains the network of a card; writes ``<out>/<name>.safetensors`` and ``<out>/<name>.yaml``, each atomically.

    The weights are the moving average of the run. All draws come from generators seeded with the card's seed: on one
    machine with one number of threads two runs give the same weights, whatever the state of the global generator, which
    is left as it was.

    Args:
        card: the recipe; a result it already has is replaced in the written card.
        out: folder, made if missing.
        device: where to train.
        progress: show a progress bar with loss, images a second and time left.

    Returns:
        The card with its result.

    Raises:
        UsageError: the loss stopped being finite; nothing is written.
    """
    device = torch.device(device)
    data = load_data(card.data.name, "train")
    started = time.perf_counter()
    # Initialisation and dropout take no generator argument: the global one is borrowed, seeded and put back.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(card.training.seed)
        task = build_task(card, data, device)
        network, final_loss = _run(card.name, card.training, task, data, device, progress)
    seconds = time.perf_counter() - started
    weights = save({key: value.cpu().contiguous() for key, value in network.state_dict().items()})
    commit, dirty = provenance.commit(Path(__file__).parent)
    facts = {
        "final_loss": final_loss,
        "steps": card.training.steps,
        "seconds": round(seconds, 3),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": Machine(
            cpu=provenance.cpu_model(),
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            device=provenance.device_model(device),
            torch=torch.__version__,
        ),
        "commit": commit,
        "dirty": dirty,
        "sha256": provenance.sha256(weights),
        "parameters": sum(p.numel() for p in network.parameters()),
        **task.figure(network),
    }
    result = (ClassifierResult if isinstance(card, ClassifierCard) else ScoreResult).model_validate(facts)
    finished = card.model_copy(update={"result": result})
    out.mkdir(parents=True, exist_ok=True)
    # The card last: it carries the hash, so a checkpoint without its card is refused instead of believed.
    provenance.write_atomically(out / f"{card.name}.safetensors", weights)
    provenance.write_atomically(out / f"{card.name}.yaml", dump_card(finished).encode())
    return finished


def learning_rate(settings: TrainingSettings, step: int) -> float:
    """Rate at a step counted from 0: linear rise over ``warm_up`` steps, times a half cosine down to 0 at the end."""
    rise = min(1.0, (step + 1) / max(settings.warm_up, 1))
    return settings.learning_rate * rise * (1 + math.cos(math.pi * step / settings.steps)) / 2


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """average <- d average + (1 - d) network, d = min(decay, (1 + step)/(10 + step)): the start is soon forgotten."""
    d = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - d)


def _run(
    name: str, settings: TrainingSettings, task: Task, data: ImageData, device: torch.device, progress: bool
) -> tuple[nn.Module, float]:
    """The loop; the averaged network and the mean loss of the last tenth of the steps."""
    average = copy.deepcopy(task.network).eval().requires_grad_(False)
    optimiser = torch.optim.Adam(task.network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(settings.seed)
    values, labels = data.values.to(device), data.labels.to(device)
    losses: list[Tensor] = []
    columns = ("{task.description}", "loss {task.fields[loss]:.4f}", "{task.fields[rate]:.0f} images/s")
    bar = Progress(
        TextColumn(columns[0]),
        BarColumn(),
        MofNCompleteColumn(),
        *map(TextColumn, columns[1:]),
        TimeRemainingColumn(),
        disable=not progress,
    )
    with bar:
        shown = bar.add_task(name, total=settings.steps, loss=math.nan, rate=0.0)
        started = time.perf_counter()
        for step in range(settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(settings, step)
            rows = torch.randint(len(values), (settings.batch,), generator=generator).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                loss = task.loss(values[rows], labels[rows], generator)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(task.network.parameters(), settings.clip)
            optimiser.step()
            update_average(average, task.network, settings.ema, step)
            losses.append(loss.detach())
            done = step + 1
            if done % CHECK_EVERY == 0 or done == settings.steps:
                recent = float(torch.stack(losses[-CHECK_EVERY:]).mean())
                if not math.isfinite(recent):
                    raise UsageError(
                        f"train {name}",
                        f"the loss must stay finite, step {done}",
                        recent,
                        "Lower learning_rate or clip.",
                    )
                rate = done * settings.batch / (time.perf_counter() - started)
                bar.update(shown, completed=done, loss=recent, rate=rate)
    return average, float(torch.stack(losses[-math.ceil(settings.steps / 10) :]).mean())
