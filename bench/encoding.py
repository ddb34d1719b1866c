"""Encodings: the states at t_max that the probability flow carries images to, back again, and between two of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.image_model import ImageModel
from bench.likelihood import grid_upwards
from pretrained.data import quantise
from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.registry import parse_solver
from solvers.solver import FixedStepSolver, Solver, integrate


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """Images up to t_max and down again by one solver, as many evaluations each way.

    Attributes:
        end: encodings, states at t_max, (n, ...).
        back: reconstructions, states at t_min_likelihood, (n, ...).
        nfe: evaluations an image, there and back.
        rmse: root mean square of back - x over all coordinates, units of x.
        wrong: fraction of pixels whose level is another one.
    """

    end: Tensor
    back: Tensor
    nfe: float
    rmse: float
    wrong: float


def encode(solver: Solver, process: ReverseProcess, x: Tensor, ts: Tensor) -> Tensor:
    """States at ts[-1] that the flow carries data to, shape of x.

    Args:
        solver: an ODE solver.
        process: network and SDE.
        x: data (n, ...), taken as states at ts[0].
        ts: increasing grid.

    Raises:
        UsageError: the solver is stochastic, or the grid decreases.
    """
    if solver.stochastic:
        raise UsageError("encode", "an encoding needs an ODE solver", solver.key, "Take e.g. 'heun'")
    if ts[0] > ts[-1]:
        raise UsageError("encode", "the grid runs from t_min up to t_max", ts.tolist(), "Reverse it")
    return integrate(solver, process, x, ts)


def round_trip(model: ImageModel, solver: Solver, x: Tensor, nfe: int, grid: str = "log_snr") -> RoundTrip:
    """Encode and decode images.

    Args:
        model: score model and data.
        solver: an ODE solver; one of fixed steps takes the most within ``nfe`` evaluations each way.
        x: dequantised images (n, ...).
        nfe: see above.
        grid: of fixed steps.
    """
    steps = solver.steps_for(nfe) if isinstance(solver, FixedStepSolver) else None
    ts = grid_upwards(grid if steps else "uniform", model.sde, steps or 1)
    process = model.process()
    end = encode(solver, process, x, ts)
    back = integrate(solver, process, end, ts.flip(0))
    levels = [quantise((state - model.offset) / model.scale, model.levels) for state in (x, back)]
    return RoundTrip(
        end=end,
        back=back,
        nfe=process.evaluations.rows / len(x),
        rmse=float((back - x).double().square().mean().sqrt()),
        wrong=float((levels[0] != levels[1]).double().mean()),
    )


def interpolation(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """States between two encodings along the great circle, each (n, ...): shape (len(weights), n, ...).

    sin((1 - w) angle)/sin(angle) a + sin(w angle)/sin(angle) b keeps to the shell that the prior's draws lie on, where
    a straight line would pass through its middle. Where a and b point the same way it is the straight line.

    Reference: Shoemake 1985, Animating rotation with quaternion curves, SIGGRAPH.

    Args:
        a: at w = 0.
        b: at w = 1.
        weights: w, (k,), in [0, 1].
    """
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b, 1).clamp(-1, 1)
    shape = (len(weights), len(a), *(1,) * (a.ndim - 1))
    w = weights.to(a)[:, None].expand(len(weights), len(a))
    angle = cosine.acos().expand_as(w)
    parallel = angle.sin() < 1e-4
    by_a = torch.where(parallel, 1 - w, ((1 - w) * angle).sin() / angle.sin())
    by_b = torch.where(parallel, w, (w * angle).sin() / angle.sin())
    return by_a.view(shape) * a + by_b.view(shape) * b


def reconstruction_errors(
    model: ImageModel, x: Tensor, solvers: Sequence[str], budgets: Sequence[int]
) -> list[tuple[str, float, float, float]]:
    """Rows (solver, evaluations there and back, rmse, fraction of wrong levels); solvers as ``parse_solver`` reads."""
    rows = []
    for name in solvers:
        solver = parse_solver(name)
        for budget in budgets if isinstance(solver, FixedStepSolver) else budgets[:1]:
            trip = round_trip(model, solver, x, budget)
            rows.append((name, trip.nfe, trip.rmse, trip.wrong))
    return rows
