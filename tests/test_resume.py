"""Runs in several stretches: killed, stopped or timed out, they end with the weights of a run in one piece."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cards import CLASSIFIER, SCORE, card_of, changed, write

from pretrained import zoo
from pretrained.card import Card
from pretrained.train import train
from pretrained.training.restart import restart_path
from solvers.errors import UsageError

ROOT = Path(__file__).parent.parent


def weights(folder: Path, name: str = "tiny-score") -> bytes:
    return (folder / f"{name}.safetensors").read_bytes()


def in_stretches(card: Card, out: Path) -> tuple[Card, int]:
    """The finished card and the number of stretches it took, each of one step and a bit."""
    for stretch in range(1, 100):
        finished = train(card, out, progress=False, resume=True, minutes=0.02 / 60)
        if finished.result is not None:
            return finished, stretch
        assert not (out / f"{card.name}.safetensors").exists()
    raise AssertionError("it never ended")


@pytest.mark.parametrize("content", [SCORE, CLASSIFIER], ids=lambda content: content["kind"])
def test_a_run_in_stretches_ends_with_the_weights_of_a_run_in_one_piece(tmp_path: Path, content: dict) -> None:
    """Dropout is on, so the global generator counts too; the rate falls as if nothing had happened."""
    card = card_of(tmp_path, content)
    whole = train(card, tmp_path / "whole", progress=False)
    torch.manual_seed(99)
    pieces, stretches = in_stretches(card, tmp_path / "pieces")
    assert stretches > 2
    assert weights(tmp_path / "pieces", card.name) == weights(tmp_path / "whole", card.name)
    assert pieces.result.final_loss == whole.result.final_loss
    assert pieces.result.steps == card.training.steps
    assert not restart_path(tmp_path / "pieces", card.name).exists()


def test_seconds_are_summed_over_the_stretches(tmp_path: Path) -> None:
    card = card_of(tmp_path, SCORE)
    train(card, tmp_path, progress=False, minutes=0)
    path = restart_path(tmp_path, card.name)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"seconds": content["seconds"] + 1000}, path)
    finished = train(card, tmp_path, progress=False, resume=True)
    assert 1000 < finished.result.seconds < 1100


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "bench", "train", str(folder / "card.yaml"), "--out", str(folder / "out"), *options]


def start(folder: Path) -> subprocess.Popen:
    """A run that writes a checkpoint after every step, some steps in."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = ("--device", "cpu", "--checkpoint-minutes", "0")
    run = subprocess.Popen(command(folder, *options), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    written = set()
    deadline = time.monotonic() + 60
    while len(written) < 5:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        path = restart_path(folder / "out", "tiny-score")
        written |= {path.stat().st_mtime_ns} if path.exists() else set()
        time.sleep(0.002)
    return run


def test_a_killed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    """While it lives, nobody else trains the card into its folder, resumed or not; its death frees the folder."""
    card = card_of(tmp_path, changed(SCORE, training__steps=300))
    run = start(tmp_path)
    rule = r"train tiny-score: one run of a card writes a folder at a time; got '.*out'\. Wait for the other one"
    for resume in (False, True):
        with pytest.raises(UsageError, match=rule):
            train(card, tmp_path / "out", progress=False, resume=resume)
    train(card_of(tmp_path, changed(SCORE, name="other", training__steps=1)), tmp_path / "out", progress=False)
    run.kill()
    assert run.wait() == -signal.SIGKILL
    out = tmp_path / "out"
    assert not (out / "tiny-score.safetensors").exists()
    resumed = train(card, out, progress=False, resume=True)
    whole = train(card, tmp_path / "whole", progress=False)
    assert weights(out) == weights(tmp_path / "whole")
    assert resumed.result.final_loss == whole.result.final_loss


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_keeps_what_it_did(tmp_path: Path, number: int, code: int) -> None:
    write(tmp_path, changed(SCORE, training__steps=100_000))
    run = start(tmp_path)
    run.send_signal(number)
    _, text = run.communicate(timeout=60)
    assert run.returncode == code, text
    assert "--resume goes on" in text
    assert "Traceback" not in text
    assert torch.load(restart_path(tmp_path / "out", "tiny-score"), weights_only=True)["state"]["done"] >= 5


def test_an_unfinished_run_is_not_overwritten_by_chance(tmp_path: Path) -> None:
    card = card_of(tmp_path, SCORE)
    train(card, tmp_path, progress=False, minutes=0)
    before = restart_path(tmp_path, card.name).read_bytes()
    with pytest.raises(UsageError, match=r"train tiny-score: an unfinished run is not overwritten; got .*--resume"):
        train(card, tmp_path, progress=False)
    assert restart_path(tmp_path, card.name).read_bytes() == before


def test_a_run_goes_on_with_its_own_card_only(tmp_path: Path) -> None:
    train(card_of(tmp_path, SCORE), tmp_path, progress=False, minutes=0)
    other = card_of(tmp_path, changed(SCORE, training__batch=32, network__dropout=0.2))
    with pytest.raises(
        UsageError, match=r"goes on with the card it began with; got 'network.dropout: 0.1 -> 0.2; training.batch: 64"
    ):
        train(other, tmp_path, progress=False, resume=True)
    # Words decide nothing.
    assert train(card_of(tmp_path, changed(SCORE, description="Better words.")), tmp_path, progress=False, resume=True)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    card = card_of(tmp_path, SCORE)
    train(card, tmp_path, progress=False, minutes=0)
    path = restart_path(tmp_path, card.name)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UsageError, match=r"holds the state of an unfinished run; got .*Remove it and start anew"):
        train(card, tmp_path, progress=False, resume=True)


def test_a_finished_run_is_not_overwritten_by_chance(tmp_path: Path) -> None:
    card = card_of(tmp_path, SCORE)
    train(card, tmp_path / "out", progress=False)
    made = weights(tmp_path / "out")
    with pytest.raises(UsageError, match=r"train tiny-score: a finished training is not overwritten; got .*--resume"):
        train(card, tmp_path / "out", progress=False)
    assert weights(tmp_path / "out") == made


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    card = card_of(tmp_path, SCORE)
    finished = train(card, tmp_path, progress=False, resume=True)
    assert train(card, tmp_path, progress=False, resume=True) == finished
    longer = card_of(tmp_path, changed(SCORE, training__steps=41))
    assert train(longer, tmp_path, progress=False, resume=True).result.steps == 41
    half = card_of(tmp_path, changed(SCORE, training__steps=41, weights="float16"))
    assert train(half, tmp_path, progress=False, resume=True).result.sha256 != finished.result.sha256
    assert zoo.load("tiny-score", folder=tmp_path).card.weights == "float16"
