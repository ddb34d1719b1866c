"""What a run shows while it goes on: a progress bar and TensorBoard's curves."""

import math
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pretrained.card import Card
from pretrained.training.log import Log
from pretrained.training.loop import Loop, learning_rate


class Monitor:
    """Loss, images a second and time left on a bar; loss, rates and norm of the gradient in a log.

    Args:
        card: of the run.
        loop: the run, where it begins or goes on.
        bar: whether the bar is drawn.
        logs: folder of TensorBoard's event files, or None.
    """

    def __init__(self, card: Card, loop: Loop, bar: bool, logs: Path | None) -> None:
        columns = ("{task.description}", "loss {task.fields[loss]:.4f}", "{task.fields[rate]:.0f} images/s")
        self._progress = Progress(
            TextColumn(columns[0]),
            BarColumn(),
            MofNCompleteColumn(),
            *map(TextColumn, columns[1:]),
            TimeRemainingColumn(),
            disable=not bar,
        )
        self._settings, self._before = card.training, loop.done
        steps = card.training.steps
        self._task = self._progress.add_task(card.name, total=steps, completed=loop.done, loss=math.nan, rate=0.0)
        self._log = None if logs is None else Log(logs, loop.done)
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._log is not None:
            self._log.close()

    def note(self, text: str) -> None:
        """A line above the bar."""
        if not self._progress.disable:
            self._progress.console.print(text, highlight=False)

    def show(self, loop: Loop, loss: float) -> None:
        """Where the run is, with a mean of its last losses."""
        rate = (loop.done - self._before) * self._settings.batch / (time.perf_counter() - self._started)
        self._progress.update(self._task, completed=loop.done, loss=loss, rate=rate)
        if self._log is not None:
            self._log.add(
                loop.done,
                loss=loss,
                learning_rate=learning_rate(self._settings, loop.done - 1),
                gradient_norm=float(loop.gradient_norm),
                images_per_second=rate,
            )
