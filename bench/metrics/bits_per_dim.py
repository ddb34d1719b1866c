"""Bits per dimension of held-out data, and each of its errors: metrics of cells of kind ``likelihood``."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bench.dequantisation import dequantiser_of
from bench.likelihood import Converged, ImageSolve, dequantisation_error, probe_error
from bench.metrics.metric import Metric, Outcome, measured, register_metric
from bench.problems.problem import ImageProblem, Problem
from bench.record import CellSpec, MetricValue


@dataclass(frozen=True, eq=False)
class LikelihoodOutcome(Outcome):
    """A cell's likelihood solve, and the converged one of the same images, draws and probes."""

    solve: ImageSolve
    converged: Converged


class BitsMetric(Metric):
    """A metric of a likelihood solve."""

    unit: ClassVar[str] = "bits per dimension"
    direction: ClassVar[Literal["lower", "higher", "none"]] = "none"
    limits: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    shared: ClassVar[bool] = True
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456, sec. 4.3 and app. D.2"

    def hashes(self, problem: Problem, spec: CellSpec) -> dict[str, str]:
        if spec.dequantisation is None or not isinstance(problem, ImageProblem):
            return {}
        flow = dequantiser_of(spec.dequantisation, problem)
        return {flow.card.name: flow.sha256} if flow else {}

    def evaluate(self, outcome: Outcome) -> MetricValue:
        if not isinstance(outcome, LikelihoodOutcome):
            return MetricValue(reason="a metric of cells of kind likelihood")
        return self.of(outcome.solve.bits, outcome.converged)

    @abstractmethod
    def of(self, bits: Tensor, converged: Converged) -> MetricValue:
        """Of bits/dim by image, draw and probe, (n, draws, probes)."""


@register_metric
class BitsPerDim(BitsMetric):
    """-log2 p(x)/D - log2(scale) + log2(L) of held-out images, uniformly dequantised, under the flow's density.

    Where a dequantiser draws u, plus log2 q(u | levels)/D: for every q the mean is an upper bound on the levels' own
    bits/dim, -log2 P/D.

    The cell's solver integrates state and log-determinant upwards from t_min_likelihood on its own grid at its own
    budget (or tolerance). The value is what that solve gives, not a bound: a coarse solve errs to either side, so it
    does not rank solvers. The standard error is the whole one, of images, draws and probes. Floor: the converged
    solve's value.
    """

    key: ClassVar[str] = "bits_per_dim"
    label: ClassVar[str] = "bits/dim by the row's own solver"

    def of(self, bits: Tensor, converged: Converged) -> MetricValue:
        return measured(_mean, _by_image(bits), floor=float(converged.bits.mean()))


@register_metric
class BitsPerDimError(BitsMetric):
    """Mean over images of |difference| in bits/dim between the cell's solve and a converged one, on the same draws.

    The solver's part of an image's ``bits_per_dim``: in their mean, errors of either sign cancel. The converged solve
    is dopri5 at 1e-6 in single precision. Floor: an estimate of what that one resolves, its distance from a solve by
    another method in double precision at 1e-7, the larger of two images for each network and process; no difference is
    told below it.
    """

    key: ClassVar[str] = "bits_per_dim_error"
    label: ClassVar[str] = "solver error in bits/dim"
    shown_to: ClassVar[float] = 10.0
    floor_of: ClassVar[str] = "the reference itself"
    resolves: ClassVar[bool] = True
    direction: ClassVar[Literal["lower", "higher", "none"]] = "lower"
    limits: ClassVar[tuple[float, float]] = (0.0, math.inf)

    def of(self, bits: Tensor, converged: Converged) -> MetricValue:
        return measured(_mean, _by_image(bits - converged.bits).abs(), floor=converged.resolution)


@register_metric
class BitsProbeError(BitsMetric):
    """Standard error of ``bits_per_dim`` from the probes of the divergence: their spread within image and draw."""

    key: ClassVar[str] = "bits_probe_error"
    label: ClassVar[str] = "standard error from probes"
    limits: ClassVar[tuple[float, float]] = (0.0, math.inf)
    reference: ClassVar[str] = "Grathwohl et al. 2019, arXiv:1810.01367, sec. 3.1"

    def of(self, bits: Tensor, converged: Converged) -> MetricValue:
        error = probe_error(bits)
        return MetricValue(value=error, reason="a single probe" if error is None else None)


@register_metric
class BitsDequantisationError(BitsMetric):
    """Standard error of ``bits_per_dim`` from the draws of the dequantisation, the probes' part taken off."""

    key: ClassVar[str] = "bits_dequantisation_error"
    label: ClassVar[str] = "standard error from dequantisation"
    limits: ClassVar[tuple[float, float]] = (0.0, math.inf)
    reference: ClassVar[str] = "Theis et al. 2016, arXiv:1511.01844, sec. 3.1"

    def of(self, bits: Tensor, converged: Converged) -> MetricValue:
        error = dequantisation_error(bits)
        return MetricValue(value=error, reason="a single draw or probe" if error is None else None)


@register_metric
class BitsPriorMismatch(BitsMetric):
    """What ``bits_per_dim`` is too high by because the prior stands for the law at t_max, taken from training images.

    Mean of log2 p_t_max - log2 p_prior over D, at the converged encodings. The standard error is that of the mean over
    the images; the law at t_max has an error of its own, of the training images that stand for it.
    """

    key: ClassVar[str] = "bits_prior_mismatch"
    label: ClassVar[str] = "prior mismatch at t_max"
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2101.09258, theorem 1"

    def of(self, bits: Tensor, converged: Converged) -> MetricValue:
        return measured(_mean, converged.prior)


@register_metric
class BitsSmoothing(BitsMetric):
    """What ``bits_per_dim`` is too high by as t_min stands for 0: log2 p_0 - log2 p_t_min over D, to first order."""

    key: ClassVar[str] = "bits_smoothing"
    label: ClassVar[str] = "smoothing at t_min"
    reference: ClassVar[str] = "heat equation, see solvers.density_errors"

    def of(self, bits: Tensor, converged: Converged) -> MetricValue:
        return measured(_mean, converged.smoothing)


@register_metric
class BitsBound(BitsMetric):
    """The variational upper bound on bits/dim under the reverse SDE, from the denoising loss."""

    key: ClassVar[str] = "bits_bound"
    label: ClassVar[str] = "variational bound"
    reference: ClassVar[str] = "Kingma et al. 2021, arXiv:2107.00630, eq. 11; Song et al. 2021, arXiv:2101.09258"

    def of(self, bits: Tensor, converged: Converged) -> MetricValue:
        return measured(_mean, converged.bound.mean(1))


def _by_image(values: Tensor) -> Tensor:
    """Means over draws and probes, (n,): images are independent."""
    return values.mean((1, 2))


def _mean(values: Tensor) -> float:
    return float(values.mean())
