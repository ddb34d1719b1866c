"""NCSN++ and DDPM++: the U-Nets of Song et al. with every choice that their published configurations make.

Down: residual blocks at each resolution, attention at some, and a step to half of it. Up: the same with one block more,
each taking what the way down had left at its place. Beside that may run pyramids. Of the input: the image itself at
every resolution, joined to the features (``input_skip``), or a chain of convolutions that swallows them
(``residual``). Of the output: images at every resolution, summed up (``output_skip``), or a chain of convolutions
(``residual``).

DDPM++ has none of the pyramids, no filter, positional features; NCSN++ has a residual input pyramid, filters, and with
VE Fourier features and an output divided by the noise level.

``all_modules`` lists the layers in the order in which the data meet them: names, shapes and order of the parameters are
those of the reference's checkpoints, and the forward pass takes one layer after the other from it.

Reference: Song et al. 2021, Score-based generative modeling through stochastic differential equations,
arXiv:2011.13456, app. H.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pretrained.networks.attention import Attention, add
from pretrained.networks.embedding import FourierFeatures, PositionalFeatures
from pretrained.networks.initial import conv, dense, group_norm
from pretrained.networks.resample import Combine, ConvDown, ConvUp, Down, Up
from pretrained.networks.residual import Residual
from pretrained.networks.settings import NCSNppSettings
from solvers.errors import UsageError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": F.silu,
    "elu": F.elu,
    "relu": F.relu,
    "lrelu": partial(F.leaky_relu, negative_slope=0.2),
}

Layers = Iterator[nn.Module]


class NCSNpp(nn.Module):
    """``network(x, label)``, see above.

    Args:
        shape: of an image, (channels, size, size), size a multiple of 2^(resolutions - 1).
        settings: as in the reference's configuration.
        centred: whether x lies about [-1, 1], as the first layer expects it; else about [0, 1], and 2 x - 1 is taken.
        logarithm: whether Fourier features are made of the label's logarithm, as in the reference, or of the label.

    Raises:
        UsageError: the size cannot be halved so often, or widths do not fall into groups.
    """

    sigmas: Tensor

    def __init__(
        self, shape: tuple[int, ...], settings: NCSNppSettings, centred: bool = True, logarithm: bool = True
    ) -> None:
        super().__init__()
        channels, size, width = shape
        times = len(settings.ch_mult) - 1
        if size != width or size % 2**times:
            rule = f"images are square, their side a multiple of 2^{times} = {2**times} (one less than ch_mult is long)"
            raise UsageError("NCSNpp", rule, shape, "Pad or crop the images, or shorten ch_mult")
        self.shape = tuple(shape)
        self.settings = settings
        self.centred = centred
        self.activation = ACTIVATIONS[settings.nonlinearity]
        self.attended = [size // 2**level in settings.attn_resolutions for level in range(times + 1)]
        taps = settings.fir_kernel if settings.fir else None
        self.image_down = Down(taps)
        self.image_up = Up(taps)
        span = math.log(settings.sigma_max), math.log(settings.sigma_min)
        self.register_buffer("sigmas", torch.linspace(*span, settings.num_scales, dtype=torch.float64).exp().float())
        self.positional = PositionalFeatures(settings.nf)
        self.all_modules = nn.ModuleList([*self._embedding(logarithm), *self._body(channels, taps)])

    def _embedding(self, logarithm: bool) -> Iterator[nn.Module]:
        settings = self.settings
        width = settings.nf
        if settings.embedding_type == "fourier":
            yield FourierFeatures(width, settings.fourier_scale, logarithm)
            width *= 2
        if settings.conditional:
            yield dense(width, 4 * settings.nf)
            yield dense(4 * settings.nf, 4 * settings.nf)

    def _body(self, channels: int, taps: tuple[float, ...] | None) -> Iterator[nn.Module]:
        """The layers after the embedding."""
        s = self.settings
        biggan = s.resblock_type == "biggan"
        last = len(s.ch_mult) - 1

        def block(inputs: int, outputs: int, resample: nn.Module | None = None) -> Residual:
            return Residual(
                inputs,
                outputs,
                4 * s.nf,
                s.resblock_type,
                self.activation,
                s.dropout,
                s.skip_rescale,
                s.init_scale,
                resample,
            )

        def attention(width: int) -> Attention:
            return Attention(width, s.skip_rescale, s.init_scale)

        yield conv(channels, s.nf)
        width, image = s.nf, channels
        left = [width]
        for level, factor in enumerate(s.ch_mult):
            for _ in range(s.num_res_blocks):
                yield block(width, s.nf * factor)
                width = s.nf * factor
                if self.attended[level]:
                    yield attention(width)
                left.append(width)
            if level == last:
                break
            if biggan:
                yield block(width, width, Down(taps))
            else:
                yield ConvDown(width, width, taps) if s.resamp_with_conv else Down(taps)
            if s.progressive_input == "input_skip":
                yield Combine(image, width, s.progressive_combine == "cat")
                width *= 2 if s.progressive_combine == "cat" else 1
            elif s.progressive_input == "residual":
                yield ConvDown(image, width, taps)
                image = width
            left.append(width)

        yield block(width, width)
        yield attention(width)
        yield block(width, width)

        pyramid = 0
        for level in range(last, -1, -1):
            for _ in range(s.num_res_blocks + 1):
                yield block(width + left.pop(), s.nf * s.ch_mult[level])
                width = s.nf * s.ch_mult[level]
            if self.attended[level]:
                yield attention(width)
            if s.progressive == "output_skip":
                yield group_norm(width)
                yield conv(width, channels, scale=s.init_scale)
            elif s.progressive == "residual":
                if level == last:
                    yield group_norm(width)
                    yield conv(width, width)
                else:
                    yield ConvUp(pyramid, width, taps)
                pyramid = width
            if level:
                if biggan:
                    yield block(width, width, Up(taps))
                else:
                    yield ConvUp(width, width, taps) if s.resamp_with_conv else Up(taps)
        if s.progressive != "output_skip":
            yield group_norm(width)
            yield conv(width, channels, scale=s.init_scale)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The prediction, shape of x.

        Args:
            x: images (n, channels, size, size).
            label: the noise level as the network was told it in training, (n,): e.g. its sigma or 999 t.

        Raises:
            UsageError: images of another shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise UsageError("NCSNpp", f"images have the shape {self.shape}", tuple(x.shape[1:]), "Resize them")
        layers: Layers = iter(self.all_modules)
        level = self._level(label, layers)
        image = x if self.centred else 2 * x - 1
        h, left = self._down(image, level, layers)
        first, attention, second = next(layers), next(layers), next(layers)
        h = second(attention(first(h, level)), level)
        h = self._up(h, left, level, layers)
        if self.settings.scale_by_sigma:
            h = h / self._sigma(label)[:, None, None, None]
        return h

    def _level(self, label: Tensor, layers: Layers) -> Tensor | None:
        features = next(layers)(label) if self.settings.embedding_type == "fourier" else self.positional(label)
        if not self.settings.conditional:
            return None
        first, second = next(layers), next(layers)
        level: Tensor = second(self.activation(first(features)))
        return level

    def _sigma(self, label: Tensor) -> Tensor:
        """The noise level: Fourier features are made of it, the positional ones of its place in the list."""
        return label if self.settings.embedding_type == "fourier" else self.sigmas[label.long()]

    def _down(self, image: Tensor, level: Tensor | None, layers: Layers) -> tuple[Tensor, list[Tensor]]:
        """The way down: its end, and what it leaves on the way."""
        s = self.settings
        h = next(layers)(image)
        left = [h]
        for depth, attended in enumerate(self.attended):
            for _ in range(s.num_res_blocks):
                h = next(layers)(h, level)
                if attended:
                    h = next(layers)(h)
                left.append(h)
            if depth == len(self.attended) - 1:
                break
            h = self._resample(h, level, layers)
            if s.progressive_input == "input_skip":
                image = self.image_down(image)
                h = next(layers)(image, h)
            elif s.progressive_input == "residual":
                h = image = add(next(layers)(image), h, s.skip_rescale)
            left.append(h)
        return h, left

    def _up(self, h: Tensor, left: list[Tensor], level: Tensor | None, layers: Layers) -> Tensor:
        """The way up: the image."""
        s = self.settings
        pyramid: Tensor | None = None
        for depth in range(len(self.attended) - 1, -1, -1):
            for _ in range(s.num_res_blocks + 1):
                h = next(layers)(torch.cat([h, left.pop()], 1), level)
            if self.attended[depth]:
                h = next(layers)(h)
            if s.progressive == "output_skip":
                here = self._to_image(h, layers)
                pyramid = here if pyramid is None else self.image_up(pyramid) + here
            elif s.progressive == "residual":
                if pyramid is None:
                    pyramid = self._to_image(h, layers)
                else:
                    h = pyramid = add(next(layers)(pyramid), h, s.skip_rescale)
            if depth:
                h = self._resample(h, level, layers)
        return pyramid if s.progressive == "output_skip" and pyramid is not None else self._to_image(h, layers)

    def _resample(self, h: Tensor, level: Tensor | None, layers: Layers) -> Tensor:
        layer = next(layers)
        result: Tensor = layer(h, level) if isinstance(layer, Residual) else layer(h)
        return result

    def _to_image(self, h: Tensor, layers: Layers) -> Tensor:
        norm, last = next(layers), next(layers)
        image: Tensor = last(self.activation(norm(h)))
        return image
