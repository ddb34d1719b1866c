"""``scorebench evaluate``: what a score model's card says of its quality.

Samples of the converged probability flow, their Fréchet distance from held-out images beside that of other real images,
and bits/dim of held-out images by the converged solve.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bench.environment import ROOT, now
from bench.feature_statistics import FeatureStatistics, images_of, load_statistics, shipped_statistics
from bench.image_model import CheckpointModel
from bench.likelihood import CONVERGED, Plan, grid_upwards, image_likelihood
from bench.metrics.converged import LOOSE, SOLVER
from bench.metrics.extractors import Extractor
from bench.metrics.features import CLIPPED, clipped_share
from bench.metrics.frechet import check_number
from bench.metrics.metric import measured
from bench.metrics.wasserstein import moments_of, squared_w2_of_moments
from bench.record import MetricValue
from bench.sample_grid import picture, rows_of
from bench.tables import number
from pretrained import provenance, zoo
from pretrained.card import DataSettings, ScoreCard, dump_card, load_card
from pretrained.data import quantise
from pretrained.evaluation import Bits, Distance, Evaluation, Sampling
from pretrained.machine import machine_on
from pretrained.networks.settings import UNetSettings
from solvers.errors import DivergenceError, UsageError
from solvers.grids import make_grid
from solvers.process import Network, ReverseProcess
from solvers.registry import get_solver
from solvers.solver import integrate

SPLIT, OTHER = "test", "train"
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


# Without a reference, and of the likelihood's images.
FEW, MOST = 100, 1000


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of the converged flow.

    Attributes:
        states: (n, ...), on the CPU.
        labels: the classes that the network was given, (n,); None for any class.
        evaluations: of the network a sample, counted.
        seconds: of the solves.
    """

    states: Tensor
    labels: Tensor | None
    evaluations: float
    seconds: float


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
            solver=SOLVER,
            tolerance=LOOSE,
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
    for label in (None,) if labels is None else labels.unique().tolist():
        own = torch.arange(n) if labels is None else (labels == label).nonzero()[:, 0]
        asked: Network = network if label is None else partial(_of_class, network, label)
        for part in own.split(batch_size):
            process = ReverseProcess(sde, asked, model.checkpoint.parametrisation)
            try:
                states[part] = integrate(solver, process, starts[part.to(model.device)], ts).cpu()
            except DivergenceError as error:
                raise _diverged(model, str(error)) from error
            rows += process.evaluations.rows
    seconds = now(model.device) - began
    if not bool(states.isfinite().all()):
        raise _diverged(model, f"{int((~states.flatten(1).isfinite().all(1)).sum())} of {n} samples that are not")
    return Samples(states, labels, rows / n, seconds)


def _diverged(model: CheckpointModel, what: str) -> UsageError:
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


def distance_of(
    levels: Tensor,
    data: DataSettings,
    reference: FeatureStatistics,
    extractor: Extractor,
    seed: int,
    outside: float = 0.0,
) -> Distance:
    """Fréchet distance of images (n, ...) from the reference, and of as many real ones of the other split.

    Args:
        levels: images, uint8.
        data: theirs.
        reference: moments of the reference's features.
        extractor: of those features.
        seed: that chooses the real images.
        outside: share of the samples' values beyond the data's range.
    """
    n, about = len(levels), reference.about
    value = _frechet(levels, reference, extractor)
    floor = _floor(data, n, seed, reference, extractor)
    flags = [check_number(min(n, about.n), about.features)]
    flags.append(f"{outside:.0%} of all values lay outside the data's range" if outside > CLIPPED else None)
    flags.append(f"no floor: fewer than {n} other images" if floor is None else None)
    assert value.value is not None
    assert value.standard_error is not None
    return Distance(
        value=value.value,
        standard_error=value.standard_error,
        floor=floor.value if floor else None,
        floor_error=floor.standard_error if floor else None,
        n=n,
        features=about.features,
        extractor=about.extractor,
        extractor_sha256=about.extractor_sha256,
        reference=f"{about.data.name}, {about.split}",
        reference_n=about.n,
        reference_sha256=reference.sha256,
        flag="; ".join(filter(None, flags)) or None,
    )


def _frechet(levels: Tensor, reference: FeatureStatistics, extractor: Extractor) -> MetricValue:
    """The distance; its standard error is of these images, the reference held fixed."""
    moments = reference.mean, reference.cov
    features = extractor(levels)[extractor.layers[0]]
    return measured(lambda kept: squared_w2_of_moments(moments_of(kept), moments), features)


def _floor(
    data: DataSettings, n: int, seed: int, reference: FeatureStatistics, extractor: Extractor
) -> MetricValue | None:
    split = OTHER if reference.about.split == SPLIT else SPLIT
    values = images_of(data, split).values
    if len(values) < n:
        return None
    chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))[:n]
    return _frechet(values[chosen], reference, extractor)


def bits_of(model: CheckpointModel, amount: Amount) -> Bits:
    """Bits/dim of the first held-out images by the converged solve; its standard error is over images."""
    n = amount.images or min(model.size, MOST)
    plan = Plan(n, amount.draws, amount.probes, seed=amount.seed, batch_size=amount.batch_size)
    solver = get_solver(LIKELIHOOD_SOLVER, **CONVERGED)
    solve = image_likelihood(model, solver, grid_upwards("uniform", model.sde, 1), plan)
    if not bool(solve.bits.isfinite().all()):
        raise _diverged(model, "bits/dim that are not")
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


def write_evaluation(name: str, found: Evaluation, content: bytes, folder: Path | None = None) -> tuple[Path, Path]:
    """Writes the evaluation into the checkpoint's card, and the picture beside its weights; both paths.

    Raises:
        UsageError: its card is not one of ``train``'s, or the weights are no longer those that were measured.
    """
    if folder is None and name not in zoo.names():
        rule = "cards that `train` wrote hold an evaluation"
        raise UsageError(f"evaluate {name}", rule, name, "Leave out --write")
    path, weights = zoo.files(name, folder)
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
        todo = "A classifier's accuracy was measured by its training: `result` in its card"
        raise UsageError(f"evaluate {name}", rule, card.kind, todo)
