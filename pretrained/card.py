"""Cards: how a checkpoint is made, and, once it is made, what came out.

A card is a YAML file. Its upper part is the recipe that ``train`` follows; ``result`` is filled in by the training run,
``evaluation`` by ``scorebench evaluate``.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import Field, field_serializer, model_validator

from pretrained.data import DataSet, get_data_set
from pretrained.evaluation import Evaluation
from pretrained.networks.labelled import PREDICTIONS
from pretrained.networks.settings import (
    ClassifierSettings,
    Count,
    DequantiserNetworkSettings,
    Fraction,
    NCSNppSettings,
    NoisyClassifierSettings,
    Positive,
    ScoreNetworkSettings,
    Section,
)
from pretrained.objectives.denoising import Denoising
from pretrained.objectives.menu import ObjectiveSettings
from pretrained.objectives.objective import Objective, Reduction
from pretrained.objectives.times import TimeLaw, Times
from pretrained.objectives.weighting import Weighting
from pretrained.results import (
    ClassifierResult,
    DequantiserResult,
    NoisyClassifierResult,
    Precision,
    Result,
    ScoreResult,
)
from pretrained.yaml_model import read_mapping, validate
from solvers.errors import UsageError, unknown_name
from solvers.process import Parametrisation
from solvers.sde import ForwardSDE, get_sde

CARDS = Path(__file__).parent / "cards"
CARD_SUFFIXES = (".yaml", ".yml")


class DataSettings(Section):
    """Name and settings of the data, see :func:`pretrained.data.get_data_set`."""

    name: str
    settings: dict[str, str | bool | int | float] = Field(default_factory=dict)

    def build(self) -> DataSet:
        """The data set, not yet read."""
        return get_data_set(self.name, **self.settings)

    def model_post_init(self, context: Any, /) -> None:
        """Refuses an unknown data set or setting when the card is read, not when it is used."""
        self.build()


class StateSettings(DataSettings):
    """Data and the state made of them: x_0 = scale v + offset with v the dequantised image in [0, 1), or the vector."""

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


class CheckpointSettings(Section):
    """Name of a score model, see :func:`pretrained.zoo.load`; ``folder`` of one trained here, from where it is used."""

    name: str
    folder: str | None = None

    @property
    def path(self) -> Path | None:
        """The folder, None for what is shipped or published."""
        return Path(self.folder) if self.folder else None


StoredWeights = Literal["float32", "float16"]


class TrainingSettings(Section):
    """The loop. The rate rises linearly over ``warm_up`` steps and then falls to zero as a half cosine.

    ``clip`` bounds the norm of the gradient; ``ema`` is the decay of the moving average that is shipped; ``precision``
    is that of the network's forward and backward pass, where the hardware has it; with ``flip`` every image is mirrored
    with probability 1/2.
    """

    seed: int
    steps: Count
    batch: Count
    learning_rate: Positive
    warm_up: Annotated[int, Field(ge=0)]
    clip: Positive = 1.0
    ema: Fraction
    precision: Precision = "float32"
    flip: bool = False


class NoisyTrainingSettings(TrainingSettings):
    """The loop of a network that sees noisy states.

    ``times`` is a name, or a section with the name (``law``) and its settings; ``t_min`` is the earliest time, by
    default the process's for likelihoods.
    """

    times: Times
    t_min: Positive | None = None

    @field_serializer("times")
    def _short_times(self, value: TimeLaw) -> Any:
        return _short(value)


class ScoreTrainingSettings(NoisyTrainingSettings):
    """The loop with the loss of a score model, see :mod:`pretrained.objectives`.

    ``objective`` is a name like ``times``, or a section with the name (``name``) and its settings.
    """

    objective: ObjectiveSettings = Denoising()
    weighting: Weighting
    reduction: Reduction

    @field_serializer("objective")
    def _short_objective(self, value: Objective) -> Any:
        return _short(value)


class DequantiserTrainingSettings(TrainingSettings):
    """The loop with the solve that its loss differentiates: ``nfe`` evaluations of the score model."""

    nfe: Count = 12


def _short(value: Objective | TimeLaw) -> Any:
    """What has no settings is written as its name."""
    content = value.model_dump()
    return content if len(content) > 1 else next(iter(content.values()))


class _OfData(Section):
    """A card whose network and loop have to take its data."""

    @model_validator(mode="after")
    def _takes_the_data(self) -> Self:
        """Refuses data that the network or the loop does not take."""
        assert isinstance(self, Card)
        _check_data(self)
        return self


class ScoreCard(_OfData):
    """A score model.

    ``weights`` is the type in which they are kept on disk: float16 halves the file. They are rounded before
    the result's figures are taken, and read back to float32; buffers, such as frequencies, stay in float32.
    ``start_from`` is a trained score model whose weights the training begins with, see :mod:`pretrained.fine_tuning`.
    """

    result_type: ClassVar[type[Result]] = ScoreResult

    name: str
    kind: Literal["score"]
    description: str
    data: StateSettings
    sde: SDESettings
    network: ScoreNetworkSettings
    parametrisation: Parametrisation
    start_from: CheckpointSettings | None = None
    weights: StoredWeights = "float32"
    training: ScoreTrainingSettings
    result: ScoreResult | None = None
    evaluation: Evaluation | None = None

    @property
    def measured(self) -> Evaluation | None:
        """The evaluation, if it is of the weights of the result: one of other weights says nothing of these."""
        of_these = self.evaluation and self.result and self.evaluation.weights == self.result.sha256
        return self.evaluation if of_these else None

    @property
    def t_min(self) -> float:
        """Earliest time of the training."""
        return self.training.t_min or self.sde.build().t_min_likelihood

    @model_validator(mode="after")
    def _predicts(self) -> Self:
        """Refuses a parametrisation that is not the network's, and settings that do not go together."""
        network, training, who = self.network, self.training, f"card {self.name}"
        predicted = self.parametrisation
        if isinstance(network, NCSNppSettings):
            predicted = PREDICTIONS.get(self.sde.name, "noise")
            if training.weighting == "edm":
                rule = "weighting 'edm' takes a network with data_std"
                raise UsageError(who, rule, network.name, "Choose another network or weighting")
        elif network.precondition:
            predicted = "noise"
        elif network.energy:
            raise UsageError(who, "network.energy takes network.precondition", False, "Leave precondition out")
        if self.parametrisation != predicted:
            rule = f"network {network.name!r} under {self.sde.name!r} predicts {predicted!r}"
            raise UsageError(who, rule, self.parametrisation, f"Write parametrisation: {predicted}")
        training.times.check(self.sde.build())
        return self


