"""The probability flow with its linear part solved exactly: phi functions and one-step formulas.

With tau = sigma/alpha = e^-lam the flow is a plain integral in two forms,

    noise:     d(x/alpha) = noise dtau              x_s = a x + b int_0^h e^(h - u) noise du
    denoised:  d(x/sigma) = denoised d(1/tau)       x_s = a x + b int_0^h e^(u - h) denoised du

    noise:     a = alpha(s)/alpha(t), b = -sigma(s)        denoised:  a = sigma(s)/sigma(t), b = alpha(s)

with u = lam - lam(t) and h = lam(s) - lam(t). For a prediction f that is a polynomial in u

    x_s = a x + b sum_k f^(k)(0) h^(k+1) phi_(k+1)(c h),      c = 1 for noise, -1 for denoised,

    phi_0(z) = e^z,   phi_(k+1)(z) = (phi_k(z) - 1/k!) / z = sum_i z^i / (i + k + 1)!.

Times are numbers, and with them all coefficients, in double precision; or float64 tensors of one time a sample. h is
negative when time runs upwards.

References: Hochbruck & Ostermann 2010, Exponential integrators, Acta Numerica 19, 209; Lu et al. 2022,
arXiv:2206.00927 (noise) and arXiv:2211.01095 (denoised).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE, Time, expand, scaled

Form = Literal["noise", "denoised"]

# Up to this |z| phi is summed as a series: the recursion cancels there.
_SERIES = 1.0
_TERMS = 18


def phi(k: int, z: Any) -> Any:
    """phi_k at a number, or at a float64 tensor of numbers."""
    if isinstance(z, Tensor):
        small = torch.where(z.abs() < _SERIES, z, torch.zeros_like(z))
        large = torch.where(z.abs() < _SERIES, torch.ones_like(z), z)
        return torch.where(z.abs() < _SERIES, _phi_series(k, small), _phi_recursion(k, large, torch.exp(large)))
    return _phi_series(k, z) if abs(z) < _SERIES else _phi_recursion(k, z, math.exp(z))


def _phi_series(k: int, z: Any) -> Any:
    value = 1 / math.factorial(_TERMS + k)
    for i in range(_TERMS - 1, -1, -1):
        value = value * z + 1 / math.factorial(i + k)
    return value


def _phi_recursion(k: int, z: Any, value: Any) -> Any:
    for j in range(k):
        value = (value - 1 / math.factorial(j)) / z
    return value


def sign(form: Form) -> float:
    """c of the form: phi functions are taken at c h."""
    return 1.0 if form == "noise" else -1.0


def frame(sde: ForwardSDE, form: Form, t: Time, s: Time) -> tuple[Time, Time]:
    """(a, b) of a step from t to s."""
    if form == "noise":
        return sde.alpha(s) / sde.alpha(t), -sde.sigma(s)
    return sde.sigma(s) / sde.sigma(t), sde.alpha(s)


def predict(process: ReverseProcess, form: Form, x: Tensor, t: float | Tensor) -> Tensor:
    """The form's prediction: one evaluation."""
    return process.noise(x, t) if form == "noise" else process.denoised(x, t)


def combine(a: Any, x: Tensor, weights: Sequence[Any], values: Sequence[Tensor]) -> Tensor:
    """a x + sum_j weights[j] values[j], in one new tensor; numbers, or one coefficient a sample."""
    result: Tensor
    if isinstance(a, Tensor):
        result = expand(a, x) * x
        for weight, value in zip(weights, values, strict=True):
            result.addcmul_(expand(weight, x), value)
    else:
        result = scaled(a, x)
        for weight, value in zip(weights, values, strict=True):
            result.add_(value, alpha=weight)
    return result


