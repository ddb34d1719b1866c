"""The catalogue of probability-flow ODE solvers: declared orders, equivalences, step control.

Measured orders and evaluations are in the certificates.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from bench.problems.problem import FlowProblem
from solvers.control import StepControl
from solvers.divergence import Hutchinson, make_probes
from solvers.errors import DivergenceError, UsageError
from solvers.grids import make_grid
from solvers.likelihood import log_density
from solvers.methods._exponential import phi
from solvers.methods._multistep import interpolation_weights, quadrature
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import SDES, VP, get_sde
from solvers.solver import FixedStepSolver, Solver, integrate

# Solver, settings, order: what the literature and the field's measurements say, not the author's choice.
RK: dict[str, Any] = {"start": "runge_kutta"}
ORDERS: list[tuple[str, dict[str, Any], int]] = [
    ("midpoint", {}, 2),
    ("rk4", {}, 4),
    ("edm_heun", {}, 2),
    ("dpmpp_2s", {}, 2),
    ("dpmpp_3m", RK, 3),
    ("dpm_solver", {"order": 1}, 1),
    ("dpm_solver", {"order": 2}, 2),
    ("dpm_solver", {"order": 3}, 3),
    ("unipc", {"predictor_order": 1, "corrector": False}, 1),
    ("unipc", {"predictor_order": 1}, 2),
    ("unipc", {"predictor_order": 1, "variant": "bh1"}, 2),
    ("unipc", {"predictor_order": 2, "corrector": False, "variant": "bh1"}, 2),
    ("unipc", {"predictor_order": 2}, 3),
    ("unipc", {"predictor_order": 2, "variant": "vary_coeff"}, 3),
    ("unipc", {"predictor_order": 3, "corrector": False, **RK}, 3),
    ("unipc", {"predictor_order": 3, **RK}, 4),
    ("unipc", {"predictor_order": 3, "variant": "vary_coeff", **RK}, 4),
    ("unipc", {"predictor_order": 4, "corrector": False, **RK}, 4),
    ("unipc", {"predictor_order": 4, **RK}, 5),
    ("lms", {"order": 2}, 2),
    ("lms", {"order": 3, **RK}, 3),
    ("lms", {"order": 4, **RK}, 4),
    ("ipndm", {"order": 3, **RK}, 3),
    ("deis", {"order": 2}, 2),
    ("deis", {"order": 3, **RK}, 3),
    ("deis", {"order": 4, **RK}, 4),
    ("deis", {"order": 3, "variant": "rhoab", **RK}, 3),
]
IDS = ["-".join([name, *(f"{k}={v}" for k, v in settings.items())]) for name, settings, _ in ORDERS]

ADAPTIVE: list[tuple[str, dict[str, Any]]] = [
    ("rk45", {"pair": "bogacki_shampine"}),
    ("rk45", {"pair": "dormand_prince"}),
    ("rk45", {"pair": "tsitouras"}),
    ("rk45", {"pair": "dormand_prince_853"}),
    ("rk45", {"variable": "time"}),
    ("rk45", {"data_std": 2.0}),
    ("scipy_rk45", {}),
    ("dpm_adaptive", {"order": 2}),
    ("dpm_adaptive", {"order": 3}),
    ("exponential_rk", {}),
]
PER_SAMPLE = [case for case in ADAPTIVE if case[0] != "scipy_rk45"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """On states this small a second thread costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fixed(name: str, settings: dict[str, Any]) -> FixedStepSolver:
    solver = get_solver(name, **settings)
    assert isinstance(solver, FixedStepSolver)
    return solver


