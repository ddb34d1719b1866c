"""Unconditional pipelines of diffusers: a folder with a U-Net and the configuration of its scheduler.

From the scheduler comes what the network was trained for:

    DDPMScheduler, DDIMScheduler   N discrete levels; ``prediction_type`` epsilon, sample or v_prediction
    ScoreSdeVeScheduler            VE, the score at the label sigma(t) (Song et al.), states in [0, 1]

Discrete levels are told as indices, see :mod:`pretrained.networks.discrete`: time t becomes the index, not always a
whole number, at which the scheduler's own alpha_bar (log alpha_bar linear between indices) is alpha(t)^2. The process
follows the betas: ``linear`` ones give VP with beta_min = N beta_0 and beta_max = N beta_(N-1), ``squaredcos_cap_v2``
gives the cosine process; for all others (``scaled_linear``, ``sigmoid``, ``trained_betas`` ...) VP is the clock, with
the chain's first beta and its last alpha_bar. Chains that end in pure noise (``rescale_betas_zero_snr``) are refused.

A name of the hub is downloaded into huggingface_hub's cache, and read from there when there is no connection. Weights
are read by diffusers as tensors alone (safetensors, or ``.bin`` without its code).

Needs the optional extra ``peers``. Reference: github.com/huggingface/diffusers.
"""

import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pretrained.importers.model import ImportedModel
from pretrained.networks.discrete import PREDICTIONS, Discrete
from pretrained.networks.labelled import Labelled
from solvers.errors import UsageError, unknown_name
from solvers.sde import VE, VP, Cosine

INDEX = "model_index.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
DISCRETE = ("DDPMScheduler", "DDIMScheduler")
SCHEDULERS = (*DISCRETE, "ScoreSdeVeScheduler")


