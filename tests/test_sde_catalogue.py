"""The catalogue of SDE solvers: one common limit, equivalences, evaluations and times at the edges of their settings.

Measured orders are in the certificates.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from bench.certify import law_errors
from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from solvers.brownian import Tape
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.methods._multistep import adams_weights
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import EDM, SDES, VE, VP, ForwardSDE, SubVP
from solvers.solver import FixedStepSolver, integrate

CERTIFIED: list[ForwardSDE] = [VP(), SubVP(), VE(), EDM()]


def name_of(value: Any) -> str | None:
    if isinstance(value, ForwardSDE):
        return value.name
    return None if not isinstance(value, dict) else ",".join(f"{k}={v}" for k, v in value.items()) or "default"


def fixed(name: str, **settings: Any) -> FixedStepSolver:
    solver = get_solver(name, **settings)
    assert isinstance(solver, FixedStepSolver)
    return solver


def test_a_bias_shows_in_the_measured_order() -> None:
    """What the measurement says of a solver that does not keep its law: no order is left."""
    solver = fixed("edm_stochastic", inflation=1.05)
    assert solver.order is None
    coarse, fine = law_errors(solver, Gaussian(), (128, 256))
    assert math.log2(coarse / fine) < 0.5


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
@pytest.mark.parametrize("h", [0.01, 0.4, 0.6, 3.0, 14.0, -0.5])
def test_adams_weights_are_the_integrals_they_stand_for(c: float, h: float) -> None:
    nodes = [0.0, -0.7 * h, -1.9 * h, -2.5 * h]

    def integrand(u: float, i: int) -> float:
        others = [other for j, other in enumerate(nodes) if j != i]
        return c * math.exp(-c * (h - u)) * math.prod((u - o) / (nodes[i] - o) for o in others)

    steps = np.array([nodes, [0.0, math.nan, math.nan, math.nan]]) / h
    found, alone = adams_weights(c, np.array([h, h]), steps)
    for i in range(4):
        assert float(found[i]) == pytest.approx(quad(integrand, 0, h, args=(i,), epsabs=1e-13)[0], rel=1e-9)
    # Where there is no history the one prediction has the whole weight.
    assert alone.tolist() == pytest.approx([-math.expm1(-c * h), 0, 0, 0], rel=1e-14)


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

EDGES: list[tuple[str, dict[str, Any]]] = [
    ("edm_stochastic", {"churn": 1e6}),
    ("restart", {"low": 0.5, "high": 1e6, "rounds": 2}),
    ("restart", {"low": 1e-9, "high": 2e-9}),
    ("predictor_corrector", {"corrector": "ald", "predictor": "stochastic_heun", "corrector_steps": 2}),
]


@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=name_of)
@pytest.mark.parametrize(("name", "settings"), EDGES, ids=name_of)
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
    assert sde.t_min <= min(times)
    assert max(times) <= sde.t_max
    if isinstance(solver, FixedStepSolver):
        assert all(solver.nfe(b) > solver.nfe(a) for a, b in pairwise(range(1, 30)))


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
