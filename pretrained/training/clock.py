"""The time of a run: its stretches summed, and when a checkpoint or the end of a stretch is due."""

import time


class Clock:
    """Starts when it is made.

    Args:
        minutes: length of this stretch; None: no limit.
        checkpoint_minutes: between two checkpoints.
    """

    def __init__(self, minutes: float | None, checkpoint_minutes: float) -> None:
        self._minutes, self._checkpoint_minutes = minutes, checkpoint_minutes
        self._began = self._checkpointed = time.perf_counter()
        self._before = 0.0

    def go_on_from(self, seconds: float) -> None:
        """Adds what earlier stretches took."""
        self._before = seconds

    @property
    def seconds(self) -> float:
        """Of training, over all stretches."""
        return self._before + time.perf_counter() - self._began

    @property
    def is_over(self) -> bool:
        """Whether this stretch has had its minutes."""
        return self._minutes is not None and time.perf_counter() - self._began >= 60 * self._minutes

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the last checkpoint is old enough."""
        return time.perf_counter() - self._checkpointed >= 60 * self._checkpoint_minutes

    def checkpointed(self) -> None:
        """To be told when one was written."""
        self._checkpointed = time.perf_counter()
