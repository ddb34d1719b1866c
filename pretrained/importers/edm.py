"""Networks of Karras et al. (EDM): the ``network-snapshot-*.pkl`` of their training, with EMA weights under ``ema``.

Read by :mod:`pretrained.importers.persistence`: nothing in the file is run. Its network is one of

    EDMPrecond   noise from sigma, data of standard deviation 0.5       under EDM, sigma from 0.002 to 80
    VPPrecond    the reparametrised VP network of Song et al.           under VP
    VEPrecond    the reparametrised VE network of Song et al.           under VE, sigma from 0.02 to 100

around ``SongUNet``, which is NCSN++/DDPM++ under other names: its weights are put into
:class:`pretrained.networks.ncsnpp.NCSNpp`, where q, k and v of the attention are three maps and not one. All of them
predict the noise here and take images in [-1, 1]. Labels of the training's augmentation are zero in sampling, their
map is left out; class-conditional networks, ``DhariwalUNet`` and ``iDDPMPrecond`` are refused. The computation is in
float32, also where the authors' own runs in float16 (``use_fp16``).

What this rests on: names, shapes and formulas in the authors' public source, and tests against an independent network
of the same names. No file of the authors has been loaded here.

Reference: Karras et al. 2022, arXiv:2206.00364, table 1; github.com/NVlabs/edm.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from pretrained.importers import persistence
from pretrained.importers.model import ImportedModel
from pretrained.networks.karras import EDMCore, VELabelled
from pretrained.networks.labelled import LAST_LABEL, Labelled
from pretrained.networks.ncsnpp import NCSNpp
from pretrained.networks.precondition import Preconditioned
from pretrained.networks.settings import Count, Fraction, NCSNppSettings, Positive, Section
from pretrained.yaml_model import validate
from solvers.errors import UsageError, unknown_name
from solvers.sde import EDM, VE, VP, ForwardSDE

INPUT_PYRAMIDS: dict[str, Any] = {"standard": "none", "skip": "input_skip", "residual": "residual"}
OUTPUT_PYRAMIDS: dict[str, Any] = {"standard": "none", "skip": "output_skip"}
# Names of a block's layers, theirs and ours.
BLOCK = {
    "norm0": "GroupNorm_0",
    "conv0": "Conv_0",
    "affine": "Dense_0",
    "norm1": "GroupNorm_1",
    "conv1": "Conv_1",
    "skip": "Conv_2",
}
# The layers inside those of the pyramids, and the name of the Fourier frequencies.
INSIDE = {"_aux_residual": "Conv2d_0.", "_aux_skip": "Conv_0."}
RENAMED = {"freqs": "W"}


class Network(Section):
    """What a network was made of: the arguments of its class."""

    img_resolution: Count
    img_channels: Count
    label_dim: Annotated[int, Field(ge=0)] = 0
    use_fp16: bool = False
    model_type: str = "SongUNet"
    augment_dim: Annotated[int, Field(ge=0)] = 0
    model_channels: Count = 128
    channel_mult: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 2, 2)
    channel_mult_emb: Literal[4] = 4
    num_blocks: Count = 4
    attn_resolutions: tuple[Count, ...] = (16,)
    dropout: Fraction = 0.10
    label_dropout: Fraction = 0.0
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: Count = 1
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    resample_filter: tuple[float, ...] = (1.0, 1.0)

    @field_validator("resample_filter")
    @classmethod
    def _resamples(cls, taps: tuple[float, ...]) -> tuple[float, ...]:
        if len(taps) % 2 or taps != taps[::-1]:
            raise UsageError("load", "resample_filter is symmetric, of an even number of taps", taps, "Not read here")
        return taps

    def settings(self) -> NCSNppSettings:
        """The same network as NCSN++."""
        return NCSNppSettings(
            name="ncsnpp",
            nf=self.model_channels,
            ch_mult=self.channel_mult,
            num_res_blocks=self.num_blocks,
            attn_resolutions=self.attn_resolutions,
            resamp_with_conv=True,
            conditional=True,
            fir=True,
            fir_kernel=self.resample_filter,
            skip_rescale=True,
            resblock_type="biggan",
            progressive=OUTPUT_PYRAMIDS[self.decoder_type],
            progressive_input=INPUT_PYRAMIDS[self.encoder_type],
            progressive_combine="sum",
            embedding_type=self.embedding_type,
            scale_by_sigma=False,
            dropout=self.dropout,
        )


class EDMNetwork(Network):
    """A network of the preconditioning of Karras et al."""

    sigma_min: Annotated[float, Field(ge=0)] = 0.0
    sigma_max: Positive = math.inf
    sigma_data: Positive = 0.5

    def around(self, core: NCSNpp) -> tuple[nn.Module, ForwardSDE]:
        """The noise predictor and its process, from their sampler's first to its last noise level."""
        published = EDM()
        sde = EDM(max(published.sigma_min, self.sigma_min), min(published.sigma_max, self.sigma_max))
        return Preconditioned(EDMCore(core), sde, self.sigma_data), sde


class VPNetwork(Network):
    """A network of the preconditioning that stands for Song et al.'s VP."""

    beta_d: Positive = 19.9
    beta_min: Positive = 0.1
    M: Literal[1000] = 1000
    epsilon_t: Positive = 1e-5

    def around(self, core: NCSNpp) -> tuple[nn.Module, ForwardSDE]:
        """The noise predictor, told (M - 1) t, and its process."""
        assert self.M - 1 == LAST_LABEL
        sde = VP(self.beta_min, self.beta_min + self.beta_d)
        return Labelled(core, sde), sde


