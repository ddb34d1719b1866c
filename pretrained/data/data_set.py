"""What a data set declares, and what one of its parts holds."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar

from torch import Tensor

from solvers.errors import UsageError, unknown_name

SPLITS = ("train", "test")


@dataclass(frozen=True)
class DataSpec:
    """What is known of a data set without reading it: all that a network needs to be built.

    Attributes:
        name: key in :data:`pretrained.data.DATA_SETS`.
        shape: shape of one sample; of an image, (channels, height, width).
        levels: number L of levels, values lie in 0..L-1; None where they are continuous.
        classes: number of classes of its labels.
        flip: whether a mirror image is as likely as the image.
    """

    name: str
    shape: tuple[int, ...]
    levels: int | None
    classes: int
    flip: bool


@dataclass(frozen=True)
class ImageData(DataSpec):
    """One part of a data set.

    Attributes:
        values: levels of the pixels, uint8, shape (n, channels, height, width), or continuous values, float32, (n, d).
        labels: classes, int64, shape (n,).
    """

    values: Tensor
    labels: Tensor


class MissingDataError(UsageError):
    """The files of a data set are not here and could not be downloaded.

    Attributes:
        reason: in short, which and where they belong.
    """

    reason: str = ""


def missing_data(key: str, rule: str, error: Exception, todo: str) -> MissingDataError:
    """The error of a data set whose files should be where ``rule`` says."""
    missing = MissingDataError(key, rule, " ".join(str(error).split()), todo)
    missing.reason = f"data {key}: {todo}"
    return missing


@dataclass(frozen=True)
class DataSet(ABC):
    """A data set; a subclass is a frozen dataclass whose fields are its settings.

    Attributes:
        key: its name in cards.
        summary: what it is, one line.
        source: where it comes from.
        licence: under which its makers give it, as they state it.
    """

    key: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    licence: ClassVar[str]

    @property
    def is_here(self) -> bool:
        """Whether it can be read without a download."""
        return True

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """What is known without reading it."""

    @abstractmethod
    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """Values and labels of the ``train`` or ``test`` part, in an order that never changes.

        Raises:
            UsageError: the data are not here, or not what they should be.
        """

    def load(self, split: str) -> ImageData:
        """The ``train`` or ``test`` part.

        Raises:
            UsageError: no split of that name, or as :meth:`read`.
        """
        if split not in SPLITS:
            raise unknown_name("load_data", "split", split, SPLITS)
        values, labels = self.read(split)
        return ImageData(**asdict(self.spec), values=values, labels=labels)
