"""What a training made: the section ``result`` of a card."""

from typing import Literal

from pretrained.machine import Machine
from pretrained.networks.settings import Section

Precision = Literal["float32", "bfloat16"]


class TrainedOn(Section):
    """The data as the training saw them.

    ``levels`` is their number L; values k were dequantised, (k + u)/L, with fresh u in every batch, uniform or as the
    network that was trained learned it. Both are missing for continuous values. ``sha256`` is of the values.
    ``source`` and ``licence`` are what the data set says.
    """

    split: Literal["train"] = "train"
    samples: int
    levels: int | None = None
    dequantisation: Literal["uniform", "variational"] | None = None
    flip: bool
    sha256: str
    source: str | None = None
    licence: str | None = None


class Result(Section):
    """What a training made.

    ``final_loss`` is the mean over the last tenth of the steps, ``loss_curve`` holds the means over equal parts of the
    steps, in their order. ``seconds`` are summed over the stretches of a run that was resumed, ``precision`` is that of
    the last, ``commit`` the code's at its end. ``processes`` is the number of those that shared each batch. ``command``
    trains the card again.
    """

    command: str | None = None
    final_loss: float
    steps: int
    seconds: float
    date: str
    machine: Machine
    commit: str | None = None
    dirty: bool | None = None
    sha256: str
    parameters: int
    processes: int = 1
    precision: Precision | None = None
    trained_on: TrainedOn | None = None
    loss_curve: tuple[float, ...] = ()


class ScoreResult(Result):
    """``held_out_loss``: see :func:`pretrained.tasks.held_out_loss`.

    ``start_sha256`` is the hash of the weights that the training began with, if they were another checkpoint's.
    """

    held_out_loss: float
    start_sha256: str | None = None


class ClassifierResult(Result):
    """``test_accuracy``: see :func:`pretrained.tasks.accuracy`."""

    test_accuracy: float


class NoisyClassifierResult(ClassifierResult):
    """``test_accuracy`` is that at t_min, ``noisy_accuracy`` the mean over noise levels.

    See :func:`pretrained.tasks.noisy_accuracy`.
    """

    noisy_accuracy: float


class DequantiserResult(Result):
    """Bits/dim of held-out images, see :func:`pretrained.dequantisation.held_out_bits`.

    ``checkpoint_sha256`` is the hash of the score model's weights.
    """

    held_out_bits: float
    uniform_bits: float
    checkpoint_sha256: str