@lru_cache
def case(kind: str, sde_name: str, upwards: bool = False) -> tuple[FlowProblem, Tensor, Tensor, Tensor]:
    """Problem, ends of the interval, start from the exact marginal, and the flow's exact end."""
    sde = get_sde(sde_name)
    problem: FlowProblem = Gaussian(sde=sde) if kind == "gaussian" else Mixture2d(sde=sde)
    ends = torch.tensor([sde.t_max, sde.t_min], dtype=torch.float64)
    if upwards:
        ends = ends.flip(0)
    start, end = ends.tolist()
    x = problem.marginal_sample(start, problem.normals(16, 0), "start")
    if kind == "gaussian":
        return problem, ends, x, problem.flow(x, start, end)
    # Converged in coordinates of no solver under test: x/alpha against lam.
    process = problem.process()

    def right_hand_side(lam: float, z: np.ndarray) -> np.ndarray:
        t = float(sde.t_of_lam(lam))
        noise = process.noise(torch.from_numpy(z.reshape(-1, 2)) * sde.alpha(t), t)
        return -math.exp(-lam) * noise.numpy().ravel()

    z = (x / sde.alpha(start)).numpy().ravel()
    solution = solve_ivp(right_hand_side, (sde.lam(start), sde.lam(end)), z, method="DOP853", rtol=1e-12, atol=1e-12)
    return problem, ends, x, sde.alpha(end) * torch.from_numpy(solution.y[:, -1].reshape(-1, 2))


def error(solver: Solver, kind: str, sde_name: str, steps: int, upwards: bool = False) -> float:
    problem, ends, x, exact = case(kind, sde_name, upwards)
    ts = make_grid("karras", problem.sde, steps, *ends.tolist())
    process = problem.process()
    x_end = integrate(solver, process, x, ts)
    if isinstance(solver, FixedStepSolver):
        assert process.evaluations.rows == solver.nfe(steps) * len(x)
    return float((x_end - exact).square().mean().sqrt())


def slopes(solver: Solver, kind: str, sde_name: str, finest: int, upwards: bool = False) -> tuple[float, float]:
    """Regression over the three finest levels, and the last pair's."""
    levels = [finest // 4, finest // 2, finest]
    errors = [error(solver, kind, sde_name, steps, upwards) for steps in levels]
    assert errors[-1] > 1e-12, "the finest level lies in the rounding"
    fit = -np.polyfit(np.log(levels), np.log(errors), 1)[0]
    return float(fit), math.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rk4", {}),
        ("dpmpp_3m", RK),
        ("dpm_solver", {"order": 2}),
        ("unipc", {"predictor_order": 2, **RK}),
        ("deis", {"order": 3, **RK}),
        ("lms", {"order": 4, **RK}),
        ("edm_heun", {}),
        ("dpmpp_2s", {}),
        ("midpoint", {}),
    ],
)
def test_order_upwards(name: str, settings: dict[str, Any]) -> None:
    solver = fixed(name, settings)
    assert solver.order is not None
    fit, last = slopes(solver, "gaussian", "vp", 512, upwards=True)
    assert min(fit, last) >= solver.order - 0.2


@pytest.mark.parametrize(("name", "settings", "order"), ORDERS, ids=IDS)
def test_declared_order(name: str, settings: dict[str, Any], order: int) -> None:
    assert get_solver(name, **settings).order == order


def test_ramp_caps_the_order_at_two() -> None:
    """The control of the starts: on VE with uniform times the first-order first step shows."""
    problem, _, x, exact = case("gaussian", "ve")

    def last_slope(solver: FixedStepSolver) -> float:
        errors = []
        for steps in (512, 1024):
            ts = make_grid("uniform", problem.sde, steps)
            errors.append(float((integrate(solver, problem.process(), x, ts) - exact).square().mean().sqrt()))
        return math.log2(errors[0] / errors[1])

    assert last_slope(fixed("lms", {"order": 4})) < 2.8
    assert last_slope(fixed("lms", {"order": 4, **RK})) > 3.8


class _PublishedThreeStep(FixedStepSolver):
    """DPM-Solver++(3M) with the second divided difference in the place of the second derivative."""

    order = 3
    stochastic = False
    factor = 1.0

    def nfe(self, steps: int) -> int:
        return steps

    def step(
        self, process: ReverseProcess, x: Tensor, t: float, s: float, brownian: Any, state: Any
    ) -> tuple[Tensor, Any]:
        sde = process.sde
        lam, h = sde.lam(t), sde.lam(s) - sde.lam(t)
        known = [(lam, process.denoised(x, t)), *(state or [])][:3]
        slope = bend = torch.zeros_like(x)
        if len(known) > 1:
            (l_0, d_0), (l_1, d_1) = known[:2]
            slope = (d_0 - d_1) / (l_0 - l_1)
        if len(known) > 2:
            l_2, d_2 = known[2]
            second = (slope - (d_1 - d_2) / (l_1 - l_2)) / (l_0 - l_2)
            slope, bend = slope + (l_0 - l_1) * second, self.factor * second
        total = h * phi(1, -h) * known[0][1] + h**2 * phi(2, -h) * slope + h**3 * phi(3, -h) * bend
        return sde.sigma(s) / sde.sigma(t) * x + sde.alpha(s) * total, known


