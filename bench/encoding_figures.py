"""``scorebench encode``: figures of encodings, of the round trip and of interpolations, and the round trip's table."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bench.encoding import RoundTrip, interpolation, reconstruction_errors, round_trip
from bench.image_model import ImageModel
from bench.likelihood import Plan, dequantised, grid_upwards
from bench.tables import markdown_table
from solvers.registry import parse_solver
from solvers.solver import FixedStepSolver, integrate

# Solvers of the round trip's curve beside the one asked for, and their budgets each way.
BESIDE = ("ddim", "heun", "dpmpp_2m", "rk4", "unipc", "rk45?rtol=1e-3&atol=1e-3", "rk45?rtol=1e-5&atol=1e-5")
BUDGETS = (10, 20, 50, 100)
# Images shown, and states from one encoding to the other.
SHOWN = 10
BETWEEN = 9
PAIRS = 5


def write_encoding(model: ImageModel, solver: str, nfe: int, n: int, seed: int, folder: Path) -> list[Path]:
    """Write ``encoding``, ``round_trip`` and ``interpolation`` (PNG and SVG) and ``round_trip.csv``, ``.md``.

    Args:
        model: score model and data.
        solver: as ``parse_solver`` reads it.
        nfe: evaluations each way, for fixed steps.
        n: images, 2 or more.
        seed: of the dequantisation.
        folder: made if missing.

    Returns:
        Paths of the figures (PNG) and tables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    sns.set_theme(style="whitegrid", context="paper")
    x = dequantised(model, Plan(n, draws=1, seed=seed), 0)
    trip = round_trip(model, parse_solver(solver), x, nfe)
    names = [solver, *(name for name in BESIDE if name != solver)]
    rows = reconstruction_errors(model, x, names, BUDGETS)
    table = pd.DataFrame(rows, columns=["solver", "nfe", "rmse", "wrong_levels"])
    table.to_csv(folder / "round_trip.csv", index=False, float_format="%.6g")
    shown = ((s, f"{nfe:.0f}", f"{rmse:.2e}", f"{wrong:.2%}") for s, nfe, rmse, wrong in rows)
    heads = ("solver", "NFE there and back", "RMSE, units of x", "pixels with another level")
    (folder / "round_trip.md").write_text(f"# Round trip of {n} images\n\n{markdown_table(heads, shown)}\n")
    figures = {
        "encoding": _encodings(model, x, trip, f"{solver}, {trip.nfe:.0f} evaluations there and back"),
        "round_trip": _curve(table),
        "interpolation": _between(model, trip.end, solver, nfe),
    }
    paths = []
    for name, figure in figures.items():
        for suffix in (".png", ".svg"):
            with mpl.rc_context({"svg.hashsalt": "scorebench"}):
                metadata = {"Date": None} if suffix == ".svg" else None
                figure.savefig(folder / f"{name}{suffix}", dpi=150, metadata=metadata)
        plt.close(figure)
        paths.append(folder / f"{name}.png")
    return [*paths, folder / "round_trip.csv", folder / "round_trip.md"]


def _encodings(model: ImageModel, x: Tensor, trip: RoundTrip, text: str) -> Figure:
    """Images, encodings and reconstructions; the law of the encodings' coordinates beside the prior's."""
    figure = plt.figure(figsize=(9, 3.2))
    halves: Any = figure.subfigures(1, 2, width_ratios=(2, 1))
    left, right = halves
    low, high = model.offset, model.offset + model.scale
    std = model.sde.prior_std
    bands = {"images": (x, low, high), "encodings": (trip.end, -2.5 * std, 2.5 * std), "back": (trip.back, low, high)}
    for axis, (name, (states, first, last)) in zip(left.subplots(3, 1), bands.items(), strict=True):
        _strip(axis, states[:SHOWN], first, last)
        axis.set_ylabel(name)
    axis = right.subplots()
    unit = (trip.end / std).double().flatten().cpu().numpy()
    axis.hist(unit, bins=61, range=(-4, 4), density=True, color="C0", alpha=0.5, label="encodings")
    grid = np.linspace(-4, 4, 200)
    axis.plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color="k", linewidth=1, label="prior")
    axis.set(xlabel="coordinate / std of the prior", ylabel="density")
    axis.set_title(f"mean {unit.mean():.3f}, standard deviation {unit.std():.3f}", fontsize=8)
    axis.legend(fontsize=7)
    right.subplots_adjust(left=0.2, right=0.97, bottom=0.2, top=0.82)
    figure.suptitle(f"{text}: RMSE {trip.rmse:.1e}, {trip.wrong:.2%} of the pixels have another level", fontsize=10)
    return figure


def _curve(table: pd.DataFrame) -> Figure:
    """Reconstruction error against evaluations there and back."""
    figure, axis = plt.subplots(figsize=(6.6, 4))
    for name, line in table.groupby("solver", sort=False):
        axis.plot(line.nfe, line.rmse, marker="o", markersize=4, linewidth=1.2, label=str(name))
    axis.set(xscale="log", yscale="log", xlabel="network evaluations an image, there and back (counted)")
    axis.set_ylabel("RMSE of the reconstruction [units of x]")
    ticks = [2 * budget for budget in BUDGETS]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def _between(model: ImageModel, end: Tensor, solver: str, nfe: int) -> Figure:
    """Decoded states between the encodings of neighbouring images, a row a pair."""
    pairs = min(PAIRS, len(end) // 2)
    weights = torch.linspace(0, 1, BETWEEN, dtype=torch.float64)
    states = interpolation(end[0 : 2 * pairs : 2], end[1 : 2 * pairs : 2], weights)
    chosen = parse_solver(solver)
    steps = chosen.steps_for(nfe) if isinstance(chosen, FixedStepSolver) else None
    ts = grid_upwards("log_snr" if steps else "uniform", model.sde, steps or 1).flip(0)
    images = integrate(chosen, model.process(), states.flatten(0, 1), ts).view(states.shape)
    figure, axes = plt.subplots(pairs, 1, figsize=(0.7 * BETWEEN, 0.8 * pairs + 0.4), squeeze=False)
    for row, axis in enumerate(axes[:, 0]):
        _strip(axis, images[:, row], model.offset, model.offset + model.scale)
    figure.suptitle("between the encodings of two images, along the great circle", fontsize=9)
    figure.tight_layout()
    return figure


def _strip(axis: Axes, states: Tensor, low: float, high: float) -> None:
    """Images side by side."""
    shown = ((states.cpu().float() - low) / (high - low)).clamp(0, 1)
    framed = torch.nn.functional.pad(shown, (0, 1), value=1.0)
    picture = torch.cat(list(framed), 2)
    axis.imshow(picture[0] if len(picture) == 1 else picture.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    sns.despine(ax=axis, left=True, bottom=True)
