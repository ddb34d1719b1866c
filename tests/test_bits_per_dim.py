"""Cells of kind likelihood: bits/dim and its errors apart under known densities, and where the density is exact."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from records import cell, compute, cost, record
from torch import Tensor

from bench.cell import load_problem
from bench.image_model import CheckpointModel
from bench.kinds.likelihood import ERRORS_APART, IMAGE_METRICS
from bench.likelihood import (
    Converged,
    Plan,
    converged,
    dequantisation_error,
    dequantised,
    grid_upwards,
    image_likelihood,
    image_probes,
    probe_error,
    resolution,
)
from bench.likelihood_tables import likelihood_section
from bench.matrix import load_matrix
from bench.metrics.bits_per_dim import BitsMetric
from bench.metrics.log_density import DensityOutcome
from bench.metrics.metric import Outcome, get_metric
from bench.problems.digits import Digits
from bench.problems.gaussian import Gaussian
from bench.record import MetricValue, Record
from bench.tables import long_table
from pretrained.data import dequantise, load_data
from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.registry import get_solver, solver_names
from solvers.solver import FixedStepSolver


@pytest.fixture
def white(monkeypatch: pytest.MonkeyPatch) -> Iterator[Digits]:
    """Digits under the network of a unit Gaussian, which VP leaves as it is: log p is known exactly."""
    problem, _ = load_problem("digits", "cpu")
    assert isinstance(problem, Digits)
    monkeypatch.setattr(problem, "process", lambda: ReverseProcess(problem.sde, lambda x, t: -x, "score"))
    converged.cache_clear()
    yield problem
    converged.cache_clear()


def exact_bits(problem: Digits, n: int, seed: int = 0) -> Tensor:
    """-log2 N(x; 0, I)/64 - log2 scale + log2 17 of the first draw of the held-out digits, written out."""
    uniform = torch.special.ndtr(problem.normals(n, seed).normal("dequantisation"))
    values = load_data("digits", "test").values[:n]
    x = (problem.scale * dequantise(values, 17, uniform) + problem.offset).double().flatten(1)
    log_p = -(x.square() + math.log(2 * math.pi)).sum(1) / 2
    return -log_p / (64 * math.log(2)) - math.log2(problem.scale) + math.log2(17)


def measured(folder: Path, solver: str = "dpmpp_2m", **changes: Any) -> Record:
    changes = {"problem": "digits", "n": 8, "budget": 20, **changes}
    return compute(cell(solver, kind="likelihood", **changes), folder)


def value(record: Record, metric: str) -> float:
    found = record.metrics[metric].value
    assert found is not None
    return found


def test_bits_of_an_exactly_known_density(white: Digits) -> None:
    plan = Plan(n=20, draws=1, probes=1)
    solver = get_solver("dpmpp_2m")
    solve = image_likelihood(white, solver, grid_upwards("log_snr", white.sde, 200), plan)
    assert solve.bits.shape == (20, 1, 1)
    assert (solve.bits[:, 0, 0] - exact_bits(white, 20)).abs().max() < 0.004
    assert (converged(white, plan).bits[:, 0, 0] - exact_bits(white, 20)).abs().max() < 5e-4
    assert (solve.nfe, solve.evaluations[0].derivative_passes) == (200, 200)


def test_bits_of_data_on_another_scale(white: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale enters twice, in the states and in the change of variables, and the sum of both is known."""
    plan = Plan(n=8, draws=1, probes=1)
    plain = converged(white, plan).bits.mean()
    converged.cache_clear()
    monkeypatch.setattr(white, "scale", 2 * white.scale)
    wider = converged(white, plan).bits
    assert (wider[:, 0, 0] - exact_bits(white, 8)).abs().max() < 1e-3
    assert abs(wider.mean() - plain) > 0.02


def test_batches_make_no_difference(white: Digits) -> None:
    ts = grid_upwards("log_snr", white.sde, 5)
    whole, parts = (
        image_likelihood(white, get_solver("heun"), ts, Plan(n=5, draws=2, probes=2, batch_size=size))
        for size in (None, 2)
    )
    torch.testing.assert_close(whole.bits, parts.bits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.x, parts.x, rtol=0, atol=0)
    assert whole.nfe == parts.nfe == 10


