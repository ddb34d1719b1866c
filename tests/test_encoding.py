"""Encodings: the exact flow's image, the way back, and what lies between two of them."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.encoding import encode, interpolation, reconstruction_errors, round_trip
from bench.encoding_figures import write_encoding
from bench.image_model import CheckpointModel
from bench.likelihood import Plan, dequantised, grid_upwards
from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import FlowProblem
from pretrained.data import load_data
from solvers.errors import UsageError
from solvers.registry import get_solver


@pytest.mark.parametrize("problem", [Gaussian, Mixture2d], ids=lambda problem: problem.key)
def test_an_encoding_is_the_flows_image(problem: type[FlowProblem]) -> None:
    exact = problem()
    start, end = exact.sde.t_min_likelihood, exact.sde.t_max
    x = exact.marginal_sample(start, exact.normals(10, 0), "x")
    ts = grid_upwards("uniform", exact.sde, 1)
    found = encode(get_solver("rk45", rtol=1e-8, atol=1e-8), exact.process(), x, ts)
    assert (found - exact.flow(x, start, end)).abs().max() < 1e-5


def test_an_encoding_has_no_noise_and_runs_upwards() -> None:
    exact = Gaussian()
    x, ts = exact.prior(2, 0), grid_upwards("uniform", exact.sde, 4)
    with pytest.raises(UsageError, match="encode: an encoding needs an ODE solver; got 'ancestral'"):
        encode(get_solver("ancestral"), exact.process(), x, ts)
    with pytest.raises(UsageError, match="encode: the grid runs from t_min up to t_max; got"):
        encode(get_solver("heun"), exact.process(), x, ts.flip(0))


def model() -> CheckpointModel:
    return CheckpointModel("digits-vp", "test")


def test_a_fine_round_trip_ends_where_it_began() -> None:
    x = dequantised(model(), Plan(4, draws=1), 0)
    coarse, fine = (round_trip(model(), get_solver("dpmpp_2m"), x, nfe) for nfe in (10, 60))
    assert (coarse.nfe, fine.nfe) == (20, 120)
    assert fine.rmse == pytest.approx(float((fine.back - x).square().mean().sqrt()), rel=1e-4)
    assert fine.rmse < 5e-3
    assert coarse.rmse > 5 * fine.rmse
    assert fine.wrong < 0.02 < coarse.wrong
    # Digits come out as unit normals, one no more like the next than noise is.
    assert 0.8 < float(fine.end.std()) < 1.3


def test_interpolation_keeps_to_the_shell() -> None:
    a, b = torch.randn(2, 3, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.0, 0.25, 0.5, 1.0])
    found = interpolation(a, b, weights)
    assert found.shape == (4, 3, 1, 20, 20)
    torch.testing.assert_close(found[0], a)
    torch.testing.assert_close(found[-1], b)
    norms = found.flatten(2).norm(dim=2)
    assert (norms[1:3] / norms[[0, 3]].mean(0) - 1).abs().max() < 0.05
    unit_a, unit_b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    quarter = interpolation(unit_a, unit_b, torch.tensor([0.5]))[0, 0]
    assert quarter.tolist() == pytest.approx([math.sqrt(0.5), 2 * math.sqrt(0.5)])
    torch.testing.assert_close(interpolation(a, a, weights)[2], a)


def test_errors_of_several_solvers_are_told_in_rows() -> None:
    x = dequantised(model(), Plan(2, draws=1), 0)
    rows = reconstruction_errors(model(), x, ["ddim", "rk45?rtol=1e-2&atol=1e-2"], [3, 6])
    assert [(name, nfe) for name, nfe, *_ in rows[:2]] == [("ddim", 6), ("ddim", 12)]
    assert len(rows) == 3, "an adaptive solver has one row"


def test_the_figures_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.encoding_figures.BESIDE", ("ddim",))
    monkeypatch.setattr("bench.encoding_figures.BUDGETS", (2, 4))
    written = write_encoding(model(), "heun", 4, 4, 0, tmp_path / "new")
    assert [path.name for path in written[:3]] == ["encoding.png", "round_trip.png", "interpolation.png"]
    assert all(path.stat().st_size > 500 and path.is_file() for path in written[:3])
    table = pd.read_csv(tmp_path / "new" / "round_trip.csv")
    assert table.solver.tolist() == ["heun"] * 2 + ["ddim"] * 2
    assert table.nfe.tolist() == [4, 8, 4, 8]


def test_a_checkpoint_is_a_model_with_its_data() -> None:
    train = CheckpointModel("digits-vp", "train")
    assert (train.size, model().size, model().levels) == (1198, 599, 17)
    assert torch.equal(model().reference(3, 0, 0), load_data("digits", "test").values[:3])
    assert torch.equal(model().reference(3, 0, 1), load_data("digits", "train").values[:3])
    with pytest.raises(UsageError, match="checkpoint digits-vp: there are 599 images; got 600"):
        model().reference(600, 0, 0)
    with pytest.raises(UsageError, match="no split 'tset'; did you mean 'test'"):
        CheckpointModel("digits-vp", "tset")
