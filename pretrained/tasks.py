"""What is trained: a network, the loss of a batch, and the figure that says how well it generalises."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from pretrained.card import Card, ClassifierCard, DequantiserCard, NoisyClassifierCard, ScoreCard
from pretrained.data import DataSpec, dequantise, draw_values
from pretrained.networks.classifier import Classifier
from pretrained.networks.conservative import Conservative
from pretrained.networks.convnet import ConvNet
from pretrained.networks.dequantiser import Dequantiser
from pretrained.networks.direct import Direct
from pretrained.networks.labelled import Labelled
from pretrained.networks.mlp import MLP
from pretrained.networks.ncsnpp import NCSNpp
from pretrained.networks.noisy_classifier import NoisyClassifier
from pretrained.networks.precondition import Preconditioned, PreconditionedEnergy
from pretrained.networks.settings import ConvNetSettings, CoreSettings, NCSNppSettings, UNetSettings
from pretrained.networks.unet import UNet
from pretrained.objectives.denoising import Denoising
from pretrained.objectives.times import LogSNR
from solvers.errors import UsageError
from solvers.process import Network, ReverseProcess

# Figures are taken in parts of so many images, which bounds their memory.
CHUNK = 500
HELD_OUT_DRAWS = 6000


class Task(Protocol):
    """One kind of training."""

    network: nn.Module

    def loss(self, values: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss of a batch of levels (n, ...) and labels (n,), both on the network's device."""

    def figure(self, network: nn.Module) -> Mapping[str, float | str]:
        """Figures on the test split, and what else the task knows, under their keys in the card's result."""


def build_network(card: Card, data: DataSpec) -> nn.Module:
    """The untrained network of a card for images like those of ``data``.

    Raises:
        UsageError: the network does not take images of that shape, or states of that scale.
    """
    if isinstance(card, ClassifierCard):
        return Classifier(data.shape, data.classes, **card.network.model_dump(exclude={"name"}))
    if isinstance(card, NoisyClassifierCard):
        settings = card.network.model_dump(exclude={"name"})
        return NoisyClassifier(data.shape, data.classes, card.sde.build(), **settings)
    if isinstance(card, DequantiserCard):
        assert data.levels is not None, "vectors are refused when the card is read"
        return Dequantiser(data.shape, data.levels, **card.network.model_dump(exclude={"name"}))
    network, sde = card.network, card.sde.build()
    if isinstance(network, NCSNppSettings):
        return Labelled(NCSNpp(data.shape, network, _is_centred(card)), sde)
    settings = network.model_dump(exclude={*CoreSettings.model_fields, "class_conditional", "class_dropout"})
    core: nn.Module
    if isinstance(network, ConvNetSettings):
        low, high = card.data.offset, card.data.offset + card.data.scale
        assert data.levels is not None, "vectors are refused when the card is read"
        bin_width = card.data.scale / data.levels
        edges = (low, low + bin_width, high - bin_width, high)
        core = ConvNet(data.shape, edges, network.data_std, **settings).to(memory_format=torch.channels_last)
    elif isinstance(network, UNetSettings):
        classes = data.classes if network.class_conditional else 0
        core = UNet(data.shape, classes=classes, **settings)
    else:
        core = MLP(data.shape, **settings)
    if not network.precondition:
        return Direct(core, sde, network.data_std, card.parametrisation)
    if network.energy:
        return PreconditionedEnergy(Conservative(core), sde, network.data_std)
    return Preconditioned(core, sde, network.data_std)


def _is_centred(card: ScoreCard) -> bool:
    """Whether the states lie about [-1, 1]; if not, about [0, 1]."""
    place = card.data.scale, card.data.offset
    if place not in ((2.0, -1.0), (1.0, 0.0)):
        rule = (
            f"network {card.network.name!r} takes states in [-1, 1] (scale 2, offset -1) or [0, 1] (scale 1, offset 0)"
        )
        raise UsageError(f"card {card.name}", rule, place, "Set data.scale and data.offset so")
    return place == (2.0, -1.0)


