"""What a finished run writes: its weights, and its card with the result."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pretrained import provenance
from pretrained.card import Card, DequantiserCard, ScoreCard, dump_card, load_card, with_result
from pretrained.data import ImageData
from pretrained.machine import machine_on
from pretrained.results import TrainedOn
from pretrained.tasks import Task
from pretrained.training.loop import Loop
from pretrained.training.processes import Processes
from pretrained.training.restart import recipe
from solvers.errors import UsageError


def describe(card: Card, data: ImageData) -> TrainedOn:
    """The record of the data that a run is trained on."""
    data_set = card.data.build()
    law: Literal["uniform", "variational"] = "variational" if isinstance(card, DequantiserCard) else "uniform"
    return TrainedOn(
        samples=len(data.values),
        levels=data.levels,
        dequantisation=None if data.levels is None else law,
        flip=card.training.flip,
        sha256=provenance.sha256(data.values.numpy().tobytes()),
        source=data_set.source,
        licence=data_set.licence,
    )


def write_result(
    card: Card, loop: Loop, task: Task, trained_on: TrainedOn, processes: Processes, seconds: float, out: Path
) -> Card:
    """Writes weights and card of a finished run, each atomically; the card with its result."""
    weights = save(_stored(loop.average, card))
    commit, dirty = provenance.commit(Path(__file__).parent)
    facts = {
        "command": f"scorebench train {card.name}",
        "final_loss": loop.final_loss(),
        "steps": loop.done,
        "seconds": round(seconds, 3),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine_on(processes.device),
        "commit": commit,
        "dirty": dirty,
        "sha256": provenance.sha256(weights),
        "parameters": sum(p.numel() for p in loop.average.parameters()),
        "processes": processes.count,
        "precision": loop.precision,
        "trained_on": trained_on,
        "loss_curve": loop.loss_curve(),
        **task.figure(loop.average),
    }
    finished = with_result(card, card.result_type.model_validate(facts))
    # The card last: it carries the hash, so a checkpoint without its card is refused instead of believed.
    provenance.write_atomically(out / f"{card.name}.safetensors", weights)
    provenance.write_atomically(out / f"{card.name}.yaml", dump_card(finished).encode())
    return finished


@torch.no_grad()
def _stored(network: nn.Module, card: Card) -> dict[str, Tensor]:
    """The tensors that are kept; the network's own parameters are rounded to them, so that figures are of what is kept.

    Raises:
        UsageError: a weight is too large for float16.
    """
    tensors = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    if _kept_in(card) == "float32":
        return tensors
    for name, parameter in network.named_parameters():
        half = parameter.to(torch.float16)
        if not half.isfinite().all():
            rule = f"weights kept in float16 stay below {torch.finfo(torch.float16).max:g}, {name}"
            raise UsageError(f"train {card.name}", rule, float(parameter.abs().max()), "Write weights: float32")
        parameter.copy_(half)
        tensors[name] = half.cpu().contiguous()
    return tensors


def read_result(card: Card, out: Path) -> Card | None:
    """The card with its result, if ``out`` holds that, of the same recipe, and its weights."""
    path, weights = out / f"{card.name}.yaml", out / f"{card.name}.safetensors"
    if not (path.is_file() and weights.is_file()):
        return None
    there = load_card(path)
    known = there.result is not None and there.result.sha256 == provenance.sha256_of_file(weights)
    same = recipe(there) == recipe(card) and _kept_in(there) == _kept_in(card)
    return there if known and same else None


def _kept_in(card: Card) -> str:
    return card.weights if isinstance(card, ScoreCard) else "float32"
