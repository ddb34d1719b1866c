"""torchdiffeq and torchsde behind the project's contract: every method, its order, cost and times, and the traps."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
import torchdiffeq
import torchsde
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS

from bench.certify import law_errors, ode_errors
from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import FlowProblem
from solvers.brownian import BrownianPath, UnitProbes
from solvers.errors import DivergenceError, UsageError
from solvers.grids import make_grid
from solvers.methods import torchdiffeq as adapter
from solvers.methods._time_integral import halves, joined
from solvers.methods.torchsde import _METHODS
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import EDM, SDES, VE, VP, RectifiedFlow
from solvers.solver import AdaptiveSolver, FixedStepSolver, Solver, integrate

ODE = {name: get_solver("torchdiffeq", method=name) for name in adapter.methods()}
FIXED_ODE = [name for name, solver in ODE.items() if isinstance(solver, FixedStepSolver)]
ADAPTIVE_ODE = [name for name, solver in ODE.items() if isinstance(solver, AdaptiveSolver)]
# What torchdiffeq's methods are called in textbooks, order on unequal steps.
ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4, "explicit_adams": 2, "implicit_adams": 2}
ORDERS |= {"dopri5": 5, "dopri8": 8, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 2}

every_sde = pytest.mark.parametrize("sde", SDES)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On states this small a second thread costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Watched(ReverseProcess):
    """A problem's process that keeps the times at which the network is called."""

    def __init__(self, problem: FlowProblem) -> None:
        inner = problem.process()
        self.times: list[Tensor] = []

        def network(x: Tensor, t: Tensor) -> Tensor:
            self.times.append(t)
            return inner.network(x, t)

        super().__init__(problem.sde, network, inner.parametrisation)


def slopes(errors: list[float]) -> list[float]:
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


def run(solver: Solver, problem: FlowProblem, ts: Tensor, n: int = 6, **settings: Any) -> tuple[Tensor, Watched]:
    process = Watched(problem)
    x = problem.marginal_sample(float(ts[0]), problem.normals(n, 0), "start")
    return integrate(solver, process, x, ts, problem.brownian(n, 0), **settings), process


# torchdiffeq


def test_every_method_of_torchdiffeq_is_offered():
    assert set(SOLVERS) - set(ODE) == {"scipy_solver", "fixed_adams"}
    assert SOLVERS["fixed_adams"] is SOLVERS["implicit_adams"]
    assert {name: solver.order for name, solver in ODE.items()} == ORDERS
    for solver in ODE.values():
        assert solver.adaptive == ("rtol" in solver.settings) == solver.batch_coupled


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"method": "dopri6"}, "torchdiffeq: no method 'dopri6'; did you mean 'dopri"),
        ({"method": "scipy_solver"}, "torchdiffeq: no method 'scipy_solver'"),
        ({"method": "rk4", "rtol": 1e-3}, "get_solver: no setting of torchdiffeq 'rtol'. Known: max_order, method"),
        ({"method": "explicit_adams", "max_order": 3}, "torchdiffeq: max_order is 4 to 12; got 3"),
        ({"method": "dopri5", "max_order": 4}, "get_solver: no setting of torchdiffeq 'max_order'"),
    ],
)
def test_wrong_settings_of_torchdiffeq_are_refused(settings: dict[str, Any], rule: str):
    with pytest.raises(UsageError, match=rule):
        get_solver("torchdiffeq", **settings)


@every_sde
@pytest.mark.parametrize("method", FIXED_ODE)
def test_fixed_methods_step_on_the_grid_and_nowhere_else(method: str, sde: str):
    problem, solver = Gaussian(sde=SDES[sde]()), ODE[method]
    assert isinstance(solver, FixedStepSolver)
    for upwards in (False, True):
        for steps in (1, 2, 3, 7, 20):
            ts = make_grid("karras", problem.sde, steps)
            ts = ts.flip(0) if upwards else ts
            _, process = run(solver, problem, ts)
            times = torch.stack([t[0] for t in process.times])
            assert process.evaluations.calls == len(times) == solver.nfe(steps)
            assert ts.min() <= times.min()
            assert times.max() <= ts.max()
            # Every step begins on the grid, to the last bit; stages lie inside their step.
            assert set(ts[:-1].tolist()) <= set(times.tolist())
            if method == "euler":
                assert set(times.tolist()) <= set(ts.tolist())


