"""Cards: how a checkpoint is made, and, once it is made, what came out.

A card is a YAML file. Its upper part is the recipe that ``train`` follows; ``result`` is filled in by the training run.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, field_serializer, field_validator, model_validator

from pretrained.data import DATA_SETS
from pretrained.networks.labelled import PREDICTIONS
from pretrained.networks.settings import (
    ClassifierSettings,
    Count,
    Fraction,
    NCSNppSettings,
    Positive,
    ScoreNetworkSettings,
    Section,
)
from pretrained.objectives.denoising import Reduction
from pretrained.objectives.times import TimeLaw, Times
from pretrained.objectives.weighting import Weighting
from pretrained.yaml_model import read_mapping, validate
from solvers.errors import UsageError, unknown_name
from solvers.sde import ForwardSDE, get_sde

CARDS = Path(__file__).parent / "cards"


class DataSettings(Section):
    """Data of the training, see :func:`pretrained.data.load_data`."""

    name: str

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in DATA_SETS:
            raise unknown_name("card", "data set", name, DATA_SETS)
        return name


class StateSettings(DataSettings):
    """Data and the state made of them: x_0 = scale v + offset with v the dequantised image in [0, 1)."""

    scale: Positive
    offset: float


class SDESettings(Section):
    """Name and settings of the forward process, see :func:`solvers.sde.get_sde`."""

    name: str
    settings: dict[str, float] = Field(default_factory=dict)

    def build(self) -> ForwardSDE:
        """The forward process."""
        return get_sde(self.name, **self.settings)

    def model_post_init(self, context: Any, /) -> None:
        """Refuses an unknown process or setting when the card is read, not when it is used."""
        self.build()


class TrainingSettings(Section):
    """The loop. The rate rises linearly over ``warm_up`` steps and then falls to zero as a half cosine.

    ``clip`` bounds the norm of the gradient; ``ema`` is the decay of the moving average that is shipped.
    """

    seed: int
    steps: Count
    batch: Count
    learning_rate: Positive
    warm_up: Annotated[int, Field(ge=0)]
    clip: Positive = 1.0
    ema: Fraction
    precision: Literal["float32", "bfloat16"] = "float32"


class ScoreTrainingSettings(TrainingSettings):
    """The loop with the denoising loss, see :mod:`pretrained.objectives`.

    ``times`` is the name of a law, or a section with its name as ``law`` and its settings; ``t_min`` the earliest time,
    by default the process's for likelihoods.
    """

    weighting: Weighting
    reduction: Reduction
    times: Times
    t_min: Positive | None = None

    @field_serializer("times")
    def _short(self, times: TimeLaw) -> Any:
        """A law without settings is written as its name."""
        content = times.model_dump()
        return content if len(content) > 1 else content["law"]


class Machine(Section):
    """Where a training ran."""

    cpu: str
    cores: int
    threads: int
    device: str
    torch: str


class Result(Section):
    """What a training made. ``final_loss`` is the mean over the last tenth of the steps."""

    final_loss: float
    steps: int
    seconds: float
    date: str
    machine: Machine
    commit: str | None
    dirty: bool | None
    sha256: str
    parameters: int


class ScoreResult(Result):
    """``held_out_loss``: see :func:`pretrained.tasks.held_out_loss`."""

    held_out_loss: float


class ClassifierResult(Result):
    """``test_accuracy``: see :func:`pretrained.tasks.accuracy`."""

    test_accuracy: float


class ScoreCard(Section):
    """A score model."""

    name: str
    kind: Literal["score"]
    description: str
    data: StateSettings
    sde: SDESettings
    network: ScoreNetworkSettings
    parametrisation: Literal["noise", "score"]
    training: ScoreTrainingSettings
    result: ScoreResult | None = None

    @property
    def t_min(self) -> float:
        """Earliest time of the training."""
        return self.training.t_min or self.sde.build().t_min_likelihood

    @model_validator(mode="after")
    def _predicts(self) -> Self:
        """Refuses a parametrisation that is not the network's."""
        predicted = PREDICTIONS.get(self.sde.name, "noise") if isinstance(self.network, NCSNppSettings) else "noise"
        if self.parametrisation != predicted:
            rule = f"network {self.network.name!r} under {self.sde.name!r} predicts {predicted!r}"
            raise UsageError(f"card {self.name}", rule, self.parametrisation, f"Write parametrisation: {predicted}")
        if self.training.weighting == "edm" and isinstance(self.network, NCSNppSettings):
            rule = "weighting 'edm' takes a network with data_std"
            raise UsageError(f"card {self.name}", rule, self.network.name, "Choose another network or weighting")
        return self


class ClassifierCard(Section):
    """A classifier, used as a feature extractor."""

    name: str
    kind: Literal["classifier"]
    description: str
    data: DataSettings
    network: ClassifierSettings
    training: TrainingSettings
    result: ClassifierResult | None = None


Card = ScoreCard | ClassifierCard
KINDS: dict[str, type[ScoreCard] | type[ClassifierCard]] = {"score": ScoreCard, "classifier": ClassifierCard}


def shipped_cards() -> list[str]:
    """Names of the cards in the package."""
    return sorted(path.stem for path in CARDS.glob("*.yaml"))


def load_card(name_or_path: str | Path) -> Card:
    """A shipped card by name, or any card by the path of its YAML file.

    Raises:
        UsageError: no such card or file, or its content is no card; the text names the key, the value and near names.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in shipped_cards():
            raise unknown_name("load_card", "card", str(name_or_path), shipped_cards())
        path = CARDS / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(shipped_cards())
        raise UsageError(
            "load_card", "no such file", str(path), f"Give a card's path or a shipped card's name: {known}"
        )
    content = read_mapping(path, "card")
    kind = content.get("kind")
    if kind not in KINDS:
        raise unknown_name(f"card {path}", "kind", str(kind), KINDS)
    return validate(content, KINDS[kind], f"card {path}")


def dump_card(card: Card) -> str:
    """The YAML text of a card."""
    text: str = yaml.safe_dump(card.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    return text
