"""Checkpoints of the reference implementation of Song et al. (score_sde, PyTorch): ``.pth`` files with EMA weights.

A file holds ``model``, the state dict with names behind ``module.``; ``ema`` with ``shadow_params``, the moving
averages of the trained parameters in their order; ``optimizer`` and ``step``. Only tensors and plain values are read:
a file that would run code is refused. Its settings come beside it, as JSON:

    {"sde": "vesde" | "vpsde" | "subvpsde", "centered": bool, "image_size": int, "model": {...}}

``centered``: the network takes images in [-1, 1], otherwise in [0, 1]; ``num_channels`` is 3 unless given.

Reference: Song et al. 2021, arXiv:2011.13456.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pretrained.importers.model import ImportedModel
from pretrained.networks.labelled import Labelled
from pretrained.networks.ncsnpp import NCSNpp
from pretrained.networks.settings import Count, Fraction, NCSNppSettings, Positive, Section
from pretrained.tensors import read_tensors
from pretrained.yaml_model import validate
from solvers.errors import UsageError, unknown_name
from solvers.sde import ForwardSDE, get_sde

PREFIX = "module."
SECTIONS = ("model", "ema")


class SongNetwork(NCSNppSettings):
    """The section ``model``: the network, and the constants of the process."""

    beta_min: Positive = 0.1
    beta_max: Positive = 20.0
    ema_rate: Fraction = 0.999


class SongSettings(Section):
    """The settings of one checkpoint."""

    sde: Literal["vesde", "vpsde", "subvpsde"]
    centered: bool
    image_size: Count
    num_channels: Count = 3
    model: SongNetwork

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image."""
        return self.num_channels, self.image_size, self.image_size

    def process(self) -> ForwardSDE:
        """The forward process."""
        if self.sde == "vesde":
            return get_sde("ve", sigma_min=self.model.sigma_min, sigma_max=self.model.sigma_max)
        name = self.sde.removesuffix("sde")
        return get_sde(name, beta_min=self.model.beta_min, beta_max=self.model.beta_max)


def read_settings(path: Path) -> SongSettings:
    """The settings in a JSON file.

    Raises:
        UsageError: no such file, not JSON, an unknown key or value, or one that is missing.
    """
    who = f"song {path}"
    if not path.is_file():
        raise UsageError("song", "there is no such file", str(path), "Give the checkpoint's settings (.json)")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(who, "the settings are JSON", str(error), "Correct its syntax") from error
    if not isinstance(content, dict):
        raise UsageError(who, "the settings are one JSON object", type(content).__name__, "See the documentation")
    name = content.get("model", {}).get("name") if isinstance(content.get("model"), dict) else None
    if name is not None and name != "ncsnpp":
        raise unknown_name(who, "network", str(name), ["ncsnpp"])
    return validate(content, SongSettings, who)


def build(settings: SongSettings) -> Labelled:
    """The network of these settings, untrained."""
    core = NCSNpp(settings.shape, settings.model, settings.centered)
    return Labelled(core, settings.process())


def load(checkpoint: Path, settings: SongSettings, device: torch.device | str = "cpu") -> ImportedModel:
    """The network of a checkpoint with its EMA weights: under VP and sub-VP it predicts the noise, under VE the score.

    Its part ``core`` takes labels instead of times.

    Args:
        checkpoint: the ``.pth`` file.
        settings: its settings, see :func:`read_settings`.
        device: where the network is put.

    Raises:
        UsageError: no such file, not a checkpoint, one that holds more than tensors and plain values, or one of
            another network than the settings describe; the text names the first difference.
    """
    # The weights overwrite the initialisation, which must leave no trace in the global generator.
    with torch.random.fork_rng(devices=[]):
        network = build(settings)
    who = f"load {checkpoint}"
    network.core.load_state_dict(_ema_weights(_read(checkpoint), network.core, who))
    network.to(device).eval().requires_grad_(False)
    return ImportedModel(network, network.sde, network.parametrisation, settings.shape, settings.centered)


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, read without running anything in it."""
    if not path.is_file():
        raise UsageError("load", "there is no such file", str(path), "Give a checkpoint (.pth)")
    try:
        content = read_tensors(path)
    except ValueError as error:
        rule = "a checkpoint is a file of tensors and plain values, written by torch.save"
        todo = "Take the authors' file; one that holds code or objects is never opened"
        raise UsageError(f"load {path}", rule, str(error), todo) from error
    if not isinstance(content, dict) or any(not isinstance(content.get(key), dict) for key in SECTIONS):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        rule = f"a checkpoint of the reference holds {' and '.join(map(repr, SECTIONS))}"
        raise UsageError(f"load {path}", rule, found, "Give a file that the reference's training wrote")
    return content


def _ema_weights(content: dict[str, Any], network: nn.Module, who: str) -> dict[str, Tensor]:
    """The state dict of ``network``: averages of what is trained, the rest as it was saved."""
    todo = "Give the settings (.json) that belong to this checkpoint"
    expected = network.state_dict()
    saved = {key.removeprefix(PREFIX): value for key, value in content["model"].items()}
    for kind, names in (("lacks", expected.keys() - saved.keys()), ("also holds", saved.keys() - expected.keys())):
        if names:
            rule = f"the names of its weights are those of the network; it {kind} {len(names)} of them"
            raise UsageError(who, rule, min(names), todo)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    averages = content["ema"].get("shadow_params")
    if not isinstance(averages, list | tuple) or len(averages) != len(trained):
        count = len(averages) if isinstance(averages, list | tuple) else None
        raise UsageError(who, f"'shadow_params' holds the averages of {len(trained)} parameters", count, todo)
    weights = saved | dict(zip(trained, averages, strict=True))
    for name, value in weights.items():
        if not isinstance(value, Tensor) or value.shape != expected[name].shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(who, f"{name} has the shape {tuple(expected[name].shape)}", found, todo)
    return weights
