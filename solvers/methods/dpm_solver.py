"""DPM-Solver: exponential one-step methods in log-SNR on the noise prediction."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.errors import UsageError
from solvers.methods._exponential import one_step
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class DpmSolver(FixedStepSolver):
    """DPM-Solver-k, single-step: the exact linear part, and k evaluations of the noise within the step in lam.

    With h = lam(s) - lam(t), x(c) the stage and n(c) its noise at lam(t) + c h, a = alpha/alpha(t) and sigma there:

    1:  x_s    = a x - sigma (e^h - 1) n(0)
    2:  x(1/2) = a x - sigma (e^(h/2) - 1) n(0)
        x_s    = a x - sigma (e^h - 1) n(1/2)
    3:  x(1/3) = a x - sigma (e^(h/3) - 1) n(0)
        x(2/3) = a x - sigma (e^(2h/3) - 1) n(0) - 2 sigma ((e^(2h/3) - 1)/(2h/3) - 1) (n(1/3) - n(0))
        x_s    = a x - sigma (e^h - 1) n(0) - 3/2 sigma ((e^h - 1)/h - 1) (n(2/3) - n(0))

    Order k, k evaluations a step. Order 1 equals ``ddim``.

    Reference: Lu et al. 2022, DPM-Solver, arXiv:2206.00927, eq. 3.7 and alg. 1, 2 (r = 1/2; 1/3 and 2/3).

    Args:
        order: k, 1 to 3.

    Raises:
        UsageError: the order lies outside 1 to 3.
    """

    order: int = 3  # type: ignore[misc]  # a setting here

    family: ClassVar[str] = "exponential one-step"
    stochastic: ClassVar[bool] = False
    recommended_grid: ClassVar[str | None] = "log_snr"
    certified: ClassVar[tuple[dict[str, Any], ...]] = ({"order": 1}, {"order": 2}, {"order": 3})
    reference: ClassVar[str] = "Lu et al. 2022, arXiv:2206.00927"

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise UsageError(self.key, "orders run from 1 to 3", self.order, "Take 1, 2 or 3")

    def nfe(self, steps: int) -> int:
        return self.order * steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return one_step(process, "noise", self.order, x, t, s, process.noise(x, t)), state
