"""Checkpoints that others published: which file it is, where it is downloaded from, and where it is looked for.

None is shipped: of Song et al., 62 to 108 million weights, their averages and the optimiser's two moments make 1 to 1.7
GB. A card names the file below the folder of checkpoints, ``SCOREBENCH_CHECKPOINTS`` or
``~/.cache/scorebench/checkpoints``, as the authors' drive lays them out; or a pipeline of the Hugging Face hub,
``hf:OWNER/NAME``, which is downloaded when it is loaded.

References: Song et al. 2021, arXiv:2011.13456; github.com/yang-song/score_sde_pytorch. Karras et al. 2022,
arXiv:2206.00364; github.com/NVlabs/edm.
"""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from pretrained.importers import diffusers
from pretrained.importers.song import SongSettings
from pretrained.networks.settings import Count, Positive, Section
from pretrained.yaml_model import read_mapping, validate
from solvers.errors import UsageError, unknown_name

CARDS = Path(__file__).parent / "cards" / "published"
FOLDER_VARIABLE = "SCOREBENCH_CHECKPOINTS"
HUB = "hf:"


class MissingCheckpointError(UsageError):
    """The weights of a checkpoint are not here.

    Attributes:
        reason: in short, which and where they belong.
    """

    reason: str = ""


class PublishedData(Section):
    """Data that the network was trained on, and the state made of them: x_0 = scale v + offset, v in [0, 1)."""

    name: str
    levels: Count
    scale: Positive
    offset: float


class Source(Section):
    """Where the weights come from: ``file`` below the folder of checkpoints, downloaded from ``page``; or ``hf:``."""

    file: str
    page: str | None = None


class PublishedCard(Section):
    """A configuration; ``source`` is missing where its authors published no weights of it.

    ``parameters`` counts what the network holds, frozen Fourier frequencies included. ``settings`` are those of Song et
    al., whose files do not tell them; the others' do.
    """

    name: str
    kind: Literal["published"]
    description: str
    source: Source | None = None
    parameters: Count
    data: PublishedData
    settings: SongSettings | None = None

    @model_validator(mode="after")
    def _same_state(self) -> Self:
        """Refuses a state that the network's settings contradict."""
        if self.settings is None:
            return self
        expected = state_of(self.settings.centered)
        if (self.data.scale, self.data.offset) != expected:
            rule = f"with centered: {self.settings.centered} the state has (scale, offset) {expected}"
            raise UsageError(f"card {self.name}", rule, (self.data.scale, self.data.offset), "Correct data")
        return self

    @property
    def pipeline(self) -> str | None:
        """Its name on the hub, if it is there."""
        here = self.source is not None and self.source.file.startswith(HUB)
        return self.source.file.removeprefix(HUB) if here and self.source is not None else None

    def where(self) -> Path | None:
        """Where its file is looked for; None if it has none below the folder of checkpoints."""
        return None if self.source is None or self.pipeline else checkpoint_folder() / self.source.file

    def presence(self) -> str:
        """Where its weights are, in a word or two."""
        if self.source is None:
            return "not published"
        if self.pipeline is not None:
            return "here" if diffusers.is_cached(self.pipeline) else "on the hub"
        path = self.where()
        return "here" if path is not None and path.is_file() else "not here"

    def find(self) -> Path:
        """Its file, or its pipeline's folder, downloaded if need be.

        Raises:
            MissingCheckpointError: it is not there; the text says what to download and where to put it.
            UsageError: a pipeline that is neither in the cache nor within reach.
        """
        if self.pipeline is not None:
            return diffusers.fetch(self.pipeline)
        path = self.where()
        if path is None or self.source is None:
            todo = "Train it by a card with network ncsnpp, or read a .pth of your own by pretrained.importers.song"
            rule = "its authors published no weights of this configuration"
            missing = MissingCheckpointError(f"load {self.name}", rule, None, todo)
            missing.reason = f"checkpoint {self.name}, {rule}"
            raise missing
        if not path.is_file():
            todo = (
                f"Download {path.name} from {self.source.page} and put it into {path.parent}"
                f" (the folder of checkpoints is {checkpoint_folder()}; {FOLDER_VARIABLE} names another)"
            )
            missing = MissingCheckpointError(f"load {self.name}", "its weights are not here", str(path), todo)
            missing.reason = f"checkpoint {self.name}, put it at {path}"
            raise missing
        return path


def state_of(centred: bool) -> tuple[float, float]:
    """(scale, offset) of states x_0 = scale v + offset in [-1, 1], if they are centred, or in [0, 1]."""
    return (2.0, -1.0) if centred else (1.0, 0.0)


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
