"""Bits per dimension of images by one solve, with what is known of each of its errors."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from bench.environment import now
from bench.image_model import ImageModel
from bench.references import kept
from pretrained.data import dequantise
from pretrained.zoo import DequantisingFlow
from solvers.bound import variational_bound
from solvers.density_errors import mixture_log_density, prior_mismatch, smoothing
from solvers.divergence import Divergence, Hutchinson, HutchPlusPlus, Law, make_probes
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.likelihood import bits_per_dim, log_density
from solvers.process import Evaluations, ReverseProcess
from solvers.registry import get_solver
from solvers.sde import ForwardSDE
from solvers.solver import Solver

# The converged solve that a solver's error is measured against, in the model's precision.
CONVERGED: dict[str, Any] = {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}
# What it resolves is measured on so many images against another method, in double precision. Against 1e-8 that one is
# off by 4e-7 bits/dim at most on digits-vp, digits-ve and fashion-edm.
TIGHT: dict[str, Any] = {"pair": "dormand_prince_853", "rtol": 1e-7, "atol": 1e-7}
TIGHT_IMAGES = 2
# Training images that stand for the law at t_max.
POINTS = 500
# Images of a checkpoint's likelihood, unless a number is asked for.
MOST_IMAGES = 1000
# Times of the variational bound, a sample.
BOUND_DRAWS = 64


@dataclass(frozen=True)
class Plan:
    """What the likelihood is taken of, apart from the solver; equal plans share the converged solve.

    Attributes:
        n: images, the first of the split.
        draws: dequantisations of each.
        probes: Hutchinson probes of each draw.
        sketch: directions of Hutch++'s sketch, each two derivative passes more; 0 for Hutchinson's estimate.
        law: of the probes.
        seed: of dequantisation and probes.
        batch_size: images solved at once, each with all its draws; None for all.
        dequantiser: that the images are dequantised by; None for uniform dequantisation.
    """

    n: int
    draws: int = 2
    probes: int = 2
    sketch: int = 0
    law: Law = "rademacher"
    seed: int = 0
    batch_size: int | None = None
    dequantiser: DequantisingFlow | None = None


@dataclass(frozen=True, eq=False)
class ImageSolve:
    """One solve.

    Attributes:
        bits: bits/dim by image, draw and probe, (n, draws, probes), float64, on the CPU.
        x: the dequantised images, (n * draws, ...), draw by draw.
        log_q: log-density of the dequantisation, nats, (n * draws,); zero where it is uniform.
        end: states at t_max, shape of x.
        evaluations: counted, one entry a batch.
        seconds: of the solves alone.
    """

    bits: Tensor
    x: Tensor
    log_q: Tensor
    end: Tensor
    evaluations: list[Evaluations]
    seconds: float

    @property
    def nfe(self) -> float:
        """Evaluations a dequantised image."""
        return sum(e.rows for e in self.evaluations) / len(self.x)

    @property
    def derivative_passes(self) -> float:
        """Derivative passes a dequantised image."""
        per_evaluation = self.evaluations[0].derivative_passes / self.evaluations[0].calls
        return self.nfe * per_evaluation


@dataclass(frozen=True)
class Converged:
    """What does not depend on the solver.

    Attributes:
        bits: of the converged solve, the plan's draws and probes.
        prior: what each image's are too high by because the prior stands for the law at t_max, log2 p_t_max -
            log2 p_prior at the encodings over D, (n,).
        smoothing: what they are too high by because t_min stands for 0, log2 p_0 - log2 p_t_min over D, (n,).
        bound: estimates of the variational upper bound, bits/dim of an image and draw, (n, draws).
        resolution: see :func:`resolution`.
    """

    bits: Tensor
    prior: Tensor
    smoothing: Tensor
    bound: Tensor
    resolution: float


def grid_upwards(grid: str, sde: ForwardSDE, steps: int) -> Tensor:
    """Times from t_min_likelihood up to t_max."""
    return make_grid(grid, sde, steps, sde.t_min_likelihood, sde.t_max)


def dequantised(model: ImageModel, plan: Plan, draw: int, first: int = 0, n: int | None = None) -> Tensor:
    """States x_0 of images first ... first + n - 1 in a draw of the dequantisation."""
    return dequantisation(model, plan, draw, first, n)[0]


def dequantisation(
    model: ImageModel, plan: Plan, draw: int, first: int = 0, n: int | None = None
) -> tuple[Tensor, Tensor]:
    """These states, and log q(u | k) of the u in [0, 1)^D that they were made with, nats, (n,), float64."""
    n = plan.n - first if n is None else n
    values = model.reference(first + n, plan.seed, 0)[first:].to(model.device)
    # A unit normal's distribution function makes it the uniform that dequantises.
    uniform = torch.special.ndtr(model.normals(n, plan.seed, first).normal(_stream("dequantisation", draw)))
    log_q = torch.zeros(n, dtype=torch.float64, device=model.device)
    if plan.dequantiser is not None:
        uniform, log_q = plan.dequantiser.network(values, uniform)
    return model.scale * dequantise(values, model.levels, uniform) + model.offset, log_q.double()


def image_divergence(model: ImageModel, plan: Plan, draws: Sequence[int], first: int, n: int) -> Divergence:
    """The plan's estimate of the divergence, of these images in some of its draws, draw by draw."""

    def drawn(word: str, count: int) -> Tensor:
        return torch.cat([image_probes(model, plan, draw, first, n, word, count) for draw in draws], 1)

    probes = drawn("probe", plan.probes)
    return HutchPlusPlus(drawn("sketch", plan.sketch), probes) if plan.sketch else Hutchinson(probes)