def test_draws_differ_and_share_their_image() -> None:
    problem, plan = Digits(), Plan(n=6, draws=2)
    first, second = (dequantised(problem, plan, draw) for draw in range(2))
    assert 0 < (first - second).abs().max() <= problem.scale / problem.levels
    probes = [image_probes(problem, plan, draw, 0, 6) for draw in range(2)]
    assert probes[0].shape == (2, 6, 1, 8, 8)
    # Of four independent ones, about half the signs of any two agree.
    signs = torch.cat(probes).flatten(1)
    for i in range(4):
        for j in range(i):
            assert 0.3 < float((signs[i] == signs[j]).double().mean()) < 0.7


def test_each_source_of_error_is_told_from_the_others() -> None:
    """Bits made of an image's, a draw's and a probe's part: their standard errors are those of the mean."""
    n, draws, probes = 400, 3, 4
    parts = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=parts, dtype=torch.float64)

    bits = 2 + 5 * normal(n, 1, 1) + 0.3 * normal(n, draws, 1) + 0.6 * normal(n, draws, probes)
    assert probe_error(bits) == pytest.approx(0.6 / math.sqrt(n * draws * probes), rel=0.1)
    assert dequantisation_error(bits) == pytest.approx(0.3 / math.sqrt(n * draws), rel=0.1)
    assert probe_error(bits[:, :, :1]) is None
    assert dequantisation_error(bits[:, :1]) is None


def test_metrics_of_known_bits() -> None:
    """Four images, two draws of two probes: values and standard errors written out."""
    images = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    off = torch.tensor([0.3, -0.1, 0.2, 0.4], dtype=torch.float64)
    draws, probes = 0.01 * torch.tensor([[1.0], [-1.0]]), 0.002 * torch.tensor([1.0, -1.0])
    bits = images[:, None, None] + draws + probes
    bound = images[:, None] + torch.tensor([0.5, 0.7], dtype=torch.float64)
    reference = bits - off[:, None, None]
    beside = Converged(reference, prior=0.01 * images, smoothing=-0.02 * images, bound=bound, resolution=3e-5)

    def of(key: str) -> MetricValue:
        metric = get_metric(key)
        assert isinstance(metric, BitsMetric)
        return metric.of(bits, beside)

    whole, error, over = of("bits_per_dim"), of("bits_per_dim_error"), of("bits_bound")
    assert (whole.value, whole.floor) == (pytest.approx(4), pytest.approx(4 - 0.2))
    assert error.floor == 3e-5
    assert whole.standard_error == pytest.approx(float(images.std()) / 2), "of independent images"
    assert error.value == pytest.approx(0.25), "errors of either sign do not cancel"
    assert error.standard_error == pytest.approx(float(off.abs().std()) / 2)
    assert (over.value, over.standard_error) == (pytest.approx(4.6), pytest.approx(float(images.std()) / 2))
    # Two values +-d have the variance 2 d^2; sixteen solves, eight draws.
    by_probes, by_draws = 0.002 * math.sqrt(2 / 16), 0.01 * math.sqrt(2 / 8)
    assert of("bits_probe_error").value == pytest.approx(by_probes, rel=1e-5)
    assert of("bits_dequantisation_error").value == pytest.approx(math.sqrt(by_draws**2 - by_probes**2), rel=1e-5)
    for key, factor in (("bits_prior_mismatch", 0.01), ("bits_smoothing", -0.02)):
        assert of(key).value == pytest.approx(4 * factor)
        assert of(key).standard_error == pytest.approx(abs(factor) * float(images.std()) / 2)


