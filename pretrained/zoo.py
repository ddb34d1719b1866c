"""The checkpoints: ``load(name)`` gives a score model, ``load_features(name)`` a feature extractor.

``load_classifier(name)`` gives a classifier of noisy states, ``load_dequantiser(name)`` a flow that dequantises.

``load(name).under(sde)`` gives a score model under another process than the one it was trained under.

Those of this project are shipped; those that others published are read from where they were downloaded to, by a name
of :mod:`pretrained.published` or, of EDM and diffusers, by path.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load as parse_weights
from torch import nn

from pretrained import provenance
from pretrained.card import (
    CARDS,
    KINDS,
    Card,
    ClassifierCard,
    DequantiserCard,
    NoisyClassifierCard,
    ScoreCard,
    load_card,
    shipped_cards,
)
from pretrained.importers import diffusers, edm, song
from pretrained.networks.classifier import Classifier
from pretrained.networks.dequantiser import Dequantiser
from pretrained.networks.noisy_classifier import NoisyClassifier
from pretrained.networks.precondition import Preconditioned
from pretrained.published import (
    HUB,
    MissingCheckpointError,
    PublishedCard,
    PublishedData,
    Source,
    load_published_card,
    published_names,
    state_of,
)
from pretrained.tasks import build_network
from solvers.errors import UsageError, unknown_name
from solvers.process import Parametrisation
from solvers.sde import ForwardSDE

CHECKPOINTS = CARDS.parent / "checkpoints"
EDM_SUFFIX, SONG_SUFFIX = ".pkl", ".pth"
# Of the images that imported networks were trained on: 8 bits a channel.
LEVELS = 256
C = TypeVar("C", ScoreCard, ClassifierCard, NoisyClassifierCard, DequantiserCard)
# What loads a checkpoint, by the kind of its card.
LOADERS = {
    "score": "load",
    "classifier": "load_features",
    "noisy_classifier": "load_classifier",
    "dequantiser": "load_dequantiser",
}


@dataclass(frozen=True)
class Checkpoint:
    """A trained score model, ready for a solver.

    Attributes:
        network: in eval mode, frozen, float32; ``network(x, t)`` predicts ``parametrisation``.
        sde: the forward process.
        parametrisation: what it predicts.
        shape: shape of one image, (channels, height, width).
        levels: number of levels of its data, None where they are continuous.
        card: how it was made; ``card.data`` holds scale and offset of the state.
        sha256: hash of its weights' file.
    """

    network: nn.Module
    sde: ForwardSDE
    parametrisation: Parametrisation
    shape: tuple[int, ...]
    levels: int | None
    card: ScoreCard | PublishedCard
    sha256: str

    def under(self, sde: ForwardSDE) -> "Checkpoint":
        """The same score model under another process: denoised(x, t) = D(x/alpha(t); sigma(t)/alpha(t)).

        Noise levels sigma/alpha outside those of its training are extrapolated.

        Raises:
            UsageError: the network is told more of the time than the noise level.
        """
        if not isinstance(self.network, Preconditioned):
            rule = "a network serves another process if it is told the noise level sigma/alpha alone"
            todo = "Take a checkpoint whose network has data_std: convnet, mlp or unet"
            raise UsageError(f"{self.card.name} under {sde.name}", rule, type(self.network).__name__, todo)
        return replace(self, network=self.network.under(sde), sde=sde)


@dataclass(frozen=True)
class FeatureExtractor:
    """A trained classifier.

    Attributes:
        network: in eval mode, frozen; ``network.features(images)`` for images in the unit interval.
        card: how it was made.
        sha256: hash of its weights' file.
    """

    network: Classifier
    card: ClassifierCard
    sha256: str


@dataclass(frozen=True)
class Guide:
    """A trained classifier of noisy states.

    Attributes:
        network: in eval mode, frozen; ``network.guidance(x, t, labels)`` is grad log p(y | x_t).
        sde: the forward process.
        card: how it was made.
        sha256: hash of its weights' file.
    """

    network: NoisyClassifier
    sde: ForwardSDE
    card: NoisyClassifierCard
    sha256: str


@dataclass(frozen=True, eq=False)
class DequantisingFlow:
    """A trained dequantiser.

    Attributes:
        network: in eval mode, frozen; ``network(levels, uniform)`` gives u and log q(u | levels).
        card: how it was made, and for which score model.
        sha256: hash of its weights' file.
    """

    network: Dequantiser
    card: DequantiserCard
    sha256: str


def names() -> list[str]:
    """Names of all shipped checkpoints."""
    return shipped_cards()


def card_of(name: str) -> ScoreCard | PublishedCard:
    """The card of a score model, shipped or published, whether its weights are here or not.

    Raises:
        UsageError: no such card, or not a score model's.
    """
    if name in published_names():
        return load_published_card(name)
    card = load_card(name)
    if not isinstance(card, ScoreCard):
        raise _wrong_kind(ScoreCard, name, card)
    return card


def load(name: str, device: torch.device | str = "cpu", folder: Path | None = None) -> Checkpoint:
    """A score model.

    Args:
        name: see :func:`names` and :func:`pretrained.published.published_names`; or ``hf:OWNER/NAME``, a pipeline of
            diffusers on the Hugging Face hub; or the path of a pipeline's folder, or of a ``.pkl`` of EDM.
        device: where the network is put.
        folder: where ``<name>.yaml`` and ``<name>.safetensors`` lie side by side, as ``train`` writes them; without it,
            the shipped ones.

    Raises:
        UsageError: no such checkpoint, it is no score model, or its weights are not those of its card.
        MissingCheckpointError: its card was not trained yet, or its weights are published ones that have not been
            downloaded; then the text says which file belongs where.
    """
    if folder is None and name in published_names():
        return _load_published(load_published_card(name), device)
    if folder is None and name.startswith(HUB):
        return _import(name, diffusers.fetch(name.removeprefix(HUB)), device)
    if folder is None and (Path(name).suffix == EDM_SUFFIX or Path(name).is_dir()):
        return _import(name, Path(name), device)
    if folder is None and Path(name).suffix == SONG_SUFFIX:
        todo = "Read it by pretrained.importers.song.load(path, settings), or take a published one by its name"
        raise UsageError(f"load {name}", f"a {SONG_SUFFIX} of Song et al. comes with settings (.json)", None, todo)
    card, network, sha256 = _trained(ScoreCard, name, device, folder)
    data = card.data.build().spec
    return Checkpoint(network, card.sde.build(), card.parametrisation, data.shape, data.levels, card, sha256)


def load_features(name: str, device: torch.device | str = "cpu", folder: Path | None = None) -> FeatureExtractor:
    """A feature extractor; arguments as for :func:`load`.

    Raises:
        UsageError: no such checkpoint, it is no classifier, or its weights are not those of its card.
    """
    card, network, sha256 = _trained(ClassifierCard, name, device, folder)
    assert isinstance(network, Classifier)
    return FeatureExtractor(network, card, sha256)


def load_classifier(name: str, device: torch.device | str = "cpu", folder: Path | None = None) -> Guide:
    """A classifier of noisy states; arguments as for :func:`load`.

    Raises:
        UsageError: no such checkpoint, it is no classifier of noisy states, or its weights are not those of its card.
    """
    card, network, sha256 = _trained(NoisyClassifierCard, name, device, folder)
    assert isinstance(network, NoisyClassifier)
    return Guide(network, card.sde.build(), card, sha256)


def load_dequantiser(name: str, device: torch.device | str = "cpu", folder: Path | None = None) -> DequantisingFlow:
    """A flow that dequantises; arguments as for :func:`load`.

    Raises:
        UsageError: no such checkpoint, it is no dequantiser, or its weights are not those of its card.
    """
    card, network, sha256 = _trained(DequantiserCard, name, device, folder)
    assert isinstance(network, Dequantiser)
    return DequantisingFlow(network, card, sha256)


def files(name: str, folder: Path | None = None) -> tuple[Path, Path]:
    """Card and weights of a shipped checkpoint, or of one in a folder that ``train`` wrote.

    Raises:
        UsageError: no such card.
    """
    if folder is None:
        if name not in names():
            raise unknown_name("load", "card", name, [*names(), *published_names()])
        return CARDS / f"{name}.yaml", CHECKPOINTS / f"{name}.safetensors"
    known = [path.stem for path in folder.glob("*.yaml")]
    if name not in known:
        raise unknown_name(f"load: {folder}", "card", name, known)
    return folder / f"{name}.yaml", folder / f"{name}.safetensors"


def _trained(kind: type[C], name: str, device: torch.device | str, folder: Path | None) -> tuple[C, nn.Module, str]:
    """Card, network and hash of the weights of a checkpoint that has to be of a kind."""
    path, weights = files(name, folder)
    card = load_card(path)
    if not isinstance(card, kind):
        raise _wrong_kind(kind, name, card)
    network, sha256 = _restore(card, weights, device)
    return card, network, sha256


def _load_published(card: PublishedCard, device: torch.device | str) -> Checkpoint:
    path = card.find()
    if card.settings is None:
        return _import(card.name, path, device, card)
    model = song.load(path, card.settings, device)
    sha256 = provenance.sha256_of_file(path)
    return Checkpoint(model.network, model.sde, model.parametrisation, model.shape, card.data.levels, card, sha256)


def _import(name: str, path: Path, device: torch.device | str, card: PublishedCard | None = None) -> Checkpoint:
    """A file of EDM or a pipeline's folder, of images with 256 levels; held against its card if it has one."""
    snapshot = path.suffix == EDM_SUFFIX
    model = edm.load(path, device) if snapshot else diffusers.load(path, device)
    parameters = sum(p.numel() for p in model.network.parameters())
    scale, offset = state_of(model.centred)
    if card is None:
        data = PublishedData(name="unknown", levels=LEVELS, scale=scale, offset=offset)
        text = f"read from {path}"
        source = Source(file=str(path))
        card = PublishedCard(
            name=name, kind="published", description=text, source=source, parameters=parameters, data=data
        )
    found = parameters, scale, offset
    expected = card.parameters, card.data.scale, card.data.offset
    if found != expected:
        rule = f"(parameters, scale, offset) are those of its card, {expected}"
        raise UsageError(f"load {name}", rule, found, "Take the authors' file, or load it by its path")
    sha256 = provenance.sha256_of_file(path if snapshot else diffusers.weights_file(path))
    return Checkpoint(model.network, model.sde, model.parametrisation, model.shape, card.data.levels, card, sha256)


