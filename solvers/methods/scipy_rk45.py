"""SciPy's RK45 on the probability-flow ODE, the whole batch as one vector: what Song et al. used."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from solvers.brownian import Brownian
from solvers.errors import DivergenceError
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import AdaptiveSolver, check_tolerances


@register
@dataclass(frozen=True)
class ScipyRk45(AdaptiveSolver):
    """Dormand–Prince 5(4) with SciPy's step control on dx/dt = velocity(x, t).

    The whole batch is one vector with one step size (``batch_coupled``), in double precision on the CPU; only the
    network runs in the state's precision and on its device.

    Order 5; evaluations as the tolerance demands, counted.

    Reference: Dormand & Prince 1980, J. Comput. Appl. Math. 6, 19; Song et al. 2021, arXiv:2011.13456, app. D.4.

    Args:
        rtol: relative tolerance, dimensionless.
        atol: absolute tolerance, units of x.

    Raises:
        UsageError: a tolerance that is not positive.
    """

    rtol: float = 1e-5
    atol: float = 1e-5

    family: ClassVar[str] = "probability-flow ODE, adaptive"
    order: ClassVar[int | None] = 5
    stochastic: ClassVar[bool] = False
    batch_coupled: ClassVar[bool] = True
    reference: ClassVar[str] = "Song et al. 2021, arXiv:2011.13456"

    def __post_init__(self) -> None:
        check_tolerances(self.key, self.rtol, self.atol)

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Brownian | None) -> Tensor:
        from scipy.integrate import solve_ivp

        start, end = float(ts[0]), float(ts[-1])
        low, high = min(start, end), max(start, end)

        def state(flat: Any) -> Tensor:
            return torch.from_numpy(flat).to(x).reshape(x.shape)

        def velocity(t: float, flat: Any) -> Any:
            # Rounding of t + c h may pass an end by one unit in the last place.
            return process.velocity(state(flat), min(max(float(t), low), high)).double().cpu().numpy().ravel()

        flat = x.double().cpu().numpy().ravel()
        solution = solve_ivp(velocity, (start, end), flat, method="RK45", rtol=self.rtol, atol=self.atol, t_eval=[end])
        if not solution.success:
            raise DivergenceError(f"scipy stopped: {solution.message}")
        return state(solution.y[:, -1].copy())
