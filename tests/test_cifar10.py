"""CIFAR-10 in its own format: an archive or its folder is read, a damaged or missing one is told apart."""

import hashlib
import pickle
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision import datasets

from pretrained.data import get_data_set, load_data
from solvers.errors import UsageError

N = 4


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """An archive of six batches of random images in CIFAR's format, known by its MD5 sums; the images, (6, N, 3072)."""
    monkeypatch.setenv("SCOREBENCH_DATA", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (6, N, 3072), dtype=np.uint8)
    folder = tmp_path / "making" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    sums = {}
    for k, name in enumerate(names):
        content = pickle.dumps({"data": images[k], "labels": [(k + i) % 10 for i in range(N)]})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"label_names": [str(k) for k in range(10)]})
    (folder / "batches.meta").write_bytes(meta)
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, sums[name]] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", hashlib.md5(meta).hexdigest())

    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    return images


def test_the_archive_is_read(made: np.ndarray) -> None:
    assert get_data_set("cifar10").is_here
    train, test = load_data("cifar10", "train"), load_data("cifar10", "test")
    assert (train.levels, train.classes, train.flip, train.shape) == (256, 10, True, (3, 32, 32))
    assert torch.equal(train.values, torch.from_numpy(made[:5].reshape(-1, 3, 32, 32)))
    assert torch.equal(test.values, torch.from_numpy(made[5].reshape(-1, 3, 32, 32)))
    assert train.labels.tolist() == [(k + i) % 10 for k in range(5) for i in range(N)]
    assert train.labels.dtype == torch.int64


def test_a_damaged_archive_is_refused(made: np.ndarray, tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UsageError, match=r"cifar10: its files are in .* with the right MD5 sums.*no route"):
        load_data("cifar10", "train")


def test_without_files_and_network_it_says_what_to_do(
    tmp_path: Path, made: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOREBENCH_DATA", str(tmp_path / "empty"))
    assert not get_data_set("cifar10").is_here
    text = r"no route to host.*Put cifar-10-python\.tar\.gz from http.*into .*empty; SCOREBENCH_DATA names another"
    with pytest.raises(UsageError, match=text):
        load_data("cifar10", "test")
