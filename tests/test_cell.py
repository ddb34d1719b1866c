"""One cell: what is counted, paired, timed and recorded, and what becomes of solvers that fail."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from records import cell, compute
from torch import Tensor

from bench import environment
from bench.bare_calls import bare_seconds
from bench.kinds import sampling as cells
from bench.matrix import load_matrix
from bench.problems.gaussian import Gaussian
from bench.record import Record
from bench.store import Store
from solvers import registry
from solvers.errors import DivergenceError
from solvers.grids import make_grid
from solvers.registry import get_solver, solver_classes
from solvers.solver import FixedStepSolver, Solver, integrate

FIXED = [name for name, cls in solver_classes().items() if not cls.adaptive]
QUICK = [entry.name for entry in load_matrix("quick").solvers]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    made.create()
    return made


@pytest.fixture
def on_menu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Put a solver with a given step on the menu, for one test."""
    solver_classes()
    monkeypatch.setattr(registry, "_SOLVERS", registry.solver_classes())

    def put(name: str, step: Any) -> None:
        @dataclass(frozen=True)
        class Mine(FixedStepSolver):
            family: ClassVar[str] = "test"
            order: ClassVar[int | None] = 1
            stochastic: ClassVar[bool] = False
            reference: ClassVar[str] = "none"

            def nfe(self, steps: int) -> int:
                return steps

            def step(self, process: Any, x: Tensor, t: float, s: float, brownian: Any, state: Any) -> Any:
                return step(process, x, t), state

        Mine.key = name
        registry._SOLVERS[name] = Mine

    return put


def samples_of(spec: Any, folder: Path) -> Tensor:
    compute(spec, folder)
    samples = Store(folder).samples(spec)
    assert samples is not None
    return samples


# Evaluations.

NO_MEAN = {"annealed_langevin", "edm_stochastic", "langevin", "restart"}


@pytest.mark.parametrize("solver", FIXED)
def test_counted_evaluations_are_the_declared_ones_at_every_budget(solver: str, tmp_path: Path) -> None:
    declared = get_solver(solver)
    assert isinstance(declared, FixedStepSolver)
    for budget in (5, 10, 20, 50, 100):
        record = compute(cell(solver, budget=budget), tmp_path)
        if declared.nfe(1) > budget:
            assert record.status == "skipped"
            continue
        # Few steps may be too few for a solver: it is counted all the same.
        assert record.status in ("done", "diverged"), record.traceback
        assert record.cost is not None
        steps = record.cost.steps
        assert steps is not None
        assert record.cost.nfe == record.cost.nfe_max == record.cost.forwards == declared.nfe(steps)
        assert record.cost.nfe <= budget < declared.nfe(steps + 1), "the most steps that fit"
        assert record.cost.derivative_passes == 0
        # Langevin's noise and churn's is no increment of the path, and stays.
        assert record.last == ("mean" if declared.stochastic and solver not in NO_MEAN else "keep")


def test_an_odd_budget_of_a_two_stage_solver_is_recorded_beside_what_was_spent(tmp_path: Path) -> None:
    record = compute(cell("heun", budget=5), tmp_path)
    assert record.cost is not None
    assert (record.spec.budget, record.cost.nfe, record.cost.steps) == (5, 4.0, 2)


def test_a_budget_below_one_step_is_skipped_with_the_reason(tmp_path: Path) -> None:
    record = compute(cell("heun", budget=1), tmp_path)
    assert (record.status, record.reason) == ("skipped", "one step takes 2 evaluations, the budget is 1")
    assert record.cost is None
    assert record.metrics == {}
    assert Store(tmp_path).samples(record.spec) is None


def test_an_adaptive_solver_spends_more_for_a_finer_tolerance(tmp_path: Path) -> None:
    coarse, fine = (
        compute(cell("torchdiffeq", budget=None, grid="adaptive", settings={"rtol": t, "atol": t}), tmp_path)
        for t in (1e-2, 1e-6)
    )
    assert coarse.cost is not None
    assert fine.cost is not None
    assert coarse.cost.nfe < fine.cost.nfe
    assert coarse.cost.nfe == coarse.cost.forwards
    assert coarse.cost.steps is None
    errors = [record.metrics["pathwise_rmse"].value for record in (coarse, fine)]
    assert errors[1] is not None
    assert errors[0] is not None
    assert errors[1] < errors[0] / 100


def test_evaluations_a_sample_do_not_depend_on_batches(tmp_path: Path) -> None:
    whole, cut = (compute(cell(batch_size=size), tmp_path) for size in (None, 5))
    assert whole.cost is not None
    assert cut.cost is not None
    assert whole.cost.nfe == cut.cost.nfe == 10
    assert cut.cost.forwards == 4 * whole.cost.forwards, "four batches of 5, 5, 5 and 1"