def test_published_second_difference_has_order_two() -> None:
    """The control of dpmpp_3m: without the factor 2 the slope is 2, with it the solver's own values come out."""
    wrong, right = _PublishedThreeStep(), _PublishedThreeStep()
    object.__setattr__(right, "factor", 2.0)
    assert slopes(wrong, "mixture", "vp", 1024)[0] < 2.2
    problem, _, x, _ = case("mixture", "vp")
    ts = make_grid("karras", problem.sde, 40)
    expected = integrate(right, problem.process(), x, ts)
    torch.testing.assert_close(integrate(fixed("dpmpp_3m", {}), problem.process(), x, ts), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", ["karras", "uniform"])
@pytest.mark.parametrize("sde_name", sorted(SDES))
def test_first_order_members_equal_ddim(sde_name: str, grid: str) -> None:
    problem, _, x, _ = case("mixture", sde_name)
    ts = make_grid(grid, problem.sde, 12)
    ddim = integrate(get_solver("ddim"), problem.process(), x, ts)
    for name, settings in [
        ("dpm_solver", {"order": 1}),
        ("unipc", {"predictor_order": 1, "corrector": False}),
        ("deis", {"order": 1}),
        ("deis", {"order": 1, "variant": "rhoab"}),
        ("lms", {"order": 1}),
        ("ipndm", {"order": 1}),
        ("ipndm", {"order": 1, "coefficients": "fixed"}),
    ]:
        x_end = integrate(get_solver(name, **settings), problem.process(), x, ts)
        torch.testing.assert_close(x_end, ddim, rtol=1e-10, atol=1e-10, msg=f"{name} {settings}")


EQUAL = [
    (("edm_heun", {}), ("heun", {}), "edm"),
    (("unipc", {"predictor_order": 2, "corrector": False}), ("dpmpp_2m", {}), "vp"),
    (("unipc", {"predictor_order": 3, "variant": "vary_coeff", "corrector": False}), ("dpmpp_3m", {}), "cosine"),
    (("unipc", {"predictor_order": 3, "corrector": False, **RK}), ("dpmpp_3m", RK), "vp"),
    (("lms", {}), ("ipndm", {}), "vp"),
    (("lms", {"order": 3}), ("deis", {"order": 3, "variant": "rhoab"}), "subvp"),
    # Where tau is the time itself, interpolation in t is interpolation in rho.
    (("deis", {"order": 3}), ("lms", {"order": 3}), "edm"),
]


@pytest.mark.parametrize(("one", "other", "sde_name"), EQUAL)
def test_equivalences(one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]], sde_name: str) -> None:
    problem, _, x, _ = case("mixture", sde_name)
    ts = make_grid("karras", problem.sde, 20)
    a, b = (integrate(get_solver(name, **settings), problem.process(), x, ts) for name, settings in (one, other))
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


DIFFERENT = [
    (("edm_heun", {}), ("heun", {})),
    (("deis", {}), ("lms", {"order": 3})),
    (("unipc", {"predictor_order": 2}), ("unipc", {"predictor_order": 2, "variant": "bh1"})),
    (("unipc", {}), ("unipc", {"corrector": False})),
    (("unipc", {}), ("dpmpp_3m", {})),
    (("ipndm", {}), ("ipndm", {"coefficients": "fixed"})),
    (("lms", {}), ("lms", RK)),
    (("dpmpp_2s", {}), ("dpm_solver", {"order": 2})),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_settings_make_a_difference(one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]]) -> None:
    problem, _, x, _ = case("mixture", "vp")
    ts = make_grid("karras", problem.sde, 20)
    a, b = (integrate(get_solver(name, **settings), problem.process(), x, ts) for name, settings in (one, other))
    assert float((a - b).abs().max()) > 1e-5


