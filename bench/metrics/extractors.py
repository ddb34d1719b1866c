"""Feature extractors: the project's own, and Inception-v3 from a file of weights; all in torch-fidelity's form."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.utils import create_feature_extractor

from pretrained import provenance, zoo
from solvers.errors import UsageError

INCEPTION = "inception-v3-compat"
# Names the file of its weights; torch-fidelity's cache is looked at without.
WEIGHTS_VARIABLE = "SCOREBENCH_INCEPTION"
# Layers that distances are taken in, and that class probabilities come from (Inception's without its bias).
OWN_LAYER = "features"
INCEPTION_LAYERS = ("2048", "logits_unbiased")
# Images a pass.
BATCH = 256


class OwnFeatures(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity is untyped
    """A classifier of the zoo in torch-fidelity's form: levels (n, c, h, w) uint8 in, penultimate layer out."""

    def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
        super().__init__(name, features_list)
        checkpoint = zoo.load_features(name)
        self.network = checkpoint.network
        self.sha256 = checkpoint.sha256
        spec = checkpoint.card.data.build().spec
        assert spec.levels is not None, "a card's classifier takes images"
        self.levels, self.shape = spec.levels, spec.shape

    def forward(self, levels: Tensor) -> tuple[Tensor]:
        """Features of images of levels, each at the middle of its bin."""
        return (self.network.features((levels.float() + 0.5) / self.levels),)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The one layer there is."""
        return (OWN_LAYER,)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The same layer for every metric."""
        return OWN_LAYER

    @staticmethod
    def can_be_compiled() -> bool:
        """Not worth it at this size."""
        return False


@dataclass(frozen=True, eq=False)
class Extractor:
    """Images to features.

    Attributes:
        name: of the network; with ``sha256`` of its weights' file it tells which features these are.
        module: the network in torch-fidelity's form.
        layers: what it gives, in this order; distances are taken in the first.
        levels: grey or colour levels that it expects, 0 ... levels - 1.
        shape: of an image, (channels, height, width); Inception resizes, None stands for any.
        device: where it runs.
    """

    name: str
    sha256: str
    module: Any
    layers: tuple[str, ...]
    levels: int
    shape: tuple[int | None, ...]
    device: torch.device

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features of each layer, (n, d), float64, on the CPU, of images (n, channels, height, width), uint8.

        Raises:
            UsageError: these are not images of the extractor's form and levels, or there are none.
        """
        self.check(tuple(images.shape[1:]), self.levels)
        if images.dtype != torch.uint8 or not len(images) or int(images.max()) >= self.levels:
            got = f"{len(images)} of {images.dtype}, up to {images.max() if len(images) else None}"
            raise UsageError(self.name, f"images hold levels 0 to {self.levels - 1}, uint8", got, "Quantise them first")
        parts = list(self._passes(images))
        return {layer: torch.cat([part[k] for part in parts]) for k, layer in enumerate(self.layers)}

    def _passes(self, images: Tensor) -> Iterator[tuple[Tensor, ...]]:
        # Reduced precision moves Fréchet distances in the third digit.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for batch in torch.split(images, BATCH):
                yield tuple(layer.double().cpu() for layer in self.module(batch.to(self.device)))

    def check(self, shape: tuple[int, ...], levels: int) -> None:
        """Refuse images of another form.

        Raises:
            UsageError: shape or number of levels are not those of the extractor.
        """
        same = len(shape) == len(self.shape)
        if not same or any(want not in (None, have) for want, have in zip(self.shape, shape, strict=True)):
            wanted = tuple("any" if side is None else side for side in self.shape)
            raise UsageError(self.name, f"its images have the shape {wanted}", shape, "Use an extractor of these data")
        if levels != self.levels:
            raise UsageError(
                self.name, f"its images have {self.levels} levels", levels, "Use an extractor of these data"
            )


def get_extractor(name: str, device: torch.device) -> Extractor:
    """An extractor: ``inception-v3-compat`` or a classifier of the zoo.

    Raises:
        UsageError: no such checkpoint, or Inception's weights are not here or not weights of Inception.
    """
    if name != INCEPTION:
        return _own(name)
    path = inception_weights()
    return _inception(path, path.stat().st_mtime_ns, device)


@cache
def _own(name: str) -> Extractor:
    register_feature_extractor(name, OwnFeatures)
    module = create_feature_extractor(name, [OWN_LAYER], cuda=False, verbose=False)
    return Extractor(name, module.sha256, module, (OWN_LAYER,), module.levels, module.shape, torch.device("cpu"))


def use_weights(path: Path) -> None:
    """Name the file of Inception's weights to this process and to those it starts.

    Raises:
        UsageError: it is not there, or holds something else.
    """
    found = inception_weights(str(path.resolve()))
    _inception(found, found.stat().st_mtime_ns, torch.device("cpu"))
    os.environ[WEIGHTS_VARIABLE] = str(found)


def inception_weights(named: str | None = None) -> Path:
    """The file of Inception's weights: the one named, here or by ``SCOREBENCH_INCEPTION``, or torch-fidelity's.

    Raises:
        UsageError: there is no such file.
    """
    named = named or os.environ.get(WEIGHTS_VARIABLE)
    path = Path(named) if named else Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    if not path.is_file():
        todo = f"Download {URL_INCEPTION_V3} to that place, or name the file by --weights FILE or {WEIGHTS_VARIABLE}"
        raise UsageError(INCEPTION, "its weights are not here", str(path), todo)
    return path


@lru_cache(maxsize=1)
def _inception(path: Path, changed: int, device: torch.device) -> Extractor:
    sha256 = provenance.sha256_of_file(path)
    try:
        # torch-fidelity unpickles without restraint: only the published file, or one of plain tensors, comes so far.
        if not sha256.startswith(URL_INCEPTION_V3.rpartition("-")[2].partition(".")[0]):
            torch.load(path, weights_only=True, mmap=True, map_location="cpu")
        # The weights overwrite an initialisation, which must leave no trace in the global generator.
        with torch.random.fork_rng(devices=[]):
            module = create_feature_extractor(
                INCEPTION, list(INCEPTION_LAYERS), cuda=False, verbose=False, feature_extractor_weights_path=str(path)
            )
    except Exception as error:  # a file of any other kind fails in as many ways
        what = str(error).partition("\n")[0]
        todo = f"Give the file of {URL_INCEPTION_V3}"
        raise UsageError(INCEPTION, f"{path} holds its weights in torch-fidelity's form", what, todo) from error
    return Extractor(INCEPTION, sha256, module.to(device), INCEPTION_LAYERS, 256, (3, None, None), device)
