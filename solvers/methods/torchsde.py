"""Fixed-step solvers of torchsde on the reverse SDE, driven by the project's own grids and noise."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from solvers.errors import unknown_name
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.solver import FixedStepSolver

Method = Literal["euler"]


@register
@dataclass(frozen=True)
class Torchsde(FixedStepSolver):
    """torchsde's Euler–Maruyama on the reverse SDE, integrated in grid index.

    With t(u) linear between the grid's times and u counting them, the SDE in u is

    dx = dt/du * (f x - g^2 score) du + g sqrt(|dt/du|) dB,     dB over step k = dw(t_k, t_k+1) / sqrt(t_k - t_k+1)

    so that torchsde takes steps of exactly 1 on any grid. (Fed with times in single precision it appends a stray step
    of 1e-6 and its Brownian motion enters a slow path, torchsde issue 109.)

    Order 1 in law, 1 evaluation a step; equals ``euler_maruyama``. torchsde asks for the drift once more to check its
    shape: at the first state, and the value is used for the first step.

    Reference: Li et al. 2020, Scalable Gradients for SDEs, arXiv:2001.01328.

    Args:
        method: method of torchsde.

    Raises:
        UsageError: unknown method.
    """

    method: Method = "euler"

    family: ClassVar[str] = "reverse SDE"
    order: ClassVar[int | None] = 1
    stochastic: ClassVar[bool] = True
    constrainable: ClassVar[bool] = False
    reference: ClassVar[str] = "Li et al. 2020, arXiv:2001.01328"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise unknown_name(self.key, "method", self.method, get_args(Method))

    def nfe(self, steps: int) -> int:
        return steps

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Any) -> Tensor:
        from torchsde import BaseBrownian, sdeint

        sde = _GridIndexSDE(process, x, ts)

        class Increments(BaseBrownian):  # type: ignore[misc]  # torchsde is untyped
            """The path's increments in grid index."""

            shape = (len(x), x[0].numel())
            dtype = x.dtype
            device = x.device
            levy_area_approximation = "none"

            def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Tensor:  # noqa: N803
                _, dt = sde.interval(float(ta))
                dw: Tensor = brownian.dw(sde.time(float(ta)), sde.time(float(tb))).reshape(self.shape)
                return dw / math.sqrt(-dt)

            def __repr__(self) -> str:
                return "Increments()"

        index = torch.tensor([0.0, len(ts) - 1.0], dtype=torch.float64)
        states = sdeint(sde, x.flatten(1), index, bm=Increments(), method=self.method, dt=1.0)
        result: Tensor = states[-1].to(x.dtype).reshape(x.shape)
        return result

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        return self.solve(process, x, torch.tensor([t, s], dtype=torch.float64), brownian), state


class _GridIndexSDE:
    """The reverse SDE with the grid's index as time, in torchsde's form."""

    noise_type = "diagonal"
    sde_type = "ito"

    def __init__(self, process: ReverseProcess, x: Tensor, ts: Tensor) -> None:
        self._process = process
        self._shape = x.shape
        self._times = ts.tolist()
        self._first: tuple[Tensor, Tensor] | None = None

    def interval(self, u: float) -> tuple[float, float]:
        """Start and length of the grid's interval that begins at or before u."""
        k = min(int(u), len(self._times) - 2)
        return self._times[k], self._times[k + 1] - self._times[k]

    def time(self, u: float) -> float:
        """t(u)."""
        k = min(int(u), len(self._times) - 2)
        start, dt = self.interval(u)
        return float(start + (u - k) * dt) if u < len(self._times) - 1 else float(self._times[-1])

    def f(self, u: Tensor, y: Tensor) -> Tensor:
        """Drift in u. The check of shapes asks for the value at the first state, and the first step asks again."""
        if float(u) == 0 and self._first is not None and self._first[0] is y:
            return self._first[1]
        t, (_, dt) = self.time(float(u)), self.interval(float(u))
        sde, x = self._process.sde, y.reshape(self._shape)
        score = self._process.score(x, t)
        drift = dt * (sde.drift_coefficient(t) * x - sde.diffusion_squared(t) * score)
        if self._first is None:
            self._first = y, drift.flatten(1)
        result: Tensor = drift.flatten(1)
        return result

    def g(self, u: Tensor, y: Tensor) -> Tensor:
        """Diffusion in u."""
        t, (_, dt) = self.time(float(u)), self.interval(float(u))
        return torch.full_like(y, self._process.sde.diffusion(t) * math.sqrt(-dt))