def test_dpm_solver_2_against_its_formula() -> None:
    problem, _, x, _ = case("mixture", "vp")
    sde, process = problem.sde, problem.process()
    t, s = 0.7, 0.4
    m = sde.t_of_lam((sde.lam(t) + sde.lam(s)) / 2)
    h = sde.lam(s) - sde.lam(t)
    u = sde.alpha(m) / sde.alpha(t) * x - sde.sigma(m) * (math.exp(h / 2) - 1) * process.noise(x, t)
    expected = sde.alpha(s) / sde.alpha(t) * x - sde.sigma(s) * (math.exp(h) - 1) * process.noise(u, m)
    x_s = integrate(get_solver("dpm_solver", order=2), process, x, torch.tensor([t, s], dtype=torch.float64))
    torch.testing.assert_close(x_s, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dpm_solver", {"order": 4}),
        ("lms", {"order": 5}),
        ("deis", {"order": 0}),
        ("deis", {"variant": "rho"}),
        ("ipndm", {"coefficients": "free"}),
        ("unipc", {"predictor_order": 5}),
        ("unipc", {"variant": "bh3"}),
        ("dpmpp_3m", {"start": "euler"}),
        ("rk45", {"pair": "fehlberg"}),
        ("rk45", {"rtol": 0.0}),
        ("rk45", {"variable": "log_snr"}),
        ("rk45", {"data_std": 0.0}),
        ("rk45", {"data_std": math.inf}),
        ("rk45", {"data_std": math.nan}),
        ("rk45", {"controller": "P"}),
        ("exponential_rk", {"controller": "D"}),
        ("dpm_adaptive", {"order": 1}),
        ("dpm_adaptive", {"h_init": 0.0}),
        ("scipy_rk45", {"atol": 0.0}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=name):
        get_solver(name, **settings)


@pytest.mark.parametrize("k", range(5))
def test_phi_by_its_integral(k: int) -> None:
    """phi_k(z) = int_0^1 e^((1 - v) z) v^(k-1)/(k-1)! dv, on both sides of the switch between series and recursion."""
    v, w = np.polynomial.legendre.leggauss(30)
    v = (v + 1) / 2
    for z in (-12.0, -1.001, -0.999, -1e-8, 0.0, 1e-3, 0.999, 1.001, 6.0):
        exact = (
            math.exp(z) if k == 0 else float(np.sum(w / 2 * np.exp((1 - v) * z) * v ** (k - 1)) / math.factorial(k - 1))
        )
        assert phi(k, z) == pytest.approx(exact, rel=1e-12)
        assert float(phi(k, torch.tensor(z, dtype=torch.float64))) == pytest.approx(exact, rel=1e-12)


def test_adams_bashforth_coefficients() -> None:
    nodes = np.array([[0.0, -1.0, -2.0, -3.0], [0.0, -1.0, math.nan, math.nan]])
    full, ramp = interpolation_weights(nodes, *quadrature(1)).tolist()
    assert full == pytest.approx([55 / 24, -59 / 24, 37 / 24, -9 / 24], rel=1e-13)
    assert ramp == pytest.approx([3 / 2, -1 / 2, 0, 0], rel=1e-14)


def adaptive_run(
    name: str, settings: dict[str, Any], kind: str, sde_name: str, upwards: bool = False
) -> tuple[float, float]:
    problem, ends, x, exact = case(kind, sde_name, upwards)
    process = problem.process()
    x_end = integrate(get_solver(name, **settings), process, x, ends)
    return float((x_end - exact).square().mean().sqrt()), process.evaluations.rows / len(x)


@pytest.mark.parametrize(("name", "settings"), ADAPTIVE)
@pytest.mark.parametrize("upwards", [False, True])
def test_adaptive_solvers_on_every_sde(name: str, settings: dict[str, Any], upwards: bool) -> None:
    for sde_name in sorted(SDES):
        _, _, _, exact = case("gaussian", sde_name, upwards)
        size = float(exact.square().mean().sqrt())
        error, _ = adaptive_run(name, {**settings, "rtol": 1e-4, "atol": 1e-4}, "gaussian", sde_name, upwards)
        assert error < 1e-2 * max(size, 1), sde_name


@pytest.mark.parametrize(("name", "settings"), ADAPTIVE)
@pytest.mark.parametrize("sde_name", ["vp", "ve", "rectifiedflow"])
def test_no_evaluation_outside_and_the_end_exact(name: str, settings: dict[str, Any], sde_name: str) -> None:
    for upwards in (False, True):
        problem, ends, x, _ = case("mixture", sde_name, upwards)
        inner = problem.process()
        seen: list[Tensor] = []

        def network(x: Tensor, t: Tensor, inner: ReverseProcess = inner, seen: list[Tensor] = seen) -> Tensor:
            seen.append(t.clone())
            return inner.network(x, t)

        integrate(get_solver(name, **settings), ReverseProcess(problem.sde, network), x, ends)
        times = torch.cat(seen)
        assert float(times.min()) >= float(ends.min())
        assert float(times.max()) <= float(ends.max())
        if name in ("rk45", "exponential_rk"):
            # Their last stage lies at the end: every sample is evaluated there, to the last bit.
            assert int((times == ends[1]).sum()) >= len(x)


@pytest.mark.parametrize(("name", "settings"), PER_SAMPLE)
def test_samples_are_independent_of_their_batch(name: str, settings: dict[str, Any]) -> None:
    problem, ends, x, _ = case("mixture", "vp")
    # States of very different size take very different steps.
    x = torch.cat([x, 5 * x[:2]])
    solver, process = get_solver(name, **settings, rtol=1e-5, atol=1e-5), problem.process()
    together = integrate(solver, process, x, ends)
    counts = process.evaluations.per_sample(len(x))
    assert int(counts.sum()) == process.evaluations.rows
    assert int(counts.max()) == process.evaluations.most
    assert len(set(counts.tolist())) > 1
    for i in range(len(x)):
        process = problem.process()
        alone = integrate(solver, process, x[i : i + 1], ends)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-9)
        assert process.evaluations.rows == int(counts[i])


