"""Overhead per evaluation = (wall - nfe * bare network) / nfe, on a network that costs almost nothing.

256 samples of 2 coordinates, single precision, one thread, 50 steps a solve. In one run, in interleaved rounds of
shuffled order: every fixed-step solver, the same method in diffusers, hand-written loops. Each has a grid of its own in
each round: ``first`` computes its coefficients, ``again`` is a second solve on the same grid. Stochastic solvers
take pre-drawn normals; what a BrownianPath costs in their place is a column of its own.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.performance import peers
from bench.performance.loops import LOOPS
from solvers.brownian import Brownian, BrownianPath, Tape, announce
from solvers.grids import make_grid
from solvers.normals import Normals
from solvers.process import Network, ReverseProcess
from solvers.registry import get_solver, solver_classes
from solvers.sde import VP
from solvers.solver import FixedStepSolver, integrate

SHAPE = (256, 2)
STEPS = 50
ROUNDS = 12
SEED = 0
# Draws recorded for the solver that takes most, and calls of the bare network timed at a time.
DRAWS = 6 * STEPS
BARE_CALLS = 200

# Microseconds per evaluation: ODE solvers, stochastic ones on recorded normals, the noise; times below diffusers.
ODE_TARGET, STOCHASTIC_TARGET, NOISE_TARGET, RATIO_TARGET = 20.0, 40.0, 100.0, 5.0
# What the hand-written ddim loop takes on the machine of the targets.
LOOP_MICROSECONDS = 6.0

Timing = tuple[float, int]
"""Seconds of a solve, its evaluations."""


def network(x: Tensor, t: Tensor) -> Tensor:
    """The noise of unit normal data at high noise: a copy."""
    return x.clone()


class Stopwatch:
    """A source of randomness that adds up the seconds spent in it."""

    def __init__(self, source: Brownian) -> None:
        self._source = source
        self.seconds = 0.0

    def dw(self, t: Any, s: Any) -> Tensor:
        """The source's."""
        began = time.perf_counter()
        value = self._source.dw(t, s)
        self.seconds += time.perf_counter() - began
        return value

    def follow(self, times: Sequence[float]) -> None:
        """Announced to the source."""
        announce(self._source, times)

    def normal(self, stream: str) -> Tensor:
        """The source's."""
        began = time.perf_counter()
        value = self._source.normal(stream)
        self.seconds += time.perf_counter() - began
        return value


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bare_seconds(network: Network, x: Tensor) -> float:
    """Seconds of one call of the network."""
    t = x.new_ones(len(x))
    with torch.no_grad():
        began = time.perf_counter()
        for _ in range(BARE_CALLS):
            network(x, t)
        return (time.perf_counter() - began) / BARE_CALLS


def measure(rounds: int = ROUNDS) -> pd.DataFrame:
    """A row a case and round: kind (first | again | noise | diffusers | loop), solver, name, microseconds."""
    sde = VP()
    x = Normals(SEED, SHAPE).normal("start")
    draws = torch.randn((DRAWS, *SHAPE), generator=torch.Generator().manual_seed(SEED))
    solvers = {name: get_solver(name) for name, cls in solver_classes().items() if issubclass(cls, FixedStepSolver)}
    built = [peers.scheduler(peer) for peer in peers.PEERS]
    ts = make_grid("log_snr", sde, STEPS)

    def ours(name: str, brownian: Brownian | None) -> Timing:
        process = ReverseProcess(sde, network, "noise")
        began = time.perf_counter()
        integrate(solvers[name], process, x, ts, brownian)
        return time.perf_counter() - began, process.evaluations.calls

    def recorded(name: str) -> Timing:
        return ours(name, Tape(draws) if solvers[name].stochastic else None)

    def noise(name: str) -> Timing:
        watch = Stopwatch(BrownianPath(Normals(SEED, SHAPE), sde.t_max))
        _, count = ours(name, watch)
        return watch.seconds, count

    def theirs(scheduler: Any) -> Timing:
        began = time.perf_counter()
        _, count = peers.sample(scheduler, network, x, STEPS)
        return time.perf_counter() - began, count

    def loop(name: str) -> Timing:
        run = LOOPS[name](sde, ts.tolist())
        with torch.no_grad():
            began = time.perf_counter()
            run(network, x, draws)
            return time.perf_counter() - began, STEPS

    cases: list[tuple[str, str, str, Callable[[], Timing]]] = []
    for name, solver in solvers.items():
        cases.append(("first", name, name, partial(recorded, name)))
        if solver.stochastic:
            cases.append(("noise", name, name, partial(noise, name)))
    for peer, scheduler in zip(peers.PEERS, built, strict=True):
        cases.append(("diffusers", peer.solver, peer.scheduler, partial(theirs, scheduler)))
    cases += [("loop", name, name, partial(loop, name)) for name in LOOPS]

    rows, shuffle = [], random.Random(SEED)
    with one_thread():
        for k in range(-1, rounds):
            shuffle.shuffle(cases)
            bare = bare_seconds(network, x)
            for place, (kind, solver_name, text, run) in enumerate(cases):
                ts = make_grid("log_snr", sde, STEPS, end=sde.t_min * (1 + 1e-3 * (k + 1 + place / len(cases))))
                timings = {kind: run()}
                if kind == "first":
                    timings["again"] = run()
                if k < 0:
                    continue  # warm-up
                for label, (seconds, count) in timings.items():
                    own = 0.0 if label == "noise" else bare
                    rows.append((label, solver_name, text, k, count, 1e6 * (seconds / count - own), 1e6 * bare))
    columns = ["kind", "solver", "name", "round", "evaluations", "microseconds", "bare_network"]
    return pd.DataFrame(rows, columns=columns)


