"""The file that an unfinished run goes on from: ``<name>.resume.pt`` beside its checkpoint."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from pretrained.card import Card
from pretrained.provenance import write_atomically
from solvers.errors import UsageError


def restart_path(folder: Path, name: str) -> Path:
    """Where the file of a run lies."""
    return folder / f"{name}.resume.pt"


def recipe(card: Card) -> dict[str, Any]:
    """What of a card decides the run: all but its result and its words."""
    return card.model_dump(mode="json", exclude={"result", "description"})


def write_restart(path: Path, card: Card, state: dict[str, Any], seconds: float) -> None:
    """Writes the file whole or not at all.

    Args:
        path: see :func:`restart_path`.
        card: the recipe that the run follows.
        state: of its loop, see :meth:`pretrained.training.loop.Loop.state`.
        seconds: that it has trained for, over all its stretches.
    """
    buffer = io.BytesIO()
    torch.save({"recipe": recipe(card), "seconds": seconds, "state": state}, buffer)
    write_atomically(path, buffer.getbuffer())


def read_restart(path: Path, card: Card) -> tuple[dict[str, Any], float]:
    """State and seconds of an unfinished run.

    Raises:
        UsageError: the file is damaged, or is of a run that another recipe began.
    """
    who = f"train {card.name}"
    try:
        # Tensors and plain values only: a file from elsewhere runs no code.
        content = torch.load(path, map_location="cpu", weights_only=True)
        before, seconds, state = content["recipe"], float(content["seconds"]), content["state"]
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        what = " ".join(str(error).split())[:200]
        todo = "Remove it and start anew"
        raise UsageError(who, f"{path} holds the state of an unfinished run", what, todo) from error
    changes = _changes(before, recipe(card))
    if changes:
        todo = f"Restore the card, or start anew: remove {path}"
        raise UsageError(who, "a run goes on with the card it began with", "; ".join(changes), todo)
    return state, seconds


def _changes(before: Any, now: Any, key: str = "") -> list[str]:
    """What differs between two recipes, as ``section.key: before -> now``."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(name for name in now if name not in before)]
        parts = (_changes(before.get(name), now.get(name), f"{key}.{name}" if key else name) for name in keys)
        return [change for part in parts for change in part]
    return [] if before == now else [f"{key}: {before!r} -> {now!r}"]
