"""Langevin steps at a fixed time, shared by the correctors and the methods that consist of nothing else.

    x <- x + e * score(x, t) + sqrt(2 e) * z
    langevin:  e = 2 alpha (snr * |z| / |score|)^2, both norms per-sample L2, averaged over the batch
    ald:       e = 2 alpha (snr * sigma(t))^2

alpha is 1, except in the reference's discretisation of VP, where it is 1 - beta_i.

At fixed snr the steps keep a bias. On N(0, sigma^2 I), in units of sigma^2, a step of size e takes the variance v to
(1 - e)^2 v + 2 e, which stays at v = 1/(1 - e/2). With ald e = 2 snr^2, hence v = 1/(1 - snr^2). With langevin the
score that the step is measured by has the norm of the states themselves, |score| = sqrt(v) |z|, so that e = 2 snr^2 / v
and v = 1 + snr^2; were |score| that of the exact law, v would be 1/(1 - snr^2) here too. Both are 1 + snr^2 + O(snr^4):
the bias falls as snr^2. Measured at snr 1/2: 1.2501 +- 0.0017 (langevin), 1.3333 (ald); at 1/8: 1.01564, 1.01587.
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from solvers.errors import UsageError, unknown_name
from solvers.methods._exponential import combine
from solvers.process import ReverseProcess

Rule = Literal["langevin", "ald"]


def check_langevin(who: str, rule: str, snr: float, corrector_steps: int) -> None:
    """Refuse settings out of range.

    Raises:
        UsageError: an unknown rule, an snr that is not positive, or no number of steps.
    """
    if rule not in get_args(Rule):
        raise unknown_name(who, "corrector", rule, get_args(Rule))
    if not 0 < snr < math.inf:
        raise UsageError(who, "snr is positive", snr, "The paper takes 0.01 to 0.2")
    if not (isinstance(corrector_steps, int) and corrector_steps >= 1):
        raise UsageError(who, "corrector_steps is 1, 2, ...", corrector_steps, "Or corrector 'none'")


def equilibrium_variance(rule: Rule, snr: float) -> float:
    """Variance kept on N(0, sigma^2 I), in units of sigma^2; infinite where the steps are too long to keep one."""
    if rule == "langevin":
        return 1 + snr**2
    return 1 / (1 - snr**2) if snr < 1 else math.inf


def langevin_step(
    process: ReverseProcess, x: Tensor, t: float, z: Tensor, rule: Rule, snr: float, alpha: float = 1.0
) -> Tensor:
    """One Langevin step at time t with unit normals z; one evaluation."""
    score = process.score(x, t)
    factor = 2 * (math.sqrt(alpha) if alpha >= 0 else math.nan) * snr
    if rule == "ald":
        std = factor * process.sde.sigma(t)
        return combine(1.0, x, (std**2 / 2, std), (score, z))
    # The size is known on the device alone: nothing waits for it.
    size = factor * (_sum_of_norms(z) / _sum_of_norms(score))
    return torch.addcmul(x, size * size / 2, score).addcmul_(size, z)


def _sum_of_norms(x: Tensor) -> Tensor:
    """Sum over the batch of the norms of the samples."""
    total: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1).sum()
    return total


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
