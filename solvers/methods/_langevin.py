"""Langevin steps at a fixed time, shared by the correctors and the methods that consist of nothing else.

    x <- x + e * score(x, t) + sqrt(2 e) * z
    langevin:  e = 2 alpha (snr * |z| / |score|)^2, both norms per-sample L2, averaged over the batch
    ald:       e = 2 alpha (snr * sigma(t))^2

alpha is 1, except in the reference's discretisation of VP, where it is 1 - beta_i.
"""

import math
from typing import Any, Literal, get_args

from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.process import ReverseProcess

Rule = Literal["langevin", "ald"]


def check_langevin(who: str, rule: str, snr: float, corrector_steps: int) -> None:
    """Refuse an unknown rule, or settings out of range."""
    if rule not in get_args(Rule):
        raise unknown_name(who, "corrector", rule, get_args(Rule))
    if not 0 < snr < math.inf:
        raise UsageError(who, "snr is positive", snr, "The paper takes 0.01 to 0.2")
    if not (isinstance(corrector_steps, int) and corrector_steps >= 1):
        raise UsageError(who, "corrector_steps is 1, 2, ...", corrector_steps, "Or corrector 'none'")


def langevin_step(
    process: ReverseProcess, x: Tensor, t: float, z: Tensor, rule: Rule, snr: float, alpha: float = 1.0
) -> Tensor:
    """One Langevin step at time t with unit normals z; one evaluation."""
    score = process.score(x, t)
    size: Any = process.sde.sigma(t)
    if rule == "langevin":
        size = z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()
    std = 2 * (math.sqrt(alpha) if alpha >= 0 else math.nan) * snr * size
    moved: Tensor = x + 2 * alpha * (snr * size) ** 2 * score + std * z
    return moved


def correct(
    process: ReverseProcess,
    x: Tensor,
    t: float,
    brownian: Any,
    rule: Rule,
    snr: float,
    corrector_steps: int,
    alpha: float = 1.0,
) -> Tensor:
    """The corrector's update at time t: so many Langevin steps, then the constraint."""
    for k in range(corrector_steps):
        x = langevin_step(process, x, t, brownian.normal(f"corrector {k} at {t!r}"), rule, snr, alpha)
    return process.constrain(x, t, brownian, f"corrector at {t!r}")