def one_step(process: ReverseProcess, form: Form, order: int, x: Tensor, t: Any, s: Any, first: Tensor) -> Tensor:
    """x_s by the one-step formula of an order, 1 to 4, of as many evaluations, ``first`` = f(x, t) among them.

    1:  f held constant                                                                         (DDIM)
    2:  f at the middle of the step, where the state is of order 1                              (DPM-Solver-2, r = 1/2)
    3:  f at 0, 1/3, 2/3, see :func:`third_order`                                               (DPM-Solver-3)
    4:  f at 0, 1/2, 1/2, 1 with Krogstad's weights, see :func:`krogstad`

    Reference: Lu et al. 2022, arXiv:2206.00927, alg. 1, 2; Krogstad 2005, J. Comput. Phys. 203, 72, eq. 51.
    """
    sde, c = process.sde, sign(form)
    lam = sde.lam(t)
    h = sde.lam(s) - lam
    if order == 1:
        a, b = frame(sde, form, t, s)
        return combine(a, x, (b * h * phi(1, c * h),), (first,))
    if order == 2:
        middle = predict(process, form, *stage(sde, form, x, t, lam, h, 1 / 2, first))
        a, b = frame(sde, form, t, s)
        return combine(a, x, (b * h * phi(1, c * h),), (middle,))
    if order == 3:
        third = predict(process, form, *stage(sde, form, x, t, lam, h, 1 / 3, first))
        return third_order(process, form, x, t, s, first, third)
    stage_2, stage_3, stage_4, last = krogstad(c * h)
    m = sde.t_of_lam(lam + h / 2)
    a, b = frame(sde, form, t, m)
    f_2 = predict(process, form, combine(a, x, (b * h * stage_2[0],), (first,)), m)
    f_3 = predict(process, form, combine(a, x, tuple(b * h * w for w in stage_3), (first, f_2)), m)
    a, b = frame(sde, form, t, s)
    f_4 = predict(process, form, combine(a, x, tuple(b * h * w for w in stage_4), (first, f_3)), s)
    return combine(a, x, tuple(b * h * w for w in last), (first, f_2, f_3, f_4))


def stage(
    sde: ForwardSDE, form: Form, x: Tensor, t: Any, lam: Any, h: Any, node: float, first: Tensor
) -> tuple[Tensor, Any]:
    """State of order 1 at lam + node h, and its time."""
    m = sde.t_of_lam(lam + node * h)
    a, b = frame(sde, form, t, m)
    z = node * h
    return combine(a, x, (b * z * phi(1, sign(form) * z),), (first,)), m


def third_order(process: ReverseProcess, form: Form, x: Tensor, t: Any, s: Any, first: Tensor, third: Tensor) -> Tensor:
    """x_s of order 3 from f at 0 and 1/3 of the step and one evaluation at 2/3, with z = 2h/3.

    x_2/3 = a x + b (z phi_1(z) f + 2 z phi_2(z) (f_1/3 - f)),     x_s = a x + b (h phi_1 f + 3/2 h phi_2 (f_2/3 - f))
    """
    sde, c = process.sde, sign(form)
    lam = sde.lam(t)
    h = sde.lam(s) - lam
    z = 2 * h / 3
    m = sde.t_of_lam(lam + z)
    a, b = frame(sde, form, t, m)
    slope = 2 * z * phi(2, c * z)
    x_m = combine(a, x, (b * (z * phi(1, c * z) - slope), b * slope), (first, third))
    two_thirds = predict(process, form, x_m, m)
    a, b = frame(sde, form, t, s)
    slope = 1.5 * h * phi(2, c * h)
    return combine(a, x, (b * (h * phi(1, c * h) - slope), b * slope), (first, two_thirds))


def krogstad(z: Any) -> tuple[tuple[Any, ...], ...]:
    """Weights of Krogstad's fourth-order formula at z = c h: stages 2 (on f_1), 3 (f_1, f_2), 4 (f_1, f_3), result.

    Stage 2: phi_1(z/2)/2.  Stage 3: phi_1(z/2)/2 - phi_2(z/2), phi_2(z/2).  Stage 4: phi_1 - 2 phi_2, 2 phi_2.
    Result: phi_1 - 3 phi_2 + 4 phi_3, twice 2 phi_2 - 4 phi_3, 4 phi_3 - phi_2.
    """
    half_1, half_2 = phi(1, z / 2), phi(2, z / 2)
    one, two, three = phi(1, z), phi(2, z), phi(3, z)
    middle = 2 * two - 4 * three
    return (
        (half_1 / 2,),
        (half_1 / 2 - half_2, half_2),
        (one - 2 * two, 2 * two),
        (one - 3 * two + 4 * three, middle, middle, 4 * three - two),
    )
