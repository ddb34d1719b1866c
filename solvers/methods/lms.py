"""Linear multistep (Adams–Bashforth) in the coordinates of Karras et al.: x/alpha against sigma/alpha."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from solvers.methods._multistep import Start, State, adams_table, advance, check, evaluations
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver


@register
@dataclass(frozen=True)
class Lms(FixedStepSolver):
    """Adams–Bashforth of variable step on d(x/alpha)/dtau = noise, tau = sigma/alpha.

    x_s = alpha(s)/alpha(t) * x + alpha(s) * sum_j w_j noise_j,     w_j = int from tau(t) to tau(s) of L_j(tau) dtau

    noise_j is the prediction of j steps before, L_j the Lagrange polynomial of those times in tau; w_j is exact.

    Order k, 1 evaluation a step. Order 1 equals ``ddim``; every order equals ``ipndm`` with its variable coefficients
    and ``deis`` with rhoab: one method under three names. With ``start`` = ramp orders 3 and 4 hold before the limit,
    2 in it; runge_kutta takes the first k - 1 steps by ``dpm_solver`` of order k - 1, as many evaluations each.

    Reference: Hairer, Nørsett & Wanner 1993, sec. III.5 (variable step); Karras et al. 2022, arXiv:2206.00364, eq. 1
    (the coordinates).

    Args:
        order: k, 1 to 4.
        start: ramp of orders 1, 2, ..., or one-step formula of order k - 1.

    Raises:
        UsageError: the order lies outside 1 to 4, or there is no such start.
    """

    order: int = 4  # type: ignore[misc]  # a setting here
    start: Start = "ramp"

    family: ClassVar[str] = "linear multistep"
    stochastic: ClassVar[bool] = False
    multistep: ClassVar[bool] = True
    recommended_grid: ClassVar[str | None] = "karras"
    certified: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"order": 1},
        {"order": 2},
        {"order": 3, "start": "runge_kutta"},
        {"order": 4, "start": "runge_kutta"},
    )
    reference: ClassVar[str] = "Hairer et al. 1993, sec. III.5"

    def __post_init__(self) -> None:
        check(self.key, self.order, 4, self.start)

    def nfe(self, steps: int) -> int:
        return evaluations(steps, self.order, self.start)

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> State:
        return State(adams_table(process.sde, tuple(ts.tolist()), self.order), 0, ())

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return advance(process, "noise", self.order, self.start, x, t, s, state)