LIKELIHOOD: list[tuple[str, dict[str, Any]]] = [("rk45", {}), ("dpm_adaptive", {"order": 3}), ("exponential_rk", {})]


@pytest.mark.parametrize(("name", "settings"), LIKELIHOOD)
def test_adaptive_likelihood(name: str, settings: dict[str, Any]) -> None:
    """On a diagonal Gaussian one Rademacher probe gives the exact divergence."""
    problem = Gaussian(sde=VP())
    x = problem.marginal_sample(0.01, problem.normals(3, 0), "x")
    probes = make_probes(problem.normals(3, 1).normal("probe"))[None]
    ts = torch.tensor([0.01, 1.0], dtype=torch.float64)
    process = problem.process()
    tol = 1e-6 if name == "dpm_adaptive" else 1e-5
    solver = get_solver(name, **settings, rtol=tol, atol=tol)
    found = log_density(solver, process, x, ts, Hutchinson(probes), lambda x_end: problem.log_density(x_end, 1.0)).log_p
    # The log-determinant is carried times alpha, which is 1/151 at the end: every step's error counts 151 times.
    torch.testing.assert_close(found, problem.log_density(x, 0.01), rtol=0, atol=5e-2)
    assert process.evaluations.derivative_passes == process.evaluations.calls
    assert int(process.evaluations.per_sample(3).sum()) == process.evaluations.rows


@pytest.mark.parametrize(("name", "settings"), LIKELIHOOD)
def test_rows_on_the_way_keep_their_probes(name: str, settings: dict[str, Any]) -> None:
    """On the mixture the estimate depends on the probe, and samples take different numbers of steps."""
    problem = Mixture2d(sde=VP())
    x = problem.marginal_sample(0.05, problem.normals(3, 0), "x")
    x[0] *= 6
    probes = make_probes(problem.normals(3, 1).normal("probe"))[None]
    ts = torch.tensor([0.05, 1.0], dtype=torch.float64)
    solver, process = get_solver(name, **settings, rtol=1e-3, atol=1e-3), problem.process()
    together = log_density(solver, process, x, ts, Hutchinson(probes)).log_p
    assert len(set(process.evaluations.per_sample(3).tolist())) > 1
    for i in range(3):
        own = Hutchinson(probes[:, i : i + 1])
        alone = log_density(solver, problem.process(), x[i : i + 1], ts, own).log_p
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-8)


