"""One network of clothes under four processes: change of variables, metrics on its features, its matrix and grids."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from records import cell, compute, fill, record
from safetensors.torch import save
from test_fashion_mnist import needs_files
from test_metrics import state
from torch import Tensor

from bench import cell as cells
from bench import plots
from bench.image_model import ImageModel
from bench.matrix import load_matrix
from bench.metrics.bias import FdFashionAtInfinity
from bench.metrics.frechet import FdDigits, FdFashion, FdFashionSolver
from bench.metrics.kernel_distance import KdFashion
from bench.metrics.metric import Metric, Outcome, metric_classes
from bench.metrics.own_features import DIGITS, FASHION, OwnMetric
from bench.metrics.precision_recall import PrecisionFashion, RecallFashion
from bench.problems.cifar10 import Cifar10VE
from bench.problems.digits import Digits
from bench.problems.fashion import Fashion, FashionSubVP, FashionVE, FashionVP
from bench.problems.image import CheckpointProblem, InParts
from bench.problems.problem import problem_classes
from bench.record import MetricValue
from bench.report import write_report
from bench.trial import last_step_of
from pretrained import zoo
from pretrained.card import ClassifierCard, ScoreCard, dump_card, load_card
from pretrained.machine import Machine
from pretrained.networks.settings import UNetSettings
from pretrained.provenance import sha256
from pretrained.published import MissingCheckpointError
from pretrained.results import ScoreResult
from pretrained.tasks import build_network
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.registry import get_solver
from solvers.sde import EDM, VE, VP, SubVP
from solvers.solver import FixedStepSolver, integrate

PROBLEMS = (Fashion, FashionVP, FashionSubVP, FashionVE)
# Evaluations of 2000 pictures that fit into 40 minutes on two cores at 4 s each, beside the converged solve's 110.
MOST_EVALUATIONS = 400


def narrow_card() -> ScoreCard:
    """The recipe of fashion-edm with a network of a few channels, never trained."""
    card = load_card("fashion-edm")
    assert isinstance(card, ScoreCard)
    assert isinstance(card.network, UNetSettings)
    network = card.network.model_copy(update={"width": 8, "multipliers": (1,), "blocks": 1, "attention": ()})
    return card.model_copy(update={"network": network, "result": None})


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in a folder stands in the place of the shipped checkpoint; problems are loaded anew."""
    load = zoo.load
    monkeypatch.setattr(zoo, "load", lambda name, device="cpu", _=None: load(name, device, folder))
    cells.load_problem.cache_clear()


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A narrow checkpoint with random weights; its hash."""
    card = narrow_card()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(card, card.data.build().spec)
        # Its last layers start at next to nothing, and then any time would do.
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    weights = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    machine = Machine(cpu="any", cores=1, threads=1, device="cpu", torch="any")
    facts: dict[str, Any] = {"steps": 1, "seconds": 1.0, "date": "2026-01-02", "machine": machine, "commit": "0" * 40}
    facts |= {"final_loss": 1.0, "held_out_loss": 1.0, "dirty": False, "sha256": sha256(weights)}
    facts |= {"parameters": sum(p.numel() for p in network.parameters())}
    (tmp_path / "fashion-edm.safetensors").write_bytes(weights)
    made = card.model_copy(update={"result": ScoreResult(**facts)})
    (tmp_path / "fashion-edm.yaml").write_text(dump_card(made))
    use(tmp_path, monkeypatch)
    return sha256(weights)


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fashion-edm.yaml").write_text(dump_card(narrow_card()))
    use(tmp_path, monkeypatch)


# The problems.


@pytest.mark.usefixtures("checkpoint")
def test_the_denoised_at_equal_noise_levels_is_the_same_under_every_process() -> None:
    levels = torch.tensor([0.02, 0.3, 2.0, 40.0], dtype=torch.float64)
    y = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * (
        1 + levels.float()[:, None, None, None]
    )
    found: dict[str, Tensor] = {}
    for cls in PROBLEMS:
        problem = cls()
        t = problem.sde.t_of_lam(-levels.log())
        assert bool((t > problem.sde.t_min).all() and (t <= problem.sde.t_max).all())
        x = problem.sde.alpha(t).float()[:, None, None, None] * y
        found[cls.key] = problem.process().denoised(x, t)
    native = found.pop("fashion")
    assert all(float((a - b).abs().max()) > 0.05 for a, b in zip(native[1:], native[:-1], strict=True))
    for other in found.values():
        torch.testing.assert_close(other, native, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("checkpoint")
def test_an_exponential_integrator_sees_the_noise_levels_alone() -> None:
    """DDIM on the same levels from the same x/alpha ends at the same x/alpha: problems differ by process only."""
    lam = torch.linspace(-3, 3, 7, dtype=torch.float64)
    y = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * torch.tensor(3.0).exp()
    ends = []
    for cls in PROBLEMS:
        problem = cls()
        ts = problem.sde.t_of_lam(lam)
        x = integrate(get_solver("ddim"), problem.process(), float(problem.sde.alpha(ts[0])) * y, ts)
        ends.append(x / float(problem.sde.alpha(ts[-1])))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-3, atol=1e-3)


def test_the_processes_lie_in_the_levels_of_the_training(checkpoint: str) -> None:
    card = load_card("fashion-edm")
    assert isinstance(card, ScoreCard)
    times: Any = card.training.times
    assert [type(cls().sde) for cls in PROBLEMS] == [EDM, VP, SubVP, VE]
    for cls in PROBLEMS:
        problem = cls()
        sde = problem.sde
        assert times.lowest <= sde.sigma(sde.t_min) / sde.alpha(sde.t_min)
        assert sde.sigma(sde.t_max) / sde.alpha(sde.t_max) <= times.highest
        assert (problem.shape, problem.levels, problem.hashes) == ((1, 28, 28), 256, {"fashion-edm": checkpoint})
        assert isinstance(problem.process().network, InParts)


@needs_files
@pytest.mark.usefixtures("checkpoint")
def test_references_are_test_images_in_order_and_training_images_by_seed() -> None:
    problem = FashionVE()
    held_out = problem.reference(20, 0, 0)
    assert torch.equal(held_out, problem.reference(30, 5, 0)[:20])
    assert not torch.equal(problem.reference(20, 0, 1), problem.reference(20, 1, 1))
    assert len(problem.reference(problem.n_max, 0, 0)) == 10_000
    with pytest.raises(UsageError, match="fashion_ve: there are 10000 test images; got 10001"):
        problem.reference(10_001, 0, 0)
    assert torch.equal(problem.to_levels(state(problem, held_out)), held_out)


@pytest.mark.usefixtures("untrained")
def test_without_weights_cells_are_skipped_and_say_so(tmp_path: Path) -> None:
    with pytest.raises(MissingCheckpointError, match=r"never trained\. .*`scorebench train CARD"):
        FashionVP()
    for cls in PROBLEMS:
        for kind in ("sampling", "likelihood"):
            found = compute(cell("euler", problem=cls.key, kind=kind, n=64), tmp_path / "run")
            assert (found.status, found.reason) == ("skipped", "checkpoint fashion-edm, not trained yet")
    assert "not trained yet" in write_report(tmp_path / "run").page.read_text()


# Metrics on the project's own features.


OWN = {name: cls for name, cls in metric_classes().items() if issubclass(cls, OwnMetric)}


def test_each_metric_of_features_is_there_for_each_data_set() -> None:
    families = Counter(next(base for base in cls.__mro__[1:] if issubclass(base, OwnMetric)) for cls in OWN.values())
    assert set(families.values()) == {2}
    assert len(families) == 6
    for cls in PROBLEMS:
        assert {name for name in OWN if "fashion" in name} <= set(cls.metrics)
    assert {name for name in OWN if "digits" in name} <= set(Digits.metrics)


@pytest.mark.parametrize("data", [DIGITS, FASHION])
def test_what_the_texts_say_of_an_extractor_is_on_its_card(data: Any) -> None:
    card = load_card(data.extractor)
    assert isinstance(card, ClassifierCard)
    assert (data.dim, data.levels) == (card.network.features, card.data.build().spec.levels)
    own = [cls for name, cls in OWN.items() if data.name in name.split("_")]
    for cls in own:
        text = cls.__doc__ or ""
        assert "$" not in text + cls.key + cls.label
        assert data.extractor in text
        assert data.extractor in cls.label
        assert cls.extractor == data.extractor
    assert f"on the {data.dim} features of ``{data.extractor}``" in (metric_classes()[f"fd_{data.name}"].__doc__ or "")


def value_of(metric: Metric, problem: CheckpointProblem, samples: Tensor) -> MetricValue:
    spec = cell("euler", problem=problem.key, n=len(samples))
    return metric.measure(Outcome(spec, problem, get_solver("euler"), samples))


@needs_files
@pytest.mark.usefixtures("checkpoint")
def test_held_out_clothes_are_at_distance_zero_and_noise_is_far() -> None:
    problem = FashionVP()
    held_out, noise = state(problem, problem.reference(300, 0, 0)), problem.prior(300, 0)
    for metric, same in (
        (FdFashion(), 0.0),
        (FdFashionAtInfinity(), 0.0),
        (PrecisionFashion(), 1),
        (RecallFashion(), 1),
    ):
        near, far = value_of(metric, problem, held_out), value_of(metric, problem, noise)
        assert near.value == pytest.approx(same, abs=1e-3)
        assert near.floor is not None
        assert far.value is not None
        assert abs(far.value - same) > 3 * abs(near.floor - same), metric.key
    kernel = value_of(KdFashion(), problem, noise)
    assert kernel.value is not None
    assert kernel.floor is not None
    assert kernel.value > 10 * abs(kernel.floor)


@needs_files
@pytest.mark.usefixtures("checkpoint")
def test_the_solvers_part_is_none_at_the_converged_end(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Fashion()
    converged = state(problem, problem.reference(100, 0, 1))
    monkeypatch.setattr("bench.metrics.features.converged_samples", lambda *_: converged)
    same = value_of(FdFashionSolver(), problem, converged)
    assert same.value == pytest.approx(0, abs=1e-9)
    assert same.converged == pytest.approx(value_of(FdFashion(), problem, converged).value, rel=1e-6)
    noise = value_of(FdFashionSolver(), problem, problem.prior(100, 0))
    assert noise.value is not None
    assert noise.value > 1


@needs_files
@pytest.mark.usefixtures("checkpoint")
def test_another_data_sets_extractor_and_too_few_samples_are_refused() -> None:
    problem = Fashion()
    wrong = value_of(FdDigits(), problem, problem.prior(70, 0))
    assert wrong.reason is not None
    assert "digits-features: its images have the shape (1, 8, 8); got (1, 28, 28)" in wrong.reason
    few = value_of(FdFashion(), problem, problem.prior(63, 0))
    assert few.reason == "frechet: a Fréchet distance of 64 features needs 64 samples; got 63. Take 960 or more"


# The matrix.


def test_the_matrix_compares_processes_and_solvers_in_the_time_it_is_allowed() -> None:
    matrix = load_matrix("fashion")
    plan = matrix.cells("cpu")
    assert {spec.problem for spec in plan} == {cls.key for cls in PROBLEMS}
    assert {(spec.n, spec.seed, spec.kind) for spec in plan} == {(2000, 0, "sampling")}
    assert {(spec.solver, spec.grid) for spec in plan if spec.grid != "log_snr"} == {("edm_heun", "karras")}
    assert {spec.budget for spec in plan if spec.budget} == {5, 10, 20, 50}
    assert sum(spec.budget or MOST_EVALUATIONS for spec in plan) <= MOST_EVALUATIONS
    # Bare calls of the network, before and after each solve, are of a batch.
    assert all(spec.batch_size == 250 for spec in plan if not get_solver(spec.solver).batch_coupled)
    costly = {"fd_fashion_solver", "kd_fashion", "trajectory_rmse"}
    assert {(spec.problem, name) for spec in plan for name in spec.metrics or costly if name in costly} == {
        ("fashion", "trajectory_rmse"),
        ("fashion", "fd_fashion_solver"),
    }
    others = [spec for spec in plan if spec.problem != "fashion"]
    assert {get_solver(spec.solver).stochastic for spec in others} == {True, False}, "SDE and ODE solvers"
    common = set.intersection(*({s.solver for s in plan if s.problem == cls.key} for cls in PROBLEMS))
    assert "dpmpp_2m" in common, "one solver under every process"


@pytest.mark.usefixtures("checkpoint")
def test_every_cell_of_the_matrix_is_solved() -> None:
    """On a few samples of a narrow network, each at its smallest budget."""
    chosen = {
        (s.problem, s.solver): s for s in sorted(load_matrix("fashion").cells("cpu"), key=lambda s: -(s.budget or 0))
    }
    problems = {cls.key: cls() for cls in PROBLEMS}
    for (name, key), spec in chosen.items():
        problem, solver = problems[name], get_solver(key, **spec.settings)
        assert isinstance(solver, FixedStepSolver)
        assert spec.budget is not None
        steps = solver.steps_for(spec.budget)
        assert 1 <= solver.nfe(steps) <= spec.budget
        process, ts = problem.process(), make_grid(spec.grid, problem.sde, steps)
        brownian = problem.brownian(2, 0) if solver.stochastic else None
        x = integrate(solver, process, problem.prior(2, 0), ts, brownian, last_step_of(solver))
        assert bool(x.isfinite().all()), (name, key)
        assert process.evaluations.calls == solver.nfe(steps), (name, key)


# Sample grids.


def test_every_problem_of_images_has_a_grid_of_samples(tmp_path: Path) -> None:
    shapes = {"digits": (1, 8, 8), "fashion_vp": (1, 28, 28), "cifar10_ve": (3, 32, 32)}
    store = fill(tmp_path, [record(cell("euler"), {"w2_gaussian": 1.0})])
    for name, shape in shapes.items():
        store.write(record(cell("heun", problem=name, n=3)), torch.rand(3, *shape))
    records = list(store.records())
    figures = dict(plots._sample_grids(records, store))
    assert set(figures) == {f"{name}_samples" for name in shapes}
    assert "fashion_vp_samples.png" in {path.name for path in write_report(tmp_path).figures}


@pytest.mark.parametrize(("problem", "ends"), [(FashionVE, (-1, 1)), (Digits, (-1, 1)), (Cifar10VE, (0, 1))])
def test_a_grid_shows_black_and_white_at_the_ends_of_the_state(
    problem: type[CheckpointProblem], ends: tuple[int, int], tmp_path: Path
) -> None:
    assert problem.ends() == ends
    channels, side = (3, 32) if problem is Cifar10VE else (1, 8 if problem is Digits else 28)
    low, high = ends
    samples = torch.full((2, channels, side, side), float(low))
    # The second picture: white, and in colour red beyond it.
    samples[1, 0] = high + 5.0
    store = fill(tmp_path, [])
    store.write(record(cell("heun", problem=problem.key, n=2)), samples)
    ((_, figure),) = plots._sample_grids(list(store.records()), store)
    (image,) = figure.axes[0].images
    shown = np.asarray(image.get_array()).reshape(side, 2 * (side + 1), channels)
    assert (shown[:, :side] == 0).all()
    assert (shown[:, side + 1 : -1, 0] == 1).all()
    assert (shown[:, side + 1 : -1, 1:] == 0).all()


def test_ends_are_those_of_a_loaded_problem() -> None:
    problem: ImageModel = Digits()
    assert Digits.ends() == (problem.offset, problem.offset + problem.scale)
    assert all(
        cls.ends()[0] < cls.ends()[1] for cls in problem_classes().values() if issubclass(cls, CheckpointProblem)
    )
