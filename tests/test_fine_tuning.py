"""A training that starts from another checkpoint: the same function at first, its hash kept, misfits refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cards import SCORE, card_of, changed

from pretrained import zoo
from pretrained.card import ScoreCard
from pretrained.data import load_data
from pretrained.tasks import ScoreTask, build_task
from pretrained.train import train
from pretrained.training.restart import restart_path
from solvers.errors import UsageError
from solvers.sde import get_sde

CPU = torch.device("cpu")
# Images of the digits' shape with other levels; nothing is read of them.
FOLDER = {"path": "photos", "size": 8, "grey": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished training, ``tiny-score``."""
    folder = tmp_path_factory.mktemp("base")
    train(card_of(folder, SCORE), folder / "out", progress=False)
    return folder / "out"


def tuned(folder: Path, base: Path, **changes: Any) -> ScoreCard:
    content = changed(SCORE, name="tuned", start_from={"name": "tiny-score", "folder": str(base)}, **changes)
    card = card_of(folder, content)
    assert isinstance(card, ScoreCard)
    return card


def test_the_network_starts_as_the_checkpoint_under_its_own_process(tmp_path: Path, base: Path) -> None:
    card = tuned(tmp_path, base, sde={"name": "subvp"}, network__dropout=0.0)
    task = build_task(card, load_data("digits", "train"), CPU)
    assert isinstance(task, ScoreTask)
    checkpoint = zoo.load("tiny-score", folder=base)
    x, t = torch.randn(5, 1, 8, 8), torch.tensor([1e-3, 0.2, 0.5, 0.8, 1.0])
    expected = checkpoint.under(get_sde("subvp")).network(x, t)
    assert torch.equal(task.network.eval()(x, t), expected)
    assert task.start_sha256 == checkpoint.sha256


def test_the_training_goes_on_from_there_and_says_from_where(tmp_path: Path, base: Path) -> None:
    before = zoo.load("tiny-score", folder=base)
    steps = {"training__steps": 4, "training__learning_rate": 1e-7}
    finished = train(tuned(tmp_path, base, **steps), tmp_path / "out", progress=False)
    assert isinstance(before.card, ScoreCard)
    assert before.card.result is not None
    assert finished.result is not None
    assert finished.result.start_sha256 == before.sha256
    # Four steps of hardly any length: a network that started at random would be far off.
    assert finished.result.held_out_loss == pytest.approx(before.card.result.held_out_loss, rel=1e-3)
    after = zoo.load("tuned", folder=tmp_path / "out")
    assert after.sha256 != before.sha256


def test_a_run_goes_on_with_the_weights_it_started_from(tmp_path: Path, base: Path) -> None:
    card = tuned(tmp_path, base)
    train(card, tmp_path / "out", progress=False, minutes=0)
    path = restart_path(tmp_path / "out", "tuned")
    content = torch.load(path, weights_only=True)
    torch.save(content | {"start_from": "of others"}, path)
    with pytest.raises(UsageError, match=r"goes on with the start_from it began with; got .*of SHA-256 of others"):
        train(card, tmp_path / "out", progress=False, resume=True)
    torch.save(content, path)
    assert train(card, tmp_path / "out", progress=False, resume=True).result is not None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"network__width": 16}, r"network\.width: 8 -> 16'\. Change the card"),
        ({"network__data_std": 0.7}, r"network\.data_std: 0\.8 -> 0\.7"),
        ({"data__offset": 0.0}, r"data\.offset: -1\.0 -> 0\.0"),
        ({"data": {"name": "folder", "settings": FOLDER, "scale": 2.0, "offset": -1.0}}, r"data\.levels: 17 -> 256"),
        ({"start_from": {"name": "digits-vq"}}, r"no card 'digits-vq'"),
        ({"start_from": {"name": "digits-features"}}, r"a checkpoint of kind 'score' is needed"),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(
    tmp_path: Path, base: Path, changes: dict[str, Any], text: str
) -> None:
    content = changed(SCORE, name="tuned", start_from={"name": "tiny-score", "folder": str(base)})
    with pytest.raises(UsageError, match=text):
        build_task(card_of(tmp_path, changed(content, **changes)), load_data("digits", "train"), CPU)


def test_a_network_that_is_told_the_time_starts_under_its_own_process_alone(tmp_path: Path) -> None:
    direct = {"network__precondition": False, "training__steps": 1}
    train(card_of(tmp_path, changed(SCORE, **direct)), tmp_path, progress=False)
    same = tuned(tmp_path, tmp_path, **direct)
    assert build_task(same, load_data("digits", "train"), CPU)
    other = tuned(tmp_path, tmp_path, sde={"name": "subvp"}, **direct)
    with pytest.raises(UsageError, match=r"sde: \{'name': 'vp'.* -> \{'name': 'subvp'"):
        build_task(other, load_data("digits", "train"), CPU)
