"""``scorebench evaluate``: what a score model's card says of its quality.

Samples of the converged probability flow, their Fréchet distance from held-out images beside that of other real images,
and bits/dim of held-out images by the converged solve.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench.converged_samples import SPLIT, diverged, draw_samples
from bench.environment import ROOT
from bench.feature_statistics import load_statistics, shipped_statistics
from bench.image_model import CheckpointModel
from bench.likelihood import CONVERGED, MOST_IMAGES, Plan, grid_upwards, image_likelihood
from bench.metrics.features import clipped_share
from bench.metrics.frechet import check_number
from bench.metrics.metric import measured
from bench.reference_distance import distance_of
from bench.sample_grid import picture, rows_of
from bench.tables import number
from pretrained import provenance, zoo
from pretrained.card import DataSettings, ScoreCard, dump_card, load_card
from pretrained.data import quantise
from pretrained.evaluation import Bits, Evaluation, Sampling
from pretrained.machine import machine_on
from solvers.errors import UsageError
from solvers.registry import get_solver

# Solver of the likelihoods.
LIKELIHOOD_SOLVER = "torchdiffeq"


@dataclass(frozen=True)
class Amount:
    """How much is measured.

    Attributes:
        n: samples; None for as many as the reference has, or 100 without one.
        images: held-out images whose likelihood is taken, the first; None for all, at most 1000.
        draws: dequantisations of each.
        probes: Hutchinson probes of a draw.
        seed: of starts, dequantisation and probes.
        batch_size: samples or images solved at once.
    """

    n: int | None = None
    images: int | None = None
    draws: int = 1
    probes: int = 1
    seed: int = 0
    batch_size: int = 256


# Samples without a reference.
FEW = 100


def evaluate(
    name: str,
    amount: Amount,
    device: torch.device,
    folder: Path | None = None,
    statistics: Path | None = None,
) -> tuple[Evaluation, bytes]:
    """What is measured of a checkpoint, and the picture of its samples (PNG).

    Args:
        name: of a score model, see :func:`pretrained.zoo.load`.
        amount: of samples and images.
        device: where it is solved.
        folder: of a checkpoint trained here.
        statistics: file of the reference's feature statistics; the shipped one of its data without.

    Raises:
        UsageError: it is no score model of images, there are fewer samples than features or fewer images than asked
            for, the reference's file is refused (:func:`load_statistics`), or samples are not finite.
    """
    _refuse_classifiers(name, folder)
    model = CheckpointModel(name, SPLIT, device, folder)
    card = model.checkpoint.card
    data = card.data if isinstance(card, ScoreCard) else DataSettings(name=card.data.name)
    path = statistics or shipped_statistics(data, SPLIT)
    reference = None if path is None else load_statistics(path, device)
    n = amount.n or (FEW if reference is None else reference[0].about.n)
    if reference is not None:
        reference[1].check(model.checkpoint.shape, model.levels)
        check_number(n, reference[0].about.features)
    if amount.images is not None and amount.images > model.size:
        raise UsageError("evaluate", f"there are {model.size} held-out images", amount.images, "Lower --images")
    samples = draw_samples(model, data, n, amount.seed, amount.batch_size)
    levels = quantise((samples.states - model.offset) / model.scale, model.levels)
    content = picture(rows_of(levels, samples.labels), model.levels)
    outside = clipped_share(model, samples.states)
    commit, dirty = provenance.commit(ROOT)
    found = Evaluation(
        weights=model.checkpoint.sha256,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine_on(device),
        commit=commit,
        dirty=dirty,
        sampling=Sampling(
            solver=samples.solver,
            tolerance=samples.tolerance,
            classes="any" if samples.labels is None else "held-out",
            n=n,
            seed=amount.seed,
            evaluations=round(samples.evaluations, 1),
            seconds=round(samples.seconds, 3),
        ),
        grid=provenance.sha256(content),
        distance=None if reference is None else distance_of(levels, data, *reference, amount.seed, outside),
        no_distance=f"no reference statistics of {data.name} are shipped" if reference is None else None,
        bits_per_dim=bits_of(model, amount),
    )
    return found, content


def bits_of(model: CheckpointModel, amount: Amount) -> Bits:
    """Bits/dim of the first held-out images by the converged solve; its standard error is over images."""
    n = amount.images or min(model.size, MOST_IMAGES)
    plan = Plan(n, amount.draws, amount.probes, seed=amount.seed, batch_size=amount.batch_size)
    solver = get_solver(LIKELIHOOD_SOLVER, **CONVERGED)
    solve = image_likelihood(model, solver, grid_upwards("uniform", model.sde, 1), plan)
    if not bool(solve.bits.isfinite().all()):
        raise diverged(model, "bits/dim that are not")
    value = measured(lambda kept: float(kept.mean()), solve.bits.mean((1, 2)))
    assert value.value is not None
    assert value.standard_error is not None
    return Bits(
        value=value.value,
        standard_error=value.standard_error,
        split=SPLIT,
        n=n,
        draws=plan.draws,
        probes=plan.probes,
        seed=plan.seed,
        solver=f"{LIKELIHOOD_SOLVER} {CONVERGED['method']}",
        tolerance=float(CONVERGED["rtol"]),
        evaluations=round(solve.nfe, 1),
        seconds=round(solve.seconds, 3),
    )


def lines_of(found: Evaluation) -> list[str]:
    """An evaluation in words."""
    sampling, distance, bits = found.sampling, found.distance, found.bits_per_dim
    labels = "any class" if sampling.classes == "any" else "the classes of the held-out images"
    lines = [
        f"{sampling.n} samples of {labels}, {sampling.solver} at {sampling.tolerance:g}: "
        f"{sampling.evaluations:.0f} evaluations each, {sampling.seconds:.0f} s."
    ]
    if distance is None:
        lines.append(f"No Fréchet distance: {found.no_distance}.")
    else:
        floor = "–" if distance.floor is None else number(distance.floor, distance.floor_error)
        lines.append(
            f"Fréchet distance from {distance.reference} ({distance.reference_n} images, {distance.features} features "
            f"of {distance.extractor}): {number(distance.value, distance.standard_error)}; "
            f"{distance.n} other real images: {floor}."
        )
        lines += [f"Note: {distance.flag}."] if distance.flag else []
    lines.append(
        f"Bits/dim of {bits.n} {bits.split} images: {number(bits.value, bits.standard_error)}, {bits.solver} at "
        f"{bits.tolerance:g}: {bits.evaluations:.0f} evaluations each, {bits.seconds:.0f} s."
    )
    return lines


def own_files(name: str, folder: Path | None = None) -> tuple[Path, Path]:
    """Card and weights of a checkpoint whose card holds an evaluation.

    Raises:
        UsageError: there is no such card: others published it.
    """
    if folder is None and name not in zoo.names():
        rule = "cards that `train` wrote hold an evaluation"
        raise UsageError(f"evaluate {name}", rule, name, "Leave out --write")
    return zoo.files(name, folder)


def write_evaluation(name: str, found: Evaluation, content: bytes, folder: Path | None = None) -> tuple[Path, Path]:
    """Writes the evaluation into the checkpoint's card, and the picture beside its weights; both paths.

    Raises:
        UsageError: its card is not one of ``train``'s, or the weights are no longer those that were measured.
    """
    path, weights = own_files(name, folder)
    card = load_card(path)
    if not isinstance(card, ScoreCard) or card.result is None or card.result.sha256 != found.weights:
        rule = f"{path} holds the card of the weights that were measured, {found.weights}"
        raise UsageError(f"evaluate {name}", rule, card.result and card.result.sha256, "Evaluate it again")
    grid = weights.with_suffix(".png")
    # The card last: it carries the picture's hash.
    provenance.write_atomically(grid, content)
    provenance.write_atomically(path, dump_card(card.model_copy(update={"evaluation": found})).encode())
    return path, grid


def _refuse_classifiers(name: str, folder: Path | None) -> None:
    """A word on where a classifier's figure is."""
    if folder is None and name not in zoo.names():
        return
    card = load_card(zoo.files(name, folder)[0])
    if not isinstance(card, ScoreCard):
        rule = "samples and likelihoods are a score model's"
        todo = "Its training measured it, an accuracy or bits: `result` in its card"
        raise UsageError(f"evaluate {name}", rule, card.kind, todo)
