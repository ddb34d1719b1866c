"""A shipped checkpoint trained again from its card: what the card says of it holds of the new weights."""

from pathlib import Path

import pytest
import torch

from bench.evaluate import Amount, evaluate
from pretrained.card import ScoreCard, load_card
from pretrained.train import train


@pytest.mark.slow
def test_digits_vp_trained_again_has_the_distance_of_its_card(tmp_path: Path) -> None:
    """Within the card's 95 % interval; on the same starts, against the same reference."""
    card = load_card("digits-vp")
    assert isinstance(card, ScoreCard)
    assert card.measured is not None
    expected = card.measured.distance
    assert expected is not None
    again = train(card, tmp_path, progress=False)
    assert isinstance(again, ScoreCard)
    assert again.result is not None
    assert card.result is not None
    assert again.result.held_out_loss == pytest.approx(card.result.held_out_loss, rel=0.01)
    amount = Amount(n=expected.n, images=2, seed=card.measured.sampling.seed)
    found = evaluate(card.name, amount, torch.device("cpu"), tmp_path)[0].distance
    assert found is not None
    assert found.value == pytest.approx(expected.value, abs=1.96 * expected.standard_error)
    assert (found.floor, found.reference_sha256) == (pytest.approx(expected.floor), expected.reference_sha256)