@dataclass
class ScoreTask:
    """A score model under the objective of its card; ``start_sha256`` is of the weights that it begins with."""

    card: ScoreCard
    network: nn.Module
    data: DataSpec
    start_sha256: str | None = None

    def loss(self, values: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Loss with fresh dequantisation, times and noise; stratified times lower its variance."""
        training = self.card.training
        sde, t_min = self.card.sde.build(), self.card.t_min
        uniform = torch.rand(len(values), generator=generator)
        t = training.times.draw(sde, stratify(uniform), t_min).to(values.device)
        x_0 = self.card.data.scale * draw_values(values, self.data.levels, generator) + self.card.data.offset
        z = torch.randn(values.shape, generator=generator).to(values.device)
        network: Network = self.network
        settings = self.card.network
        if isinstance(settings, UNetSettings) and settings.class_conditional:
            left_out = torch.rand(len(values), generator=generator) < settings.class_dropout
            labels = torch.where(left_out.to(labels.device), self.data.classes, labels)
            network = partial(self.network, labels=labels)
        process = ReverseProcess(sde, network, self.card.parametrisation)
        data_std = 1.0 if isinstance(settings, NCSNppSettings) else settings.data_std
        loss = training.objective.loss(process, x_0, t, z, generator, training.weighting, training.reduction, data_std)
        return (loss * training.times.correction(sde, t, t_min).to(loss.dtype)).mean()

    def figure(self, network: nn.Module) -> dict[str, float | str]:
        """The held-out loss."""
        began = {} if self.start_sha256 is None else {"start_sha256": self.start_sha256}
        return {"held_out_loss": held_out_loss(network, self.card), **began}


@dataclass
class ClassifierTask:
    """A classifier under the cross entropy, on dequantised images."""

    card: ClassifierCard
    network: nn.Module
    data: DataSpec

    def loss(self, values: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Cross entropy in nats."""
        images = draw_values(values, self.data.levels, generator)
        return nn.functional.cross_entropy(self.network(images), labels)

    def figure(self, network: nn.Module) -> dict[str, float]:
        """The accuracy on the test split."""
        return {"test_accuracy": accuracy(network, self.card)}


@dataclass
class NoisyClassifierTask:
    """A classifier of noisy states under the cross entropy."""

    card: NoisyClassifierCard
    network: nn.Module
    data: DataSpec

    def loss(self, values: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Cross entropy in nats, with fresh dequantisation, times and noise."""
        sde, t_min = self.card.sde.build(), self.card.t_min
        uniform = stratify(torch.rand(len(values), generator=generator))
        t = self.card.training.times.draw(sde, uniform, t_min).to(values.device)
        x = _noisy(self.card, values, self.data.levels, t, generator)
        return nn.functional.cross_entropy(self.network(x, t.to(x.dtype)), labels)

    def figure(self, network: nn.Module) -> dict[str, float]:
        """The accuracies on the test split."""
        clear, noisy = noisy_accuracy(network, self.card)
        return {"test_accuracy": clear, "noisy_accuracy": noisy}


def _noisy(
    card: NoisyClassifierCard, values: Tensor, levels: int | None, t: Tensor, generator: torch.Generator
) -> Tensor:
    """States x_t of images of levels (n, ...) at times t (n,)."""
    x_0 = card.data.scale * draw_values(values, levels, generator) + card.data.offset
    mean, std = card.sde.build().marginal(x_0, t)
    x: Tensor = mean + std * torch.randn(x_0.shape, generator=generator).to(x_0)
    return x


def build_task(card: Card, data: DataSpec, device: torch.device) -> Task:
    """The task of a card, its network on ``device``: untrained, or with the weights that its card starts from.

    Raises:
        UsageError: the score model that a dequantiser is for, or a training starts from, is not here or is not fit.
    """
    network = build_network(card, data).to(device)
    if isinstance(card, ClassifierCard):
        return ClassifierTask(card, network, data)
    if isinstance(card, NoisyClassifierCard):
        return NoisyClassifierTask(card, network, data)
    if isinstance(card, DequantiserCard):
        # Here: it reads a score model, and the zoo that holds those builds its networks by this module.
        from pretrained.dequantisation import DequantiserTask

        return DequantiserTask(card, network, data, device)
    if card.start_from is None:
        return ScoreTask(card, network, data)
    from pretrained.fine_tuning import start

    return ScoreTask(card, network, data, start(network, card, card.start_from))


def stratify(uniform: Tensor) -> Tensor:
    """One number in each of n equal parts of [0, 1): (i + u_i)/n for u (n,)."""
    return (torch.arange(len(uniform)) + uniform) / len(uniform)


@torch.no_grad()
def held_out_loss(network: nn.Module, card: ScoreCard, repeats: int | None = None) -> float:
    """Mean squared error of the predicted noise on the test split, per coordinate, with lam uniform between its ends.

    That is weighting ``sigma2``, reduction ``mean``, times ``log_snr``, whatever the card trains with: cards of one SDE
    can be compared. Times (lam_max - lam_min) it is, in nats per coordinate, the part of the likelihood bound that
    depends on the network (Kingma et al. 2021, arXiv:2107.00630, sec. 4). The draws are fixed.

    Args:
        network: the score model, in eval mode.
        card: its card.
        repeats: noise levels, dequantisations and noises per image; without it, as many as make about 6000
            draws, from 1 to 10.
    """
    data = card.data.build().load("test")
    sde = card.sde.build()
    device = next(network.parameters()).device
    process = ReverseProcess(sde, network, card.parametrisation)
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    repeats = repeats or min(10, max(1, round(HELD_OUT_DRAWS / len(data.values))))
    for _ in range(repeats):
        uniform = stratify(torch.rand(len(data.values), generator=generator))
        t = LogSNR().draw(sde, uniform, card.t_min)
        x_0 = card.data.scale * draw_values(data.values, data.levels, generator) + card.data.offset
        z = torch.randn(x_0.shape, generator=generator)
        order = torch.randperm(len(t), generator=generator)
        t = t[order]
        for first in range(0, len(t), CHUNK):
            x_part, t_part, z_part = (tensor[first : first + CHUNK].to(device) for tensor in (x_0, t, z))
            loss = Denoising().loss(process, x_part, t_part, z_part, generator)
            total += loss.sum().item() / (repeats * len(t))
    return total


@torch.no_grad()
def accuracy(network: nn.Module, card: ClassifierCard) -> float:
    """Fraction of the test split that is classified rightly, each pixel at the middle of its bin."""
    data = card.data.build().load("test")
    device = next(network.parameters()).device
    assert data.levels is not None, "a card's classifier takes images"
    images = dequantise(data.values, data.levels, torch.full(data.values.shape, 0.5))
    parts = (images[first : first + CHUNK].to(device) for first in range(0, len(images), CHUNK))
    predicted = torch.cat([network(part).argmax(1).cpu() for part in parts])
    return int((predicted == data.labels).sum()) / len(data.labels)


@torch.no_grad()
def noisy_accuracy(network: nn.Module, card: NoisyClassifierCard) -> tuple[float, float]:
    """Fractions of the test split that are classified rightly: at t_min, and with lam uniform between its ends.

    The draws are fixed. Where the noise drowns the image no classifier does better than chance.
    """
    data = card.data.build().load("test")
    sde, device = card.sde.build(), next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    n = len(data.values)
    every = LogSNR().draw(sde, stratify(torch.rand(n, generator=generator)), card.t_min)
    shares = []
    for t in (torch.full((n,), card.t_min, dtype=every.dtype), every[torch.randperm(n, generator=generator)]):
        x = _noisy(card, data.values, data.levels, t, generator)
        parts = (slice(first, first + CHUNK) for first in range(0, n, CHUNK))
        predicted = [network(x[part].to(device), t[part].to(device, x.dtype)).argmax(1).cpu() for part in parts]
        shares.append(int((torch.cat(predicted) == data.labels).sum()) / n)
    return shares[0], shares[1]
