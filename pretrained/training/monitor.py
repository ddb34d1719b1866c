"""What a run shows while it goes on: a progress bar, or lines where there is no terminal, and TensorBoard's curves."""

import math
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pretrained.card import Card
from pretrained.training.log import Log
from pretrained.training.loop import Loop, learning_rate

# Between two lines where there is no terminal.
LINE_SECONDS = 60.0
# After so long a run whose steps are slow is shown between its usual looks.
STALE_SECONDS = 5.0


class Monitor:
    """Loss, images a second and time left on a bar or in lines; loss, rates and norm of the gradient in a log.

    Args:
        card: of the run.
        loop: the run, where it begins or goes on.
        shown: whether anything is printed: the bar, or on what is no terminal a line a minute.
        logs: folder of TensorBoard's event files, or None.
    """

    def __init__(self, card: Card, loop: Loop, shown: bool, logs: Path | None) -> None:
        columns = ("{task.description}", "loss {task.fields[loss]:.4f}", "{task.fields[rate]:.0f} images/s")
        self._progress = Progress(
            TextColumn(columns[0]),
            BarColumn(),
            MofNCompleteColumn(),
            *map(TextColumn, columns[1:]),
            TimeRemainingColumn(),
        )
        self._shown, self._lines = shown, shown and not self._progress.console.is_terminal
        self._progress.disable = self._lines or not shown
        self._settings, self._before, self._name = card.training, loop.done, card.name
        steps = card.training.steps
        self._task = self._progress.add_task(card.name, total=steps, completed=loop.done, loss=math.nan, rate=0.0)
        self._log = None if logs is None else Log(logs, loop.done)
        self._started = time.perf_counter()
        self._looked = self._printed = -math.inf

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._log is not None:
            self._log.close()

    @property
    def is_stale(self) -> bool:
        """Whether nothing was shown for some seconds, or ever."""
        return time.perf_counter() - self._looked > STALE_SECONDS

    def note(self, text: str) -> None:
        """A line above the bar."""
        if self._shown:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, loop: Loop, loss: float) -> None:
        """Where the run is, with a mean of its last losses."""
        self._looked = time.perf_counter()
        seconds, steps = self._looked - self._started, loop.done - self._before
        rate = steps * self._settings.batch / seconds
        self._progress.update(self._task, completed=loop.done, loss=loss, rate=rate)
        if self._lines and (self._looked - self._printed >= LINE_SECONDS or loop.done == self._settings.steps):
            self._printed = self._looked
            left = timedelta(seconds=round((self._settings.steps - loop.done) * seconds / steps))
            place = f"step {loop.done}/{self._settings.steps}"
            self.note(f"{self._name}: {place}, loss {loss:.4f}, {rate:.0f} images/s, {left} left")
        if self._log is not None:
            self._log.add(
                loop.done,
                loss=loss,
                learning_rate=learning_rate(self._settings, loop.done - 1),
                gradient_norm=float(loop.gradient_norm),
                images_per_second=rate,
            )
