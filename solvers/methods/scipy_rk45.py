"""SciPy's adaptive Runge–Kutta methods on the probability-flow ODE, as Song et al. used them."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from solvers.brownian import Brownian
from solvers.errors import DivergenceError, UsageError, unknown_name
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import AdaptiveSolver

Method = Literal["RK45", "RK23", "DOP853"]

_ORDERS: dict[Method, int] = {"RK45": 5, "RK23": 3, "DOP853": 8}


@register
@dataclass(frozen=True)
class ScipyRk45(AdaptiveSolver):
    """``scipy.integrate.solve_ivp`` on dx/dt = velocity(x, t), the whole batch one vector with one step size.

    The vector is handed to SciPy in double precision, the network gets the dtype of x. Of the grid only the ends are
    used. A sample depends on its batch (``batch_coupled``); per-sample steps are ``rk45``'s.

    Order that of the method (RK45: 5); evaluations as the tolerance demands, counted.

    Reference: Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv:2011.13456, app. D.2 (RK45, both
    tolerances 1e-5); Dormand & Prince 1980.

    Args:
        method: method of SciPy.
        rtol: relative tolerance, dimensionless.
        atol: absolute tolerance, units of x.

    Raises:
        UsageError: unknown method, or a tolerance that is not positive.
    """

    method: Method = "RK45"
    rtol: float = 1e-5
    atol: float = 1e-5

    family: ClassVar[str] = "probability-flow ODE, adaptive"
    stochastic: ClassVar[bool] = False
    batch_coupled: ClassVar[bool] = True
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise unknown_name(self.key, "method", self.method, get_args(Method))
        if not (self.rtol > 0 and self.atol > 0):
            raise UsageError(self.key, "tolerances are positive", (self.rtol, self.atol), "E.g. 1e-5")

    @property
    def order(self) -> int:  # type: ignore[override]  # depends on the setting
        """Order of the method."""
        return _ORDERS[self.method]

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Brownian | None) -> Tensor:
        from scipy.integrate import solve_ivp

        start, end = float(ts[0]), float(ts[-1])
        low, high = min(start, end), max(start, end)

        def velocity(t: float, flat: Any) -> Any:
            state = torch.from_numpy(flat.reshape(x.shape)).to(x)
            # Rounding of an accepted step may pass an end by one unit in the last place.
            return process.velocity(state, min(max(float(t), low), high)).double().cpu().numpy().ravel()

        solution = solve_ivp(
            velocity,
            (start, end),
            x.double().cpu().numpy().ravel(),
            method=self.method,
            rtol=self.rtol,
            atol=self.atol,
        )
        if not solution.success:
            raise DivergenceError(f"scipy stopped: {solution.message}")
        return torch.from_numpy(solution.y[:, -1].reshape(x.shape).copy()).to(x)