def test_the_error_of_a_known_log_density() -> None:
    """Misses of 1, 1 and 4 nats in eight dimensions, either way: 2/(8 ln 2) bits/dim."""
    exact, miss = torch.tensor([-3.0, -8.0, -5.0]).double(), torch.tensor([1.0, -1.0, 4.0]).double()
    spec, problem = cell("euler", kind="likelihood", n=3), Gaussian()
    outcome = DensityOutcome(spec, problem, get_solver("euler"), torch.zeros(3, 8), exact + miss, exact)
    found = get_metric("log_density_error").evaluate(outcome)
    assert found.value == pytest.approx(2 / (8 * math.log(2)))
    assert found.standard_error == pytest.approx(float(miss.abs().std()) / math.sqrt(3) / (8 * math.log(2)))


def test_a_cell_records_value_and_errors(white: Digits, tmp_path: Path) -> None:
    record = measured(tmp_path, budget=20)
    assert record.status == "done"
    assert set(record.metrics) == {*IMAGE_METRICS, *ERRORS_APART}
    assert record.cost is not None
    assert (record.cost.nfe, record.cost.nfe_max, record.cost.derivative_passes) == (20, 20, 40)
    floor = record.metrics["bits_per_dim"].floor
    assert value(record, "bits_per_dim_error") >= 0.999 * abs(value(record, "bits_per_dim") - (floor or 0)) > 0.001
    assert 1e-7 < record.metrics["bits_per_dim_error"].floor < 1e-5
    # One probe gives the trace of a diagonal Jacobian.
    assert value(record, "bits_probe_error") < 1e-5
    assert value(record, "bits_dequantisation_error") > 1e-3
    x, sde = dequantised(white, Plan(n=8), 0).double().flatten(1), white.sde
    # The states stay where they are; the law at t_max is the prior with the training images' mean times alpha.
    centre = (2 * (load_data("digits", "train").values.double() + 0.5) / 17 - 1).flatten(1).mean(0)
    expected = sde.alpha(1.0) * (x @ centre).mean() / (64 * math.log(2))
    assert value(record, "bits_prior_mismatch") == pytest.approx(float(expected), rel=0.1)
    # VP leaves this law as it is.
    assert abs(value(record, "bits_smoothing")) < 1e-8
    # The score is exact: the bound has no gap.
    bound = record.metrics["bits_bound"]
    exact = float(exact_bits(white, 8).mean())
    assert bound.standard_error is not None
    assert abs(value(record, "bits_bound") - exact) < 4 * bound.standard_error < 0.5


