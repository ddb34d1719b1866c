"""Networks with the names of EDM's, and their pickles in the persistence format, made without its code.

Written from the structure of NCSN++/DDPM++ and table 1 of Karras et al. 2022, arXiv:2206.00364; the names of classes,
attributes and arguments are those of github.com/NVlabs/edm.
"""

import math
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

# What the format would run. Where it does run, the tests' process ends.
SOURCE = "raise SystemExit('the source code in a pickle was run')"


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise AssertionError("the pickle was opened by its own code")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent(nn.Module):
    """Pickled as their ``persistent_class`` pickles: source, name and state behind one call."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self._init_args = ()
        self._init_kwargs = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": type(self).__name__}
        return _reconstruct_persistent_obj, ({**meta, "state": self.__dict__},)


@contextmanager
def their_modules() -> Iterator[None]:
    """Empty modules of the names that such a pickle refers to."""
    before = dict(sys.modules)
    for name in ("torch_utils", "torch_utils.persistence"):
        sys.modules[name] = ModuleType(name)
    sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    try:
        yield
    finally:
        sys.modules.clear()
        sys.modules.update(before)


def write(path: Path, content: Any) -> Path:
    with their_modules(), path.open("wb") as file:
        pickle.dump(content, file)
    return path


def draw(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / math.sqrt(math.prod(shape[1:]) or 1))


class Linear(Persistent):
    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(in_features=inputs, out_features=outputs, bias=bias)
        self.weight = draw(outputs, inputs)
        self.bias = draw(outputs) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class GroupNorm(Persistent):
    def __init__(self, channels: int) -> None:
        super().__init__(num_channels=channels, eps=np.float64(1e-6))
        self.weight, self.bias = nn.Parameter(1 + torch.randn(channels) / 4), draw(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, min(32, x.shape[1] // 4), self.weight, self.bias, 1e-6)


class Conv2d(Persistent):
    """Filter by zeros or strides first, then the convolution; ``fused``: convolution, then the filter by strides."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        up: bool = False,
        down: bool = False,
        taps: Any = (1, 1),
        **more: Any,
    ) -> None:
        super().__init__(in_channels=inputs, out_channels=outputs, kernel=size, up=up, down=down, **more)
        self.size, self.up, self.down, self.fused = size, up, down, more.get("fused", False)
        self.weight = draw(outputs, inputs, size, size) if size else None
        self.bias = draw(outputs) if size else None
        line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        self.register_buffer("resample_filter", torch.outer(line, line)[None, None] if up or down else None)

    def forward(self, x: Tensor) -> Tensor:
        pad = 0 if not (self.up or self.down) else (self.resample_filter.shape[-1] - 1) // 2
        if self.fused:
            x = F.conv2d(x, self.weight, padding=self.size // 2 + pad)
            x = F.conv2d(x, self.resample_filter.repeat(len(self.weight), 1, 1, 1), stride=2, groups=len(self.weight))
            return x + self.bias[:, None, None]
        channels = x.shape[1]
        if self.up:
            k = 4 * self.resample_filter.repeat(channels, 1, 1, 1)
            x = F.conv_transpose2d(x, k, stride=2, padding=pad, groups=channels)
        if self.down:
            x = F.conv2d(x, self.resample_filter.repeat(channels, 1, 1, 1), stride=2, padding=pad, groups=channels)
        return x if self.weight is None else F.conv2d(x, self.weight, self.bias, padding=self.size // 2)


class UNetBlock(Persistent):
    def __init__(self, inputs: int, outputs: int, level: int, taps: Any, attention: bool = False, **how: bool) -> None:
        super().__init__(in_channels=inputs, out_channels=outputs, skip_scale=np.sqrt(0.5), attention=attention, **how)
        self.inputs, self.outputs = inputs, outputs
        self.norm0, self.conv0 = GroupNorm(inputs), Conv2d(inputs, outputs, 3, taps=taps, **how)
        self.affine = Linear(level, outputs)
        self.norm1, self.conv1 = GroupNorm(outputs), Conv2d(outputs, outputs, 3)
        self.skip = Conv2d(inputs, outputs, 1, taps=taps, **how) if inputs != outputs or how else None
        self.attention = attention
        if attention:
            self.norm2 = GroupNorm(outputs)
            self.qkv, self.proj = Conv2d(outputs, 3 * outputs, 1), Conv2d(outputs, outputs, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x))) + self.affine(level)[:, :, None, None]
        h = self.conv1(F.silu(self.norm1(h)))
        x = (h + (x if self.skip is None else self.skip(x))) / math.sqrt(2)
        if not self.attention:
            return x
        q, k, v = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (self.outputs, 3)).unbind(2)
        weights = torch.softmax(torch.einsum("ncq,nck->nqk", q, k) / math.sqrt(self.outputs), 2)
        return (self.proj(torch.einsum("nqk,nck->ncq", weights, v).reshape(x.shape)) + x) / math.sqrt(2)


class PositionalEmbedding(Persistent):
    def __init__(self, width: int) -> None:
        super().__init__(num_channels=width, endpoint=True)
        self.count = width // 2

    def forward(self, label: Tensor) -> Tensor:
        rates = 10000 ** -(torch.arange(self.count, dtype=label.dtype) / (self.count - 1))
        return torch.cat([(label[:, None] * rates).sin(), (label[:, None] * rates).cos()], 1)


