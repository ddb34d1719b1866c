"""Samples of a checkpoint by the converged probability flow, in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bench.environment import now
from bench.image_model import CheckpointModel
from bench.metrics.converged import LOOSE, SOLVER
from pretrained.card import DataSettings, ScoreCard
from pretrained.networks.settings import UNetSettings
from solvers.errors import DivergenceError, UsageError
from solvers.grids import make_grid
from solvers.process import Network, ReverseProcess
from solvers.registry import get_solver
from solvers.solver import integrate

# The split whose classes a conditional network is given.
SPLIT = "test"


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of the converged flow.

    Attributes:
        states: (n, ...), on the CPU.
        labels: the classes that the network was given, (n,); None for any class.
        solver: and its tolerance, what solved them.
        evaluations: of the network a sample, counted.
        seconds: of the solves.
    """

    states: Tensor
    labels: Tensor | None
    solver: str
    tolerance: float
    evaluations: float
    seconds: float


def draw_samples(model: CheckpointModel, data: DataSettings, n: int, seed: int, batch_size: int) -> Samples:
    """Samples at t_min by the converged flow, in batches; of a conditional network, of the held-out classes.

    A batch is of one class: an adaptive solver shows the network those of its samples that go on.

    Raises:
        UsageError: one is not finite.
    """
    labels = _labels(model, data, n)
    network, sde = model.checkpoint.network, model.sde
    starts = sde.prior_sample(model.normals(n, seed).normal("prior"))
    solver, ts = get_solver(SOLVER, rtol=LOOSE, atol=LOOSE), make_grid("uniform", sde, 1)
    states, rows, began = torch.empty_like(starts, device="cpu"), 0, now(model.device)
    for label, part in _batches(labels, n, batch_size):
        asked: Network = network if label is None else partial(_of_class, network, label)
        process = ReverseProcess(sde, asked, model.checkpoint.parametrisation)
        try:
            states[part] = integrate(solver, process, starts[part.to(model.device)], ts).cpu()
        except DivergenceError as error:
            raise diverged(model, str(error)) from error
        rows += process.evaluations.rows
    seconds = now(model.device) - began
    if not bool(states.isfinite().all()):
        raise diverged(model, f"{int((~states.flatten(1).isfinite().all(1)).sum())} of {n} samples that are not")
    return Samples(states, labels, SOLVER, LOOSE, rows / n, seconds)


def _batches(labels: Tensor | None, n: int, size: int) -> Iterator[tuple[int | None, Tensor]]:
    """The samples that are solved at once, by their numbers, and their class."""
    groups: list[tuple[int | None, Tensor]] = [(None, torch.arange(n))]
    if labels is not None:
        groups = [(label, torch.eq(labels, label).nonzero()[:, 0]) for label in sorted(set(labels.tolist()))]
    for label, own in groups:
        yield from ((label, part) for part in torch.split(own, size))


def diverged(model: CheckpointModel, what: str) -> UsageError:
    """The refusal of a flow that does not stay finite."""
    rule = f"the converged flow of {model.name} stays finite"
    return UsageError("evaluate", rule, what, "Train the network anew")


def _of_class(network: torch.nn.Module, label: int, x: Tensor, t: Tensor) -> Tensor:
    answer: Tensor = network(x, t, torch.full((len(x),), label, device=x.device))
    return answer


def _labels(model: CheckpointModel, data: DataSettings, n: int) -> Tensor | None:
    """Classes of the held-out images in their order, again from the first where there are fewer than n."""
    card = model.checkpoint.card
    settings = card.network if isinstance(card, ScoreCard) else None
    if not (isinstance(settings, UNetSettings) and settings.class_conditional):
        return None
    labels = data.build().load(SPLIT).labels
    return labels[torch.arange(n) % len(labels)]
