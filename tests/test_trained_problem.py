"""A checkpoint of one's own in a matrix: a problem by the path of its card."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cards import CLASSIFIER, SCORE, card_of, changed
from records import cell, compute
from test_likelihood_command import call as call
from test_processes_table import row, section

from bench.problems.image import CheckpointProblem
from bench.problems.problem import get_problem, problem_class
from bench.record import file_stem
from bench.store import Store
from pretrained import zoo
from pretrained.card import CARDS
from pretrained.train import train
from solvers.errors import UsageError

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Card of a finished training, its weights beside it."""
    folder = tmp_path_factory.mktemp("mine")
    train(card_of(folder, SCORE), folder / "out", progress=False)
    return folder / "out" / "tiny-score.yaml"


def test_the_problem_is_of_the_network_and_data_of_the_card(card: Path) -> None:
    problem = get_problem(str(card))
    assert isinstance(problem, CheckpointProblem)
    checkpoint = zoo.load("tiny-score", folder=card.parent)
    assert problem.hashes == {"tiny-score": checkpoint.sha256}
    x, t = torch.randn(3, 1, 8, 8), torch.full((3,), 0.4)
    assert torch.equal(problem.process().network(x, t), checkpoint.network(x, t))
    digits = get_problem("digits")
    for draw in (0, 1):
        assert torch.equal(problem.reference(20, 3, draw), digits.reference(20, 3, draw))
    assert set(problem.metrics) == set(digits.metrics)
    assert (problem.levels, problem.ends(), problem.key) == (17, (-1.0, 1.0), str(card))


def test_a_matrix_of_it_is_run_and_reported(
    card: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its path from here, which the worker's process has to understand as well."""
    monkeypatch.chdir(card.parent.parent)
    content = {
        "name": "mine",
        "description": "My network.",
        "seeds": [0],
        "budgets": [5, 10],
        "kinds": ["sampling", "likelihood"],
        "grids": ["log_snr"],
        "recommended_grids": False,
        "problems": [{"name": "out/tiny-score.yaml", "n": 300, "likelihood": {"n": 4}}],
        "solvers": [{"name": "ddim"}, {"name": "dpmpp_2m"}],
    }
    matrix, out = tmp_path / "mine.yaml", tmp_path / "run"
    matrix.write_text(yaml.safe_dump(content))
    code, _, err = call("run", str(matrix), "--out", str(out), "--device", "cpu")
    assert code == 0, err
    records = list(Store(out).records())
    assert [found.status for found in records] == ["done"] * 8
    values = {
        (found.spec.solver, found.spec.budget): found.metrics["trajectory_rmse"].value
        for found in records
        if found.spec.kind == "sampling"
    }
    assert values["dpmpp_2m", 10] < values["ddim", 10] < values["ddim", 5]
    assert all(found.metrics["fd_digits"].value for found in records if found.spec.kind == "sampling")
    code, _, err = call("report", str(out))
    assert code == 0, err
    stem = file_stem("out/tiny-score.yaml")
    assert (out / "figures" / f"{stem}_samples.png").is_file()
    assert (out / "figures" / f"{stem}_fd_digits_nfe.png").is_file()
    assert "out/tiny-score.yaml" in (out / "report.md").read_text()
    # The path is the problem's name: from elsewhere it is none, and that is told.
    monkeypatch.chdir(tmp_path)
    code, _, err = call("report", str(out))
    assert code == 2
    assert "problem: a problem is one on the list, or the path of a trained card, from where the command is run" in err


def test_a_shipped_card_without_a_problem_of_its_own_is_one() -> None:
    """Colour images: judged by the trajectory, as FID takes more held-out images than there may be."""
    cls = problem_class(str(CARDS / "patches-vp.yaml"))
    assert cls.metrics == ("trajectory_rmse", "fid", "inception_score")
    assert get_problem(str(CARDS / "patches-vp.yaml")).reference(3, 0, 0).shape == (3, 3, 16, 16)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (CLASSIFIER, r"problem .*card\.yaml: a problem is made of a score model; got 'classifier'\. Give the path"),
        (
            changed(
                SCORE,
                data={"name": "rings", "scale": 1.0, "offset": 0.0},
                network={"name": "mlp", "data_std": 1.0, "width": 8, "blocks": 1},
            ),
            r"a problem is made of a score model of images; got \"vectors 'rings'\"",
        ),
    ],
)
def test_other_cards_are_refused(content: dict[str, Any], text: str, tmp_path: Path) -> None:
    card_of(tmp_path, content)
    with pytest.raises(UsageError, match=text):
        problem_class(str(tmp_path / "card.yaml"))


def test_a_card_that_is_not_there_or_not_trained_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"problem: a problem is one on the list, .*; got '.*none\.yaml'\. Put"):
        problem_class(str(tmp_path / "none.yaml"))
    card_of(tmp_path, changed(SCORE, name="card"))
    with pytest.raises(UsageError, match=r"a problem is made of a card with a result\. Give the card that"):
        problem_class(str(tmp_path / "card.yaml"))


def test_a_renamed_card_is_refused(card: Path, tmp_path: Path) -> None:
    """It would be read for the data, and the one beside it for the network."""
    shutil.copy(card, tmp_path / "renamed.yaml")
    with pytest.raises(UsageError, match=r"this card is called tiny-score\.yaml; got 'renamed\.yaml'"):
        problem_class(str(tmp_path / "renamed.yaml"))


def test_more_samples_than_held_out_images_have_no_features_to_be_held_against(card: Path, tmp_path: Path) -> None:
    found = compute(cell("ddim", problem=str(card), n=600, budget=2), tmp_path)
    assert found.status == "done"
    assert found.metrics["fd_digits"].value is None
    assert "there are 599 test images" in found.metrics["fd_digits"].reason
    assert found.metrics["trajectory_rmse"].value > 0


def test_networks_of_one_name_in_two_folders_are_not_one_network(card: Path, tmp_path: Path) -> None:
    paths = []
    for folder in ("one", "two"):
        shutil.copytree(card.parent, tmp_path / folder)
        paths.append(str(tmp_path / folder / card.name))
    assert section(*(row(path, 90.0, metric="fd_digits") for path in paths)) == []


def test_files_of_two_paths_have_two_names_without_slashes() -> None:
    paths = ("../a/digits.yaml", "a/digits.yaml", "a-digits.yaml", "./digits.yaml", "digits.yaml", "digits")
    stems = [file_stem(path) for path in paths]
    assert len(set(stems)) == len(paths)
    assert stems[-1] == "digits"
    assert all(re.fullmatch(r"digits-[0-9a-f]{6}|a-digits-[0-9a-f]{6}", stem) for stem in stems[:-1])
    assert "/" not in cell("ddim", problem="a/b.yaml").name