def image_probes(
    model: ImageModel, plan: Plan, draw: int, first: int, n: int, word: str = "probe", count: int | None = None
) -> Tensor:
    """Probes of these images in a draw, (count, n, ...), the plan's number of them unless given."""
    normals = model.normals(n, plan.seed, first)
    names = [_stream(word, draw, k) for k in range(plan.probes if count is None else count)]
    return make_probes(torch.stack([normals.normal(name) for name in names]), plan.law)


def image_likelihood(model: ImageModel, solver: Solver, ts: Tensor, plan: Plan) -> ImageSolve:
    """Bits/dim of each image, draw and probe by one solver; draws and probes are the same for every solver.

    The mean over a dequantiser's draws is of -log2 p(x) + log2 q(u | k), an upper bound on -log2 P(k) for every q.

    Args:
        model: score model and data.
        solver: an ODE solver.
        ts: increasing grid, see :func:`grid_upwards`.
        plan: images, draws and probes.

    Raises:
        UsageError: the solver is stochastic, there are fewer images, or one has a level that the model does not know.
    """
    largest = int(model.reference(plan.n, plan.seed, 0).max())
    if largest >= model.levels:
        todo = "Take a model of these data, or mend its levels"
        raise UsageError("likelihood", f"images hold levels 0 to {model.levels - 1}", largest, todo)
    size = plan.n if plan.batch_size is None else plan.batch_size
    bits, states, densities, ends, evaluations, seconds = [], [], [], [], [], 0.0
    for first in range(0, plan.n, size):
        n = min(size, plan.n - first)
        drawn = [dequantisation(model, plan, draw, first, n) for draw in range(plan.draws)]
        x, log_q = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        divergence = image_divergence(model, plan, range(plan.draws), first, n)
        process = model.process()
        began = now(model.device)
        found = log_density(solver, process, x, ts, divergence)
        seconds += now(model.device) - began
        bound = found.by_probe.double() - log_q[:, None]
        own = bits_per_dim(bound, x[0].numel(), model.levels, model.scale).cpu()
        bits.append(own.view(plan.draws, n, plan.probes).transpose(0, 1))
        states.append(x.view(plan.draws, n, *x.shape[1:]))
        densities.append(log_q.view(plan.draws, n))
        ends.append(found.end.view(plan.draws, n, *x.shape[1:]))
        evaluations.append(process.evaluations)
    x, end = torch.cat(states, 1).flatten(0, 1), torch.cat(ends, 1).flatten(0, 1)
    return ImageSolve(torch.cat(bits), x, torch.cat(densities, 1).flatten(), end, evaluations, seconds)


@lru_cache(maxsize=8)
def converged(model: ImageModel, plan: Plan) -> Converged:
    """The converged solve, and what a solve misses at both ends of time."""
    states = torch.cat([dequantised(model, plan, draw) for draw in range(plan.draws)])
    points = model.scale * (model.reference(POINTS, plan.seed, 1).double() + 0.5) / model.levels + model.offset
    flow = plan.dequantiser
    facts = {
        **_facts(model),
        "plan": {**vars(plan), "dequantiser": flow and flow.sha256},
        "settings": [CONVERGED, BOUND_DRAWS],
    }
    inputs = {"states": states, "points": points}
    found = kept("likelihood", inputs, facts, lambda: _converged(model, plan, points))
    resolved = resolution(model, min(plan.n, TIGHT_IMAGES))
    return Converged(found["bits"], found["prior"], found["smoothing"], found["bound"], resolved)


