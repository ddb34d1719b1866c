"""Likelihoods of images that a flow dequantises: which flow, what it adds to the bits, and that they come down."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from records import cell, compute
from test_bits_per_dim import value
from test_likelihood_command import Call, call  # noqa: F401
from torch import Tensor

from bench import likelihood
from bench.cell import load_problem
from bench.dequantisation import dequantiser_of
from bench.image_model import CheckpointModel
from bench.kinds.likelihood import ERRORS_APART, IMAGE_METRICS
from bench.likelihood import Plan, converged, dequantisation, dequantised, grid_upwards, image_likelihood
from bench.matrix import load_matrix
from bench.problems.digits import Digits
from bench.tables import long_table
from pretrained import zoo
from pretrained.card import CARDS
from pretrained.data import quantise
from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.registry import get_solver


@pytest.fixture
def white(monkeypatch: pytest.MonkeyPatch) -> Iterator[Digits]:
    """Digits under the network of a unit Gaussian, which VP leaves as it is: log p is known exactly."""
    problem, _ = load_problem("digits", "cpu")
    assert isinstance(problem, Digits)
    monkeypatch.setattr(problem, "process", lambda: ReverseProcess(problem.sde, lambda x, t: -x, "score"))
    converged.cache_clear()
    yield problem
    converged.cache_clear()


def variational(problem: Digits, n: int = 6, **changes: Any) -> Plan:
    return Plan(n, dequantiser=dequantiser_of("variational", problem), **changes)


def exact_bits(x: Tensor, log_q: Tensor) -> Tensor:
    """-log2 N(x; 0, I)/64 - log2 2 + log2 17 + log2 q/64, written out."""
    log_p = -(x.double().flatten(1).square() + math.log(2 * math.pi)).sum(1) / 2
    return -(log_p - log_q) / (64 * math.log(2)) - 1 + math.log2(17)


# Which flow.


def test_the_flow_of_a_checkpoint_is_found_by_its_hash() -> None:
    digits = Digits()
    flow = dequantiser_of("variational", digits)
    assert flow is not None
    assert flow.card.name == "digits-dequantiser"
    assert dequantiser_of("digits-dequantiser", digits) is flow
    assert dequantiser_of("uniform", digits) is dequantiser_of(None, digits) is None


def test_another_checkpoint_takes_it_by_name() -> None:
    model = CheckpointModel("digits-ve", "test")
    with pytest.raises(UsageError, match=r"trained for the checkpoint; got 'digits-ve'. .* name of another: its bound"):
        dequantiser_of("variational", model)
    flow = dequantiser_of("digits-dequantiser", model)
    assert flow is not None
    with pytest.raises(UsageError, match="no card 'digits-dequantizer'; did you mean 'digits-dequantiser'"):
        dequantiser_of("digits-dequantizer", model)
    with pytest.raises(UsageError, match="'dequantiser' is needed"):
        dequantiser_of("digits-features", model)


def test_one_trained_here_is_found_in_its_folder(tmp_path: Path) -> None:
    card = yaml.safe_load((CARDS / "digits-dequantiser.yaml").read_text())
    card["name"] = "own"
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(card))
    weights = (zoo.CHECKPOINTS / "digits-dequantiser.safetensors").read_bytes()
    (tmp_path / "own.safetensors").write_bytes(weights)
    for asked, folder in (("variational", tmp_path), ("own", tmp_path), (str(tmp_path / "own.yaml"), None)):
        flow = dequantiser_of(asked, Digits(), folder)
        assert flow is not None
        assert flow.card.name == "own"


@pytest.mark.parametrize("changes", [{"levels": 256}, {"shape": (1, 16, 16)}], ids=str)
def test_a_flow_of_other_images_is_refused(changes: dict[str, Any]) -> None:
    model: Any = SimpleNamespace(**{"shape": (1, 8, 8), "levels": 17, "device": "cpu", "hashes": {}, **changes})
    with pytest.raises(UsageError, match=r"digits-dequantiser: .*\(shape, levels\) .*; got \(\(1, 8, 8\), 17\)"):
        dequantiser_of("digits-dequantiser", model)


# What it adds.


def test_draws_lie_in_their_bins_and_differ(white: Digits) -> None:
    plan = variational(white)
    (x, log_q), (other, _) = (dequantisation(white, plan, draw) for draw in range(2))
    levels = white.reference(6, 0, 0)
    for state in (x, other):
        assert torch.equal(quantise((state - white.offset) / white.scale, 17), levels)
    assert (x != other).double().mean() > 0.99
    assert (log_q.dtype, log_q.shape) == (torch.float64, (6,))
    assert torch.equal(dequantised(white, plan, 0), x)
    assert torch.equal(dequantisation(white, Plan(6), 0)[1], torch.zeros(6, dtype=torch.float64))


def test_bits_are_those_of_the_density_and_the_flow(white: Digits) -> None:
    plan = variational(white, draws=2, probes=1)
    ts = grid_upwards("log_snr", white.sde, 200)
    solve = image_likelihood(white, get_solver("dpmpp_2m"), ts, plan)
    beside = converged(white, plan)
    for draw in range(2):
        x, log_q = dequantisation(white, plan, draw)
        assert log_q.abs().max() > 2
        expected = exact_bits(x, log_q)
        assert (solve.bits[:, draw, 0] - expected).abs().max() < 0.004
        assert (beside.bits[:, draw, 0] - expected).abs().max() < 5e-4
        # The score is exact: the bound has no gap but its decoder's, and 64 draws of noise.
        assert abs((beside.bound[:, draw] - expected).mean()) < 0.15
    parts = image_likelihood(white, get_solver("dpmpp_2m"), ts, variational(white, draws=2, probes=1, batch_size=4))
    torch.testing.assert_close(parts.bits, solve.bits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.log_q, solve.log_q, rtol=1e-5, atol=1e-4)


def test_the_variational_bound_has_the_flow_too(white: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """With log q doubled the bound rises by as much, its noise being the same."""
    plan = variational(white, draws=2, probes=1)
    log_q = torch.stack([dequantisation(white, plan, draw)[1] for draw in range(2)], 1)
    first = converged(white, plan).bound
    assert plan.dequantiser is not None
    network = plan.dequantiser.network
    doubled = SimpleNamespace(network=lambda k, w: (network(k, w)[0], 2 * network(k, w)[1]), sha256="doubled")
    found = likelihood._converged(white, Plan(6, 2, 1, dequantiser=doubled), torch.zeros(1, 1, 8, 8))  # type: ignore[arg-type]
    torch.testing.assert_close(found["bound"] - first, log_q / (64 * math.log(2)), rtol=1e-4, atol=1e-6)


def test_the_shipped_flow_lowers_the_bits_of_held_out_digits() -> None:
    """By more than three standard errors on the same images; within what its card says."""
    problem = Digits()
    ts = grid_upwards("log_snr", problem.sde, 30)
    plans = Plan(48, draws=1, probes=1), variational(problem, 48, draws=1, probes=1)
    uniform, lower = (image_likelihood(problem, get_solver("dpmpp_3m"), ts, plan).bits.flatten() for plan in plans)
    difference = lower - uniform
    error = float(difference.std()) / 48**0.5
    assert float(difference.mean()) < -3 * error
    result = zoo.load_dequantiser("digits-dequantiser").card.result
    assert result is not None
    assert float(difference.mean()) == pytest.approx(result.held_out_bits - result.uniform_bits, abs=4 * error)


# Cells, matrices, the command.


def test_a_cell_says_how_its_images_were_dequantised(white: Digits, tmp_path: Path) -> None:
    spec = cell("dpmpp_2m", problem="digits", n=4, budget=20, kind="likelihood")
    other = spec.model_copy(update={"dequantisation": "variational"})
    uniform, record = (compute(each, tmp_path) for each in (spec, other))
    assert record.status == "done"
    assert set(record.metrics) == {*IMAGE_METRICS, *ERRORS_APART}
    flow = zoo.load_dequantiser("digits-dequantiser")
    assert record.hashes == {**uniform.hashes, "digits-dequantiser": flow.sha256}
    assert value(record, "bits_dequantisation_error") > 1e-3
    plan = variational(white, 4)
    drawn = [dequantisation(white, plan, draw) for draw in range(2)]
    expected = torch.stack([exact_bits(*each) for each in drawn]).mean()
    assert record.metrics["bits_per_dim"].floor == pytest.approx(float(expected), abs=5e-4)
    assert abs(value(record, "bits_per_dim") - value(uniform, "bits_per_dim")) > 0.02
    settings = long_table([uniform, record]).groupby("settings").cell.nunique()
    assert settings.to_dict() == {"": 1, "dequantisation variational": 1}


def test_a_matrix_may_ask_for_it(tmp_path: Path) -> None:
    content: dict[str, Any] = {"name": "m", "seeds": [0], "budgets": [10], "solvers": [{"name": "ddim"}]}
    content |= {"kinds": ["likelihood"], "problems": [{"name": "digits", "n": 8, "likelihood": {"n": 4}}]}

    def specs(**asked: str) -> list[Any]:
        content["problems"][0]["likelihood"] = {"n": 4, **asked}
        path = tmp_path / "m.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_matrix(str(path)).cells("cpu")

    plain, same, asked = (
        specs(**each) for each in ({}, {"dequantisation": "uniform"}, {"dequantisation": "variational"})
    )
    assert plain == same
    assert [spec.dequantisation for spec in (*plain, *asked)] == [None, "variational"]
    assert plain[0].name != asked[0].name
    assert specs(dequantisation="digits-dequantiser")[0].dequantisation == "digits-dequantiser"
    with pytest.raises(UsageError, match="no dequantisation 'variatonal'; did you mean 'variational'"):
        specs(dequantisation="variatonal")
    with pytest.raises(UsageError, match="no dequantisation 'digits-vp'"):
        specs(dequantisation="digits-vp")


def test_the_command_takes_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(likelihood, "CONVERGED", {"method": "dopri5", "rtol": 1e-1, "atol": 1e-1})
    monkeypatch.setattr(likelihood, "BOUND_DRAWS", 2)
    asked = ["--solver", "ddim", "--nfe", "5", "--n", "4", "--device", "cpu", "--json"]
    found = {}
    for law in ("uniform", "variational"):
        code, out, _ = call("likelihood", "digits-vp", *asked, "--dequantisation", law)
        assert code == 0
        found[law] = json.loads(out)["bits_per_dim"]["value"]
    assert found["uniform"] != found["variational"]
    code, _, err = call("likelihood", "digits-ve", *asked, "--dequantisation", "variational")
    assert (code, "Train one (docs/training.md)" in err) == (2, True)