def test_scipy_couples_the_batch() -> None:
    problem, ends, x, _ = case("mixture", "vp")
    solver = get_solver("scipy_rk45", rtol=1e-3, atol=1e-3)
    assert solver.batch_coupled
    together = integrate(solver, problem.process(), x, ends)
    alone = integrate(solver, problem.process(), x[:1], ends)
    assert float((alone - together[:1]).abs().max()) > 1e-9


def test_scipy_evaluations_are_scipys() -> None:
    """By default RK45 at 1e-5, counted at the network and equal to SciPy's own report."""
    problem, ends, x, _ = case("gaussian", "vp")
    process = problem.process()
    x_end = integrate(get_solver("scipy_rk45"), process, x, ends)
    bare = problem.process()

    def velocity(t: float, flat: np.ndarray) -> np.ndarray:
        return bare.velocity(torch.from_numpy(flat.reshape(x.shape)), min(max(t, 1e-3), 1.0)).numpy().ravel()

    own = solve_ivp(velocity, (1.0, 1e-3), x.numpy().ravel(), rtol=1e-5, atol=1e-5)
    assert process.evaluations.calls == own.nfev
    # Up to rounding: torch fuses a product and a sum or not, as an array happens to lie in memory.
    np.testing.assert_allclose(x_end.numpy().ravel(), own.y[:, -1], rtol=1e-13)


def test_controller_kinds() -> None:
    one = torch.ones(1, dtype=torch.float64)
    for kind in ("I", "PI", "PID"):
        control = StepControl(4, kind)  # type: ignore[arg-type]
        assert float(control.factor(torch.tensor([0.0]).double(), one, one)) == control.grow
        assert float(control.factor(torch.tensor([math.nan]).double(), one, one)) == control.shrink
        # A rejected step shrinks, whatever came before.
        assert float(control.factor(16 * one, 1e-9 * one, one)) == pytest.approx(0.9 / 2)
    # At a constant error below 1 every kind settles at a factor above its safety.
    low = 0.5 * one
    assert float(StepControl(4, "I").factor(low, low, low)) == pytest.approx(0.9 * 0.5**-0.25)
    assert float(StepControl(4, "PI").factor(low, low, low)) == pytest.approx(0.9 * 0.5 ** (-0.3 / 4))
    assert float(StepControl(4, "PID").factor(low, low, low)) == pytest.approx(0.9 * 0.5 ** (-0.25 / 4))


@pytest.mark.parametrize(
    ("name", "settings", "tol", "most"),
    [
        ("rk45", {}, 1e-2, 3e-3),
        ("dpm_adaptive", {}, 1e-2, 0.04),
        ("rk45", {"pair": "dormand_prince_853"}, 1e-2, 8e-3),
        ("rk45", {"pair": "dormand_prince_853"}, 1e-4, 1.5e-3),
    ],
)
def test_no_step_leaps_over_the_place_where_trajectories_part(
    name: str, settings: dict[str, Any], tol: float, most: float
) -> None:
    """With a tenfold growth of steps the first two have errors of 0.011 and 0.079, made by few samples; with first
    steps of any length the last two have 0.017 and 2.1e-3.
    """
    problem = Mixture2d()
    x, ends = problem.prior(4000, 0), make_grid("uniform", problem.sde, 1)
    found = integrate(get_solver(name, **settings, rtol=tol, atol=tol), problem.process(), x, ends)
    exact = problem.flow(x, problem.sde.t_max, problem.sde.t_min)
    assert float((found - exact).square().mean().sqrt()) < most


@pytest.mark.parametrize(("name", "settings"), PER_SAMPLE)
def test_divergence_is_told(name: str, settings: dict[str, Any]) -> None:
    problem, ends, x, _ = case("gaussian", "vp")
    process = ReverseProcess(problem.sde, lambda x, t: torch.full_like(x, math.nan))
    with pytest.raises(DivergenceError, match="vanishes"):
        integrate(get_solver(name, **settings), process, x, ends)