@pytest.mark.parametrize("method", FIXED_ODE)
def test_fixed_methods_keep_two_states_however_long_the_grid(method: str, monkeypatch: pytest.MonkeyPatch):
    kept = []
    odeint = torchdiffeq.odeint

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        kept.append(odeint(*args, **kwargs))
        return kept[-1]

    monkeypatch.setattr(torchdiffeq, "odeint", spy)
    run(ODE[method], Gaussian(), make_grid("karras", VP(), 30))
    assert len(kept[-1]) == 2


@pytest.mark.parametrize("sde", [VP(), EDM(), RectifiedFlow()], ids=lambda sde: sde.name)
@pytest.mark.parametrize("method", FIXED_ODE)
def test_order_of_the_fixed_methods(method: str, sde: Any):
    solver = ODE[method]
    assert isinstance(solver, FixedStepSolver)
    levels = (128, 256, 512)
    found = slopes(ode_errors(solver, Gaussian(sde=sde), levels, 0))
    assert min(found) >= ORDERS[method] - 0.2, found


def test_adams_coefficients_are_those_of_equal_steps():
    """Order 3 and 4 on a uniform grid; by torchdiffeq's own highest order the explicit method is unstable there."""
    problem = Gaussian(sde=VE())
    x = problem.marginal_sample(1.0, problem.normals(8, 0), "start")
    exact = problem.flow(x, 1.0, problem.sde.t_min)

    def error(steps: int, **settings: Any) -> float:
        ts = make_grid("uniform", problem.sde, steps)
        found = integrate(get_solver("torchdiffeq", **settings), problem.process(), x, ts)
        return float((found - exact).square().mean().sqrt())

    for method, order in (("explicit_adams", 3), ("implicit_adams", 4)):
        assert slopes([error(steps, method=method) for steps in (128, 256)])[0] == pytest.approx(order, abs=0.2)
    assert error(64, method="explicit_adams") < 1e-2
    assert error(64, method="explicit_adams", max_order=12) > 1e10


@every_sde
@pytest.mark.parametrize(("method", "same"), [("euler", "euler"), ("midpoint", "midpoint"), ("heun2", "heun")])
def test_fixed_methods_are_the_projects_own(method: str, same: str, sde: str):
    problem = Mixture2d(sde=SDES[sde]())
    ts = make_grid("log_snr", problem.sde, 12)
    one, other = run(ODE[method], problem, ts)[0], run(get_solver(same), problem, ts)[0]
    assert torch.allclose(one, other, rtol=1e-11, atol=1e-11 * problem.sde.prior_std)
    # The three-eighths rule.
    assert not torch.allclose(run(ODE["rk4"], problem, ts)[0], run(get_solver("rk4"), problem, ts)[0], atol=1e-7)


@pytest.mark.parametrize("method", FIXED_ODE)
def test_fixed_methods_do_not_couple_the_batch(method: str):
    problem, ts = Mixture2d(), make_grid("log_snr", VP(), 20)
    x = problem.prior(6, 0)
    whole = integrate(ODE[method], problem.process(), x, ts)
    parts = [integrate(ODE[method], problem.process(), x[i : i + 3], ts) for i in (0, 3)]
    assert torch.allclose(whole, torch.cat(parts), rtol=1e-12, atol=1e-12)
    single = integrate(ODE[method], problem.process(), x.float(), ts)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ADAPTIVE_ODE)
