"""The catalogue of SDE solvers: measured orders, one common limit, equivalences, evaluations and times."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from solvers.brownian import Tape, UnitProbes
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.methods._multistep import adams_weights
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import EDM, SDES, VE, VP, ForwardSDE, RectifiedFlow, SubVP
from solvers.solver import FixedStepSolver, integrate

pytestmark = pytest.mark.slow

CERTIFIED: list[ForwardSDE] = [VP(), SubVP(), VE(), EDM()]

# Settings, normals a step, levels.
LAW: list[tuple[str, dict[str, Any], int, tuple[int, ...]]] = [
    ("euler_maruyama", {}, 1, (256, 512, 1024)),
    ("reverse_diffusion", {}, 1, (64, 128, 256)),
    ("ancestral", {}, 1, (64, 128, 256)),
    ("probability_flow", {}, 0, (64, 128, 256)),
    ("stochastic_heun", {}, 1, (64, 128, 256)),
    ("dpmpp_sde", {}, 2, (64, 128, 256)),
    ("dpmpp_2m_sde", {}, 1, (64, 128, 256)),
    ("dpmpp_3m_sde", {}, 1, (256, 512, 1024)),
    ("seeds_2", {}, 2, (64, 128, 256)),
    ("edm_stochastic", {}, 1, (128, 256, 512)),
    ("edm_stochastic", {"churn": 10.0, "churn_min": 0.05, "churn_max": 10.0}, 1, (64, 128, 256)),
    ("restart", {}, 1, (64, 128, 256)),
    ("restart", {"low": 0.05, "high": 20.0, "rounds": 3, "share": 1.0}, 1, (64, 128, 256)),
    ("sa_solver", {}, 1, (128, 256, 512)),
    ("sa_solver", {"tau": 0.5}, 1, (256, 512, 1024)),
    ("sa_solver", {"predictor_order": 2, "corrector_order": 0}, 1, (64, 128, 256)),
    ("sa_solver", {"predictor_order": 1, "corrector_order": 2}, 1, (64, 128, 256)),
    ("sa_solver", {"predictor_order": 1, "corrector_order": 1}, 1, (128, 256, 512)),
    ("sa_solver", {"predictor_order": 4, "corrector_order": 4}, 1, (128, 256, 512)),
]


def name_of(value: Any) -> str | None:
    if isinstance(value, ForwardSDE):
        return value.name
    return None if not isinstance(value, dict) else ",".join(f"{k}={v}" for k, v in value.items()) or "default"


def fixed(name: str, **settings: Any) -> FixedStepSolver:
    solver = get_solver(name, **settings)
    assert isinstance(solver, FixedStepSolver)
    return solver


def slopes(levels: tuple[int, ...], errors: list[float]) -> tuple[float, float]:
    """Regression over three levels, and the last pair's."""
    x, y = [math.log(n) for n in levels], [math.log(e) for e in errors]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    fit = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    return -fit, (y[-2] - y[-1]) / (x[-1] - x[-2])


def law_error(solver: FixedStepSolver, sde: ForwardSDE, steps: int, normals: int) -> float:
    """Error of mean and standard deviation of the law at t_min, RMS over the coordinates, free of sampling noise.

    The solver is affine in x_T and its normals: a batch of unit impulses shows the whole map.
    """
    problem = Gaussian(sde=sde)
    x = torch.zeros(2 + normals * steps, 8, dtype=torch.float64)
    x[1] = 1
    probes = UnitProbes(x, 2)
    out = integrate(solver, problem.process(), x, make_grid("karras", sde, steps), probes)
    assert probes.count <= normals * steps
    mean, var = problem.law(sde.t_max)
    gain = out[1:] - out[0]
    found_mean, found_std = out[0] + gain[0] * mean, (gain[0] ** 2 * var + gain[1:].square().sum(0)).sqrt()
    exact_mean, exact_var = problem.law(sde.t_min)
    return float(((found_mean - exact_mean) ** 2 + (found_std - exact_var.sqrt()) ** 2).mean().sqrt())