class UNet(nn.Module):
    """diffusers' U-Net as ``core(x, label)``; of predicted noise and variance, the noise."""

    def __init__(self, unet: nn.Module, channels: int) -> None:
        super().__init__()
        self.unet = unet
        self.channels = channels

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The prediction, shape of x; x (n, channels, h, w), label (n,)."""
        prediction: Tensor = self.unet(x, label, return_dict=False)[0]
        return prediction[:, : self.channels]


def fetch(name: str) -> Path:
    """The folder of a pipeline of the hub, e.g. ``google/ddpm-cifar10-32``, downloaded unless it is in the cache.

    Raises:
        UsageError: huggingface_hub is not installed, there is no such pipeline, or neither cache nor connection.
    """
    hub = _library("huggingface_hub")
    for weights in WEIGHTS:
        try:
            patterns = [INDEX, "*config.json", f"*{weights}"]
            folder = Path(hub.snapshot_download(name, allow_patterns=patterns))
        except Exception as error:  # of the hub, of its HTTP library and of the system
            what = " ".join(str(error).split())
            todo = "Connect and load it once, or give the path of a folder that holds it"
            rule = "its files are neither in the cache nor within reach"
            raise UsageError(f"load hf:{name}", rule, f"{type(error).__name__}: {what}"[:300], todo) from error
        if any(folder.rglob(weights)):
            break
    return folder


def is_cached(name: str) -> bool:
    """Whether a pipeline of the hub is in the cache."""
    try:
        hub = _library("huggingface_hub")
    except UsageError:
        return False
    return isinstance(hub.try_to_load_from_cache(name, INDEX), str)


def weights_file(folder: Path) -> Path:
    """The file of a pipeline's weights.

    Raises:
        UsageError: there is none.
    """
    for name in WEIGHTS:
        path = _component(folder, "unet") / name
        if path.is_file():
            return path
    raise UsageError(f"load {folder}", f"a pipeline's folder holds {WEIGHTS[0]}", None, "Save it by save_pretrained")


def load(folder: Path, device: torch.device | str = "cpu") -> ImportedModel:
    """The network of a pipeline's folder.

    Raises:
        UsageError: diffusers is not installed, the folder holds no pipeline or one with more than a ``UNet2DModel`` and
            a scheduler, the network is conditional, or the scheduler is not one of those above.
    """
    who = f"load {folder}"
    _check_parts(_read(folder / INDEX, who), who)
    weights_file(folder)
    diffusers = _library("diffusers")
    # The weights overwrite the initialisation, which must leave no trace in the global generator.
    with torch.random.fork_rng(devices=[]):
        try:
            unet, found = diffusers.UNet2DModel.from_pretrained(
                _component(folder, "unet"), local_files_only=True, output_loading_info=True
            )
        except Exception as error:  # damaged files end in errors of every kind
            what = " ".join(str(error).split())
            rule = "its weights are tensors, and those of its configuration"
            todo = "Give a folder that save_pretrained wrote"
            raise UsageError(who, rule, f"{type(error).__name__}: {what}"[:300], todo) from error
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found.get(key):
            rule = "its weights are those of its configuration"
            raise UsageError(who, rule, {key: sorted(map(str, found[key]))[:3]}, "Give a folder that is whole")
    shape = _shape(unet.config, who)
    scheduler = _read(_component(folder, "scheduler") / "scheduler_config.json", who)
    core = UNet(unet.float(), shape[0])
    network = _around(core, scheduler, str(unet.config.time_embedding_type), who)
    network.to(device).eval().requires_grad_(False)
    return ImportedModel(network, network.sde, network.parametrisation, shape, isinstance(network, Discrete))


def _check_parts(index: dict[str, Any], who: str) -> None:
    """Refuse a pipeline that is more than a U-Net and its scheduler."""
    parts = {name: value[-1] for name, value in index.items() if isinstance(value, list) and value}
    if parts.get("unet") != "UNet2DModel" or not parts.keys() <= {"unet", "scheduler"}:
        rule = "an unconditional pipeline is a UNet2DModel and its scheduler"
        raise UsageError(who, rule, parts, "Take one of pixels without conditions, e.g. google/ddpm-cifar10-32")


def _shape(config: Any, who: str) -> tuple[int, int, int]:
    """Shape of one image."""
    for key in ("class_embed_type", "num_class_embeds"):
        if config.get(key) is not None:
            raise UsageError(who, "an unconditional network is read", f"{key} {config[key]}", "Take another")
    channels, size = config.in_channels, config.sample_size
    if config.out_channels not in (channels, 2 * channels):
        rule = "a network has as many channels out as in, or twice as many with the variance"
        raise UsageError(who, rule, (channels, config.out_channels), "Not read here")
    if size is None:
        raise UsageError(who, "a network's configuration tells its sample_size", size, "Add it to unet/config.json")
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


def _around(core: UNet, config: dict[str, Any], embedding: str, who: str) -> Discrete | Labelled:
    """The network under the process that a scheduler's configuration describes."""
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        raise unknown_name(who, "scheduler", str(name), SCHEDULERS)
    if name not in DISCRETE:
        scheduler = _library("diffusers").ScoreSdeVeScheduler.from_config(config)
        return Labelled(core, VE(scheduler.config.sigma_min, scheduler.config.sigma_max))
    if embedding != "positional":
        raise UsageError(who, "a network of discrete levels is told them by position", embedding, "Not read here")
    scheduler = _library("diffusers").DDPMScheduler.from_config(config)
    prediction = scheduler.config.prediction_type
    if prediction not in PREDICTIONS:
        raise unknown_name(who, "prediction_type", str(prediction), PREDICTIONS)
    alpha_bar = scheduler.alphas_cumprod.double()
    if not (alpha_bar.diff() < 0).all() or not 1 > alpha_bar[0] > alpha_bar[-1] > 0:
        found = float(alpha_bar[0]), float(alpha_bar[-1])
        raise UsageError(who, "alpha_bar falls from below 1 to above 0", found, "Zero terminal SNR is not read here")
    return Discrete(core, _clock(scheduler, alpha_bar), alpha_bar, prediction)


def _clock(scheduler: Any, alpha_bar: Tensor) -> VP | Cosine:
    """The process of a chain, see above."""
    config, n, first = scheduler.config, len(alpha_bar), float(scheduler.betas[0])
    custom = config.get("trained_betas") is not None
    if config.beta_schedule == "squaredcos_cap_v2" and not custom:
        return Cosine()
    if config.beta_schedule == "linear" and not custom:
        return VP(n * config.beta_start, n * config.beta_end)
    # beta_min + beta_max is twice the integral of beta.
    return VP(n * first, -2 * math.log(float(alpha_bar[-1])) - n * first)


def _component(folder: Path, name: str) -> Path:
    """Where a part of a pipeline lies: in a folder of its own, or, in old ones, beside the index."""
    return folder / name if (folder / name).is_dir() else folder


def _read(path: Path, who: str) -> dict[str, Any]:
    """A JSON file with an object in it."""
    todo = "Give the folder of a pipeline, as save_pretrained writes it"
    if not path.is_file():
        raise UsageError(who, f"a pipeline's folder holds {path.name}", None, todo)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(who, f"{path.name} is JSON", str(error), todo) from error
    if not isinstance(content, dict):
        raise UsageError(who, f"{path.name} is a JSON object", type(content).__name__, todo)
    return content


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        todo = "Install the extra: pip install scorebench[peers]"
        raise UsageError("load", f"{name} is not installed", None, todo) from error
