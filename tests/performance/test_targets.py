"""The targets of speed and memory: one measurement, asserted. The machine's own speed is taken from a bare loop."""

import pandas as pd
import pytest

from bench.performance import adaptive, memory, overhead
from solvers.registry import get_solver
from solvers.solver import FixedStepSolver

pytest.importorskip("diffusers")

# torchsde's loop is its own; the adapter only feeds it.
FOREIGN = {"torchsde"}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return overhead.summarise(overhead.measure(rounds=15))


def within(table: pd.DataFrame, kind: str, stochastic: bool, target: float) -> dict[str, float]:
    """Solvers above a target, by the first quartile: what else runs on the machine only ever adds."""
    slow = table[(table.kind == "loop") & (table.solver == "ddim")].low.item() / overhead.LOOP_MICROSECONDS
    rows = table[(table.kind == kind) & ~table.solver.isin(FOREIGN)]
    chosen = {row.solver: row.low for row in rows.itertuples() if get_solver(row.solver).stochastic == stochastic}
    assert chosen
    return {name: value for name, value in chosen.items() if value > target * max(1.0, slow)}


def test_ode_solvers_take_at_most_20_microseconds_an_evaluation(table: pd.DataFrame) -> None:
    assert not within(table, "again", False, overhead.ODE_TARGET)


def test_stochastic_solvers_take_at_most_40_on_recorded_normals(table: pd.DataFrame) -> None:
    assert not within(table, "again", True, overhead.STOCHASTIC_TARGET)


def test_the_noise_takes_at_most_100(table: pd.DataFrame) -> None:
    assert not within(table, "noise", True, overhead.NOISE_TARGET)


def test_every_shared_method_is_5_times_below_diffusers(table: pd.DataFrame) -> None:
    ours = table[table.kind == "again"].set_index("solver").low
    theirs = table[table.kind == "diffusers"]
    rows = theirs[["solver", "name", "low"]].itertuples(index=False, name=None)
    ratios = {(solver, name): low / ours[solver] for solver, name, low in rows}
    assert not {pair: ratio for pair, ratio in ratios.items() if ratio < overhead.RATIO_TARGET}


@pytest.fixture(scope="module")
def costs() -> pd.DataFrame:
    points = pd.concat([adaptive.measure(name, repeats=1) for name in adaptive.SAMPLES], ignore_index=True)
    return adaptive.costs(points)


def test_per_sample_control_never_takes_more_evaluations_than_whole_batch(costs: pd.DataFrame) -> None:
    ours = costs[costs.solver == adaptive.RECOMMENDED]
    assert not ours.ratio.isna().any()
    assert (ours.ratio <= 1.0).all(), ours


def test_per_sample_control_takes_half_as_many_on_one_problem(costs: pd.DataFrame) -> None:
    assert (costs[costs.solver == adaptive.RECOMMENDED].ratio <= 0.5).any()


@pytest.mark.parametrize("key", memory.SOLVERS)
def test_memory_does_not_grow_with_the_number_of_steps(key: str) -> None:
    solver = get_solver(key)
    assert isinstance(solver, FixedStepSolver)
    few, many = (memory.peak_bytes(solver, nfe) for nfe in memory.BUDGETS)
    assert many <= few
