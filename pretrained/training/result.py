"""What a finished run writes: its weights, and its card with the result."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save

from pretrained import provenance
from pretrained.card import Card, DequantiserCard, Machine, TrainedOn, dump_card, load_card
from pretrained.data import ImageData
from pretrained.tasks import Task
from pretrained.training.loop import Loop
from pretrained.training.processes import Processes
from pretrained.training.restart import recipe


def describe(data: ImageData, card: Card) -> TrainedOn:
    """The record of the data that a run is trained on."""
    law: Literal["uniform", "variational"] = "variational" if isinstance(card, DequantiserCard) else "uniform"
    return TrainedOn(
        samples=len(data.values),
        levels=data.levels,
        dequantisation=None if data.levels is None else law,
        flip=card.training.flip,
        sha256=provenance.sha256(data.values.numpy().tobytes()),
    )


def write_result(
    card: Card, loop: Loop, task: Task, trained_on: TrainedOn, processes: Processes, seconds: float, out: Path
) -> Card:
    """Writes weights and card of a finished run, each atomically; the card with its result."""
    weights = save({key: value.cpu().contiguous() for key, value in loop.average.state_dict().items()})
    commit, dirty = provenance.commit(Path(__file__).parent)
    facts = {
        "final_loss": loop.final_loss(),
        "steps": loop.done,
        "seconds": round(seconds, 3),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": Machine(
            cpu=provenance.cpu_model(),
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            device=provenance.device_model(processes.device),
            torch=torch.__version__,
        ),
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
    result = card.result_type.model_validate(facts)
    finished = card.model_copy(update={"result": result})
    # The card last: it carries the hash, so a checkpoint without its card is refused instead of believed.
    provenance.write_atomically(out / f"{card.name}.safetensors", weights)
    provenance.write_atomically(out / f"{card.name}.yaml", dump_card(finished).encode())
    return finished


def read_result(card: Card, out: Path) -> Card | None:
    """The card with its result, if ``out`` holds that, of the same recipe, and its weights."""
    path, weights = out / f"{card.name}.yaml", out / f"{card.name}.safetensors"
    if not (path.is_file() and weights.is_file()):
        return None
    there = load_card(path)
    known = there.result is not None and there.result.sha256 == provenance.sha256_of_file(weights)
    return there if known and recipe(there) == recipe(card) else None