class VENetwork(Network):
    """A network of the preconditioning that stands for Song et al.'s VE."""

    sigma_min: Positive = 0.02
    sigma_max: Positive = 100.0

    def around(self, core: NCSNpp) -> tuple[nn.Module, ForwardSDE]:
        """The noise predictor and its process."""
        sde = VE(self.sigma_min, self.sigma_max)
        return VELabelled(core, sde), sde


NETWORKS: dict[str, type[EDMNetwork | VPNetwork | VENetwork]] = {
    "EDMPrecond": EDMNetwork,
    "VPPrecond": VPNetwork,
    "VEPrecond": VENetwork,
}


def build(network: EDMNetwork | VPNetwork | VENetwork) -> tuple[nn.Module, ForwardSDE, NCSNpp]:
    """The noise predictor of these arguments, untrained, its process, and the U-Net inside it."""
    shape = network.img_channels, network.img_resolution, network.img_resolution
    core = NCSNpp(shape, network.settings(), logarithm=False)
    return *network.around(core), core


def load(path: Path, device: torch.device | str = "cpu") -> ImportedModel:
    """The network of a pickle with its EMA weights.

    Raises:
        UsageError: no such file, one that holds anything but tensors, plain values and persistent objects, a network
            that is not read here, or weights that are not those of its arguments.
    """
    who = f"load {path}"
    network, weights = _network(persistence.read(path), who)
    # The weights overwrite the initialisation, which must leave no trace in the global generator.
    with torch.random.fork_rng(devices=[]):
        predictor, sde, core = build(network)
    core.load_state_dict(_renamed(weights, core, who))
    predictor.to(device).eval().requires_grad_(False)
    return ImportedModel(predictor, sde, "noise", core.shape, centred=True)


def _network(content: Any, who: str) -> tuple[EDMNetwork | VPNetwork | VENetwork, dict[str, Tensor]]:
    """Arguments and weights of the network in a pickle's content."""
    ema = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(ema, persistence.Stored) or not isinstance(ema.state.get("_init_kwargs"), dict):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise UsageError(who, "a snapshot holds a network under 'ema'", found, "Give a network-snapshot-*.pkl of EDM")
    if ema.name not in NETWORKS:
        raise unknown_name(who, "preconditioning", ema.name, NETWORKS)
    if ema.state.get("_init_args"):
        raise UsageError(who, "a network was made with named arguments", ema.state["_init_args"], "Not read here")
    given = dict(ema.state["_init_kwargs"])
    if given.get("model_type", "SongUNet") != "SongUNet":
        raise unknown_name(who, "network", str(given["model_type"]), ["SongUNet"])
    network = validate(given, NETWORKS[ema.name], who)
    if network.label_dim:
        raise UsageError(
            who, "an unconditional network is read", f"label_dim {network.label_dim}", "Take an uncond one"
        )
    factor = {"positional": 1, "fourier": 2}[network.embedding_type]
    if network.channel_mult_noise != factor:
        rule = f"channel_mult_noise is {factor} with {network.embedding_type} features"
        raise UsageError(who, rule, network.channel_mult_noise, "Not read here")
    return network, {name.removeprefix("model."): value for name, value in ema.tensors().items()}


def _renamed(weights: dict[str, Tensor], core: NCSNpp, who: str) -> dict[str, Tensor]:
    """The state dict of ``core``: both networks list their layers in the order in which the data meet them."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        parts = name.split(".")
        depth = 2 if parts[0] in ("enc", "dec") else 1
        # Filters are settings, and there are no augmentation labels in sampling.
        if parts[-1] != "resample_filter" and parts[0] != "map_augment":
            layer = layers.setdefault(".".join(parts[:depth]), {})
            layer[".".join(parts[depth:])] = value if value.ndim else value[None]
    found = {
        f"all_modules.{place}.{name}": value
        for place, own in enumerate(part for layer, own in layers.items() for part in _parts(layer, own))
        for name, value in own.items()
    }
    state = core.state_dict()
    expected = {name: value.shape for name, value in state.items() if name.startswith("all_modules.")}
    wrong = [name for name in expected | found if name not in found or expected.get(name) != found[name].shape]
    if wrong:
        here = tuple(found[wrong[0]].shape) if wrong[0] in found else "nothing"
        there = tuple(expected[wrong[0]]) if wrong[0] in expected else "nothing"
        rule = f"its weights are those of its arguments: {wrong[0]} is {there}"
        raise UsageError(who, rule, here, "Give a network that the authors' training wrote")
    return state | found


def _parts(name: str, layer: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """A layer of theirs as layers of ours: a block with attention is two."""
    if "norm0.weight" not in layer:
        inside = next((ours for end, ours in INSIDE.items() if name.endswith(end)), "")
        return [{RENAMED.get(key, f"{inside}{key}"): value for key, value in layer.items()}]
    block, attention = {}, {}
    for key, value in layer.items():
        part, _, kind = key.partition(".")
        if part in BLOCK:
            block[f"{BLOCK[part]}.{kind}"] = value
        elif part == "norm2":
            attention[f"GroupNorm_0.{kind}"] = value
        else:
            # Channels of qkv count q, k, v fastest; a map of ours multiplies from the right.
            maps = [value[j::3] for j in range(3)] if part == "qkv" else [value]
            for j, one in enumerate(maps, start=0 if part == "qkv" else 3):
                attention[f"NIN_{j}.{'W' if kind == 'weight' else 'b'}"] = (
                    one.reshape(len(one), -1).t() if kind == "weight" else one
                )
    return [block, attention] if attention else [block]
