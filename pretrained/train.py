"""Training: a card in, a checkpoint and the card with its result out."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from pretrained.card import Card, with_result
from pretrained.data import ImageData
from pretrained.lock import only_holder
from pretrained.tasks import ScoreTask, build_task
from pretrained.training.clock import Clock
from pretrained.training.loop import Loop, learning_rate, update_average
from pretrained.training.monitor import Monitor
from pretrained.training.precision import precision_on, reproducible
from pretrained.training.processes import is_first, processes_on
from pretrained.training.restart import Restart, restart_path
from pretrained.training.result import describe, read_result, write_result
from pretrained.training.run import run
from solvers.errors import UsageError

__all__ = ["learning_rate", "train", "update_average"]

CHECKPOINT_MINUTES = 10.0


def train(
    card: Card,
    out: Path,
    device: torch.device | str = "cpu",
    progress: bool = True,
    resume: bool = False,
    minutes: float | None = None,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    logs: bool = False,
) -> Card:
    """Trains the network of a card; writes ``<out>/<name>.safetensors`` and ``<out>/<name>.yaml``, each atomically.

    The weights are the moving average of the run. All draws come from generators seeded with the card's seed: on one
    machine with one number of threads two runs give the same weights, whatever the state of the global generator, which
    is left as it was. So do a run in one piece and one that was stopped, even killed, and resumed.

    Started by ``accelerate launch``, several processes share each batch, and the first one writes.

    Args:
        card: the recipe; a result it already has is replaced in the written card.
        out: folder, made if missing.
        device: where to train.
        progress: show a progress bar with loss, images a second and time left.
        resume: go on from ``<out>/<name>.resume.pt`` if it is there; a finished run is returned as it is.
        minutes: stop after so many, to be resumed; the schedule follows the steps and knows of no stretches.
        checkpoint_minutes: how often that file is written; it is also written at a stop, and removed at the end.
        logs: write TensorBoard's event files below ``<out>/logs/<name>``.

    Returns:
        The card with its result; without one if the run was stopped before its last step, and in all processes but the
        first.

    Raises:
        KeyboardInterrupt, SystemExit: at Ctrl-C and SIGTERM, after a checkpoint.
        UsageError: the data are missing, the loss stopped being finite, the disk is full, or there is a finished or
            unfinished run that ``resume`` did not ask for, or one that began with another recipe, other data or
            weights, or another process trains the same card into the same folder. The last checkpoint stays.
    """
    finished = read_result(card, out)
    if finished is not None:
        if resume:
            return finished
        todo = "Leave it as it is (--resume), remove it, or train into another folder"
        raise UsageError(f"train {card.name}", "a finished training is not overwritten", str(out), todo)
    data = card.data.build().load("train")
    # Looked at once the network is trained; what is wrong with it is told before.
    card.data.build().load("test")
    with _writing(card.name, out):
        out.mkdir(parents=True, exist_ok=True)
        with _only_run(card.name, out):
            unfinished = restart_path(out, card.name)
            if unfinished.is_file() and not resume:
                todo = f"Resume it (--resume), or remove {unfinished} to start anew"
                raise UsageError(f"train {card.name}", "an unfinished run is not overwritten", str(unfinished), todo)
            clock = Clock(minutes, checkpoint_minutes)
            return _stretch(card, data, out, torch.device(device), clock, progress, logs)


def _stretch(
    card: Card, data: ImageData, out: Path, device: torch.device, clock: Clock, progress: bool, logs: bool
) -> Card:
    """One stretch of a run: from its last checkpoint, if there is one, to its end or to where it is stopped."""
    trained_on = describe(card, data)
    processes = processes_on(device)
    device, first = processes.device, processes.rank == 0
    # Initialisation and dropout take no generator argument: the global one is borrowed, seeded and put back.
    with reproducible(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(card.training.seed)
        task = build_task(card, data, device)
        start = task.start_sha256 if isinstance(task, ScoreTask) else None
        restart = Restart(out, card, {"data": trained_on.sha256, "start_from": start})
        precision = precision_on(device, card.training.precision)
        loop = Loop(card.training, task, data, precision, processes)
        if restart.path.is_file():
            state, seconds = restart.read()
            loop.load_state(state)
            clock.go_on_from(seconds)
        log_folder = out / "logs" / card.name if logs and first else None
        with Monitor(card, loop, progress and first, log_folder) as monitor:
            if precision != card.training.precision:
                monitor.note(f"{device} has no {card.training.precision}: trained in {precision}.")
            run(card.name, loop, clock, processes, monitor, restart)
        if loop.done < card.training.steps or not first:
            return with_result(card, None)
        finished = write_result(card, loop, task, trained_on, processes, clock.seconds, out)
        restart.path.unlink(missing_ok=True)
    return finished


def _only_run(name: str, folder: Path) -> AbstractContextManager[None]:
    """One run of a card writes a folder at a time; of the processes that share one, the first holds its lock."""
    if not is_first():
        return nullcontext()
    todo = "Wait for the other one, or choose --out"
    return only_holder(folder / f".{name}.lock", f"train {name}", "one run of a card writes a folder at a time", todo)


@contextmanager
def _writing(name: str, folder: Path) -> Iterator[None]:
    """A full disk, or a folder that cannot be written, ends a run with a word on what is kept."""
    try:
        yield
    except OSError as error:
        todo = "Make room there or choose --out; an unfinished run goes on from its last checkpoint with --resume"
        raise UsageError(f"train {name}", f"{folder} can be written", str(error), todo) from error
