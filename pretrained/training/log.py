"""What TensorBoard shows of a run."""

from pathlib import Path


class Log:
    """Loss, learning rate, norm of the gradient and images a second, in event files below a folder.

    Args:
        folder: made if missing; every stretch of a run adds a file.
        done: steps done before; what a killed stretch logged beyond them is hidden.
    """

    def __init__(self, folder: Path, done: int) -> None:
        # Imported here: it takes a second, and training alone needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def add(self, done: int, **values: float) -> None:
        """Writes values under their names."""
        for name, value in values.items():
            self._writer.add_scalar(f"training/{name}", value, done)

    def close(self) -> None:
        """Writes what is still in memory."""
        self._writer.close()