def _facts(model: ImageModel) -> dict[str, object]:
    """What of a model decides its densities."""
    return {"hashes": model.hashes, "model": [repr(model.sde), model.scale, model.offset, model.levels]}


@lru_cache(maxsize=8)
def resolution(model: ImageModel, n: int = TIGHT_IMAGES) -> float:
    """Estimate of what the converged solve resolves of an image's value, bits/dim: its distance from a tight solve.

    The largest of the first n images, one draw and one probe each. The tight solve is by another method, and in double
    precision where the network is a module; it tells rounding and tolerances of the converged one, which differ by
    network and process.
    """
    plan = Plan(n, draws=1, probes=1)
    settings: dict[str, object] = {"settings": [CONVERGED, TIGHT]}
    inputs = {"states": dequantised(model, plan, 0)}
    found = kept("resolution", inputs, _facts(model) | settings, lambda: {"distance": _distance(model, plan)})
    return float(found["distance"].max())


def _distance(model: ImageModel, plan: Plan) -> Tensor:
    """|difference| in bits/dim between the converged and the tight solve, (n,)."""
    sde, process = model.sde, model.process()
    solve = image_likelihood(model, get_solver("torchdiffeq", **CONVERGED), grid_upwards("uniform", sde, 1), plan)
    network, dtype = process.network, solve.x.dtype
    if isinstance(network, nn.Module):
        network, dtype = copy.deepcopy(network).double(), torch.float64
    probes = image_probes(model, plan, 0, 0, plan.n).to(dtype)
    tight = ReverseProcess(sde, network, process.parametrisation)
    ends = grid_upwards("uniform", sde, 1)
    found = log_density(get_solver("rk45", **TIGHT), tight, solve.x.to(dtype), ends, Hutchinson(probes))
    exact = bits_per_dim(found.log_p.double(), solve.x[0].numel(), model.levels, model.scale).cpu()
    return (solve.bits[:, 0, 0] - exact).abs()


def _converged(model: ImageModel, plan: Plan, points: Tensor) -> dict[str, Tensor]:
    """The fields of :class:`Converged`."""
    sde = model.sde
    solve = image_likelihood(model, get_solver("torchdiffeq", **CONVERGED), grid_upwards("uniform", sde, 1), plan)
    law = mixture_log_density(solve.end, points.to(model.device), sde, sde.t_max)
    nats = solve.x[0].numel() * math.log(2)
    per_draw, size = [], plan.n if plan.batch_size is None else plan.batch_size
    bounds = []
    log_q = solve.log_q.view(plan.draws, plan.n)

    def by_image(values: Tensor) -> Tensor:
        return values.view(plan.draws, plan.n).mean(0).cpu() / nats

    for draw, x in enumerate(solve.x.view(plan.draws, plan.n, *solve.x.shape[1:])):
        for first in range(0, plan.n, size):
            part = x[first : first + size]
            divergence = image_divergence(model, plan, [draw], first, len(part))
            per_draw.append(smoothing(model.process(), part, sde.t_min_likelihood, divergence))
            normals = model.normals(len(part), plan.seed + draw, first)
            bound = variational_bound(model.process(), part, normals, BOUND_DRAWS, model.scale / model.levels)
            bound = bound + log_q[draw, first : first + size]
            bounds.append(bits_per_dim(-bound, x[0].numel(), model.levels, model.scale).cpu())
    return {
        "bits": solve.bits,
        "prior": by_image(-prior_mismatch(sde, solve.end, law)),
        "smoothing": by_image(-torch.cat(per_draw)),
        "bound": torch.cat(bounds).view(plan.draws, plan.n).T,
    }


def probe_error(bits: Tensor) -> float | None:
    """The probes' part in the standard error of the mean of bits (n, draws, probes); None with a single probe."""
    n, draws, probes = bits.shape
    return None if probes < 2 else float((bits.var(2) / probes).sum().sqrt()) / (n * draws)


def dequantisation_error(bits: Tensor) -> float | None:
    """The part of the draws, the probes' taken off; None with a single draw or probe."""
    n, draws, _ = bits.shape
    by_probes = probe_error(bits)
    if draws < 2 or by_probes is None:
        return None
    both = float((bits.mean(2).var(1) / draws).sum()) / n**2
    return math.sqrt(max(0.0, both - by_probes**2))


def _stream(*words: object) -> str:
    """Name of a stream of normals; the first draw and probe are called by the plain word."""
    return " ".join(map(str, words)) if any(words[1:]) else str(words[0])
