"""iPNDM: Adams–Bashforth combinations of the noise prediction carried by DDIM steps."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from solvers.errors import unknown_name
from solvers.methods._multistep import Start, State, adams_table, advance, check, evaluations
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver

Coefficients = Literal["variable", "fixed"]


@register
@dataclass(frozen=True)
class Ipndm(FixedStepSolver):
    """iPNDM: a DDIM step with a mean of the last noise predictions in the place of the noise.

    x_s = alpha(s)/alpha(t) * x + (sigma(s) - alpha(s)/alpha(t) * sigma(t)) * sum_j w_j noise_j,     sum_j w_j = 1

    variable: w_j = mean over the step of the Lagrange polynomial L_j in tau = sigma/alpha. DDIM is Euler's step of
              d(x/alpha)/dtau = noise, so the mean is to be taken in tau: in any other variable the order is at most 2.
    fixed:    w_j of equal steps, as published: 1;  3/2, -1/2;  23/12, -16/12, 5/12;  55/24, -59/24, 37/24, -9/24.

    Order k with variable coefficients, at most 2 with fixed ones (k where steps of tau are equal). 1 evaluation a step.
    Order 1 equals ``ddim``; with variable coefficients every order equals ``lms`` and ``deis`` with rhoab. With
    ``start`` = ramp orders 3 and 4 hold before the limit, 2 in it; runge_kutta takes the first k - 1 steps by
    ``dpm_solver`` of order k - 1, as many evaluations each.

    Reference: Zhang & Chen 2023, DEIS, arXiv:2204.13902, app. H.2 (fixed); Liu et al. 2022, PNDM, arXiv:2202.09778.

    Args:
        order: k, 1 to 4.
        coefficients: variable, or fixed as published.
        start: ramp of orders 1, 2, ..., or one-step formula of order k - 1.

    Raises:
        UsageError: the order lies outside 1 to 4, or there are no such coefficients or start.
    """

    order: int = 4  # type: ignore[misc]  # a setting here
    coefficients: Coefficients = "variable"
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
        {"coefficients": "fixed"},
    )
    reference: ClassVar[str] = "Zhang & Chen 2023, arXiv:2204.13902"

    def __post_init__(self) -> None:
        check(self.key, self.order, 4, self.start)
        if self.coefficients not in get_args(Coefficients):
            raise unknown_name(self.key, "coefficients", self.coefficients, get_args(Coefficients))

    @property
    def ramps(self) -> bool:
        """Fixed coefficients have no order above 2 for a ramp to take away."""
        return super().ramps and self.coefficients == "variable"

    @property
    def limit_order(self) -> int | None:
        """Order in the limit of small steps: at most 2 with fixed coefficients, on steps that are not equal."""
        return min(self.order, 2) if self.coefficients == "fixed" else super().limit_order

    def nfe(self, steps: int) -> int:
        return evaluations(steps, self.order, self.start)

    def init(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> State:
        return State(adams_table(process.sde, tuple(ts.tolist()), self.order, self.coefficients == "fixed"), 0, ())

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return advance(process, "noise", self.order, self.start, x, t, s, state)
