"""DPM-Solver with step control: embedded exponential pairs in log-SNR, every sample with its own steps."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from solvers import control
from solvers.brownian import Brownian
from solvers.errors import UsageError
from solvers.methods._exponential import combine, frame, one_step, phi, stage, third_order
from solvers.methods._log_snr import march_in_lam
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import AdaptiveSolver


@register
@dataclass(frozen=True)
class DpmAdaptive(AdaptiveSolver):
    """DPM-Solver-12 and -23: a step of ``dpm_solver``, the error its distance to one of an order less.

    12:  x_s of order 2;     lower: order 1
    23:  x_s of order 3;     lower: a x - sigma(s) (e^h - 1) (n(0) + 3/2 (n(1/3) - n(0)))     (order 2 with r = 1/3)

    A step is accepted where the root mean square over the coordinates of (x_s - lower) / max(atol, rtol max(|lower|,
    |x|)) is at most 1, for each sample; the next one has h * 0.9 / error^(1/order), within [1/5, 2] times h. x_s is
    carried on. After a rejection n(0) is kept. Samples that have arrived at the end, exactly, are evaluated no more. Of
    the grid only the ends are used, in either direction of time.

    Order 2 (12) or 3 (23); as many evaluations an attempt, one less after a rejection, counted for each sample.

    Reference: Lu et al. 2022, DPM-Solver, arXiv:2206.00927, app. C, with the error taken per sample and not over the
    batch.

    Args:
        order: 2 for the pair 12, 3 for 23.
        rtol: relative tolerance, dimensionless.
        atol: absolute tolerance, units of x.
        h_init: first step in lam, dimensionless.

    Raises:
        UsageError: another order, or a tolerance or first step that is not positive.
    """

    order: int = 3  # type: ignore[misc]  # a setting here
    rtol: float = 0.05
    atol: float = 0.0078
    h_init: float = 0.05

    family: ClassVar[str] = "exponential, adaptive"
    stochastic: ClassVar[bool] = False
    certified: ClassVar[tuple[dict[str, Any], ...]] = ({"order": 2}, {"order": 3})
    reference: ClassVar[str] = "Lu et al. 2022, arXiv:2206.00927"

    def __post_init__(self) -> None:
        if self.order not in (2, 3):
            raise UsageError(self.key, "the pair is 12 (order 2) or 23 (order 3)", self.order, "Take 2 or 3")
        control.check(self.key, self.rtol, self.atol, "I")
        if not 0 < self.h_init < math.inf:
            raise UsageError(self.key, "the first step is positive", self.h_init, "E.g. 0.05")

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Brownian | None) -> Tensor:
        def noise(part: ReverseProcess, x: Tensor, t: Tensor) -> Tensor:
            return part.noise(x, t)

        def attempt(
            part: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, first: Tensor
        ) -> tuple[Tensor, Tensor, Tensor | None]:
            lower, x_s = self._both(part, x, t, s, first)
            scale = (self.rtol * torch.maximum(lower.abs(), x.abs())).clamp(min=self.atol)
            error = ((x_s - lower) / scale).double().square().flatten(1).mean(1).sqrt()
            return x_s, error, None

        steps = control.StepControl(self.order)
        return march_in_lam(process, x, ts, self.h_init, noise, attempt, steps)

    def _both(self, part: ReverseProcess, x: Tensor, t: Any, s: Any, first: Tensor) -> tuple[Tensor, Tensor]:
        """States of the lower and of the higher order."""
        if self.order == 2:
            lower = one_step(part, "noise", 1, x, t, s, first)
            return lower, one_step(part, "noise", 2, x, t, s, first)
        sde = part.sde
        lam = sde.lam(t)
        h = sde.lam(s) - lam
        third = part.noise(*stage(sde, "noise", x, t, lam, h, 1 / 3, first))
        a, b = frame(sde, "noise", t, s)
        gain = b * h * phi(1, h)
        lower = combine(a, x, (-gain / 2, 3 / 2 * gain), (first, third))
        return lower, third_order(part, "noise", x, t, s, first, third)
