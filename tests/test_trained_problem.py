"""A checkpoint of one's own in a matrix: a problem by the path of its card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cards import CLASSIFIER, SCORE, card_of, changed
from records import cell
from test_likelihood_command import call as call
from test_processes_table import row, section

from bench.problems.image import CheckpointProblem
from bench.problems.problem import get_problem, problem_class
from bench.record import file_stem
from bench.store import Store
from pretrained import zoo
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


def test_a_matrix_of_it_is_run_and_reported(card: Path, tmp_path: Path, call: Call) -> None:
    content = {
        "name": "mine",
        "description": "My network.",
        "seeds": [0],
        "budgets": [5, 10],
        "kinds": ["sampling", "likelihood"],
        "grids": ["log_snr"],
        "recommended_grids": False,
        "problems": [{"name": str(card), "n": 300, "likelihood": {"n": 4}}],
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
    stem = file_stem(str(card))
    assert (out / "figures" / f"{stem}_samples.png").is_file()
    assert (out / "figures" / f"{stem}_fd_digits_values.png").is_file() or list(out.glob(f"figures/{stem}_fd_digits*"))
    assert str(card) in (out / "report.md").read_text()


def test_colour_images_have_the_metrics_of_inception(tmp_path: Path) -> None:
    photos = changed(SCORE, data={"name": "patches", "scale": 2.0, "offset": -1.0})
    card_of(tmp_path, photos)
    assert problem_class(str(tmp_path / "card.yaml")).metrics == ("fid", "inception_score", "trajectory_rmse")


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
    with pytest.raises(UsageError, match=r"load_card: no such file; got '.*none\.yaml'"):
        problem_class(str(tmp_path / "none.yaml"))
    card_of(tmp_path, changed(SCORE, name="card"))
    with pytest.raises(UsageError, match="it was never trained"):
        get_problem(str(tmp_path / "card.yaml"))


def test_networks_of_one_name_in_two_folders_are_not_one_network(tmp_path: Path) -> None:
    paths = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        card_of(tmp_path / folder, SCORE)
        paths.append(str(tmp_path / folder / "card.yaml"))
    assert section(*(row(path, 90.0, metric="fd_digits") for path in paths)) == []


def test_files_are_named_without_the_slashes_of_the_path() -> None:
    assert file_stem("../photos model/my-photos.yaml") == "photos-model-my-photos"
    assert file_stem("mixture_2d") == "mixture_2d"
    assert "/" not in cell("ddim", problem="a/b.yaml").name
