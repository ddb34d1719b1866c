"""Checkpoints that Song et al. published: which file it is, where it is downloaded from, and where it is looked for.

None is shipped: 62 to 108 million weights, their averages and the optimiser's two moments make 1 to 1.7 GB. A card
names the file below the folder of checkpoints, ``SCOREBENCH_CHECKPOINTS`` or ``~/.cache/scorebench/checkpoints``, as
the authors' drive lays them out.

Reference: Song et al. 2021, arXiv:2011.13456; github.com/yang-song/score_sde_pytorch.
"""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from pretrained.importers.song import SongSettings
from pretrained.networks.settings import Count, Positive, Section
from pretrained.yaml_model import read_mapping, validate
from solvers.errors import UsageError, unknown_name

CARDS = Path(__file__).parent / "cards" / "published"
FOLDER_VARIABLE = "SCOREBENCH_CHECKPOINTS"


class PublishedData(Section):
    """Data that the network was trained on, and the state made of them: x_0 = scale v + offset, v in [0, 1)."""

    name: str
    levels: Count
    scale: Positive
    offset: float


class Source(Section):
    """Where the weights come from: ``file`` below the folder of checkpoints, downloaded from ``page``."""

    file: str
    page: str


class PublishedCard(Section):
    """A configuration of Song et al.; ``source`` is missing where they published no weights of it.

    ``parameters`` counts what the network holds, frozen Fourier frequencies included.
    """

    name: str
    kind: Literal["published"]
    description: str
    source: Source | None = None
    parameters: Count
    data: PublishedData
    settings: SongSettings

    @model_validator(mode="after")
    def _same_state(self) -> Self:
        """Refuses a state that the network's settings contradict."""
        expected = (2.0, -1.0) if self.settings.centered else (1.0, 0.0)
        if (self.data.scale, self.data.offset) != expected:
            rule = f"with centered: {self.settings.centered} the state has (scale, offset) {expected}"
            raise UsageError(f"card {self.name}", rule, (self.data.scale, self.data.offset), "Correct data")
        return self

    def where(self) -> Path | None:
        """Where its file is looked for; None if there is none."""
        return None if self.source is None else checkpoint_folder() / self.source.file

    def find(self) -> Path:
        """Its file.

        Raises:
            UsageError: it is not there; the text says what to download and where to put it.
        """
        path = self.where()
        if path is None or self.source is None:
            todo = "Train it by a card with network ncsnpp, or read a .pth of your own by pretrained.importers.song"
            raise UsageError(f"load {self.name}", "its authors published no weights of this configuration", None, todo)
        if not path.is_file():
            todo = (
                f"Download {path.name} from {self.source.page} and put it into {path.parent}"
                f" (the folder of checkpoints is {checkpoint_folder()}; {FOLDER_VARIABLE} names another)"
            )
            raise UsageError(f"load {self.name}", "its weights are not here", str(path), todo)
        return path


def checkpoint_folder() -> Path:
    """Where published checkpoints are looked for."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else Path.home() / ".cache" / "scorebench" / "checkpoints"


def published_names() -> list[str]:
    """Names of the configurations with a card."""
    return sorted(path.stem for path in CARDS.glob("*.yaml"))


def load_published_card(name: str) -> PublishedCard:
    """A card by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in published_names():
        raise unknown_name("load_published_card", "card", name, published_names())
    path = CARDS / f"{name}.yaml"
    return validate(read_mapping(path, "card"), PublishedCard, f"card {path}")
