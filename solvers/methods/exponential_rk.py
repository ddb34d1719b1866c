"""Adaptive exponential Runge–Kutta in log-SNR on the denoised prediction, every sample with its own steps."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from solvers import control
from solvers.brownian import Brownian
from solvers.errors import UsageError
from solvers.methods._exponential import combine, frame, one_step, phi
from solvers.methods._log_snr import march_in_lam
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import AdaptiveSolver


@register
@dataclass(frozen=True)
class ExponentialRk(AdaptiveSolver):
    """Krogstad's fourth-order method with an embedded second-order one.

    With D_i the denoised prediction at the stages lam(t) + (0, 1/2, 1/2, 1) h, and phi at -h, at -h/2 for phi^:

    x_i = sigma_i/sigma(t) x + alpha_i h sum_j a_ij D_j,     x_s = sigma(s)/sigma(t) x + alpha(s) h sum_i b_i D_i
    a_21 = phi^_1/2;  a_31 = phi^_1/2 - phi^_2, a_32 = phi^_2;  a_41 = phi_1 - 2 phi_2, a_43 = 2 phi_2
    b_1 = phi_1 - 3 phi_2 + 4 phi_3,  b_2 = b_3 = 2 phi_2 - 4 phi_3,  b_4 = 4 phi_3 - phi_2
    error = x_s - (sigma(s)/sigma(t) x + alpha(s) h ((phi_1 - phi_2) D_1 + phi_2 D_5)),     D_5 = denoised(x_s, s)

    The embedded solution is the exponential trapezoidal rule, and D_5 is the next step's first evaluation. An embedded
    method of order 3 would need another node in lam: D_5 in the place of D_4 has order 3, but the same quadrature, and
    sees nothing of its error at high noise, where denoised varies with lam and hardly with x (measured there: local
    errors 80 times the estimate).

    A step is accepted where the root mean square over the coordinates of error / (atol + rtol max(|x|, |x_s|)) is at
    most 1, for each sample. Samples that have arrived at the end, exactly, are evaluated no more. Of the grid only the
    ends are used, in either direction of time.

    Order 4; 4 evaluations an attempt and one before the first, counted for each sample.

    Reference: Krogstad 2005, J. Comput. Phys. 203, 72, eq. 51; Hochbruck & Ostermann 2010, Acta Numerica 19, 209.

    Args:
        rtol: relative tolerance, dimensionless.
        atol: absolute tolerance, units of x.
        controller: step controller, I, PI or PID.
        h_init: first step in lam, dimensionless.

    Raises:
        UsageError: unknown controller, or a tolerance or first step that is not positive.
    """

    rtol: float = 1e-3
    atol: float = 1e-3
    controller: control.Kind = "PID"
    h_init: float = 0.05

    family: ClassVar[str] = "exponential, adaptive"
    order: ClassVar[int | None] = 4
    stochastic: ClassVar[bool] = False
    reference: ClassVar[str] = "Krogstad 2005, J. Comput. Phys. 203, 72"

    def __post_init__(self) -> None:
        control.check(self.key, self.rtol, self.atol, self.controller)
        if not 0 < self.h_init < math.inf:
            raise UsageError(self.key, "the first step is positive", self.h_init, "E.g. 0.05")

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Brownian | None) -> Tensor:
        def denoised(part: ReverseProcess, x: Tensor, t: Tensor) -> Tensor:
            return part.denoised(x, t)

        def attempt(
            part: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, first: Tensor
        ) -> tuple[Tensor, Tensor, Tensor | None]:
            x_s = one_step(part, "denoised", 4, x, t, s, first)
            first_s = part.denoised(x_s, s)
            h = part.sde.lam(s) - part.sde.lam(t)
            a, b = frame(part.sde, "denoised", t, s)
            slope = phi(2, -h)
            lower = (b * h * (phi(1, -h) - slope), b * h * slope)
            error = x_s - combine(a, x, lower, (first, first_s))
            return x_s, control.scaled_norm(error, x, x_s, self.rtol, self.atol), first_s

        steps = control.StepControl(3, self.controller)
        return march_in_lam(process, x, ts, self.h_init, denoised, attempt, steps)
