"""Fashion-MNIST: what its files hold, where they are looked for, and what is said when they are not there."""

import gzip
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from records import cell, compute
from torch import Tensor
from torchvision import datasets

from bench import likelihood
from bench.problems.digits import Digits
from pretrained.data import fashion_mnist, load_data
from pretrained.data.data_set import missing_data
from pretrained.provenance import sha256
from solvers.errors import UsageError

needs_files = pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="apt-get install dataset-fashion-mnist")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No package, no network; the empty folder of data."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "no-package")
    monkeypatch.setattr(datasets.FashionMNIST, "download", refuse)
    monkeypatch.setenv("SCOREBENCH_DATA", str(tmp_path))
    return tmp_path


def made_files(folder: Path, monkeypatch: pytest.MonkeyPatch, n: int = 3) -> torch.Tensor:
    """Files of n images in the data set's own format, made known by their hashes; the images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = torch.randint(256, (n, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    head = b"".join(number.to_bytes(4, "big") for number in (2051, n, 28, 28))
    contents = {
        "t10k-images-idx3-ubyte": head + bytes(images.flatten().tolist()),
        "t10k-labels-idx1-ubyte": (2049).to_bytes(4, "big") + n.to_bytes(4, "big") + bytes(range(n)),
    }
    for name, content in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    hashes = {name: sha256(content) for name, content in contents.items()}
    monkeypatch.setattr(fashion_mnist, "FILES", fashion_mnist.FILES | {"test": hashes})
    return images


@needs_files
def test_the_official_split_is_read() -> None:
    """Mean and deviation of the training pixels are the published 0.2860 and 0.3530."""
    train, test = load_data("fashion_mnist", "train"), load_data("fashion_mnist", "test")
    assert (len(train.values), len(test.values)) == (60_000, 10_000)
    assert train.shape == test.shape == (1, 28, 28)
    assert train.values.shape[1:] == train.shape
    assert (train.levels, train.classes, train.flip) == (256, 10, False)
    assert train.labels.bincount().tolist() == [6000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    assert train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    pixels = train.values.float() / 255
    assert pixels.mean().item() == pytest.approx(0.2860, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3530, abs=5e-5)


@pytest.mark.parametrize("place", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_files_in_the_folder_of_data_are_found(nowhere: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    images = made_files(nowhere / place, monkeypatch)
    data = load_data("fashion_mnist", "test")
    assert torch.equal(data.values, images)
    assert data.labels.tolist() == [0, 1, 2]


def test_what_is_missing_is_said_with_what_to_do(nowhere: Path) -> None:
    with pytest.raises(
        UsageError, match=r"fashion_mnist: its files are in .*no route.*apt-get install.*SCOREBENCH_DATA"
    ):
        load_data("fashion_mnist", "train")


def test_likelihoods_without_their_data_are_skipped_until_they_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> Tensor:
        raise missing_data("fashion_mnist", "its files are somewhere", OSError("no route"), "Put them there")

    monkeypatch.setattr(likelihood, "CONVERGED", {"method": "dopri5", "rtol": 1e-2, "atol": 1e-2})
    monkeypatch.setattr(likelihood, "BOUND_DRAWS", 1)
    spec = cell("heun", problem="digits", kind="likelihood", n=2, budget=2)
    with monkeypatch.context() as patch:
        patch.setattr(Digits, "reference", missing)
        record = compute(spec, tmp_path)
    assert (record.status, record.reason) == ("skipped", "data fashion_mnist: Put them there")
    assert compute(spec, tmp_path).status == "done", "the data have come"


def test_another_file_is_refused(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_files(nowhere, monkeypatch)
    path = nowhere / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(
        UsageError, match=r"t10k-labels-idx1-ubyte\.gz has the SHA-256 .*damaged or another one: remove"
    ):
        load_data("fashion_mnist", "test")


def test_a_damaged_file_is_refused(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_files(nowhere, monkeypatch)
    path = nowhere / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"t10k-images-idx3-ubyte\.gz is a readable \.gz file"):
        load_data("fashion_mnist", "test")