class ClassifierCard(_OfData):
    """A classifier, used as a feature extractor."""

    result_type: ClassVar[type[Result]] = ClassifierResult

    name: str
    kind: Literal["classifier"]
    description: str
    data: DataSettings
    network: ClassifierSettings
    training: TrainingSettings
    result: ClassifierResult | None = None


class NoisyClassifierCard(_OfData):
    """A classifier of noisy states, for guidance."""

    result_type: ClassVar[type[Result]] = NoisyClassifierResult

    name: str
    kind: Literal["noisy_classifier"]
    description: str
    data: StateSettings
    sde: SDESettings
    network: NoisyClassifierSettings
    training: NoisyTrainingSettings
    result: NoisyClassifierResult | None = None

    @property
    def t_min(self) -> float:
        """Earliest time of the training."""
        return self.training.t_min or self.sde.build().t_min_likelihood

    @model_validator(mode="after")
    def _has_the_times(self) -> Self:
        """Refuses times that its process does not have."""
        self.training.times.check(self.sde.build())
        return self


class DequantiserCard(Section):
    """A flow that dequantises images for a score model."""

    result_type: ClassVar[type[Result]] = DequantiserResult

    name: str
    kind: Literal["dequantiser"]
    description: str
    data: DataSettings
    checkpoint: CheckpointSettings
    network: DequantiserNetworkSettings
    training: DequantiserTrainingSettings
    result: DequantiserResult | None = None

    @model_validator(mode="after")
    def _takes_the_data(self) -> Self:
        """Refuses data that the network or the loop does not take."""
        data = self.data.build().spec
        if data.levels is None:
            rule = "a dequantiser takes images with levels"
            raise UsageError(f"card {self.name}", rule, data.name, "Continuous values need none")
        _check_data(self)
        return self


Card = ScoreCard | ClassifierCard | NoisyClassifierCard | DequantiserCard
KINDS: dict[str, type[Card]] = {
    "score": ScoreCard,
    "classifier": ClassifierCard,
    "noisy_classifier": NoisyClassifierCard,
    "dequantiser": DequantiserCard,
}


def _check_data(card: Card) -> None:
    data = card.data.build().spec
    who = f"card {card.name}"
    if card.training.flip and not data.flip:
        rule = f"training.flip needs data whose mirror images are as likely as they are, which {data.name!r} are not"
        raise UsageError(who, rule, True, "Write flip: false")
    if len(data.shape) != 3 and card.network.name != "mlp":
        raise UsageError(who, f"data {data.name!r} are vectors, for network 'mlp'", card.network.name, "Take 'mlp'")


def with_result(card: Card, result: Result | None) -> Card:
    """The card with a result, and without what was measured of the weights that it had before."""
    dropped = {"evaluation": None} if isinstance(card, ScoreCard) else {}
    return card.model_copy(update={"result": result, **dropped})


def shipped_cards() -> list[str]:
    """Names of the cards in the package."""
    return sorted(path.stem for path in CARDS.glob("*.yaml"))


def load_card(name_or_path: str | Path) -> Card:
    """A shipped card by name, or any card by the path of its YAML file.

    Raises:
        UsageError: no such card or file, or its content is no card; the text names the key, the value and near names.
    """
    path = Path(name_or_path)
    if path.suffix not in CARD_SUFFIXES:
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


class _FlatLists(yaml.SafeDumper):
    """YAML with lists of numbers on one line."""


_FlatLists.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True))


def dump_card(card: Card) -> str:
    """The YAML text of a card."""
    content = card.model_dump(mode="json", exclude_none=True)
    text: str = yaml.dump(content, Dumper=_FlatLists, sort_keys=False, allow_unicode=True, width=120)
    return text
