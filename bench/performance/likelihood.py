"""Likelihood beside the reference's procedure: seconds and passes to an error in bits/dim, and memory against steps.

The procedure of Song et al.: SciPy's RK45 on the pair of state and log-determinant at rtol = atol = 1e-5, the batch one
vector with one step size, and in every evaluation two calls of the network, one for the drift and one, differentiated
in reverse mode, for the divergence. It is written here from the paper and its appendix. Both sides take the same
images, dequantisation and probe; the error is the mean over the images of |bits/dim - converged|, the converged solve
in double precision, the network too, at 1e-8.

Reference: Song et al. 2021, arXiv:2011.13456, sec. 4.3 and app. D.2.
"""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from bench.image_model import CheckpointModel
from bench.likelihood import Plan, dequantised, grid_upwards, image_probes
from bench.performance.memory import LiveTensors
from bench.performance.overhead import one_thread
from pretrained.card import load_card
from solvers.divergence import Hutchinson
from solvers.likelihood import bits_per_dim, log_density
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.solver import FixedStepSolver, Solver

# Problem, its checkpoint and the images that are solved.
CHECKPOINTS = {"digits": ("digits-vp", 16), "fashion": ("fashion-edm", 3)}
REPEATS = 3
# The error that both sides have to keep, bits/dim, and what ours may take of the reference's time.
ERROR = 1e-3
RATIO = 0.5
CONVERGED = 1e-8
REFERENCE = "reference procedure, 1e-05"
TOLERANCES = (1e-5, 1e-4, 1e-3)
BUDGETS = (40, 50, 60, 80)
# Budgets between which the memory must not grow.
MEMORY_BUDGETS = (10, 200)


class Case(NamedTuple):
    """Images of a model in state space, and the probe of each."""

    model: CheckpointModel
    x: Tensor
    probes: Tensor

    def bits(self, log_p: Tensor) -> Tensor:
        """Bits/dim of log-densities in nats."""
        return bits_per_dim(log_p.double(), self.x[0].numel(), self.model.levels, self.model.scale)


class Result(NamedTuple):
    """Bits/dim of each image, calls of the network and derivative passes."""

    bits: Tensor
    calls: int
    derivative_passes: int


def trained() -> list[str]:
    """The problems in :data:`CHECKPOINTS` whose networks are trained."""
    return [name for name, (checkpoint, _) in CHECKPOINTS.items() if load_card(checkpoint).result is not None]


def case_of(name: str) -> Case:
    """The case of a problem in :data:`CHECKPOINTS`."""
    checkpoint, n = CHECKPOINTS[name]
    model, plan = CheckpointModel(checkpoint, "test"), Plan(n, draws=1, probes=1)
    return Case(model, dequantised(model, plan, 0), image_probes(model, plan, 0, 0, n))