class FourierEmbedding(Persistent):
    def __init__(self, width: int) -> None:
        super().__init__(num_channels=width)
        self.register_buffer("freqs", torch.randn(width // 2) * 16)

    def forward(self, label: Tensor) -> Tensor:
        phase = 2 * math.pi * label[:, None] * self.freqs
        return torch.cat([phase.sin(), phase.cos()], 1)


class SongUNet(Persistent):
    def __init__(
        self,
        resolution: int,
        channels: int,
        model_channels: int,
        channel_mult: list[int],
        num_blocks: int,
        attn_resolutions: list[int],
        embedding_type: str,
        encoder_type: str,
        decoder_type: str,
        resample_filter: list[int],
        augment_dim: int,
    ) -> None:
        super().__init__(img_resolution=resolution)
        nf, taps = model_channels, resample_filter
        width = nf * (2 if embedding_type == "fourier" else 1)
        self.map_noise = (FourierEmbedding if embedding_type == "fourier" else PositionalEmbedding)(width)
        self.map_label = None
        self.map_augment = Linear(augment_dim, width, bias=False) if augment_dim else None
        self.map_layer0, self.map_layer1 = Linear(width, 4 * nf), Linear(4 * nf, 4 * nf)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.enc[f"{resolution}x{resolution}_conv"] = Conv2d(channels, nf, 3)
        now, image, left = nf, channels, [nf]
        for level, factor in enumerate(channel_mult):
            size = f"{resolution >> level}x{resolution >> level}"
            if level:
                self.enc[f"{size}_down"] = UNetBlock(now, now, 4 * nf, taps, down=True)
                if encoder_type == "skip":
                    self.enc[f"{size}_aux_down"] = Conv2d(image, image, 0, down=True, taps=taps)
                    self.enc[f"{size}_aux_skip"] = Conv2d(image, now, 1)
                if encoder_type == "residual":
                    self.enc[f"{size}_aux_residual"] = Conv2d(image, now, 3, down=True, taps=taps, fused=True)
                    image = now
                left.append(now)
            for i in range(num_blocks):
                there = resolution >> level in attn_resolutions
                self.enc[f"{size}_block{i}"] = UNetBlock(now, nf * factor, 4 * nf, taps, there)
                now = nf * factor
                left.append(now)
        for level, factor in reversed(list(enumerate(channel_mult))):
            size = f"{resolution >> level}x{resolution >> level}"
            if level == len(channel_mult) - 1:
                self.dec[f"{size}_in0"] = UNetBlock(now, now, 4 * nf, taps, True)
                self.dec[f"{size}_in1"] = UNetBlock(now, now, 4 * nf, taps)
            else:
                self.dec[f"{size}_up"] = UNetBlock(now, now, 4 * nf, taps, up=True)
            for i in range(num_blocks + 1):
                there = i == num_blocks and resolution >> level in attn_resolutions
                self.dec[f"{size}_block{i}"] = UNetBlock(now + left.pop(), nf * factor, 4 * nf, taps, there)
                now = nf * factor
            if decoder_type == "skip" or level == 0:
                if decoder_type == "skip" and level < len(channel_mult) - 1:
                    self.dec[f"{size}_aux_up"] = Conv2d(channels, channels, 0, up=True, taps=taps)
                self.dec[f"{size}_aux_norm"] = GroupNorm(now)
                self.dec[f"{size}_aux_conv"] = Conv2d(now, channels, 3)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        level = F.silu(self.map_layer1(F.silu(self.map_layer0(self.map_noise(c_noise)))))
        image, left = x, []
        for name, layer in self.enc.items():
            if "aux_down" in name:
                image = layer(image)
            elif "aux_skip" in name:
                x = left[-1] = x + layer(image)
            elif "aux_residual" in name:
                x = left[-1] = image = (x + layer(image)) / math.sqrt(2)
            else:
                x = layer(x, level) if isinstance(layer, UNetBlock) else layer(x)
                left.append(x)
        result, h = torch.zeros(()), x
        for name, layer in self.dec.items():
            if "aux_up" in name:
                result = layer(result)
            elif "aux_norm" in name:
                h = F.silu(layer(x))
            elif "aux_conv" in name:
                result = result + layer(h)
            else:
                x = layer(torch.cat([x, left.pop()], 1) if "block" in name else x, level)
        return result


class Precond(Persistent):
    """D(x; sigma) around ``model``."""

    def __init__(self, img_resolution: int, img_channels: int, **arguments: Any) -> None:
        super().__init__(img_resolution=img_resolution, img_channels=img_channels, **arguments)
        for unused in ("label_dim", "use_fp16", "model_type", "dropout", "channel_mult_noise"):
            arguments.pop(unused)
        for level in ("sigma_min", "sigma_max", "sigma_data"):
            arguments.pop(level, None)
        self.model = SongUNet(img_resolution, img_channels, **arguments)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma[:, None, None, None]
        c_skip, c_out, c_in, c_noise = self.factors(s)
        return c_skip * x + c_out * self.model(c_in * x, c_noise.flatten())


class EDMPrecond(Precond):
    def factors(self, s: Tensor) -> tuple[Any, ...]:
        total = 0.25 + s**2
        return 0.25 / total, 0.5 * s / total.sqrt(), total**-0.5, s.log() / 4


class VPPrecond(Precond):
    def factors(self, s: Tensor) -> tuple[Any, ...]:
        t = ((0.1**2 + 2 * 19.9 * (1 + s**2).log()).sqrt() - 0.1) / 19.9
        return 1, -s, (1 + s**2) ** -0.5, 999 * t


class VEPrecond(Precond):
    def factors(self, s: Tensor) -> tuple[Any, ...]:
        return 1, s, 1, (s / 2).log()
