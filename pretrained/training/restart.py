"""The file that an unfinished run goes on from: ``<name>.resume.pt`` beside its checkpoint."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pretrained.card import Card
from pretrained.provenance import write_atomically
from pretrained.tensors import read_tensors
from solvers.errors import UsageError


def restart_path(folder: Path, name: str) -> Path:
    """Where the file of a run lies."""
    return folder / f"{name}.resume.pt"


def recipe(card: Card) -> dict[str, Any]:
    """What of a card decides the run: not its words, how the weights are kept, its result and what was measured."""
    return card.model_dump(mode="json", exclude={"description", "weights", "result", "evaluation"})


class Restart:
    """The file of one run.

    Args:
        folder: where the run writes.
        card: the recipe that the run follows.
        inputs: hashes of what else decides it, by their names: of the values that it is trained on (``data``) and of
            the weights that it started from, if it did (``start_from``).
    """

    def __init__(self, folder: Path, card: Card, inputs: Mapping[str, str | None]) -> None:
        self.path = restart_path(folder, card.name)
        self._card, self._inputs = card, inputs

    def write(self, state: dict[str, Any], seconds: float) -> None:
        """Writes the file whole or not at all.

        Args:
            state: of its loop, see :meth:`pretrained.training.loop.Loop.state`.
            seconds: that the run has taken, over all its stretches.
        """
        buffer = io.BytesIO()
        torch.save({"recipe": recipe(self._card), **self._inputs, "seconds": seconds, "state": state}, buffer)
        write_atomically(self.path, buffer.getbuffer())

    def read(self) -> tuple[dict[str, Any], float]:
        """State and seconds that were written.

        Raises:
            UsageError: the file is damaged, or is of a run that began with another recipe, or other data or weights.
        """
        who = f"train {self._card.name}"
        try:
            content = read_tensors(self.path)
            # Keys that a later version added to cards have their defaults.
            words = {"description": self._card.description}
            before = recipe(type(self._card).model_validate(content["recipe"] | words))
            state, seconds = content["state"], float(content["seconds"])
            inputs = {name: content.get(name, sha256) for name, sha256 in self._inputs.items()}
        except (KeyError, TypeError, ValueError) as error:
            what = " ".join(str(error).split())[:200]
            todo = "Remove it and start anew"
            raise UsageError(who, f"{self.path} holds the state of an unfinished run", what, todo) from error
        changes = _changes(before, recipe(self._card))
        if changes:
            todo = f"Restore the card, or start anew: remove {self.path}"
            raise UsageError(who, "a run goes on with the card it began with", "; ".join(changes), todo)
        for name, sha256 in self._inputs.items():
            if inputs[name] != sha256:
                todo = f"Restore it, of SHA-256 {inputs[name]}, or start anew: remove {self.path}"
                raise UsageError(who, f"a run goes on with the {name} it began with", f"SHA-256 {sha256}", todo)
        return state, seconds


def _changes(before: Any, now: Any, key: str = "") -> list[str]:
    """What differs between two recipes, as ``section.key: before -> now``."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(name for name in now if name not in before)]
        parts = (_changes(before.get(name), now.get(name), f"{key}.{name}" if key else name) for name in keys)
        return [change for part in parts for change in part]
    return [] if before == now else [f"{key}: {before!r} -> {now!r}"]
