"""Adaptive solvers: evaluations and seconds to a given error, per-sample step control against whole-batch control.

Each solver is swept over tolerances (rtol = atol) on the probability flow of ``mixture_2d`` and of ``digits``, from the
same starts. The error is the root mean square over samples and coordinates against a converged solve; evaluations are
counted rows a sample. What an error costs is read off the frontier of a solver's points (the fewest evaluations, or
seconds, at which no larger error was had), log–log linear between them.
"""

import copy
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from bench.performance.overhead import lines_of, one_thread
from bench.problems.problem import Problem, get_problem
from solvers.errors import DivergenceError
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.solver import integrate

SEED = 0
# Samples, and tolerances from 1 down, three a decade.
SAMPLES = {"mixture_2d": 256, "digits": 32}
FINEST = {"mixture_2d": 1e-6, "digits": 2e-5}
# Errors that the table shows, units of x.
ERRORS = {"mixture_2d": (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5), "digits": (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)}
# Solves a tolerance, for the seconds.
REPEATS = 1
# Sweeps end where a solve takes this many evaluations a sample: there is nothing left to compare with.
MOST_EVALUATIONS = 150
CONVERGED = 1e-8


class Entry(NamedTuple):
    """A solver of the comparison."""

    name: str
    key: str
    settings: dict[str, Any]
    control: str


WHOLE, SAMPLE = "whole batch", "per sample"
ENTRIES = (
    Entry("torchdiffeq dopri5", "torchdiffeq", {"method": "dopri5"}, WHOLE),
    Entry("scipy RK45", "scipy_rk45", {}, WHOLE),
    Entry("rk45", "rk45", {}, SAMPLE),
    Entry("rk45 bogacki_shampine", "rk45", {"pair": "bogacki_shampine"}, SAMPLE),
    Entry("rk45 tsitouras", "rk45", {"pair": "tsitouras"}, SAMPLE),
    Entry("rk45 in time, PID", "rk45", {"variable": "time", "controller": "PID"}, SAMPLE),
    Entry("dpm_adaptive", "dpm_adaptive", {}, SAMPLE),
    Entry("exponential_rk", "exponential_rk", {}, SAMPLE),
)
# The one that the targets are about.
RECOMMENDED = "rk45"


def converged(problem: Problem, x: Tensor) -> Tensor:
    """The flow's image of the starts: SciPy's DOP853 in double precision, the network too, at a tolerance of 1e-8."""
    process = problem.process()
    network = process.network
    if isinstance(network, torch.nn.Module):
        network = copy.deepcopy(network).double()
    process = ReverseProcess(problem.sde, network, process.parametrisation)

    def velocity(t: float, flat: Any) -> Any:
        with torch.no_grad():
            return process.velocity(torch.from_numpy(flat).reshape(x.shape), float(t)).numpy().ravel()

    times = problem.sde.t_max, problem.sde.t_min
    start = x.double().numpy().ravel()
    solution = solve_ivp(velocity, times, start, method="DOP853", rtol=CONVERGED, atol=CONVERGED, t_eval=times[1:])
    return torch.from_numpy(solution.y[:, -1].copy()).reshape(x.shape)


def _ends(problem: Problem) -> Tensor:
    return torch.tensor([problem.sde.t_max, problem.sde.t_min], dtype=torch.float64)


def measure(name: str, repeats: int = REPEATS) -> pd.DataFrame:
    """A row a solver and tolerance: evaluations a sample (mean, most), error, seconds (the median of ``repeats``)."""
    problem = get_problem(name)
    n = SAMPLES[name]
    x, ts = problem.prior(n, SEED), _ends(problem)
    with one_thread():
        end = converged(problem, x)
        tolerances = [10 ** (-k / 3) for k in range(30) if 10 ** (-k / 3) > 0.9 * FINEST[name]]
        rows: dict[tuple[str, float], dict[str, Any]] = {}
        seconds: dict[tuple[str, float], list[float]] = {}
        for _ in range(repeats):
            stopped = set()
            for tolerance in tolerances:
                for entry in ENTRIES:
                    if entry.name in stopped:
                        continue
                    solver = get_solver(entry.key, **entry.settings, rtol=tolerance, atol=tolerance)
                    process = problem.process()
                    began = time.perf_counter()
                    try:
                        samples = integrate(solver, process, x, ts)
                    except DivergenceError:
                        continue
                    place = entry.name, tolerance
                    seconds.setdefault(place, []).append(time.perf_counter() - began)
                    error = float((samples.double() - end).square().mean().sqrt())
                    rows[place] = {
                        "evaluations": process.evaluations.rows / n,
                        "most": process.evaluations.most,
                        "error": error,
                    }
                    if process.evaluations.rows > MOST_EVALUATIONS * n:
                        stopped.add(entry.name)
    control = {entry.name: entry.control for entry in ENTRIES}
    return pd.DataFrame(
        {
            "problem": name,
            "solver": solver_name,
            "control": control[solver_name],
            "tolerance": tolerance,
            **row,
            "seconds": statistics.median(seconds[solver_name, tolerance]),
        }
        for (solver_name, tolerance), row in rows.items()
    )


