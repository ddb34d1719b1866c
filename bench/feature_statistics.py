"""Mean and covariance of reference images' features, in a file that is believed only where its hashes are right."""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from bench.metrics.extractors import Extractor, get_extractor
from bench.metrics.features import hash_of
from bench.metrics.wasserstein import moments_of
from pretrained import provenance
from pretrained.card import CARDS, DataSettings
from pretrained.data import DATA_SETS, ImageData
from pretrained.networks.settings import Count, Section
from pretrained.yaml_model import validate
from solvers.errors import UsageError, unknown_name

SHIPPED = CARDS.parent / "statistics"
SUFFIX = ".npz"
# Of a covariance's trace: so far from symmetric it may be, and its least eigenvalue below zero.
ROUNDING = 1e-8


class About(Section):
    """Whose statistics they are: ``images_sha256`` is of the levels, ``extractor_sha256`` of the weights' file."""

    data: DataSettings
    split: str
    n: Count
    features: Count
    images_sha256: str
    extractor: str
    extractor_sha256: str


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Moments of features.

    Attributes:
        about: of which images, by which extractor.
        mean: (d,), float64.
        cov: unbiased, (d, d), float64.
    """

    about: About
    mean: Tensor
    cov: Tensor

    @property
    def sha256(self) -> str:
        """Hash of all that the file says."""
        return provenance.sha256(_text(self.about).encode() + _bytes(self.mean) + _bytes(self.cov))


def statistics_of(data: DataSettings, split: str, extractor: str, device: torch.device) -> FeatureStatistics:
    """Moments of the features of a whole part of a data set, in the extractor's first layer.

    Raises:
        UsageError: no such part or extractor, the data are no images of the extractor's form, or a single one.
    """
    found = get_extractor(extractor, device)
    images = images_of(data, split)
    if len(images.values) < 2:
        rule = "a covariance needs two images or more"
        raise UsageError("statistics", rule, len(images.values), "Take another part, or add images")
    assert images.levels is not None
    found.check(images.shape, images.levels)
    features = found(images.values)[found.layers[0]]
    about = About(
        data=data,
        split=split,
        n=len(features),
        features=features.shape[1],
        images_sha256=hash_of(images.values),
        extractor=found.name,
        extractor_sha256=found.sha256,
    )
    return FeatureStatistics(about, *moments_of(features))


def data_settings(name: str, settings: Sequence[str]) -> DataSettings:
    """Data by name and ``NAME=VALUE``; a value has the type of the setting's default.

    Raises:
        UsageError: no such data set or setting, or a value of another type.
    """
    if name not in DATA_SETS:
        raise unknown_name("statistics", "data set", name, DATA_SETS)
    defaults = {field.name: field.default for field in fields(DATA_SETS[name])}
    values: dict[str, str | bool | int | float] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError("statistics", "a setting is NAME=VALUE", text, "E.g. --setting size=32")
        if key not in defaults:
            raise unknown_name(f"data set {name!r}", "setting", key, defaults)
        # A path is what it is; numbers and booleans are written as in a card.
        values[key] = value if isinstance(defaults[key], str) else yaml.safe_load(value)
    return validate({"name": name, "settings": values}, DataSettings, f"data set {name!r}")


def images_of(data: DataSettings, split: str) -> ImageData:
    """A part of a data set of images.

    Raises:
        UsageError: no such part, its files are missing, or it has no levels.
    """
    images = data.build().load(split)
    if images.levels is None:
        raise UsageError("statistics", "features are of images with levels", data.name, "Take data of images")
    return images


def save_statistics(statistics: FeatureStatistics, path: Path) -> None:
    """Writes the file, whole or not at all.

    Raises:
        UsageError: its name does not end in ``.npz``.
    """
    if path.suffix != SUFFIX:
        raise UsageError("statistics", f"the file's name ends in {SUFFIX}", str(path), f"E.g. {path.stem}{SUFFIX}")
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    about, sha256 = np.array(_text(statistics.about)), np.array(statistics.sha256)
    np.savez(buffer, about=about, sha256=sha256, mean=statistics.mean.numpy(), cov=statistics.cov.numpy())
    provenance.write_atomically(path, buffer.getbuffer())


def load_statistics(path: Path, device: torch.device) -> tuple[FeatureStatistics, Extractor]:
    """The statistics of a file and their extractor.

    Raises:
        UsageError: no such file, one that is damaged or whose content is not what its hash says, or one made by other
            weights of the extractor or from other images than those that are here.
    """
    statistics = read_statistics(path)
    about = statistics.about
    extractor = get_extractor(about.extractor, device)
    images = hash_of(images_of(about.data, about.split).values)
    for what, named, here in (
        (f"the weights of {about.extractor}", about.extractor_sha256, extractor.sha256),
        (f"the {about.split} images of {about.data.name}", about.images_sha256, images),
    ):
        if named != here:
            rule = f"{path} is of those with the hash {named}, {what}"
            raise UsageError("statistics", rule, here, _command(about, path))
    return statistics, extractor


def read_statistics(path: Path) -> FeatureStatistics:
    """The content of a file, its own hash verified and nothing else.

    Raises:
        UsageError: no such file, or one that is damaged.
    """
    if not path.is_file():
        todo = "Correct the path, or make the file with `scorebench statistics`"
        raise UsageError("statistics", "no such file", str(path), todo)
    try:
        with np.load(path, allow_pickle=False) as content:
            about = About.model_validate(json.loads(str(content["about"])))
            mean, cov = torch.from_numpy(content["mean"]), torch.from_numpy(content["cov"])
            expected = str(content["sha256"])
    except (OSError, ValueError, TypeError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise _damaged(path, " ".join(str(error).split())[:200]) from error
    except (ValidationError, UsageError) as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error
    statistics = FeatureStatistics(about, mean, cov)
    d = about.features
    if (mean.shape, cov.shape) != ((d,), (d, d)) or {mean.dtype, cov.dtype} != {torch.float64}:
        raise _damaged(path, f"arrays of the shapes {tuple(mean.shape)} and {tuple(cov.shape)}")
    if not (bool(mean.isfinite().all()) and bool(cov.isfinite().all())):
        raise _damaged(path, "moments that are not finite")
    rounding = ROUNDING * float(cov.trace())
    if not bool(((cov - cov.T).abs() <= rounding).all()) or float(torch.linalg.eigvalsh(cov)[0]) < -rounding:
        raise _damaged(path, "a matrix that is no covariance")
    if statistics.sha256 != expected:
        raise _damaged(path, f"content of the hash {statistics.sha256} instead of {expected}")
    return statistics


def shipped_statistics(data: DataSettings, split: str = "test") -> Path | None:
    """The shipped file of a part of these data, if there is one."""
    for path in sorted(SHIPPED.glob(f"{data.name}-{split}-*{SUFFIX}")):
        about = read_statistics(path).about
        if (about.data.name, about.data.settings, about.split) == (data.name, data.settings, split):
            return path
    return None


def _command(about: About, path: Path) -> str:
    settings = "".join(f" --setting {key}={value}" for key, value in about.data.settings.items())
    command = f"scorebench statistics {about.data.name}{settings} --split {about.split}"
    return f"Restore what it is of, or make it anew: `{command} --extractor {about.extractor} --out {path}`"


def _damaged(path: Path, what: str) -> UsageError:
    todo = f"Restore it with `git checkout -- {path}`, or make it anew with `scorebench statistics`"
    return UsageError("statistics", f"{path} holds what `scorebench statistics` wrote", what, todo)


def _text(about: About) -> str:
    return json.dumps(about.model_dump(mode="json"), sort_keys=True)


def _bytes(array: Tensor) -> bytes:
    content: bytes = array.numpy().astype("<f8").tobytes()
    return content