def _restore(card: Card, path: Path, device: torch.device | str) -> tuple[nn.Module, str]:
    """The network of a card with the weights of a file whose hash the card confirms."""
    who = f"load {card.name}"
    todo = f"Train its card again: `scorebench train CARD.yaml --out {path.parent}`"
    if path.parent == CHECKPOINTS:
        todo = f"Restore it with `git checkout -- {path}`, or `scorebench train {card.name}` and copy both files."
    if card.result is None:
        missing = MissingCheckpointError(who, "its card has no result: it was never trained", todo=todo)
        missing.reason = f"checkpoint {card.name}, not trained yet"
        raise missing
    if not path.is_file():
        raise UsageError(who, "its weights are missing", str(path), todo)
    content = path.read_bytes()
    sha256 = provenance.sha256(content)
    if sha256 != card.result.sha256:
        raise UsageError(who, f"{path} must have the hash {card.result.sha256} of its card", sha256, todo)
    # The weights overwrite the initialisation, which must leave no trace in the global generator.
    with torch.random.fork_rng(devices=[]):
        network = build_network(card, card.data.build().spec)
    network.load_state_dict(parse_weights(content))
    return network.to(device).eval().requires_grad_(False), sha256


def _wrong_kind(asked: type[Card], name: str, card: Card) -> UsageError:
    kind = next(kind for kind, cls in KINDS.items() if cls is asked)
    rule, todo = f"a checkpoint of kind {kind!r} is needed", f"Use {LOADERS[card.kind]}({name!r})."
    return UsageError(f"{LOADERS[kind]} {name}", rule, card.kind, todo)