def test_smoothing_is_what_bits_are_too_high_by(white: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first order of the heat equation, written out for the score -2 x."""
    monkeypatch.setattr(white, "process", lambda: ReverseProcess(white.sde, lambda x, t: -2 * x, "score"))
    plan = Plan(n=4, draws=1, probes=1)
    x, sde = dequantised(white, plan, 0).double().flatten(1), white.sde
    square, alpha = x.square().sum(1), sde.alpha(1e-5)
    too_large = sde.sigma(1e-5) ** 2 / 2 * (4 * square - 128) - (1 - alpha) * 2 * square - 64 * math.log(alpha)
    torch.testing.assert_close(converged(white, plan).smoothing, -too_large / (64 * math.log(2)), rtol=1e-3, atol=0)


def test_what_the_ends_cost_is_told_image_by_image(white: Digits) -> None:
    """The mean over an image's draws, each by the encoding of its own."""
    both, first = (converged(white, Plan(n=6, draws=draws, probes=1)).prior for draws in (2, 1))
    second = 2 * both - first
    assert both.shape == (6,)
    # Draws differ within a level, images by far more.
    assert 0 < float((second - first).abs().max()) < 0.2 * float(first.std())


def test_a_whole_sketch_leaves_nothing_to_the_probes(white: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hutch++ on all 64 directions: the probes agree, with the exact log p of a score that mixes coordinates."""
    mixing = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) / 64
    law = -torch.eye(64) - mixing @ mixing.T

    def score(x: Tensor, t: Tensor) -> Tensor:
        return (x.flatten(1) @ law).view_as(x)

    monkeypatch.setattr(white, "process", lambda: ReverseProcess(white.sde, score, "score"))
    ts, solver = grid_upwards("log_snr", white.sde, 2), get_solver("euler")
    hutchinson, sketched = (
        image_likelihood(white, solver, ts, Plan(n=3, draws=1, probes=2, sketch=sketch)) for sketch in (0, 64)
    )
    assert (hutchinson.derivative_passes, sketched.derivative_passes) == (4, 2 * (2 * 64 + 2))
    spread = [float((solve.bits[..., 0] - solve.bits[..., 1]).abs().max()) for solve in (hutchinson, sketched)]
    assert spread[0] > 1e-3
    assert spread[1] < 1e-5
    many = image_likelihood(white, solver, ts, Plan(n=3, draws=1, probes=400))
    error = many.bits.std(2) / math.sqrt(400)
    assert ((many.bits.mean(2) - sketched.bits.mean(2)).abs() < 4 * error).all()


def test_a_cell_takes_a_sketch(tmp_path: Path) -> None:
    plain, sketched = (measured(tmp_path, n=2, budget=2, sketch=sketch) for sketch in (None, 3))
    assert plain.spec.name != sketched.spec.name
    assert plain.cost is not None
    assert sketched.cost is not None
    assert (plain.cost.derivative_passes, sketched.cost.derivative_passes) == (4, 16)


def test_seeds_change_draws_and_probes_not_images() -> None:
    problem = Digits()
    ts = grid_upwards("log_snr", problem.sde, 5)
    first, again, other = (
        image_likelihood(problem, get_solver("ddim"), ts, Plan(n=3, seed=seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first.bits, again.bits)
    assert not torch.equal(first.bits, other.bits)
    levels = [((solve.x - problem.offset) / problem.scale * 17).floor() for solve in (first, other)]
    assert torch.equal(*levels)


@pytest.mark.parametrize("problem", ["gaussian", "mixture_2d"])
def test_where_the_density_is_known_the_cell_has_the_error(problem: str, tmp_path: Path) -> None:
    settings = {"rtol": 1e-5, "atol": 1e-5}
    record = measured(tmp_path, "rk45", problem=problem, n=16, budget=None, grid="adaptive", settings=settings)
    assert set(record.metrics) == {"log_density_error"}
    assert value(record, "log_density_error") < 1e-3
    coarse = measured(tmp_path, "euler", problem=problem, n=16, budget=20)
    assert value(coarse, "log_density_error") > 0.02
    assert record.cost is not None
    assert record.cost.derivative_passes >= record.cost.forwards * 2


def test_cells_without_a_likelihood_say_why(tmp_path: Path) -> None:
    stochastic = measured(tmp_path, "ancestral")
    assert (stochastic.status, stochastic.reason) == ("skipped", "not an ODE solver")
    line = measured(tmp_path, problem="line_2d")
    assert line.status == "skipped"
    assert line.reason == "line_2d has neither a known density nor discrete images"
    small = measured(tmp_path, "rk4", budget=3)
    assert small.reason == "one step takes 4 evaluations, the budget is 3"


def test_a_likelihood_that_diverges_says_so(white: Digits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(white, "process", lambda: ReverseProcess(white.sde, lambda x, t: x * 1e30, "score"))
    record = measured(tmp_path, "euler")
    assert (record.status, record.metrics) == ("diverged", {})


def test_metrics_of_likelihood_have_no_value_of_samples() -> None:
    problem = Digits()
    outcome = Outcome(cell("euler", problem="digits"), problem, get_solver("euler"), torch.zeros(4, 1, 8, 8))
    for name in (*IMAGE_METRICS, *ERRORS_APART, "log_density_error"):
        found = get_metric(name).evaluate(outcome)
        assert (found.value, found.reason) == (None, "a metric of cells of kind likelihood")


def test_more_images_than_there_are_are_refused() -> None:
    with pytest.raises(UsageError, match="there are 599 test images; got 600"):
        image_likelihood(Digits(), get_solver("euler"), grid_upwards("log_snr", Digits().sde, 1), Plan(n=600))


def test_levels_that_do_not_fit_the_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "levels", 16)
    with pytest.raises(UsageError, match=r"likelihood: images hold levels 0 to 15; got 16\. Take a model"):
        image_likelihood(Digits(), get_solver("euler"), grid_upwards("log_snr", Digits().sde, 1), Plan(n=4))


def test_the_matrix_has_every_ode_solver() -> None:
    matrix = load_matrix("likelihood")
    assert {entry.name for entry in matrix.solvers} == {n for n in solver_names() if not get_solver(n).stochastic}
    cells = matrix.cells("cpu")
    assert {spec.kind for spec in cells} == {"likelihood"}
    for spec in cells:
        solver = get_solver(spec.solver, **spec.settings)
        assert not isinstance(solver, FixedStepSolver) or solver.nfe(1) <= (spec.budget or 0)


def test_what_the_converged_solve_resolves_is_measured_for_each_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """4e-6 bits/dim on digits-vp and ten times that on digits-ve, whose states reach 50."""
    vp, ve = (CheckpointModel(name, "test", torch.device("cpu"), None) for name in ("digits-vp", "digits-ve"))
    assert 1e-7 < resolution(vp) < 2e-5 < resolution(ve) < 1e-4
    # It is the floor of the error, and a converged solve that is none is found out.
    assert converged(ve, Plan(n=2, draws=1, probes=1)).resolution == resolution(ve)
    monkeypatch.setattr("bench.likelihood.CONVERGED", {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3})
    assert resolution.__wrapped__(vp) > 1e-4


def test_a_solver_is_not_excused_the_budgets_at_which_it_failed() -> None:
    def row(budget: int, error: float | None, seed: int = 0) -> Record:
        spec = cell("ddim", problem="digits", kind="likelihood", budget=budget, seed=seed)
        if error is None:
            return record(spec, status="diverged")
        values = {"bits_per_dim_error": error, "bits_per_dim": MetricValue(value=2.0, floor=1.9)}
        return record(spec, {**values, **dict.fromkeys(ERRORS_APART, 0.01)}, cost=cost(nfe=float(budget)))

    def lines(*rows: Record) -> list[str]:
        return [line for line in likelihood_section(long_table(rows)) for line in line.splitlines() if "ddim" in line]

    fine = [row(b, e, s) for b, e in ((10, 0.5), (50, 0.005), (100, 0.003)) for s in range(2)]
    assert lines(*fine)[0].startswith("| ddim | log_snr | 50 | 50 | not reached |")
    # One seed failed at 50, all of them at the largest budget.
    one = [row(50, None, 1) if (r.spec.budget, r.spec.seed) == (50, 1) else r for r in fine]
    assert lines(*one)[0].startswith("| ddim | log_snr | 100 | 100 | not reached |")
    last = [row(100, None, r.spec.seed) if r.spec.budget == 100 else r for r in fine]
    assert lines(*last)[0].startswith("| ddim | log_snr | not reached | not reached | not reached |")
    assert lines(*last)[1].startswith("| ddim | log_snr | – | – | – |")


def test_each_dequantisation_has_its_own_converged_solve() -> None:
    def row(dequantisation: str | None, floor: float) -> Record:
        spec = cell("ddim", problem="digits", kind="likelihood", dequantisation=dequantisation)
        values = {"bits_per_dim_error": 0.1, "bits_per_dim": MetricValue(value=2.0, floor=floor)}
        return record(spec, {**values, **dict.fromkeys(ERRORS_APART, 0.01)})

    text = "\n".join(likelihood_section(long_table([row(None, 1.9), row("variational", 1.7)])))
    assert "### digits: errors of bits/dim apart\n\nConverged solve: 1.90 bits/dim." in text
    assert "### digits, variational: errors of bits/dim apart\n\nConverged solve: 1.70 bits/dim." in text


def test_parts_that_a_cell_cannot_tell_are_dashes(white: Digits, tmp_path: Path) -> None:
    record = measured(tmp_path, n=4, draws=1, probes=1)
    assert record.metrics["bits_probe_error"].value is None
    text = "\n".join(likelihood_section(long_table([record])))
    assert "nan" not in text
    assert text.rstrip().endswith("| – | – |")