def test_adaptive_methods_stay_inside_and_converge(method: str, monkeypatch: pytest.MonkeyPatch):
    """Inside without the adapter's clamp too, which is there for rounding alone."""
    asked: list[float] = []
    odeint = torchdiffeq.odeint

    def spy(velocity: Any, *args: Any, **kwargs: Any) -> Tensor:
        def asking(t: Tensor, x: Tensor) -> Tensor:
            asked.append(float(t))
            return velocity(t, x)

        return odeint(asking, *args, **kwargs)

    monkeypatch.setattr(torchdiffeq, "odeint", spy)
    problem = Gaussian()
    sde = problem.sde
    ts = torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64)
    tolerances = (1e-2, 1e-4, 1e-6) if ORDERS[method] < 5 else (1e-4, 1e-7, 1e-10)
    errors, costs = [], []
    for tolerance in tolerances:
        solver = get_solver("torchdiffeq", method=method, rtol=tolerance, atol=tolerance)
        x, process = run(solver, problem, ts, n=16)
        start = problem.marginal_sample(sde.t_max, problem.normals(16, 0), "start")
        errors.append(float((x - problem.flow(start, sde.t_max, sde.t_min)).square().mean().sqrt()))
        costs.append(process.evaluations.calls)
        times = torch.stack([t[0] for t in process.times])
        assert sde.t_min <= times.min()
        assert times.max() <= sde.t_max
    assert sde.t_min - 1e-15 < min(asked)
    assert max(asked) < sde.t_max + 1e-15
    assert errors[0] > errors[1] > errors[2]
    assert math.log(errors[0] / errors[2]) / math.log(costs[2] / costs[0]) > ORDERS[method] - 0.5, (errors, costs)


def test_torchdiffeq_alone_leaves_the_interval(monkeypatch: pytest.MonkeyPatch):
    """Where the drift is small its first probe goes far; the adapter's first step takes the place of the probe."""
    asked: list[float] = []
    x, odeint = Gaussian().prior(4, 0), torchdiffeq.odeint

    def nearly_at_rest(t: Tensor, x: Tensor) -> Tensor:
        asked.append(float(t))
        return -1e-3 * x

    ends = torch.tensor([1.0, 1e-3], dtype=torch.float64)
    odeint(nearly_at_rest, x, ends, rtol=1e-3, atol=1e-3)
    assert min(asked) < -5
    asked.clear()
    monkeypatch.setattr(
        torchdiffeq, "odeint", lambda velocity, *args, **kwargs: odeint(nearly_at_rest, *args, **kwargs)
    )
    integrate(ODE["dopri5"], Gaussian().process(), x, ends)
    assert len(asked) > 6
    assert min(asked) > 1e-3 - 1e-15
    assert max(asked) == 1.0


# torchsde


def sde_solver(method: str) -> FixedStepSolver:
    solver = get_solver("torchsde", method=method)
    assert isinstance(solver, FixedStepSolver)
    return solver


@pytest.mark.parametrize("sde", [VP(), EDM()], ids=lambda sde: sde.name)
@pytest.mark.parametrize("method", _METHODS)
def test_order_in_law_of_torchsde(method: str, sde: Any):
    solver = sde_solver(method)
    assert solver.order == (2 if method in ("heun", "srk") else 1)
    found = slopes(law_errors(solver, Gaussian(sde=sde), (64, 128, 256)))
    # A linear drift hides the term in its second derivative that midpoint and log_ode miss.
    shown = 2 if method in ("midpoint", "log_ode") else solver.order
    assert found[-1] == pytest.approx(shown, abs=0.15), found


@every_sde
@pytest.mark.parametrize("method", _METHODS)
def test_evaluations_and_times_of_torchsde(method: str, sde: str):
    """Counted, the check of shapes included: 10 a step of srk would be its form for diagonal noise."""
    problem, solver = Gaussian(sde=SDES[sde]()), sde_solver(method)
    for steps in (1, 2, 7):
        ts = make_grid("log_snr", problem.sde, steps)
        _, process = run(solver, problem, ts)
        assert process.evaluations.calls == len(process.times) == solver.nfe(steps)
        times = torch.stack([t[0] for t in process.times])
        assert ts[-1] <= times.min()
        assert times.max() <= ts[0]
        assert set(ts[:-1].tolist()) <= set(times.tolist())


