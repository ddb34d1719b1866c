"""``scorebench evaluate``: samples, distance and bits/dim in a card, which belong to its weights alone."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cards import CLASSIFIER, SCORE, card_of, changed
from PIL import Image
from test_likelihood_command import call as call
from torch import Tensor, nn

from bench import converged_samples, menus
from bench import evaluate as evaluating
from bench.converged_samples import draw_samples
from bench.evaluate import Amount, evaluate, write_evaluation
from bench.feature_statistics import load_statistics, shipped_statistics
from bench.image_model import CheckpointModel
from bench.metrics.converged import converged_end
from bench.metrics.extractors import get_extractor
from bench.metrics.frechet import frechet
from bench.problems.digits import Digits
from bench.reference_distance import distance_of
from bench.sample_grid import picture, rows_of
from pretrained import provenance, zoo
from pretrained.card import DataSettings, ScoreCard, load_card
from pretrained.data import load_data, quantise
from pretrained.train import train
from pretrained.training.restart import recipe
from solvers.errors import UsageError
from solvers.sde import ForwardSDE

Call = Callable[..., tuple[int, str, str]]
CPU = torch.device("cpu")
DIGITS = DataSettings(name="digits")


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solves that take a test's time."""
    monkeypatch.setattr(converged_samples, "LOOSE", 1e-2)
    monkeypatch.setattr(evaluating, "CONVERGED", {"method": "dopri5", "rtol": 1e-2, "atol": 1e-2})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny score model and a tiny classifier."""
    folder = tmp_path_factory.mktemp("trained")
    train(card_of(folder, changed(SCORE, training__steps=5)), folder, progress=False)
    train(card_of(folder, changed(CLASSIFIER, training__steps=2)), folder, progress=False)
    (folder / "card.yaml").unlink()
    return folder


def test_the_distance_of_the_reference_itself_is_zero_and_that_of_others_is_frechets() -> None:
    path = shipped_statistics(DIGITS)
    assert path is not None
    reference, extractor = load_statistics(path, CPU)
    held_out, others = load_data("digits", "test").values, load_data("digits", "train").values
    same = distance_of(held_out, DIGITS, reference, extractor, seed=0)
    assert same.value == pytest.approx(0, abs=1e-4)
    assert (same.n, same.features, same.reference_n, same.flag) == (599, 16, 599, None)
    features = [extractor(images)["features"] for images in (others[:599], others[599:], held_out)]
    halves = [distance_of(part, DIGITS, reference, extractor, seed=0) for part in (others[:599], others[599:])]
    for half, own in zip(halves, features[:2], strict=True):
        assert half.value == pytest.approx(frechet(own, features[2]), rel=1e-3)
        assert half.standard_error > 0
    # The floor is of as many training images, which the seed chooses.
    chosen = torch.randperm(len(others), generator=torch.Generator().manual_seed(3))[:240]
    few = distance_of(held_out[:240], DIGITS, reference, extractor, seed=3, outside=0.5)
    expected = frechet(extractor(others[chosen])["features"], features[2])
    assert few.floor == pytest.approx(expected, rel=1e-3)
    assert few.flag == "50% of all values lay outside the data's range"
    below = distance_of(held_out[:239], DIGITS, reference, extractor, seed=0)
    assert below.flag == "n = 239 is below 15 times the 16 features: biased upwards"
    many = distance_of(held_out.repeat(3, 1, 1, 1), DIGITS, reference, extractor, seed=0)
    assert (many.floor, many.floor_error, many.flag) == (None, None, "no floor: fewer than 1797 other images")


def test_samples_are_those_of_the_converged_flow_whatever_the_batch() -> None:
    model = CheckpointModel("digits-vp", "test", CPU)
    samples = draw_samples(model, DIGITS, 6, 1, batch_size=4)
    again = draw_samples(model, DIGITS, 6, 1, batch_size=6)
    problem = Digits()
    expected = converged_end(problem, problem.prior(6, 1), 1e-2, torch.float32)
    torch.testing.assert_close(samples.states, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(samples.states, again.states, rtol=0, atol=1e-4)
    assert samples.labels is None
    assert samples.evaluations == again.evaluations > 10
    assert not torch.equal(draw_samples(model, DIGITS, 6, 2, batch_size=6).states, samples.states)


class OneImageAClass(nn.Module):
    """The exact noise of a law with one image a class: every pixel c/10 of class c."""

    def __init__(self, sde: ForwardSDE) -> None:
        super().__init__()
        self.sde = sde

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        alpha, sigma = (value.view(-1, 1, 1, 1).to(x.dtype) for value in (self.sde.alpha(t), self.sde.sigma(t)))
        return (x - alpha * labels.view(-1, 1, 1, 1) / 10) / sigma


def test_a_network_with_classes_is_given_those_of_the_held_out_images() -> None:
    model = CheckpointModel("digits-vp-conditional", "test", CPU)
    model.checkpoint = replace(model.checkpoint, network=OneImageAClass(model.sde))
    samples = draw_samples(model, DIGITS, 601, 0, batch_size=40)
    labels = load_data("digits", "test").labels
    assert samples.labels is not None
    assert samples.labels.tolist() == [*labels.tolist(), *labels[:2].tolist()]
    sigma = float(model.sde.sigma(model.sde.t_min))
    error = samples.states - samples.labels.view(-1, 1, 1, 1) / 10
    assert error.square().mean().sqrt() == pytest.approx(sigma, rel=0.2)


def test_samples_that_are_not_finite_are_refused() -> None:
    model = CheckpointModel("digits-vp", "test", CPU)

    class Wild(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.where(x[:, :, :1, :1] > 0, x * torch.inf, x)

    model.checkpoint = replace(model.checkpoint, network=Wild())
    with pytest.raises(UsageError, match=r"evaluate: the converged flow .* stays finite; got '.*'\. Train"):
        draw_samples(model, DIGITS, 3, 0, batch_size=3)


def test_an_evaluation_is_written_and_read_and_belongs_to_its_weights(trained: Path) -> None:
    found, content = evaluate("tiny-score", Amount(n=20, images=3, seed=5), CPU, trained)
    card_path, grid = write_evaluation("tiny-score", found, content, trained)
    card = load_card(card_path)
    assert isinstance(card, ScoreCard)
    assert card.result is not None
    assert card.measured == found
    assert found.weights == card.result.sha256 == provenance.sha256_of_file(trained / "tiny-score.safetensors")
    assert found.grid == provenance.sha256_of_file(grid)
    assert found.no_distance is None
    assert found.distance is not None
    # What it says can be had again from what it names.
    model = CheckpointModel("tiny-score", "test", CPU, trained)
    samples = draw_samples(model, DIGITS, 20, 5, 256)
    levels = quantise((samples.states + 1) / 2, 17)
    extractor = get_extractor("digits-features", CPU)
    features = extractor(levels)["features"], extractor(load_data("digits", "test").values)["features"]
    assert found.distance.value == pytest.approx(frechet(*features), rel=1e-3)
    assert found.distance.flag is not None
    assert "n = 20 is below 15 times the 16 features" in found.distance.flag
    assert found.sampling.evaluations == pytest.approx(samples.evaluations, abs=0.05)
    assert (found.bits_per_dim.n, found.bits_per_dim.seed, found.bits_per_dim.draws) == (3, 5, 1)
    assert found.bits_per_dim.standard_error > 0
    assert zoo.load("tiny-score", folder=trained).card == card
    # It is no part of the recipe: a finished run stays finished, and a new one has no evaluation yet.
    bare = card.model_copy(update={"evaluation": None})
    assert recipe(card) == recipe(bare)
    kept = train(bare, trained, progress=False, resume=True)
    assert isinstance(kept, ScoreCard)
    assert kept.measured == found
    anew = train(card, trained / "anew", progress=False)
    assert isinstance(anew, ScoreCard)
    assert anew.evaluation is None
    assert load_card(trained / "anew" / "tiny-score.yaml") == anew
    stopped = train(card, trained / "stopped", progress=False, minutes=0)
    assert stopped.result is None
    assert getattr(stopped, "evaluation", None) is None


def test_one_of_other_weights_is_not_shown_and_not_written(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = load_card("digits-vp")
    assert isinstance(card, ScoreCard)
    assert card.evaluation is not None
    row = next(row for row in menus.checkpoints() if row["name"] == "digits-vp")
    assert row["where"] == "shipped"
    assert row["evaluation"] == card.evaluation.model_dump(mode="json")
    stale = card.model_copy(update={"evaluation": card.evaluation.model_copy(update={"weights": "0" * 64})})
    assert stale.measured is None
    monkeypatch.setattr(menus, "load_card", lambda name: stale if name == "digits-vp" else load_card(name))
    row = next(row for row in menus.checkpoints() if row["name"] == "digits-vp")
    assert row["where"] == "shipped; its evaluation is of other weights"
    assert {row[key] for key in ("bits/dim", "Fréchet distance", "floor", "n", "evaluation")} == {None}
    before = (trained / "tiny-score.yaml").read_bytes()
    with pytest.raises(UsageError, match=r"card of the weights that were measured, \w{64}; got '\w{64}'"):
        write_evaluation("tiny-score", card.evaluation, b"", trained)
    assert (trained / "tiny-score.yaml").read_bytes() == before


def test_what_cannot_be_evaluated_is_told_before_anything_is_solved(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converged_samples, "integrate", lambda *_: pytest.fail("it was solved"))
    for name, folder, n, text in (
        ("digits-features", None, None, "evaluate digits-features: .* a score model's; got 'classifier'. .*accuracy"),
        ("digits-classifier", None, None, "a score model's; got 'noisy_classifier'"),
        ("tiny-features", trained, None, "a score model's; got 'classifier'"),
        ("digits-pv", None, None, "no card 'digits-pv'; did you mean 'digits-vp'"),
        ("digits-vp", None, 15, r"a Fréchet distance of 16 features needs 16 samples; got 15\. Take 240 or more"),
    ):
        with pytest.raises(UsageError, match=text):
            evaluate(name, Amount(n=n), CPU, folder)
    with pytest.raises(UsageError, match=r"evaluate: there are 599 held-out images; got 600\. Lower --images"):
        evaluate("digits-vp", Amount(images=600), CPU)
    other = shipped_statistics(DataSettings(name="fashion_mnist"))
    here = load_card("fashion-features").data.build().is_here
    with pytest.raises(UsageError, match=r"fashion-features: its images have the shape \(1, 28, 28\)" if here else ""):
        evaluate("digits-vp", Amount(n=20), CPU, None, other)


def test_without_a_reference_there_is_no_distance(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "shipped_statistics", lambda data, split: None)
    found, content = evaluate("tiny-score", Amount(images=2), CPU, trained)
    assert (found.distance, found.no_distance) == (None, "no reference statistics of digits are shipped")
    assert found.sampling.n == 100
    assert np.asarray(Image.open(io.BytesIO(content))).shape == (10 * 50 + 2, 10 * 50 + 2)


def test_the_picture_holds_the_images_in_their_places() -> None:
    images = torch.arange(17, dtype=torch.uint8).repeat_interleave(24)[: 30 * 12].view(30, 1, 4, 3)
    sheet = np.asarray(Image.open(io.BytesIO(picture(rows_of(images, None), 17))))
    # 4 pixels high, twelve times as large, with white lines of two pixels.
    assert sheet.shape == (3 * 50 + 2, 10 * 38 + 2)
    for k, image in enumerate(images):
        top, left = k // 10 * 50 + 2, k % 10 * 38 + 2
        shown = sheet[top : top + 48, left : left + 36].reshape(4, 12, 3, 12)
        expected = np.round(image[0].double().numpy() * 255 / 16)
        assert (shown == expected[:, None, :, None]).all()
    assert (sheet[::50] == 255).all()
    labels = torch.tensor([1, 0] * 15)
    rows = rows_of(images, labels)
    assert torch.equal(rows[0], images[1:21:2])
    assert torch.equal(rows[1], images[0:20:2])
    colours = rows_of(torch.full((7, 3, 2, 2), 255, dtype=torch.uint8), None)
    assert np.asarray(Image.open(io.BytesIO(picture(colours, 256)))).shape == (52, 7 * 50 + 2, 3)


def test_the_commands(call: Call, trained: Path, tmp_path: Path) -> None:
    asked = ["evaluate", "tiny-score", "--folder", str(trained), "--n", "20", "--images", "2", "--device", "cpu"]
    card = (trained / "tiny-score.yaml").read_bytes()
    code, out, _ = call(*asked, "--out", str(tmp_path))
    assert code == 0
    assert "20 samples of any class, rk45 at 0.01" in out
    assert "Fréchet distance from digits, test (599 images, 16 features of digits-features)" in out
    assert "Bits/dim of 2 test images" in out
    assert (tmp_path / "tiny-score.png").is_file()
    assert (trained / "tiny-score.yaml").read_bytes() == card
    statistics = tmp_path / "mine.npz"
    made = call("statistics", "digits", "--extractor", "digits-features", "--split", "train", "--out", str(statistics))
    assert (made[0], "1198 images, 16 features, hash " in made[1]) == (0, True)
    code, out, _ = call(*asked, "--statistics", str(statistics), "--write", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["distance"]["reference"], found["distance"]["reference_n"]) == ("digits, train", 1198)
    written = load_card(trained / "tiny-score.yaml")
    assert isinstance(written, ScoreCard)
    assert written.measured is not None
    assert written.measured.model_dump(mode="json") == found
    code, _, err = call("evaluate", "cifar10-edm-vp", "--write")
    assert (code, "cards that `train` wrote hold an evaluation; got 'cifar10-edm-vp'. Leave out --write" in err) == (
        2,
        True,
    )
    code, _, err = call("evaluate", "digits-features")
    assert (code, "Its training measured it, an accuracy or bits" in err) == (2, True)
