"""``scorebench likelihood``: bits/dim of a checkpoint's data by one solver, errors apart."""

from pathlib import Path
from typing import Any, cast

import torch

from bench.dequantisation import UNIFORM, dequantiser_of
from bench.image_model import CheckpointModel
from bench.likelihood import MOST_IMAGES, Plan, converged, grid_upwards, image_likelihood
from bench.metrics import bits_per_dim
from bench.metrics.metric import get_metric
from solvers.divergence import Law
from solvers.errors import UsageError
from solvers.registry import parse_solver
from solvers.solver import FixedStepSolver

METRICS = (
    "bits_per_dim",
    "bits_per_dim_error",
    "bits_probe_error",
    "bits_dequantisation_error",
    "bits_prior_mismatch",
    "bits_smoothing",
    "bits_bound",
)


def bits_of(
    checkpoint: str,
    split: str,
    solver: str,
    nfe: int,
    grid: str,
    size: tuple[int | None, int, int, int, int],
    law: str,
    seed: int,
    device: torch.device,
    folder: Path | None = None,
    dequantisation: str = UNIFORM,
) -> dict[str, dict[str, Any]]:
    """Every metric of a likelihood solve, what its solver error is told from, and what it cost.

    Each has ``label | value | error | unit | reason``.

    Args:
        checkpoint: its name.
        split: of its data.
        solver: an ODE solver as :func:`parse_solver` reads it; an adaptive one's tolerances are settings.
        nfe: evaluations a dequantised image, for fixed steps.
        grid: likewise.
        size: images (None: all, at most 1000), draws, probes, directions of Hutch++ (0: Hutchinson), images at once.
        law: of the probes.
        seed: of dequantisation and probes.
        device: where it is solved.
        folder: of a checkpoint trained here.
        dequantisation: see :func:`bench.dequantisation.dequantiser_of`.

    Raises:
        UsageError: an unknown name or law, a dequantiser of other images,
            a stochastic solver, too small a budget, or fewer images than asked for.
    """
    chosen = parse_solver(solver)
    model = CheckpointModel(checkpoint, split, device, folder)
    n, draws, probes, sketch, batch = size
    flow = dequantiser_of(dequantisation, model, folder)
    plan = Plan(n or min(model.size, MOST_IMAGES), draws, probes, sketch, cast(Law, law), seed, batch, flow)
    steps = chosen.steps_for(nfe) if isinstance(chosen, FixedStepSolver) else None
    solve = image_likelihood(model, chosen, grid_upwards(grid if steps else "uniform", model.sde, steps or 1), plan)
    if not bool(solve.bits.isfinite().all()):
        raise UsageError("likelihood", "the solve has to stay finite", solver, "Raise --nfe or take another solver")
    beside = converged(model, plan)
    values: dict[str, dict[str, Any]] = {}
    for name in METRICS:
        metric = get_metric(name)
        assert isinstance(metric, bits_per_dim.BitsMetric)
        found = metric.of(solve.bits, beside)
        values[name] = {"label": metric.label, "value": found.value, "error": found.standard_error}
        values[name] |= {"unit": metric.unit, "reason": found.reason}
    beside_solve = {
        "resolution": ("resolution of the solver error", beside.resolution, "bits per dimension"),
        "nfe": ("evaluations", solve.nfe, "a dequantised image"),
        "derivative_passes": ("derivative passes", solve.derivative_passes, "a dequantised image"),
        "seconds": ("time of the solve", solve.seconds, "seconds"),
    }
    for name, (label, value, unit) in beside_solve.items():
        values[name] = {"label": label, "value": value, "error": None, "unit": unit, "reason": None}
    return values