def cost_of(points: pd.DataFrame, error: float, cost: str) -> float:
    """What an error costs a solver: ``evaluations`` or ``seconds``; NaN where it was not reached."""
    frontier: list[tuple[float, float]] = []
    for spent, got in points.sort_values(cost)[[cost, "error"]].itertuples(index=False):
        if not frontier or got < frontier[-1][1]:
            frontier.append((spent, got))
    spent, got = np.log(np.array(frontier)).T
    if np.log(error) < got[-1]:
        return float("nan")
    return float(np.exp(np.interp(-np.log(error), -got, spent)))


def costs(points: pd.DataFrame) -> pd.DataFrame:
    """A row a problem, solver and error: evaluations, seconds, and evaluations over the better of the peers'."""
    rows = []
    for problem, part in points.groupby("problem", sort=False):
        for error in ERRORS[str(problem)]:
            lines = {
                str(name): [cost_of(line, error, cost) for cost in ("evaluations", "seconds")]
                for name, line in part.groupby("solver", sort=False)
            }
            best = np.nanmin([lines[entry.name][0] for entry in ENTRIES if entry.control == WHOLE])
            rows += [(problem, name, error, *line, line[0] / best) for name, line in lines.items()]
    return pd.DataFrame(rows, columns=["problem", "solver", "error", "evaluations", "seconds", "ratio"])


def targets(costs: pd.DataFrame) -> pd.DataFrame:
    """A row a target and problem for the recommended solver: the ratios that meet it, and those that do not."""
    ours, rows = costs[costs.solver == RECOMMENDED], []
    for problem, part in ours.groupby("problem", sort=False):
        missed = [f"{row.error:g}: {row.ratio:.2f}" for row in lines_of(part) if not row.ratio <= 1.0]
        met = f"{len(part) - len(missed)} of {len(part)} errors"
        text = f"{problem}: {RECOMMENDED} never more evaluations than whole-batch control"
        rows.append((text, met, ", ".join(missed) or None))
    best = min(lines_of(ours.dropna()), key=lambda row: float(row.ratio))
    text = f"{best.problem}, {best.error:g}: {best.ratio:.2f}"
    half = (text, None) if best.ratio <= 0.5 else (None, text)
    rows.append((f"{RECOMMENDED}: half as many somewhere", *half))
    return pd.DataFrame(rows, columns=["target", "met", "missed"])


def write_figure(points: pd.DataFrame, path: Path) -> None:
    """Error against evaluations, a panel a problem; whole-batch control dashed."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    import seaborn as sns

    mpl.use("Agg")
    sns.set_theme(style="whitegrid", context="paper")
    grid = sns.relplot(
        points.sort_values("tolerance"),
        x="evaluations",
        y="error",
        hue="solver",
        style="control",
        col="problem",
        kind="line",
        sort=False,
        markers=True,
        facet_kws={"sharey": False},
        height=4,
        aspect=1.15,
        estimator=None,
    )
    grid.set(xscale="log", yscale="log", xlabel="network evaluations a sample (counted)")
    grid.set_ylabels("RMS error of the flow [units of x]")
    grid.set_titles("{col_name}")
    for axis in grid.axes.flat:
        axis.set_xticks([10, 20, 50, 100, 200, 400], ["10", "20", "50", "100", "200", "400"])
        axis.minorticks_off()
    for suffix in (".png", ".svg"):
        with mpl.rc_context({"svg.hashsalt": "scorebench"}):
            metadata = {"Date": None} if suffix == ".svg" else None
            grid.figure.savefig(path.with_suffix(suffix), dpi=150, metadata=metadata)
    plt.close(grid.figure)