@pytest.mark.parametrize("sde", CERTIFIED, ids=name_of)
@pytest.mark.parametrize(("name", "settings", "normals", "levels"), LAW, ids=name_of)
def test_the_law_converges_at_the_declared_order(
    name: str, settings: dict[str, Any], normals: int, levels: tuple[int, ...], sde: ForwardSDE
) -> None:
    solver = fixed(name, **settings)
    assert solver.order is not None
    fit, last = slopes(levels, [law_error(solver, sde, steps, normals) for steps in levels])
    assert fit >= solver.order - 0.3
    assert last >= solver.order - 0.3


def test_a_bias_shows_in_the_measured_order() -> None:
    """What the measurement says of a solver that does not keep its law: no order is left."""
    solver = fixed("edm_stochastic", inflation=1.05)
    assert solver.order is None
    assert slopes((64, 128, 256), [law_error(solver, VP(), n, 1) for n in (64, 128, 256)])[1] < 0.5


@pytest.mark.parametrize("sde", [VP(), VE(), RectifiedFlow()], ids=name_of)
@pytest.mark.parametrize(
    ("predictor", "corrector", "levels"),
    [
        (1, 0, (64, 128, 256)),
        (2, 0, (64, 128, 256)),
        (3, 0, (64, 128, 256)),
        (4, 0, (64, 128, 256)),
        (2, 2, (512, 1024, 2048)),
        (1, 2, (64, 128, 256)),
        (2, 3, (64, 128, 256)),
        (4, 4, (64, 128, 256)),
    ],
)
def test_without_noise_sa_solver_has_the_order_of_its_polynomials(
    predictor: int, corrector: int, levels: tuple[int, ...], sde: ForwardSDE
) -> None:
    solver = fixed("sa_solver", predictor_order=predictor, corrector_order=corrector, tau=0.0, start="runge_kutta")
    problem = Gaussian(sde=sde)
    x = problem.marginal_sample(sde.t_max, problem.normals(8, 0), "start")
    exact = problem.flow(x, sde.t_max, sde.t_min)
    errors = []
    for steps in levels:
        process = problem.process()
        errors.append(float((integrate(solver, process, x, make_grid("karras", sde, steps)) - exact).norm()))
        assert process.evaluations.calls == solver.nfe(steps)
    assert solver.order == (min(predictor + 1, corrector) if corrector else predictor)
    fit, last = slopes(levels, errors)
    assert min(fit, last) >= solver.order - 0.2


def test_a_ramp_takes_order_four_down_to_two_and_runge_kutta_does_not() -> None:
    errors = {}
    for start in ("ramp", "runge_kutta"):
        solver = fixed("sa_solver", predictor_order=4, corrector_order=0, tau=0.0, start=start)
        problem = Gaussian()
        x = problem.marginal_sample(1.0, problem.normals(8, 0), "start")
        exact = problem.flow(x, 1.0, 1e-3)
        errors[start] = [
            float((integrate(solver, problem.process(), x, make_grid("karras", VP(), n)) - exact).norm())
            for n in (1024, 2048)
        ]
    assert errors["ramp"][0] / errors["ramp"][1] < 2**3
    assert errors["runge_kutta"][0] / errors["runge_kutta"][1] > 2**3.8


@pytest.mark.parametrize("c", [1.0, 2.0])
@pytest.mark.parametrize("h", [0.01, 0.4, 0.6, 3.0])
def test_adams_weights_are_the_integrals_they_stand_for(c: float, h: float) -> None:
    nodes = [0.0, -0.7 * h, -1.9 * h, -2.5 * h]

    def integrand(u: float, i: int) -> float:
        others = [other for j, other in enumerate(nodes) if j != i]
        return c * math.exp(-c * (h - u)) * math.prod((u - o) / (nodes[i] - o) for o in others)

    found = adams_weights(c, h, nodes)
    for i in range(4):
        assert found[i] == pytest.approx(quad(integrand, 0, h, args=(i,), epsabs=1e-13)[0], rel=1e-9)


# One path, one limit: a solver of the wrong equation, or one that takes fresh normals for a stage, goes elsewhere.

ON_THE_PATH = [
    "euler_maruyama",
    "reverse_diffusion",
    "ancestral",
    "stochastic_heun",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "seeds_2",
    "sa_solver",
]


