"""Weights of a mixture's modes: how many samples came to each."""

from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.exact import AgainstLaw
from bench.metrics.metric import register_metric
from bench.problems.problem import Problem


@register_metric
class ModeWeights(AgainstLaw):
    """How far the shares of samples nearest to each centre are from the exact weights: Cohen's w.

    sqrt(chi^2 / n) = sqrt(sum_k (n_k/n - w_k)^2 / w_k)

    Pearson's chi^2 with as many degrees of freedom as there are modes, less one: exact samples come to about the root
    of that over n, the floor.
    """

    key: ClassVar[str] = "mode_weights"
    label: ClassVar[str] = "error of the mode weights, sqrt(chi²/n)"
    unit: ClassVar[str] = "1"
    reference: ClassVar[str] = "Pearson 1900, Phil. Mag. 50, 157; Cohen 1988, ch. 7"

    @staticmethod
    def distance(samples: Tensor, problem: Problem) -> float:
        centres, weights = (part.cpu() for part in problem.modes(problem.sde.t_min))
        nearest = torch.cdist(samples, centres).argmin(1)
        shares = torch.bincount(nearest, minlength=len(weights)).double() / len(samples)
        return float(((shares - weights).square() / weights).sum().sqrt())