def test_torchsde_asks_the_path_for_the_steps_of_the_grid():
    problem, asked = Gaussian(), []

    class Spy(BrownianPath):
        def dw(self, t: Any, s: Any) -> Tensor:
            asked.append((t, s))
            return super().dw(t, s)

    ts = make_grid("log_snr", problem.sde, 50)
    x = problem.prior(3, 0)
    integrate(sde_solver("heun"), problem.process(), x, ts, Spy(problem.normals(3, 0), 1.0))
    assert asked == list(pairwise(ts.tolist()))


@every_sde
@pytest.mark.parametrize(
    ("method", "same"),
    [
        ("euler", ("euler_maruyama", {})),
        ("milstein", ("euler_maruyama", {})),
        ("heun", ("stochastic_heun", {})),
        ("log_ode", ("torchsde", {"method": "midpoint"})),
    ],
)
def test_torchsde_on_additive_noise(method: str, same: tuple[str, dict[str, Any]], sde: str):
    problem = Mixture2d(sde=SDES[sde]())
    ts = make_grid("log_snr", problem.sde, 10)
    one, other = run(sde_solver(method), problem, ts)[0], run(get_solver(same[0], **same[1]), problem, ts)[0]
    assert torch.allclose(one, other, rtol=1e-10, atol=1e-10 * problem.sde.prior_std)


def test_time_integrals_have_the_law_of_the_paths():
    """Var J = h^3/3, cov(J, dw) = h^2/2, and of the two halves none with one another."""
    h, x = 0.3, torch.zeros(4, 1, dtype=torch.float64)
    first, second = halves(UnitProbes(x), 0.7, 0.7 - h)
    dw, integral = joined(first, second, h / 2)
    assert float(dw.square().sum()) == pytest.approx(h, rel=1e-12)
    assert float(integral.square().sum()) == pytest.approx(h**3 / 3, rel=1e-12)
    assert float((dw * integral).sum()) == pytest.approx(h**2 / 2, rel=1e-12)
    assert [float((a * b).sum()) for a in first for b in second] == pytest.approx([0.0] * 4, abs=1e-15)
    assert float((first[1] * first[0]).sum()) == pytest.approx((h / 2) ** 2 / 2, rel=1e-12)


def test_time_integrals_are_those_of_the_path():
    """Against the integral by 256 increments: an error of a quarter of what dw does not tell, h^3/12."""
    problem, n, h = Mixture2d(), 4000, 0.5
    path = problem.brownian(n, 0)
    fine = torch.linspace(0.9, 0.9 - h, 257, dtype=torch.float64).tolist()
    total, integral = torch.zeros(n, 2, dtype=torch.float64), torch.zeros(n, 2, dtype=torch.float64)
    for t, s in pairwise(fine):
        dw = path.dw(t, s)
        integral += (t - s) * (total + dw / 2)
        total += dw
    dw, found = joined(*halves(path, 0.9, 0.9 - h), h / 2)
    assert torch.allclose(dw, total, rtol=0, atol=1e-12)
    error = float((found - integral).std()) / math.sqrt(h**3 / 12)
    assert error == pytest.approx(math.sqrt(2 - 2 * math.sqrt(15 / 16)), abs=0.02)


@pytest.mark.parametrize("method", _METHODS)
def test_torchsde_follows_the_path(method: str):
    problem = Gaussian()
    x = problem.marginal_sample(1.0, problem.normals(32, 0), "start")
    limit = make_grid("karras", VP(), 400)
    reference = integrate(get_solver("stochastic_heun"), problem.process(), x, limit, problem.brownian(32, 0))
    errors = []
    for steps in (25, 100):
        ts = make_grid("karras", VP(), steps)
        found = integrate(sde_solver(method), problem.process(), x, ts, problem.brownian(32, 0))
        errors.append(float((found - reference).square().mean().sqrt()))
    # Pathwise order 1.
    assert errors[1] < errors[0] / 2.5
    assert errors[1] < 0.04


def adaptive(method: str, tolerance: float) -> AdaptiveSolver:
    solver = get_solver("torchsde", method=method, stepping="adaptive", rtol=tolerance, atol=tolerance)
    assert isinstance(solver, AdaptiveSolver)
    assert solver.batch_coupled
    return solver