# Pairing.


@pytest.mark.parametrize("solver", [name for name in QUICK if not get_solver(name).batch_coupled])
def test_batches_change_no_sample(solver: str, tmp_path: Path) -> None:
    whole, cut = (samples_of(cell(solver, batch_size=size), tmp_path) for size in (None, 5))
    assert torch.allclose(whole, cut, rtol=1e-12, atol=1e-12)
    assert whole.std() > 0.1


def test_start_and_path_are_those_of_the_sample_whatever_solver_budget_and_batch(
    tmp_path: Path, on_menu: Callable[[str, Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What solvers are handed: the same x_T, and the same W between two times, in every cell of a seed."""
    seen: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
    real = cells.integrate

    def spy(solver: Solver, process: Any, x: Tensor, ts: Tensor, brownian: Any, last: Any) -> Tensor:
        if current is not None and len(x) != cells.WARM_UP_SAMPLES:
            starts, increments = seen.setdefault(current, ([], []))
            starts.append(x)
            if brownian is not None:
                increments.append(brownian.dw(0.7, 0.3))
        return real(solver, process, x, ts, brownian, last)

    monkeypatch.setattr(cells, "integrate", spy)
    current: Any = None
    for solver in ("euler_maruyama", "ancestral", "torchsde", "euler"):
        for budget in (5, 20):
            for size in (None, 5):
                current = (solver, budget, size)
                compute(cell(solver, budget=budget, batch_size=size), tmp_path)
    problem = Gaussian()
    start, increment = problem.prior(16, 0), problem.brownian(16, 0).dw(0.7, 0.3)
    assert len(seen) == 16
    for key, (starts, increments) in seen.items():
        assert torch.equal(torch.cat(starts), start), key
        if key[0] != "euler":
            assert torch.allclose(torch.cat(increments), increment, rtol=1e-12, atol=1e-12), key
    current = "other seed"
    compute(cell("euler_maruyama", seed=1), tmp_path)
    starts, increments = seen["other seed"]
    assert (torch.cat(starts) - start).abs().max() > 0.1
    assert (torch.cat(increments) - increment).abs().max() > 0.1


def test_seeds_change_the_samples(tmp_path: Path) -> None:
    a, b = (samples_of(cell("euler_maruyama", seed=seed), tmp_path) for seed in (0, 1))
    assert not torch.isclose(a, b).any()


@pytest.mark.parametrize("solver", QUICK)
def test_a_cell_computed_twice_gives_the_same_bits(solver: str, tmp_path: Path) -> None:
    spec = cell(solver, n=40)
    if get_solver(solver).adaptive:
        spec = spec.model_copy(update={"budget": None, "grid": "adaptive"})
    state = torch.random.get_rng_state()
    first, second = (compute(spec, tmp_path / name) for name in "ab")
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is left alone"
    assert first.metrics == second.metrics
    assert any(value.value is not None for value in first.metrics.values())
    a, b = (Store(tmp_path / name).samples(spec) for name in "ab")
    assert a is not None
    assert b is not None
    assert torch.equal(a, b)


# Failures are records.


def test_a_growing_solution_has_diverged_and_the_next_cell_runs(tmp_path: Path, on_menu: Any) -> None:
    on_menu("growing", lambda process, x, t: x * 1e6)
    record = compute(cell("growing"), tmp_path)
    assert record.status == "diverged"
    assert record.reason is not None
    assert "root mean square" in record.reason
    assert record.metrics == {}
    assert record.cost is not None
    assert record.cost.nfe == 0, "counted, not declared"
    assert compute(cell("euler"), tmp_path).status == "done"


def test_one_value_that_is_no_number_is_divergence(tmp_path: Path, on_menu: Any) -> None:
    def step(process: Any, x: Tensor, t: float) -> Tensor:
        x = process.denoised(x, t)
        x[3, 2] = math.nan
        return x

    on_menu("spoilt", step)
    record = compute(cell("spoilt"), tmp_path)
    assert (record.status, record.reason, record.metrics) == ("diverged", "samples are not finite", {})


def test_large_but_bounded_samples_have_not_diverged(tmp_path: Path, on_menu: Any) -> None:
    on_menu("large", lambda process, x, t: torch.linspace(499, 501, len(x), dtype=x.dtype)[:, None].expand_as(x))
    record = compute(cell("large"), tmp_path)
    assert record.status == "done"
    assert record.metrics["w2_gaussian"].value == pytest.approx(500 * 8**0.5, rel=0.01)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("the reason"), "error"),
        (MemoryError("the reason"), "out_of_memory"),
        (torch.OutOfMemoryError("the reason"), "out_of_memory"),
        (DivergenceError("the reason"), "diverged"),
        (AssertionError("the reason"), "error"),
    ],
)
def test_an_exception_is_a_record_with_its_traceback(
    error: Exception, status: str, tmp_path: Path, on_menu: Any
) -> None:
    def step(process: Any, x: Tensor, t: float) -> Tensor:
        raise error

    on_menu("raising", step)
    record = compute(cell("raising"), tmp_path)
    assert (record.status, record.reason) == (status, "the reason")
    assert record.traceback is not None
    assert "in step" in record.traceback
    assert type(error).__name__ in record.traceback
    assert compute(cell("euler"), tmp_path).status == "done"


def test_a_solver_is_not_judged_by_its_warm_up(tmp_path: Path, on_menu: Any) -> None:
    def step(process: Any, x: Tensor, t: float) -> Tensor:
        if len(x) == cells.WARM_UP_SAMPLES:
            raise DivergenceError("two steps are too few")
        return process.denoised(x, t)

    on_menu("careful", step)
    assert compute(cell("careful"), tmp_path).status == "done"


# Idempotence.


def stamp(record: Record, folder: Path) -> int:
    return Store(folder).record_path(record.spec).stat().st_mtime_ns


@pytest.mark.parametrize("budget", [1, 10])
def test_a_settled_cell_is_not_computed_again(budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compute(cell("heun", budget=budget), tmp_path)
    before = stamp(first, tmp_path)
    monkeypatch.setattr(cells.Sampling, "measure", lambda *a: pytest.fail("computed again"))
    assert compute(first.spec, tmp_path) == first
    assert stamp(first, tmp_path) == before


def test_a_diverged_cell_is_settled_and_one_that_raised_is_tried_again(tmp_path: Path, on_menu: Any) -> None:
    def step(process: Any, x: Tensor, t: float) -> Tensor:
        raise error

    on_menu("raising", step)
    error: Exception = RuntimeError("first")
    compute(cell("raising"), tmp_path)
    error = DivergenceError("second")
    assert compute(cell("raising"), tmp_path).reason == "second"
    error = RuntimeError("third")
    assert compute(cell("raising"), tmp_path).reason == "second"


def test_another_checkpoint_is_another_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = {"checkpoint": "old"}
    monkeypatch.setattr(Gaussian, "hashes", property(lambda self: hashes))
    first = compute(cell(), tmp_path)
    assert first.hashes == {"checkpoint": "old"}
    before = stamp(first, tmp_path)
    compute(cell(), tmp_path)
    assert stamp(first, tmp_path) == before
    hashes = {"checkpoint": "new"}
    second = compute(cell(), tmp_path)
    assert second.hashes == {"checkpoint": "new"}
    assert stamp(first, tmp_path) > before


def test_an_edited_plugin_is_another_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_SOLVERS", registry.solver_classes())
    source = (Path(registry.__file__).parent / "methods" / "euler.py").read_text()
    plugin = tmp_path / "my_euler.py"
    values = []
    for factor in ("(s - t)", "0.9 * (s - t)"):
        plugin.write_text(source.replace("(s - t) *", f"{factor} *"))
        registry.load_plugin(plugin)
        values.append(compute(cell("my_euler"), tmp_path / "run").metrics["pathwise_rmse"].value)
    assert values[0] == compute(cell("euler"), tmp_path / "run").metrics["pathwise_rmse"].value
    assert values[0] != values[1]


# Cost and provenance.


def test_times_are_of_the_right_things(tmp_path: Path, on_menu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the network (1 s a call) and the solver (0.25 s a step) move."""
    clock = 0.0

    def tick(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    def slow_score(self: Gaussian, x: Tensor, t: Tensor) -> Tensor:
        tick(1.0)
        return -x

    def step(process: Any, x: Tensor, t: float) -> Tensor:
        tick(0.25)
        return x + 0.01 * process.score(x, t)

    monkeypatch.setattr(cells.environment, "now", lambda device: clock)
    monkeypatch.setattr(Gaussian, "_score", slow_score)
    on_menu("timed", step)
    cost = compute(cell("timed"), tmp_path).cost
    assert cost is not None
    assert cost.seconds == pytest.approx(10 * 1.25)
    assert cost.network_seconds == pytest.approx(10 * 1.0)
    assert cost.overhead_seconds == pytest.approx(10 * 0.25)
    assert cost.overhead_per_evaluation == pytest.approx(0.25)
    assert cost.warm_up_seconds == pytest.approx(2 * 1.25 + 1.0)
    # The law's probes: three times four steps to see that the solver is affine, then twice the row's ten.
    assert cost.metric_seconds == pytest.approx((3 * 4 + 2 * 10) * 1.25)


def test_costs_of_a_real_solve_add_up(tmp_path: Path) -> None:
    cost = compute(cell("euler_maruyama", n=256, budget=50), tmp_path).cost
    assert cost is not None
    assert 0 < cost.seconds < 60
    assert cost.network_seconds > 0
    assert cost.overhead_seconds == pytest.approx(cost.seconds - cost.network_seconds)
    assert cost.overhead_per_evaluation == pytest.approx(cost.overhead_seconds / 50)
    assert min(cost.warm_up_seconds, cost.metric_seconds, cost.load_seconds) >= 0
    assert cost.peak_memory_bytes is None or cost.peak_memory_bytes > 10**7


def test_peak_memory_is_of_the_solve(tmp_path: Path, on_menu: Any) -> None:
    """128 MB that a step takes and gives back are in the peak; those of an earlier cell are not."""

    def hungry(process: Any, x: Tensor, t: float) -> Tensor:
        block = torch.ones(32_000_000)
        return process.denoised(x, t) + 0 * block[0]

    on_menu("hungry", hungry)
    peaks = []
    for spec in (cell("euler"), cell("hungry", budget=2), cell("euler", seed=1)):
        cost = compute(spec, tmp_path).cost
        assert cost is not None
        peaks.append(cost.peak_memory_bytes)
    before, during, after = peaks
    if before is None:
        pytest.skip("this system does not tell")
    assert during is not None
    assert after is not None
    assert during - before > 100e6
    assert after - before < 60e6


def test_a_record_says_where_it_was_made(tmp_path: Path) -> None:
    where = compute(cell(), tmp_path).environment
    assert where.threads == torch.get_num_threads()
    assert (
        where.versions["torch"] == torch.__version__.partition("+")[0] or where.versions["torch"] == torch.__version__
    )
    assert where.device == "cpu"
    assert set(where.trees) <= {"solvers", "pretrained", "bench"}


def test_a_last_step_that_is_asked_for_is_taken_and_counted(tmp_path: Path) -> None:
    """The sampler of Karras et al.: 18 steps, of which the last is an evaluation, in 35."""
    record = compute(cell("edm_heun", budget=35, last="tweedie", grid="edm"), tmp_path)
    assert record.cost is not None
    assert (record.last, record.cost.steps, record.cost.nfe) == ("tweedie", 17, 35)
    problem = Gaussian()
    ts = make_grid("edm", problem.sde, 17)
    expected = integrate(get_solver("edm_heun"), problem.process(), problem.prior(16, 0), ts, None, "tweedie")
    samples = Store(tmp_path).samples(record.spec)
    assert samples is not None
    assert torch.equal(samples, expected)
    kept = compute(cell("edm_heun", budget=35, grid="edm"), tmp_path)
    assert kept.cost is not None
    assert (kept.last, kept.cost.steps, kept.cost.nfe) == ("keep", 17, 34)
    refused = compute(cell("edm_heun", budget=2, last="tweedie"), tmp_path)
    assert (refused.status, refused.reason) == ("skipped", "one step takes 3 evaluations, the budget is 2")


class Meter:
    """NVIDIA's library, as far as it is used: a counter in millijoules that advances by half a joule a look."""

    class NVMLError(Exception):
        pass

    def __init__(self, broken: bool = False) -> None:
        self.looks, self.broken = 0, broken

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken:
            raise self.NVMLError

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert uuid == "GPU-1234"
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        self.looks += 1
        return 500 * self.looks


def test_energy_is_the_difference_of_the_devices_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    monkeypatch.setitem(sys.modules, "pynvml", Meter())
    assert (environment.energy(cuda), environment.energy(cuda)) == (0.5, 1.0)
    assert environment.energy(torch.device("cpu")) is None
    monkeypatch.setitem(sys.modules, "pynvml", Meter(broken=True))
    assert environment.energy(cuda) is None, "a device that does not tell"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert environment.energy(cuda) is None, "no library"


def test_a_records_energy_is_that_of_the_solve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compute(cell(), tmp_path / "none").cost.energy_joules is None
    readings = iter([7.0, 9.5])
    monkeypatch.setattr(environment, "energy", lambda device: next(readings))
    assert compute(cell(), tmp_path / "some").cost.energy_joules == 2.5


def test_short_calls_are_timed_back_to_back_and_long_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that a call moves by its length and a look at it by 1 ms, as waiting for a GPU does."""
    for length, waits in ((0.004, 0.001 / 6), (0.4, 0.001)):
        clock = [0.0]

        def now(device: torch.device, clock: list[float] = clock) -> float:
            clock[0] += 0.001
            return clock[0]

        def call(clock: list[float] = clock, length: float = length) -> None:
            clock[0] += length

        monkeypatch.setattr(environment, "now", now)
        assert bare_seconds(call, torch.device("cpu")) == pytest.approx([length + waits] * 2)
