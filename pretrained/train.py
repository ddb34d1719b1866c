"""Training: a card in, a checkpoint and the card with its result out."""

import math
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save

from pretrained import provenance
from pretrained.card import Card, ClassifierCard, ClassifierResult, Machine, ScoreResult, dump_card, load_card
from pretrained.data import load_data
from pretrained.tasks import Task, build_task
from pretrained.training.bar import Bar
from pretrained.training.loop import Loop, learning_rate, update_average
from pretrained.training.restart import read_restart, recipe, restart_path, write_restart
from pretrained.training.stop import stop_requests
from solvers.errors import UsageError

__all__ = ["learning_rate", "train", "update_average"]

CHECK_EVERY = 20
CHECKPOINT_MINUTES = 10.0


def train(
    card: Card,
    out: Path,
    device: torch.device | str = "cpu",
    progress: bool = True,
    resume: bool = False,
    minutes: float | None = None,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
) -> Card:
    """Trains the network of a card; writes ``<out>/<name>.safetensors`` and ``<out>/<name>.yaml``, each atomically.

    The weights are the moving average of the run. All draws come from generators seeded with the card's seed: on one
    machine with one number of threads two runs give the same weights, whatever the state of the global generator, which
    is left as it was. So do a run in one piece and one that was stopped, even killed, and resumed.

    Args:
        card: the recipe; a result it already has is replaced in the written card.
        out: folder, made if missing.
        device: where to train.
        progress: show a progress bar with loss, images a second and time left.
        resume: go on from ``<out>/<name>.resume.pt`` if it is there; a finished run is returned as it is.
        minutes: stop after so many, to be resumed; the schedule follows the steps and knows of no stretches.
        checkpoint_minutes: how often that file is written; it is also written at a stop, and removed at the end.

    Returns:
        The card with its result; without one if the run was stopped before its last step.

    Raises:
        KeyboardInterrupt, SystemExit: at Ctrl-C and SIGTERM, after a checkpoint.
        UsageError: the data are missing, the loss stopped being finite, or there is a run to go on with that ``resume``
            did not ask for, or that another recipe began. The last checkpoint stays.
    """
    device = torch.device(device)
    restart = restart_path(out, card.name)
    finished = _finished(card, out) if resume else None
    if finished is not None:
        return finished
    if restart.is_file() and not resume:
        todo = f"Resume it (--resume), or remove {restart} to start anew"
        raise UsageError(f"train {card.name}", "an unfinished run is not overwritten", str(restart), todo)
    data = load_data(card.data.name, "train")
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    # Initialisation and dropout take no generator argument: the global one is borrowed, seeded and put back.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(card.training.seed)
        task = build_task(card, data, device)
        loop = Loop(card.training, task, data, device)
        if restart.is_file():
            state, before = read_restart(restart, card)
            loop.load_state(state)
            started -= before
        _run(card, loop, restart, started, progress, minutes, checkpoint_minutes)
    if loop.done < card.training.steps:
        return card.model_copy(update={"result": None})
    finished = _finish(card, loop, task, out, device, started)
    restart.unlink(missing_ok=True)
    return finished


def _run(
    card: Card,
    loop: Loop,
    restart: Path,
    started: float,
    progress: bool,
    minutes: float | None,
    checkpoint_minutes: float,
) -> None:
    """Steps until the last one, or until a signal or the time asks to stop; ends with a checkpoint."""
    steps = card.training.steps
    began = last = time.perf_counter()
    with Bar(card.name, loop.done, steps, card.training.batch, progress) as bar, stop_requests() as request:
        while loop.done < steps:
            loop.step()
            now = time.perf_counter()
            stopping = request.signal is not None or (minutes is not None and now - began >= 60 * minutes)
            due = stopping or loop.done == steps or now - last >= 60 * checkpoint_minutes
            if due or loop.done % CHECK_EVERY == 0:
                recent = loop.losses()[-CHECK_EVERY:]
                loss = sum(recent) / len(recent)
                if not math.isfinite(loss) or (due and not loop.is_finite()):
                    rule = f"the loss must stay finite, step {loop.done}"
                    raise UsageError(f"train {card.name}", rule, loss, "Lower learning_rate or clip.")
                bar.update(loop.done, loss)
            if due:
                write_restart(restart, card, loop.state(), now - started)
                last = time.perf_counter()
            if request.signal == signal.SIGINT:
                raise KeyboardInterrupt
            if request.signal is not None:
                raise SystemExit(128 + request.signal)
            if stopping:
                return


def _finish(card: Card, loop: Loop, task: Task, out: Path, device: torch.device, started: float) -> Card:
    """The card with what came out; weights and card are written."""
    weights = save({key: value.cpu().contiguous() for key, value in loop.average.state_dict().items()})
    commit, dirty = provenance.commit(Path(__file__).parent)
    facts = {
        "final_loss": loop.final_loss(),
        "steps": loop.done,
        "seconds": round(time.perf_counter() - started, 3),
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
        "parameters": sum(p.numel() for p in loop.average.parameters()),
        **task.figure(loop.average),
    }
    result = (ClassifierResult if isinstance(card, ClassifierCard) else ScoreResult).model_validate(facts)
    finished = card.model_copy(update={"result": result})
    # The card last: it carries the hash, so a checkpoint without its card is refused instead of believed.
    provenance.write_atomically(out / f"{card.name}.safetensors", weights)
    provenance.write_atomically(out / f"{card.name}.yaml", dump_card(finished).encode())
    return finished


def _finished(card: Card, out: Path) -> Card | None:
    """The card with its result, if ``out`` holds that and its weights."""
    path, weights = out / f"{card.name}.yaml", out / f"{card.name}.safetensors"
    if not (path.is_file() and weights.is_file()):
        return None
    there = load_card(path)
    known = there.result is not None and there.result.sha256 == provenance.sha256_of_file(weights)
    return there if known and recipe(there) == recipe(card) else None
