"""A folder of the user's own images: real files of several formats, modes and sizes, and a card of ten lines."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cards import SCORE, card_of, changed
from PIL import Image

from pretrained import zoo
from pretrained.card import load_card
from pretrained.data import load_data
from pretrained.data.folder import _is_held_out
from pretrained.train import train
from solvers.errors import UsageError

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "training.md"


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth colour picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty images: PNG and JPEG, upright and across, grey, with a palette and transparent, some in a folder below."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for k in range(40):
        image = picture(20 + k, 60 - k, seed=k)
        if k % 8 == 5:
            image = image.convert(("L", "P", "RGBA", "LA", "CMYK")[k // 8])
        place = folder / "below" if k % 3 == 0 else folder
        image.save(place / (f"{k}.JPG" if image.mode in ("RGB", "L", "CMYK") and k % 2 else f"{k}.png"))
    (folder / "notes.txt").write_text("no image")
    return folder


def test_every_image_is_in_one_part_and_stays_there(photos: Path) -> None:
    train = load_data("folder", "train", path=str(photos), size=16)
    test = load_data("folder", "test", path=str(photos), size=16)
    assert len(train.values) + len(test.values) == 40
    assert 1 <= len(test.values) <= 10
    assert train.values.shape[1:] == train.shape == (3, 16, 16)
    assert (train.values.dtype, train.levels, train.classes) == (torch.uint8, 256, 1)
    before = [image.numpy().tobytes() for image in test.values]
    for k in range(100, 130):
        picture(16, 16, seed=k).save(photos / f"{k}.png")
    after = [image.numpy().tobytes() for image in load_data("folder", "test", path=str(photos), size=16).values]
    assert set(before) <= set(after)


def test_the_middle_square_is_scaled(tmp_path: Path) -> None:
    """Columns of an image twice as wide as high: the middle half stays, brought to half its size."""
    wide = np.zeros((32, 64, 3), dtype=np.uint8)
    wide[:, 16:32, 0], wide[:, 32:48, 1] = 200, 100
    names = [f"{k}.png" for k in range(30)]
    for name in names:
        Image.fromarray(wide).save(tmp_path / name)
    image = load_data("folder", "train", path=str(tmp_path), size=16).values[0]
    assert image[:, :, :5].unique(dim=2).squeeze().tolist() == [[200] * 16, [0] * 16, [0] * 16]
    assert image[:, :, 11:].unique(dim=2).squeeze().tolist() == [[0] * 16, [100] * 16, [0] * 16]


def test_transparent_parts_are_white_and_grey_is_one_channel(tmp_path: Path) -> None:
    for k in range(30):
        Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / f"{k}.png")
    assert (load_data("folder", "train", path=str(tmp_path), size=8).values == 255).all()
    assert load_data("folder", "train", path=str(tmp_path), size=8, grey=True).shape == (1, 8, 8)


def test_a_picture_taken_upright_is_turned(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16))
    image.paste((250, 250, 250), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for k in range(30):
        image.save(tmp_path / f"{k}.jpg", exif=exif, quality=95)
    turned = load_data("folder", "train", path=str(tmp_path), size=16).values[0].float().mean(0)
    assert turned[:, 10:].mean() > 240
    assert turned[:, :6].mean() < 10


def test_damaged_images_are_named(photos: Path) -> None:
    for k, path in enumerate(photos.rglob("*.png")):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if k % 2 else b"not an image")
    with pytest.raises(UsageError, match=r"every image below .*photos can be read; got .*\.png \(.*Repair or remove"):
        load_data("folder", "train", path=str(photos), size=16)


def test_sixteen_bits_are_refused_instead_of_clipped(tmp_path: Path) -> None:
    for k in range(30):
        Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / f"{k}.png")
    with pytest.raises(UsageError, match=r"more than 8 bits a channel.* and \d+ more"):
        load_data("folder", "train", path=str(tmp_path), size=8)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"path": "nowhere"}, r"data set 'folder': path is a folder; got '.*nowhere'"),
        ({"path": "."}, r"holds images to train on .*; got '0 images'\. Add some; files are taken by .*\.png"),
        ({"path": ".", "sise": 8}, r"data set 'folder': no setting 'sise'; did you mean 'size'\?"),
        ({"path": ".", "size": "8"}, r"data set 'folder': size is of type int; got '8'"),
        ({"path": ".", "size": 0}, r"data set 'folder': size is a number of pixels; got 0"),
    ],
)
def test_a_mistake_says_what_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=text):
        load_data("folder", "train", **settings)


@pytest.mark.parametrize("trouble", ["none is held out", "a held-out one is damaged"])
def test_images_to_test_with_are_looked_at_before_the_training(tmp_path: Path, trouble: str) -> None:
    """Not at its end, when a run of days would be lost: other data are other data, which no run goes on with."""
    names = [f"{k}.png" for k in range(40)]
    held_out = [name for name in names if _is_held_out(name)]
    assert held_out
    for k, name in enumerate(names):
        if trouble == "a held-out one is damaged" or name not in held_out:
            picture(16, 16, seed=k).save(tmp_path / name)
    rule = "holds images to train on and, about one in 10, to test with; got '3[0-9] images'"
    if trouble == "a held-out one is damaged":
        (tmp_path / held_out[0]).write_bytes(b"not an image")
        rule = f"can be read; got .{held_out[0]} "
    settings = {"name": "folder", "settings": {"path": str(tmp_path), "size": 8}, "scale": 2.0, "offset": -1.0}
    network = {"name": "unet", "data_std": 0.5, "width": 8, "multipliers": [1]}
    card = card_of(tmp_path, changed(SCORE, data=settings, network=network, training__steps=1))
    with pytest.raises(UsageError, match=rule):
        train(card, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def documented_card() -> str:
    """The card that the page shows for a folder of images."""
    (card,) = (block for block in PAGE.read_text().split("```") if block.startswith("yaml\nname: my-photos\n"))
    return card.removeprefix("yaml\n")


def test_the_documented_card_trains_on_the_users_images(photos: Path, tmp_path: Path) -> None:
    """The command of the page, with fewer steps and channels."""
    text = documented_card()
    assert len(text.splitlines()) == 10
    small = text.replace("steps: 20000", "steps: 4").replace("width: 64", "width: 8").replace("size: 32", "size: 8")
    (tmp_path / "my-photos.yaml").write_text(small)
    command = [sys.executable, "-m", "bench", "train", "my-photos.yaml", "--out", "out", "--device", "cpu"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = load_card(tmp_path / "out" / "my-photos.yaml").result
    assert result.trained_on.levels == 256
    assert result.trained_on.dequantisation == "uniform"
    # The checkpoint needs the folder no more.
    for path in photos.rglob("*.*"):
        path.unlink()
    assert zoo.load("my-photos", folder=tmp_path / "out").shape == (3, 8, 8)