@pytest.fixture(scope="module")
def limit() -> tuple[Mixture2d, Tensor, Tensor]:
    problem = Mixture2d()
    x = problem.marginal_sample(1.0, problem.normals(64, 0), "start")
    ts = make_grid("karras", VP(), 1000)
    return problem, x, integrate(get_solver("stochastic_heun"), problem.process(), x, ts, problem.brownian(64, 0))


@pytest.mark.parametrize("name", ON_THE_PATH)
def test_solvers_of_the_reverse_sde_follow_one_path(name: str, limit: tuple[Mixture2d, Tensor, Tensor]) -> None:
    problem, x, reference = limit
    distances = []
    for steps in (40, 160):
        ts = make_grid("karras", VP(), steps)
        found = integrate(get_solver(name), problem.process(), x, ts, problem.brownian(64, 0))
        distances.append(float((found - reference).norm(dim=1).median()))
    # Pathwise order 1; independent samples are 5 apart.
    assert distances[1] < distances[0] / 2
    assert distances[1] < 0.1


# Equivalences between entries of the menu.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("dpmpp_3m_sde", {}), ("sa_solver", {"predictor_order": 3, "corrector_order": 0})),
        (("ancestral", {}), ("sa_solver", {"predictor_order": 1, "corrector_order": 0})),
        (("ddim", {}), ("sa_solver", {"predictor_order": 1, "corrector_order": 0, "tau": 0.0})),
    ],
)
@pytest.mark.parametrize("sde", CERTIFIED, ids=name_of)
def test_equivalences(one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]], sde: ForwardSDE) -> None:
    problem = Gaussian(sde=sde)
    x, ts = problem.prior(4, 0), make_grid("log_snr", sde, 20)
    first, second = (
        integrate(get_solver(name, **settings), problem.process(), x, ts, problem.brownian(4, 0))
        for name, settings in (one, other)
    )
    assert torch.allclose(first, second, rtol=1e-9, atol=1e-9)


def test_no_two_solvers_are_the_same() -> None:
    problem = Mixture2d()
    names = [*ON_THE_PATH, "edm_stochastic", "restart", "annealed_langevin", "predictor_corrector", "probability_flow"]
    x = problem.prior(4, 0)
    found = []
    for name in names:
        solver = fixed(name)
        ts = make_grid("log_snr", VP(), solver.steps_for(20))
        found.append(integrate(solver, problem.process(), x, ts, problem.brownian(4, 0)))
    for i, first in enumerate(found):
        for second in found[:i]:
            assert float((first - second).abs().max()) > 1e-6


def test_ncsn_is_annealed_langevin_at_its_snr() -> None:
    """Song & Ermon's algorithm 1, written out: x += e_i/2 score + sqrt(e_i) z with e_i = step sigma_i^2 / sigma_L^2."""
    sde, step, rounds = VE(), 2e-5, 3
    problem = Gaussian(sde=sde)
    ts = make_grid("log_snr", sde, 5)
    sigma_last = sde.sigma(float(ts[-1]))
    z = problem.normals(4, 1).normal("z") * torch.linspace(1, 2, 15, dtype=torch.float64)[:, None, None]
    x = expected = problem.prior(4, 0)
    process, draws = problem.process(), iter(z)
    for t in ts[1:].tolist():
        size = step * sde.sigma(t) ** 2 / sigma_last**2
        for _ in range(rounds):
            expected = expected + size / 2 * process.score(expected, t) + math.sqrt(size) * next(draws)
    solver = get_solver("annealed_langevin", snr=math.sqrt(step) / (2 * sigma_last), corrector_steps=rounds)
    assert torch.allclose(integrate(solver, problem.process(), x, ts, Tape(z)), expected, rtol=1e-12)


# Evaluations, times, batches.

