"""Training: cards are checked, runs repeat to the bit, the loss falls, and a run that fails leaves nothing behind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cards import CLASSIFIER, SCORE, card_of, changed
from torch import nn

from pretrained import zoo
from pretrained.card import ClassifierCard, ScoreCard, dump_card, load_card
from pretrained.data import load_data
from pretrained.tasks import build_network, held_out_loss, stratify
from pretrained.train import learning_rate, train, update_average
from solvers.errors import UsageError


def test_two_runs_give_the_same_weights_whatever_the_global_generator(tmp_path: Path) -> None:
    card = card_of(tmp_path, SCORE)
    torch.manual_seed(1)
    first = train(card, tmp_path / "first", progress=False)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = train(card, tmp_path / "second", progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.result is not None
    assert second.result is not None
    assert first.result.sha256 == second.result.sha256
    other = train(card_of(tmp_path, changed(SCORE, training__seed=4)), tmp_path / "third", progress=False)
    assert other.result is not None
    assert other.result.sha256 != first.result.sha256


@pytest.mark.parametrize(
    "changes",
    [{}, {"training__precision": "bfloat16"}, {"weights": "float16"}],
    ids=["float32", "bfloat16", "stored in float16"],
)
def test_a_score_model_learns(tmp_path: Path, changes: dict[str, str]) -> None:
    card = card_of(tmp_path, changed(SCORE, **changes))
    assert isinstance(card, ScoreCard)
    finished = train(card, tmp_path / "out", progress=False)
    assert isinstance(finished, ScoreCard)
    assert finished.result is not None
    untrained = held_out_loss(build_network(card, load_data("digits", "train")).eval(), card)
    assert finished.result.held_out_loss < 0.97 * untrained
    # What was written is what was reported, and it is the average that is shipped.
    checkpoint = zoo.load("tiny-score", folder=tmp_path / "out")
    assert checkpoint.card == finished
    assert held_out_loss(checkpoint.network, finished) == pytest.approx(finished.result.held_out_loss, rel=1e-6)
    assert finished.result.final_loss == pytest.approx(finished.result.held_out_loss, rel=0.2)


def test_weights_kept_in_half_precision_are_those_of_the_run_rounded(tmp_path: Path) -> None:
    files, networks = {}, {}
    for kept in ("float32", "float16"):
        train(card_of(tmp_path, changed(SCORE, weights=kept)), tmp_path / kept, progress=False)
        files[kept] = (tmp_path / kept / "tiny-score.safetensors").stat().st_size
        networks[kept] = zoo.load("tiny-score", folder=tmp_path / kept).network
    assert files["float16"] < 0.6 * files["float32"]
    whole, half = networks["float32"], networks["float16"]
    for (name, exact), rounded in zip(whole.named_parameters(), half.parameters(), strict=True):
        assert rounded.dtype is torch.float32, name
        assert torch.equal(rounded, exact.half().float()), name
    assert dict(whole.named_buffers())
    for (name, exact), kept in zip(whole.named_buffers(), half.buffers(), strict=True):
        assert torch.equal(exact, kept), name


@torch.no_grad()
def _enlarge(average: nn.Module, *_: object) -> None:
    next(average.parameters()).fill_(1e5)


def test_weights_too_large_for_half_precision_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = card_of(tmp_path, changed(SCORE, weights="float16", training__steps=2))
    monkeypatch.setattr("pretrained.training.loop.update_average", _enlarge)
    with pytest.raises(UsageError, match=r"weights kept in float16 stay below 65504, .*; got .*weights: float32"):
        train(card, tmp_path, progress=False)
    assert not (tmp_path / "tiny-score.safetensors").exists()


def test_a_classifier_learns(tmp_path: Path) -> None:
    finished = train(card_of(tmp_path, CLASSIFIER), tmp_path, progress=False)
    assert isinstance(finished, ClassifierCard)
    assert finished.result is not None
    assert finished.result.test_accuracy > 0.6
    assert zoo.load_features("tiny-features", folder=tmp_path).card == finished


def test_the_result_says_where_the_checkpoint_comes_from(tmp_path: Path) -> None:
    finished = train(card_of(tmp_path, changed(SCORE, training__steps=2)), tmp_path, progress=False)
    result = finished.result
    assert result is not None
    assert result.steps == 2
    assert result.seconds > 0
    assert result.commit is None or len(result.commit) == 40
    assert result.machine.threads == torch.get_num_threads()
    assert result.machine.torch == torch.__version__
    assert result.machine.cpu
    assert load_card(tmp_path / "tiny-score.yaml") == finished


def test_a_checkpoint_made_outside_a_repository_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrained.provenance.commit", lambda folder: (None, None))
    finished = train(card_of(tmp_path, changed(SCORE, training__steps=2)), tmp_path, progress=False)
    assert finished.result is not None
    assert finished.result.commit is None
    assert zoo.load("tiny-score", folder=tmp_path).card == finished


def test_a_loss_that_is_not_finite_stops_the_run_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(card_of(tmp_path, changed(SCORE, training__steps=2)), out, progress=False)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    wild = card_of(tmp_path, changed(SCORE, training__learning_rate=1e30, training__warm_up=0))
    with pytest.raises(
        UsageError, match=r"train tiny-score: loss and weights must stay finite, step \d+; got (nan|inf)\. Lower"
    ):
        train(wild, out, progress=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_average_follows_the_network() -> None:
    average, network = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(average.weight)
    nn.init.ones_(network.weight)
    expected = 0.0
    for step in range(200):
        update_average(average, network, 0.9, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
        if step == 0:
            assert average.weight.item() == pytest.approx(0.9)
    assert average.weight.item() == pytest.approx(expected, rel=1e-6)


def test_the_rate_rises_then_falls_to_zero(tmp_path: Path) -> None:
    settings = card_of(tmp_path, changed(SCORE, training__steps=1000, training__warm_up=10)).training
    assert learning_rate(settings, 0) == pytest.approx(0.0005, rel=1e-3)
    assert learning_rate(settings, 9) == pytest.approx(0.005, rel=1e-3)
    assert learning_rate(settings, 500) == pytest.approx(0.0025)
    assert learning_rate(settings, 999) < 1e-7


def test_stratified_numbers_lie_one_in_each_part() -> None:
    u = stratify(torch.rand(64, generator=torch.Generator().manual_seed(0)))
    assert (u * 64).floor().tolist() == list(range(64))


@pytest.mark.parametrize("content", [SCORE, CLASSIFIER], ids=lambda content: content["kind"])
def test_a_card_survives_being_written(tmp_path: Path, content: dict[str, Any]) -> None:
    card = card_of(tmp_path, content)
    path = tmp_path / "again.yaml"
    path.write_text(dump_card(card))
    assert load_card(path) == card


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"trainign": {}}, r"no key 'trainign'; did you mean 'training'\?"),
        ({"network__widht": 8}, r"no key 'network.widht'; did you mean 'network.width'"),
        ({"training__batch": 0}, r"training.batch: Input should be greater than 0; got 0\."),
        ({"training__weighting": "sigma"}, r"training.weighting: .*'likelihood', 'unit' or 'edm'; got 'sigma'\."),
        ({"training__ema": 1.0}, r"training.ema: Input should be less than 1; got 1\.0\."),
        ({"network__width": 12}, r"network.width: Input should be a multiple of 8; got 12\."),
        ({"data__name": "digit"}, r"no data set 'digit'; did you mean 'digits'\?"),
        ({"sde__name": "vpp"}, r"no SDE 'vpp'; did you mean 'vp'"),
        ({"sde__settings": {"beta": 1.0}}, r"vp has no setting 'beta'"),
        ({"kind": "scores"}, r"no kind 'scores'; did you mean 'score'\?"),
    ],
)
def test_a_wrong_card_says_which_key_and_what_would_do(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        card_of(tmp_path, changed(SCORE, **changes))


def test_a_card_without_a_required_key_names_it(tmp_path: Path) -> None:
    content = changed(SCORE)
    del content["training"]["times"]
    with pytest.raises(UsageError, match=r"card .*card\.yaml: key 'training\.times' is required\. Add it"):
        card_of(tmp_path, content)


def test_files_that_are_no_cards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file; got '.*none\.yaml'.*digits-features, .*digits-vp"):
        load_card(tmp_path / "none.yaml")
    with pytest.raises(UsageError, match=r"no card 'digits-vq'; did you mean 'digits-vp'"):
        load_card("digits-vq")
    path = tmp_path / "card.yaml"
    path.write_text("- a list\n")
    with pytest.raises(UsageError, match="mapping"):
        load_card(path)