def summarise(rounds: pd.DataFrame) -> pd.DataFrame:
    """Median and quartiles over the rounds, a row a case."""
    groups = rounds.groupby(["kind", "solver", "name", "evaluations"]).microseconds
    table = groups.quantile(np.array([0.25, 0.5, 0.75])).unstack()
    table.columns = pd.Index(["low", "median", "high"])
    return table.reset_index()


def lines_of(table: pd.DataFrame) -> list[Any]:
    """The rows, their columns as attributes."""
    return list(table.itertuples())


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A row a solver and peer: the columns of the Markdown table."""
    known = {(row.kind, row.solver): row for row in lines_of(table[table.kind != "diffusers"])}

    def text(kind: str, name: str) -> str | None:
        row = known.get((kind, name))
        return None if row is None else f"{row.median:.1f} [{row.low:.1f}, {row.high:.1f}]"

    rows = []
    kinds = {
        "first solve on a grid": "first",
        "repeated solve": "again",
        "BrownianPath": "noise",
        "hand-written": "loop",
    }
    for name in sorted(table[table.kind == "first"].solver):
        theirs = table[(table.kind == "diffusers") & (table.solver == name)]
        lines = lines_of(theirs) or [None]
        for line in lines:
            peer = None if line is None else f"{line.name} {line.median:.0f} [{line.low:.0f}, {line.high:.0f}]"
            times = {
                f"times, {label}": None if line is None else f"{line.median / known[kind, name].median:.1f}"
                for label, kind in (("first", "first"), ("repeated", "again"))
            }
            rows.append(
                {"solver": name}
                | {heading: text(kind, name) for heading, kind in kinds.items()}
                | {"diffusers": peer}
                | times
            )
    return pd.DataFrame(rows)


def targets(table: pd.DataFrame) -> pd.DataFrame:
    """A row a target: how many cases meet it by their median, and those that miss it with their figures."""
    known = {(row.kind, row.solver): row.median for row in lines_of(table[table.kind != "diffusers"])}
    shared = [(row.solver, row.name, row.median) for row in lines_of(table[table.kind == "diffusers"])]
    stochastic = {name: solver_classes()[name]().stochastic for _, name in known}
    of_kind = {
        kind: {name: value for (other, name), value in known.items() if other == kind}
        for kind in ("first", "again", "noise")
    }

    def at_most(most: float) -> Callable[[float], bool]:
        return lambda value: value <= most

    rows = []
    for label, kind in (("first solve on a grid", "first"), ("repeated solve", "again")):
        for text, noisy, most in (("ODE", False, ODE_TARGET), ("stochastic", True, STOCHASTIC_TARGET)):
            found = {name: value for name, value in of_kind[kind].items() if stochastic[name] == noisy}
            rows.append(_target(f"{text}, {label}: at most {most:.0f}", found, at_most(most)))
    rows.append(_target(f"noise: at most {NOISE_TARGET:.0f}", of_kind["noise"], at_most(NOISE_TARGET)))
    for label, kind in (("first solve on a grid", "first"), ("repeated solve", "again")):
        ratios = {f"{name} ({peer})": value / known[kind, name] for name, peer, value in shared}
        text = f"{label}: {RATIO_TARGET:.0f} times below diffusers"
        rows.append(_target(text, ratios, lambda value: value >= RATIO_TARGET))
    return pd.DataFrame(rows, columns=["target", "met", "missed"])


def _target(text: str, found: dict[str, float], met: Callable[[float], bool]) -> tuple[str, str, str | None]:
    missed = [f"{name} {value:.1f}" for name, value in found.items() if not met(value)]
    return text, f"{len(found) - len(missed)} of {len(found)}", ", ".join(missed) or None