def reference_procedure(case: Case, tolerance: float) -> Result:
    """Bits/dim by the procedure of Song et al.; see the module's text."""
    sde, n, shape = case.model.sde, len(case.x), case.x.shape
    process, v = case.model.process(), case.probes[0]
    size = case.x.numel()
    passes = 0

    def derivative(t: float, flat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        nonlocal passes
        x = torch.from_numpy(flat[:size]).reshape(shape).to(case.x.dtype)
        with torch.no_grad():
            drift = process.velocity(x, float(t))
        with torch.enable_grad():
            x.requires_grad_()
            product = torch.autograd.grad((process.velocity(x, float(t)) * v).sum(), x)[0]
        passes += 1
        divergence = (product * v).flatten(1).sum(1)
        return np.concatenate([drift.double().numpy().ravel(), divergence.double().numpy()])

    start = np.concatenate([case.x.double().numpy().ravel(), np.zeros(n)])
    times = sde.t_min_likelihood, sde.t_max
    solution = solve_ivp(derivative, times, start, method="RK45", rtol=tolerance, atol=tolerance, t_eval=times[1:])
    end = torch.from_numpy(solution.y[:, -1].copy())
    log_p = sde.prior_log_prob(end[:size].reshape(shape)) + end[size:]
    return Result(case.bits(log_p), process.evaluations.calls, passes)


def ours(case: Case, key: str, nfe: int | None = None, **settings: Any) -> Result:
    """Bits/dim by a solver of the registry, fixed steps on the log-SNR grid."""
    solver = get_solver(key, **settings)
    steps = solver.steps_for(nfe) if isinstance(solver, FixedStepSolver) and nfe else 1
    return _solved(case, solver, grid_upwards("log_snr", case.model.sde, steps))


def _solved(case: Case, solver: Solver, ts: Tensor) -> Result:
    process = case.model.process()
    found = log_density(solver, process, case.x, ts, Hutchinson(case.probes))
    return Result(case.bits(found.log_p), process.evaluations.calls, process.evaluations.derivative_passes)


def converged(case: Case) -> Tensor:
    """Bits/dim in double precision at 1e-8 by the pair of orders 8(5, 3), a step size for each image."""
    process = case.model.process()
    assert isinstance(process.network, torch.nn.Module)
    process = ReverseProcess(process.sde, copy.deepcopy(process.network).double(), process.parametrisation)
    solver = get_solver("rk45", pair="dormand_prince_853", rtol=CONVERGED, atol=CONVERGED)
    ts = grid_upwards("log_snr", process.sde, 1)
    return case.bits(log_density(solver, process, case.x.double(), ts, Hutchinson(case.probes.double())).log_p)


def procedures(case: Case) -> dict[str, Callable[[], Result]]:
    """What is timed, by name."""
    found: dict[str, Callable[[], Result]] = {}
    for tolerance in TOLERANCES:
        found[f"reference procedure, {tolerance:g}"] = lambda t=tolerance: reference_procedure(case, t)  # type: ignore[misc]
    for nfe in BUDGETS:
        found[f"dpmpp_3m, NFE {nfe}"] = lambda nfe=nfe: ours(case, "dpmpp_3m", nfe)  # type: ignore[misc]
    for tolerance in TOLERANCES:
        found[f"rk45, {tolerance:g}"] = lambda t=tolerance: ours(case, "rk45", rtol=t, atol=t)  # type: ignore[misc]
    return found


def measure(name: str = "digits", repeats: int = REPEATS) -> pd.DataFrame:
    """A row a procedure: error, calls, derivative passes, median seconds of interleaved repeats, and the ratio."""
    with one_thread():
        case = case_of(name)
        exact = converged(case)
        timed = procedures(case)
        results: dict[str, Result] = {}
        seconds: dict[str, list[float]] = {key: [] for key in timed}
        for _ in range(repeats):
            for key, solve in timed.items():
                began = time.perf_counter()
                results[key] = solve()
                seconds[key].append(time.perf_counter() - began)
    base = statistics.median(seconds[REFERENCE])
    return pd.DataFrame(
        {
            "problem": name,
            "procedure": key,
            "error": float((result.bits - exact).abs().mean()),
            "calls": result.calls,
            "derivative_passes": result.derivative_passes,
            "seconds": statistics.median(seconds[key]),
            "ratio": statistics.median(seconds[key]) / base,
        }
        for key, result in results.items()
    )


def best(table: pd.DataFrame, reference: bool = False) -> pd.Series | None:
    """The fastest of ours, or of the reference's tolerances, that keeps the error; None where none does."""
    within = table[(table.procedure.str.startswith("reference") == reference) & (table.error <= ERROR)]
    return None if within.empty else within.sort_values("seconds").iloc[0]


def targets(table: pd.DataFrame) -> pd.DataFrame:
    """A row a problem: the fastest of ours within the error, beside the reference at 1e-5 and beside its fastest."""
    rows = []
    for problem, part in table.groupby("problem", sort=False):
        chosen, rival = best(part), best(part, reference=True)
        if chosen is None:
            rows.append((problem, "none within the error", part.error.min(), None, "missed", None))
            continue
        met = "met" if chosen.ratio <= RATIO else "missed"
        beside = None if rival is None else chosen.seconds / rival.seconds
        rows.append((problem, chosen.procedure, chosen.error, chosen.ratio, met, beside))
    heads = [
        "problem",
        "ours",
        "error",
        "of the reference's time",
        f"at most {RATIO}",
        "of its fastest within the error",
    ]
    return pd.DataFrame(rows, columns=heads)


def peak_bytes(name: str, nfe: int) -> int:
    """Bytes that tensors hold at the peak of a likelihood of fixed steps, images, probes and grid left out."""
    case, solver, live = case_of(name), get_solver("dpmpp_3m"), LiveTensors()
    assert isinstance(solver, FixedStepSolver)
    ts = grid_upwards("log_snr", case.model.sde, solver.steps_for(nfe))
    with one_thread(), live:
        _solved(case, solver, ts)
    return live.peak


def memory(name: str = "digits") -> pd.DataFrame:
    """Peak bytes at each of :data:`MEMORY_BUDGETS`."""
    return pd.DataFrame([{"problem": name} | {f"nfe_{nfe}": peak_bytes(name, nfe) for nfe in MEMORY_BUDGETS}])
