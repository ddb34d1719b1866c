"""Reference statistics: what a file says is what was measured, and a file that differs by a byte is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import feature_statistics
from bench.feature_statistics import (
    FeatureStatistics,
    data_settings,
    load_statistics,
    read_statistics,
    save_statistics,
    shipped_statistics,
    statistics_of,
)
from bench.metrics.extractors import get_extractor
from pretrained import provenance, zoo
from pretrained.card import DataSettings
from pretrained.data import load_data
from solvers.errors import UsageError

CPU = torch.device("cpu")
DIGITS = DataSettings(name="digits")


@pytest.fixture(scope="module")
def made() -> FeatureStatistics:
    return statistics_of(DIGITS, "test", "digits-features", CPU)


@pytest.fixture
def path(made: FeatureStatistics, tmp_path: Path) -> Path:
    save_statistics(made, tmp_path / "digits.npz")
    return tmp_path / "digits.npz"


def test_the_moments_are_those_of_the_features(made: FeatureStatistics, path: Path) -> None:
    values = load_data("digits", "test").values
    features = get_extractor("digits-features", CPU)(values)["features"].numpy()
    read, extractor = load_statistics(path, CPU)
    np.testing.assert_allclose(read.mean.numpy(), features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(read.cov.numpy(), np.cov(features, rowvar=False), rtol=1e-9, atol=1e-12)
    assert (read.about, read.sha256) == (made.about, made.sha256)
    assert (read.about.n, read.about.features) == (599, 16)
    assert read.about.images_sha256 == provenance.sha256(values.numpy().tobytes())
    assert read.about.extractor_sha256 == extractor.sha256 == zoo.load_features("digits-features").sha256


def test_a_file_made_again_is_the_same_file(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.npz"
    save_statistics(statistics_of(DIGITS, "test", "digits-features", CPU), again)
    assert again.read_bytes() == path.read_bytes()


def test_no_changed_byte_changes_what_is_believed(made: FeatureStatistics, path: Path) -> None:
    """A byte at a time: the file is refused, or says the same (a time in the archive's table of contents)."""
    content, refused = path.read_bytes(), 0
    for place in range(0, len(content), 29):
        damaged = bytearray(content)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        try:
            believed = read_statistics(path).sha256
        except UsageError:
            refused += 1
        else:
            assert believed == made.sha256
    assert refused > 0.8 * len(content) / 29
    path.write_bytes(content[:-100])
    with pytest.raises(UsageError, match=r"got .*\. Restore it with `git checkout"):
        read_statistics(path)


@pytest.mark.parametrize("what", ["mean", "cov", "about", "sha256"])
def test_a_changed_value_is_refused_although_the_archive_is_sound(what: str, path: Path) -> None:
    with np.load(path) as archive:
        content = dict(archive)
    if what in ("mean", "cov"):
        content[what] = content[what].copy()
        content[what].flat[3] = np.nextafter(content[what].flat[3], 9.0)
    elif what == "about":
        content["about"] = np.array(str(content["about"]).replace('"n": 599', '"n": 598'))
    else:
        content["sha256"] = np.array("0" + str(content["sha256"])[1:])
    np.savez(path, **content)
    with pytest.raises(UsageError, match=r"got 'content of the hash \w{64} instead of \w{64}'"):
        read_statistics(path)


@pytest.mark.parametrize("what", ["mean", "cov", "skew", "sign"])
def test_moments_of_nothing_are_refused_although_their_hash_is_right(
    what: str, made: FeatureStatistics, path: Path
) -> None:
    mean, cov = made.mean.clone(), made.cov.clone()
    if what == "mean":
        mean[2] = math.nan
    elif what == "cov":
        cov[2, 2] = math.inf
    elif what == "skew":
        cov[0, 1] += 0.1
    else:
        cov = -cov
    save_statistics(FeatureStatistics(made.about, mean, cov), path)
    with pytest.raises(UsageError, match=r"moments that are not finite|a matrix that is no covariance"):
        read_statistics(path)


def test_other_weights_of_the_extractor_and_other_images_are_refused(made: FeatureStatistics, path: Path) -> None:
    """The file itself is sound: only what it is of is no longer here."""
    for key, text in (("extractor_sha256", "the weights of digits-features"), ("images_sha256", "the test images of")):
        about = made.about.model_copy(update={key: "0" * 64})
        save_statistics(FeatureStatistics(about, made.mean, made.cov), path)
        assert read_statistics(path).about == about
        with pytest.raises(UsageError, match=rf"hash 0{{64}}, {text}.*--extractor digits-features --out"):
            load_statistics(path, CPU)


def test_the_shipped_ones_are_of_what_is_shipped(made: FeatureStatistics) -> None:
    digits = shipped_statistics(DIGITS)
    assert digits is not None
    shipped = load_statistics(digits, CPU)[0]
    assert shipped.about == made.about
    torch.testing.assert_close(shipped.mean, made.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shipped.cov, made.cov, rtol=1e-4, atol=1e-4)
    assert shipped_statistics(DataSettings(name="patches")) is None
    files = sorted(feature_statistics.SHIPPED.iterdir())
    assert digits in files
    for file in files:
        about = read_statistics(file).about
        assert file.name == f"{about.data.name}-{about.split}-{about.extractor}.npz"
        assert about.extractor_sha256 == zoo.load_features(about.extractor).sha256
        assert about.n >= 15 * about.features


def test_a_folder_of_ones_own_has_statistics_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{k}.png")
    settings = [f"path={tmp_path}", "size=28", "grey=true"]
    data = data_settings("folder", settings)
    found = statistics_of(data, "train", "fashion-features", CPU)
    assert found.about.data.settings == {"path": str(tmp_path), "size": 28, "grey": True}
    assert found.about.n == len(data.build().load("train").values) > 20
    with pytest.raises(UsageError, match="its images have 17 levels; got 256"):
        statistics_of(data_settings("folder", [*settings[::2], "size=8"]), "train", "digits-features", CPU)


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("folders", [], r"no data set 'folders'; did you mean 'folder'\?"),
        ("folder", ["size"], r"a setting is NAME=VALUE; got 'size'"),
        ("folder", ["sise=3"], r"no setting 'sise'; did you mean 'size'\?"),
        ("folder", ["size=big"], r"size is of type int; got 'big'"),
        ("folder", ["size=0"], r"size is a number of pixels; got 0"),
    ],
)
def test_wrong_settings_of_data_are_told(name: str, settings: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        data_settings(name, settings)


def test_data_that_are_no_images_and_other_names_are_refused(made: FeatureStatistics, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="features are of images with levels; got 'rings'"):
        statistics_of(DataSettings(name="rings"), "test", "digits-features", CPU)
    with pytest.raises(UsageError, match=r"the file's name ends in \.npz; got"):
        save_statistics(made, tmp_path / "digits.csv")
    with pytest.raises(UsageError, match=r"no such file; got .*Correct the path"):
        read_statistics(tmp_path / "none.npz")
