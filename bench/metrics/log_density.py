"""Error of the log-density where it is known exactly: a metric of cells of kind ``likelihood``."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.metrics.metric import Metric, Outcome, measured, register_metric
from bench.record import MetricValue


@dataclass(frozen=True, eq=False)
class DensityOutcome(Outcome):
    """log p of each sample by the cell's solver, and exact; nats, (n,), float64."""

    log_p: Tensor
    exact: Tensor


@register_metric
class LogDensityError(Metric):
    """Mean of |log2 p - log2 p exact| / D at t_min_likelihood, the divergence and the law at t_max being exact.

    What is left is the solver's error alone. Floor: none above double precision.
    """

    key: ClassVar[str] = "log_density_error"
    label: ClassVar[str] = "error of the log-density"
    shown_to: ClassVar[float] = 10.0
    unit: ClassVar[str] = "bits per dimension"
    reference: ClassVar[str] = "Chen et al. 2018, arXiv:1806.07366"

    def evaluate(self, outcome: Outcome) -> MetricValue:
        if not isinstance(outcome, DensityOutcome):
            return MetricValue(reason="a metric of cells of kind likelihood")
        miss = (outcome.log_p - outcome.exact).abs() / (outcome.samples[0].numel() * math.log(2))
        return measured(lambda kept: float(kept.mean()), miss)
