"""The progress bar of a run."""

import math
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Loss, images a second and time left.

    Args:
        name: of the run.
        done: steps done before.
        steps: of the whole run.
        batch: images a step.
        shown: whether anything is drawn.
    """

    def __init__(self, name: str, done: int, steps: int, batch: int, shown: bool) -> None:
        columns = ("{task.description}", "loss {task.fields[loss]:.4f}", "{task.fields[rate]:.0f} images/s")
        self._progress = Progress(
            TextColumn(columns[0]),
            BarColumn(),
            MofNCompleteColumn(),
            *map(TextColumn, columns[1:]),
            TimeRemainingColumn(),
            disable=not shown,
        )
        self._task = self._progress.add_task(name, total=steps, completed=done, loss=math.nan, rate=0.0)
        self._batch, self._before = batch, done
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, done: int, loss: float) -> float:
        """Shows where the run is; returns images a second since it began or went on."""
        rate = (done - self._before) * self._batch / (time.perf_counter() - self._started)
        self._progress.update(self._task, completed=done, loss=loss, rate=rate)
        return rate
