"""Embedded Runge–Kutta pairs on the probability-flow ODE, every sample with its own steps."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from solvers import control
from solvers.brownian import Brownian
from solvers.errors import UsageError, unknown_name
from solvers.methods import _pairs
from solvers.methods._coordinates import AngleCoordinates, Coordinates, TimeCoordinates
from solvers.methods._dormand_prince_853 import DORMAND_PRINCE_853
from solvers.process import ReverseProcess
from solvers.registry import register
from solvers.sde import expand
from solvers.solver import AdaptiveSolver

Variable = Literal["time", "angle"]
PairName = Literal["bogacki_shampine", "dormand_prince", "tsitouras", "dormand_prince_853"]

_PAIRS: dict[PairName, _pairs.Pair] = {
    "bogacki_shampine": _pairs.BOGACKI_SHAMPINE,
    "dormand_prince": _pairs.DORMAND_PRINCE,
    "tsitouras": _pairs.TSITOURAS,
    "dormand_prince_853": DORMAND_PRINCE_853,
}


def _combined(error: Tensor, lower: Tensor | None = None) -> Tensor:
    """The error from its estimate and one of lower order: dt^6 and dt^4 make dt^8, and neither is trusted alone."""
    if lower is None:
        return error
    return error.square() / (error.square() + 0.01 * lower.square()).sqrt().clamp(min=torch.finfo(error.dtype).tiny)


@register
@dataclass(frozen=True)
class Rk45(AdaptiveSolver):
    """Embedded pair on the flow dx/dt = velocity(x, t), with a step size of its own for each sample.

    v_i = velocity(x + dt * sum_j a_ij v_j, t + c_i dt),    x_s = x + dt * sum_i b_i v_i,    error = dt * sum_i e_i v_i

    With variable = angle the pair is applied to dy/du = f(y, u), u = atan(sigma / (alpha data_std)), see
    ``_coordinates``, where steps of one length suit the whole interval. Beside t with the same controller, an error of
    1e-2 to 1e-5 takes 0.52 to 0.70 of the evaluations on Gaussian and mixture under VP, 0.49 to 0.75 under sub-VP, 0.42
    to 0.57 under VE, 0.13 to 0.30 under EDM, and about as many, 0.71 to 1.17, under rectified flow and cosine.
    Tolerances are then those of y = cos(u) x / alpha, which is x at the end and of the data's size at the start. A
    log-determinant does not scale with x: likelihoods are solved in t.

    A step is accepted where the root mean square E over the coordinates of error / (atol + rtol max(|x|, |x_s|)) is at
    most 1; for dormand_prince_853 E_5^2 / sqrt(E_5^2 + 0.01 E_3^2), of its estimates of orders 5 and 3. Samples that
    have arrived at the end, exactly, are evaluated no more; no evaluation lies outside the grid's interval. Of the grid
    only the ends are used, in either direction of time.

    Order 3 (bogacki_shampine), 5 (dormand_prince, tsitouras) or 8 (dormand_prince_853); 3, 6 or 12 evaluations an
    attempt and two before the first, counted for each sample.

    Reference: Dormand & Prince 1980, J. Comput. Appl. Math. 6, 19; Bogacki & Shampine 1989; Tsitouras 2011; Hairer,
    Nørsett & Wanner 1993, Solving Ordinary Differential Equations I, sec. II.10 (8(5, 3)).

    Args:
        pair: the embedded pair.
        rtol: relative tolerance, dimensionless.
        atol: absolute tolerance, units of x.
        controller: step controller, I, PI or PID.
        variable: angle or time, what steps are taken in.
        data_std: standard deviation of the data, units of x, for the angle.

    Raises:
        UsageError: unknown pair, controller or variable, or a tolerance or data_std that is not positive.
    """

    pair: PairName = "dormand_prince"
    rtol: float = 1e-3
    atol: float = 1e-3
    controller: control.Kind = "I"
    variable: Variable = "angle"
    data_std: float = 0.6

    family: ClassVar[str] = "probability-flow ODE, adaptive"
    stochastic: ClassVar[bool] = False
    certified: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"pair": "bogacki_shampine"},
        {"pair": "tsitouras"},
        {"pair": "dormand_prince_853"},
        {"controller": "PI"},
        {"variable": "time"},
    )
    reference: ClassVar[str] = "Dormand & Prince 1980"

    def __post_init__(self) -> None:
        if self.pair not in _PAIRS:
            raise unknown_name(self.key, "pair", self.pair, get_args(PairName))
        control.check(self.key, self.rtol, self.atol, self.controller)
        if self.variable not in get_args(Variable):
            raise unknown_name(self.key, "variable", self.variable, get_args(Variable))
        if not 0 < self.data_std < math.inf:
            raise UsageError(self.key, "data_std is positive", self.data_std, "E.g. 0.5, as in EDM")

    @property
    def order(self) -> int:  # type: ignore[override]  # depends on the setting
        """Order of the solution that is carried on."""
        return _PAIRS[self.pair].order

    def solve(self, process: ReverseProcess, x: Tensor, ts: Tensor, brownian: Brownian | None) -> Tensor:
        pair = _PAIRS[self.pair]
        rows = [torch.tensor(row, dtype=x.dtype, device=x.device) for row in pair.a]
        estimates = [torch.tensor(e, dtype=x.dtype, device=x.device) for e in (pair.e, pair.e_3) if e is not None]

        over: Coordinates = TimeCoordinates(ts)
        if self.variable == "angle" and process.rescalable:
            over = AngleCoordinates(process.sde, ts, self.data_std)

        def attempt(
            part: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, first: Tensor
        ) -> tuple[Tensor, Tensor, Tensor | None]:
            dt = expand(s - t, x)
            v = x.new_empty(len(pair.c), *x.shape)
            v[0] = first
            for i in range(1, len(pair.c)):
                x_s = x + dt * torch.tensordot(rows[i], v[:i], dims=1)
                v[i] = over.derivative(part, x_s, s if pair.c[i] == 1 else t + pair.c[i] * (s - t))
            sizes = [
                control.scaled_norm(dt * torch.tensordot(e, v, dims=1), x, x_s, self.rtol, self.atol) for e in estimates
            ]
            return x_s, _combined(*sizes), v[-1]

        x, start, end = over.enter(x), over.start, over.end
        first = over.derivative(process, x, x.new_full((len(x),), start, dtype=torch.float64))
        h = control.first_step(
            process, x, start, end, first, over.derivative, pair.k, pair.constant, self.rtol, self.atol
        )
        steps = control.StepControl(pair.k, self.controller)
        return over.leave(control.march(process, x, start, end, h, first, over.derivative, attempt, steps))