def reference_and_start() -> tuple[Gaussian, Tensor]:
    problem = Gaussian()
    x = problem.marginal_sample(1.0, problem.normals(6, 0), "start")
    ts = make_grid("karras", VP(), 800)
    return problem, integrate(get_solver("stochastic_heun"), problem.process(), x, ts, problem.brownian(6, 0))


@pytest.mark.parametrize("method", ["euler", "heun", "srk"])
def test_adaptive_torchsde_gets_better_with_tolerance(method: str):
    problem, reference = reference_and_start()
    ends = make_grid("uniform", VP(), 1)
    errors, costs = [], []
    state = torch.get_rng_state()
    for tolerance in (1e-1, 1e-3):
        x, process = run(adaptive(method, tolerance), problem, ends)
        assert torch.equal(x, run(adaptive(method, tolerance), problem, ends)[0])
        errors.append(float((x - reference).square().mean().sqrt()))
        costs.append(process.evaluations.calls)
        times = torch.stack([t[0] for t in process.times])
        assert ends[1] <= times.min()
        assert times.max() == 1.0
        # Every attempt is three steps, of which the shape's check has given one drift.
        assert costs[-1] % (3 * sde_solver(method).nfe(1)) == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.02
    assert costs[1] > 3 * costs[0]


def test_adaptive_torchsde_takes_no_rejected_step(monkeypatch: pytest.MonkeyPatch):
    """With a least step torchsde accepts a rejected one as soon as the next would be shorter."""
    problem, reference = reference_and_start()
    ends = make_grid("uniform", VP(), 1)

    def error() -> float:
        return float((run(adaptive("heun", 1e-3), problem, ends)[0] - reference).square().mean().sqrt())

    ours = error()
    sdeint = torchsde.sdeint
    monkeypatch.setattr(torchsde, "sdeint", lambda *args, **kwargs: sdeint(*args, **{**kwargs, "dt_min": 0.05}))
    with pytest.warns(UserWarning, match="minimum allowed step"):
        assert error() > 4 * ours


def test_adaptive_torchsde_takes_the_same_steps_in_both_precisions():
    """Rounded lengths: with steps free to follow the error the two differ by 0.14 here."""
    problem = Mixture2d(sde=RectifiedFlow())
    ends = make_grid("uniform", problem.sde, 1)
    found, calls = [], []
    for dtype in (torch.float64, torch.float32):
        problem.dtype = dtype
        process = problem.process()
        x = integrate(adaptive("euler", 1e-2), process, problem.prior(10, 0), ends, problem.brownian(10, 0))
        assert x.dtype == dtype
        found.append(x.double())
        calls.append(process.evaluations.calls)
    assert calls[0] == calls[1]
    assert float((found[0] - found[1]).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("score", "text"),
    [(math.nan, "torchsde stopped"), (math.inf, "torchsde stopped"), (1e9, "torchsde's step vanishes")],
)
def test_adaptive_torchsde_tells_divergence(score: float, text: str):
    """No number, or a drift that jumps at each call so that no step is short enough."""
    sign = iter([1.0, -1.0] * 10_000)
    process = ReverseProcess(VP(), lambda x, t: score * next(sign) * torch.ones_like(x))
    x = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(DivergenceError, match=text):
        integrate(adaptive("euler", 1e-3), process, x, make_grid("uniform", VP(), 1), Mixture2d().brownian(2, 0))


def test_adaptive_torchsde_has_no_last_mean():
    with pytest.raises(UsageError, match="chooses its last step"):
        run(adaptive("euler", 1e-1), Gaussian(), make_grid("uniform", VP(), 1), last="mean")


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"method": "reversible_heun"}, "torchsde: no method 'reversible_heun'"),
        ({"stepping": "adaptiv"}, "torchsde: no stepping 'adaptiv'; did you mean 'adaptive'"),
        ({"rtol": 1e-3}, "get_solver: no setting of torchsde 'rtol'. Known: method, stepping"),
        ({"stepping": "adaptive", "atol": 0.0}, "torchsde: tolerances are positive"),
    ],
)
def test_wrong_settings_of_torchsde_are_refused(settings: dict[str, Any], rule: str):
    with pytest.raises(UsageError, match=rule):
        get_solver("torchsde", **settings)
