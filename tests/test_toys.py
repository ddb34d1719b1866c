"""Toys: continuous vectors of laws whose moments and supports are known."""

import math

import pytest
import torch
from cards import card_of, changed

from bench.problems.problem import get_problem
from pretrained.data import load_data
from pretrained.train import train
from solvers.errors import UsageError
from solvers.sde import VP

TOYS = ("mixture", "rings", "checkerboard", "two_moons")
VECTORS = {
    "name": "tiny-toy",
    "kind": "score",
    "description": "A network for vectors small enough for a test.",
    "data": {"name": "mixture", "scale": 1.0, "offset": 0.0},
    "sde": {"name": "vp"},
    "network": {"name": "mlp", "data_std": 2.9, "width": 32, "blocks": 2},
    "parametrisation": "noise",
    "training": {
        "seed": 0,
        "steps": 300,
        "batch": 256,
        "learning_rate": 0.005,
        "warm_up": 10,
        "ema": 0.95,
        "weighting": "sigma2",
        "reduction": "mean",
        "times": "log_snr",
    },
}


@pytest.mark.parametrize("name", TOYS)
def test_a_toy_is_continuous_and_its_parts_are_draws_of_one_law(name: str) -> None:
    train_part, test_part = load_data(name, "train"), load_data(name, "test")
    assert train_part.values.shape == (20_000, 2)
    assert test_part.values.shape == (5_000, 2)
    assert train_part.values.dtype == torch.float32
    assert (train_part.levels, train_part.shape, train_part.flip) == (None, (2,), False)
    assert train_part.labels.unique().tolist() == list(range(train_part.classes))
    assert torch.equal(train_part.values, load_data(name, "train").values)
    spread = train_part.values.std(0)
    error = spread * math.sqrt(1 / 20_000 + 1 / 5_000)
    assert ((train_part.values.mean(0) - test_part.values.mean(0)).abs() < 4.5 * error).all()
    assert not set(map(tuple, train_part.values.tolist())) & set(map(tuple, test_part.values.tolist()))


def test_the_mixture_is_the_law_of_the_problem() -> None:
    data = load_data("mixture", "train")
    problem = get_problem("mixture_2d")
    for label in range(8):
        part = data.values[data.labels == label].double()
        error = problem.std / math.sqrt(len(part))
        assert ((part.mean(0) - problem.centres[label]).abs() < 4.5 * error).all()
        assert part.std(0).tolist() == pytest.approx([problem.std] * 2, rel=4.5 / math.sqrt(2 * len(part)))


def test_rings_lie_at_their_radii() -> None:
    data = load_data("rings", "train")
    radius = data.values.double().norm(dim=1)
    for label in range(3):
        part = radius[data.labels == label]
        assert part.mean().item() == pytest.approx(label + 1, abs=4.5 * 0.1 / math.sqrt(len(part)))
        assert part.std().item() == pytest.approx(0.1, rel=4.5 / math.sqrt(2 * len(part)))


def test_the_checkerboard_is_even_on_its_black_squares_and_nowhere_else() -> None:
    values = load_data("checkerboard", "train").values.double()
    assert values.abs().max() <= 4
    column, row = ((values + 4) / 2).floor().clamp(max=3).long().unbind(1)
    assert ((column + row) % 2 == 0).all()
    counts = torch.bincount(4 * row + column, minlength=16)
    assert (counts > 0).sum() == 8
    assert (counts[counts > 0] - 2500).abs().max() < 4.5 * math.sqrt(20_000 / 8 * 7 / 8)


def test_the_moons_are_half_circles() -> None:
    data = load_data("two_moons", "train")
    for label, (centre, side) in enumerate([((0.0, 0.0), 1), ((1.0, 0.5), -1)]):
        part = data.values[data.labels == label].double() - torch.tensor(centre, dtype=torch.float64)
        # The radius of (1 + e_r, e_a) is 1 + e_r + e_a^2 / 2: mean 1.005 at deviation 0.1.
        assert part.norm(dim=1).mean().item() == pytest.approx(1.005, abs=4.5 * 0.1 / math.sqrt(len(part)))
        assert (side * part[:, 1]).mean().item() == pytest.approx(2 / math.pi, abs=0.02)


def test_a_network_learns_a_toy_and_its_record_tells_of_no_levels(tmp_path) -> None:
    finished = train(card_of(tmp_path, VECTORS), tmp_path, progress=False)
    # The best linear prediction of the noise leaves a v/(a v + 1), a = exp(2 lam), on each axis of variance v.
    sde = VP()
    lam = torch.linspace(float(sde.lam(1e-5)), float(sde.lam(1.0)), 2001, dtype=torch.float64)
    signal = (2 * lam).exp()[:, None] * torch.linalg.eigvalsh(load_data("mixture", "test").values.double().T.cov())
    assert finished.result.held_out_loss < (signal / (1 + signal)).mean() - 0.01
    assert finished.result.trained_on.samples == 20_000
    assert finished.result.trained_on.levels is None
    assert finished.result.trained_on.dequantisation is None


def test_networks_for_images_refuse_vectors(tmp_path) -> None:
    network = {"name": "unet", "data_std": 2.9, "width": 8}
    with pytest.raises(UsageError, match=r"card tiny-toy: data 'mixture' are vectors, for network 'mlp'; got 'unet'"):
        card_of(tmp_path, changed(VECTORS, network=network))