ALL: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in ON_THE_PATH),
    ("edm_stochastic", {}),
    ("edm_stochastic", {"churn": 1e6}),
    ("restart", {}),
    ("restart", {"low": 0.5, "high": 1e6, "rounds": 2}),
    ("restart", {"low": 1e-9, "high": 2e-9}),
    ("sa_solver", {"tau": 0.0, "start": "runge_kutta"}),
    ("probability_flow", {}),
    ("annealed_langevin", {"corrector_steps": 2}),
    ("predictor_corrector", {"corrector": "ald", "predictor": "stochastic_heun", "corrector_steps": 2}),
    ("ggf", {}),
]


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=name_of)
@pytest.mark.parametrize(("name", "settings"), ALL, ids=name_of)
def test_evaluations_are_counted_inside_the_interval_and_batches_do_not_matter(
    name: str, settings: dict[str, Any], sde: ForwardSDE
) -> None:
    solver = get_solver(name, **settings)
    problem = Gaussian(sde=sde)
    x = problem.marginal_sample(sde.t_max, problem.normals(4, 0), "start")
    network = problem.process().network
    times: list[float] = []

    def watched(x: Tensor, t: Tensor) -> Tensor:
        times.extend([float(t.min()), float(t.max())])
        return network(x, t)

    for steps in (1, 2, 7):
        ts = make_grid("log_snr", sde, steps)
        process = ReverseProcess(sde, watched, "score")
        whole = integrate(solver, process, x, ts, problem.brownian(4, 3))
        if isinstance(solver, FixedStepSolver):
            assert process.evaluations.calls == solver.nfe(steps)
            assert process.evaluations.rows == 4 * solver.nfe(steps)
        parts = [
            integrate(solver, problem.process(), x[i : i + 2], ts, problem.brownian(2, 3, first=i)) for i in (0, 2)
        ]
        assert torch.allclose(whole, torch.cat(parts), rtol=1e-9, atol=1e-12)
        if solver.adaptive:
            break
    assert sde.t_min <= min(times)
    assert max(times) <= sde.t_max
    if isinstance(solver, FixedStepSolver):
        assert all(solver.nfe(b) > solver.nfe(a) for a, b in pairwise(range(1, 30)))


def test_ggf_gets_better_with_tolerance_and_lets_samples_finish_on_their_own() -> None:
    problem = Gaussian()
    x = problem.marginal_sample(1.0, problem.normals(32, 0), "start")
    ts = make_grid("karras", VP(), 500)
    reference = integrate(get_solver("stochastic_heun"), problem.process(), x, ts, problem.brownian(32, 0))
    errors, costs = [], []
    for tolerance in (0.3, 0.1, 0.03):
        process = problem.process()
        solver = get_solver("ggf", rtol=tolerance, atol=tolerance)
        found = integrate(solver, process, x, make_grid("uniform", VP(), 1), problem.brownian(32, 0))
        errors.append(float((found - reference).norm(dim=1).mean()))
        costs.append(process.evaluations.rows / 32)
        assert process.evaluations.rows < 32 * process.evaluations.calls
    # Pathwise order 1 of Heun's method, against evaluations.
    for i in (0, 1):
        assert math.log(errors[i] / errors[i + 1]) / math.log(costs[i + 1] / costs[i]) > 0.7
    assert errors[2] < 0.1


@pytest.mark.parametrize(
    ("name", "settings", "rule"),
    [
        ("sa_solver", {"predictor_order": 5}, "1 to 4"),
        ("sa_solver", {"corrector_order": -1}, "1 to 4"),
        ("sa_solver", {"tau": -1.0}, "tau"),
        ("sa_solver", {"tau": 1.0, "start": "runge_kutta"}, "tau = 0"),
        ("sa_solver", {"start": "rampe"}, "did you mean 'ramp'"),
        ("edm_stochastic", {"churn": -1.0}, "churn"),
        ("restart", {"low": 1.0, "high": 0.5}, "low < high"),
        ("restart", {"rounds": 0}, "round"),
        ("restart", {"share": 0.0}, "share"),
        ("ggf", {"rtol": 0.0}, "positive"),
        ("annealed_langevin", {"snr": 0.0}, "snr"),
        ("predictor_corrector", {"predictor": "sa_solver"}, "one-step"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any], rule: str) -> None:
    with pytest.raises(UsageError, match=rule):
        get_solver(name, **settings)


def test_an_adaptive_sde_solver_has_no_last_mean() -> None:
    problem = Gaussian()
    ts = make_grid("uniform", VP(), 1)
    with pytest.raises(UsageError, match="chooses its last step"):
        integrate(get_solver("ggf"), problem.process(), problem.prior(2, 0), ts, problem.brownian(2, 0), "mean")
