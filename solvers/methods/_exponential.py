"""The probability flow with its linear part solved exactly: phi functions and one-step formulas.

With tau = sigma/alpha = e^-lam the flow is a plain integral in two forms,

    noise:     d(x/alpha) = noise dtau               x_s = a x + b int_0^h e^(h - u) noise du,    a = alpha(s)/alpha(t), b = -sigma(s)
    denoised:  d(x/sigma) = denoised d(1/tau)        x_s = a x + b int_0^h e^(u - h) denoised du, a = sigma(s)/sigma(t), b = alpha(s)

with u = lam - lam(t) and h = lam(s) - lam(t). For a prediction f that is a polynomial in u

    x_s = a x + b sum_k f^(k)(0) h^(k+1) phi_(k+1)(c h),      c = 1 for noise, -1 for denoised,

    phi_0(z) = e^z,   phi_(k+1)(z) = (phi_k(z) - 1/k!) / z = sum_i z^i / (i + k + 1)!.

All coefficients are Python floats in double precision; h is negative when time runs upwards.

References: Hochbruck & Ostermann 2010, Exponential integrators, Acta Numerica 19, 209; Lu et al. 2022,
arXiv:2206.00927 (noise) and arXiv:2211.01095 (denoised).
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from solvers.process import ReverseProcess
from solvers.sde import ForwardSDE

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


def frame(sde: ForwardSDE, form: Form, t: float, s: float) -> tuple[float, float]:
    """(a, b) of a step from t to s."""
    if form == "noise":
        return sde.alpha(s) / sde.alpha(t), -sde.sigma(s)
    return sde.sigma(s) / sde.sigma(t), sde.alpha(s)


def predict(process: ReverseProcess, form: Form, x: Tensor, t: float) -> Tensor:
    """The form's prediction: one evaluation."""
    return process.noise(x, t) if form == "noise" else process.denoised(x, t)


def combine(a: float, x: Tensor, weights: tuple[float, ...], values: tuple[Tensor, ...]) -> Tensor:
    """a x + sum_j weights[j] values[j], in one new tensor."""
    result = a * x
    for weight, value in zip(weights, values, strict=True):
        result.add_(value, alpha=weight)
    return result


def one_step(process: ReverseProcess, form: Form, order: int, x: Tensor, t: float, s: float, first: Tensor) -> Tensor:
    """x_s by the one-step formula of an order, 1 to 4, of as many evaluations, ``first`` = f(x, t) among them.

    With F(c) the stage at lam(t) + c h, e_c = c h phi_1(c h) (without c in a sign: at the form's sign) and b at its time

    1:  x_s = a x + b h phi_1 f
    2:  F(1/2) of order 1, then as 1 with f at F(1/2)                                           (DPM-Solver-2, r = 1/2)
    3:  F(1/3) of order 1;  F(2/3) = a x + b (e f + 2 (2/3 h) phi_2(2/3 h) (f_1/3 - f));
        x_s = a x + b h (phi_1 f + 3/2 phi_2 (f_2/3 - f))                                       (DPM-Solver-3)
    4:  nodes 0, 1/2, 1/2, 1 with Krogstad's weights, see :func:`krogstad`.

    Reference: Lu et al. 2022, arXiv:2206.00927, alg. 1, 2; Krogstad 2005, J. Comput. Phys. 203, 72, eq. 51.
    """
    sde, c = process.sde, sign(form)
    lam = sde.lam(t)
    h = sde.lam(s) - lam
    if order == 1:
        a, b = frame(sde, form, t, s)
        return combine(a, x, (b * h * phi(1, c * h),), (first,))
    if order == 2:
        m = sde.t_of_lam(lam + h / 2)
        a, b = frame(sde, form, t, m)
        middle = predict(process, form, combine(a, x, (b * h / 2 * phi(1, c * h / 2),), (first,)), m)
        a, b = frame(sde, form, t, s)
        return combine(a, x, (b * h * phi(1, c * h),), (middle,))
    if order == 3:
        m = sde.t_of_lam(lam + h / 3)
        a, b = frame(sde, form, t, m)
        third = predict(process, form, combine(a, x, (b * h / 3 * phi(1, c * h / 3),), (first,)), m)
        m = sde.t_of_lam(lam + 2 * h / 3)
        a, b = frame(sde, form, t, m)
        z = 2 * h / 3
        weight = 2 * z * phi(2, c * z)
        stage = combine(a, x, (b * (z * phi(1, c * z) - weight), b * weight), (first, third))
        two_thirds = predict(process, form, stage, m)
        a, b = frame(sde, form, t, s)
        weight = 1.5 * h * phi(2, c * h)
        return combine(a, x, (b * (h * phi(1, c * h) - weight), b * weight), (first, two_thirds))
    m = sde.t_of_lam(lam + h / 2)
    stage_2, stage_3, stage_4, last = krogstad(c * h)
    a, b = frame(sde, form, t, m)
    f_2 = predict(process, form, combine(a, x, (b * h * stage_2[0],), (first,)), m)
    f_3 = predict(process, form, combine(a, x, tuple(b * h * w for w in stage_3), (first, f_2)), m)
    a, b = frame(sde, form, t, s)
    f_4 = predict(process, form, combine(a, x, tuple(b * h * w for w in stage_4), (first, f_3)), s)
    return combine(a, x, tuple(b * h * w for w in last), (first, f_2, f_3, f_4))


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
