"""The catalogue: which solvers there are, and the orders they declare at the settings of the claims."""

from typing import Any

import pytest

from bench.certificate import get_problem_on
from bench.certify import order
from solvers.registry import get_solver, solver_names
from solvers.sde import SDES
from solvers.solver import FixedStepSolver

NAMES = """
euler_maruyama reverse_diffusion ancestral stochastic_heun dpmpp_sde dpmpp_2m_sde dpmpp_3m_sde sa_solver seeds_2
edm_stochastic restart ggf torchsde predictor_corrector annealed_langevin langevin euler midpoint heun rk4
probability_flow ddim dpm_solver dpmpp_2s dpmpp_2m dpmpp_3m unipc deis ipndm lms edm_heun rk45 dpm_adaptive
exponential_rk torchdiffeq scipy_rk45
"""

ORDERS: list[tuple[str, dict[str, Any], int | None]] = [
    *((name, {}, 1) for name in ("euler", "ddim", "probability_flow")),
    *((name, {}, 1) for name in ("euler_maruyama", "reverse_diffusion", "ancestral")),
    *((name, {}, 2) for name in ("midpoint", "heun", "edm_heun", "dpmpp_2s", "dpmpp_2m", "stochastic_heun")),
    *((name, {}, 2) for name in ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "seeds_2", "edm_stochastic", "restart")),
    ("ddim", {"eta": 0.5}, 1),
    ("dpmpp_3m", {}, 3),
    ("rk4", {}, 4),
    *(("dpm_solver", {"order": k}, k) for k in (1, 2, 3)),
    *((name, {"order": k}, k) for name in ("deis", "lms", "ipndm") for k in (1, 2, 3, 4)),
    *(("unipc", {"predictor_order": p}, p + 1) for p in (1, 2, 3, 4)),
    *(("unipc", {"predictor_order": p, "corrector": False}, p) for p in (1, 2, 3, 4)),
    *(
        ("sa_solver", {"predictor_order": p, "corrector_order": 0, "tau": tau}, min(p, 2) if tau else p)
        for p in (1, 2, 3, 4)
        for tau in (0.0, 1.0)
    ),
    ("predictor_corrector", {}, None),
    ("predictor_corrector", {"corrector": "ald"}, None),
    ("predictor_corrector", {"corrector": "none", "predictor": "heun"}, 2),
    ("langevin", {}, None),
    ("annealed_langevin", {}, None),
]


def test_the_catalogue_is_complete() -> None:
    assert set(NAMES.split()) <= set(solver_names())


@pytest.mark.parametrize(("name", "settings", "order"), ORDERS)
def test_declared_orders(name: str, settings: dict[str, Any], order: int | None) -> None:
    assert get_solver(name, **settings).order == order


# Settings that no certificate shows; those of orders from 3 on start by Runge–Kutta.
RK: dict[str, Any] = {"start": "runge_kutta"}
BESIDE: list[tuple[str, dict[str, Any], int]] = [
    *(("unipc", {"predictor_order": p, "variant": "bh1", **RK}, p + 1) for p in (2, 3, 4)),
    *(("unipc", {"predictor_order": p, "variant": "vary_coeff", **RK}, p + 1) for p in (1, 2, 4)),
    *(("unipc", {"predictor_order": 2, "variant": name, "corrector": False}, 2) for name in ("bh1", "vary_coeff")),
    *(("deis", {"order": k, "variant": "rhoab", **RK}, k) for k in (1, 2, 4)),
    *(("sa_solver", {"predictor_order": p, "corrector_order": p, "tau": 0.0, **RK}, p) for p in (1, 2, 3, 4)),
    *(("ipndm", {"order": k, "coefficients": "fixed", **RK}, min(k, 2)) for k in (1, 2, 3, 4)),
    # Ramps: a first step that is corrected is of order 2, so that the limit is 3.
    *(("unipc", {"predictor_order": 2, "variant": name}, 3) for name in ("bh1", "bh2", "vary_coeff")),
    ("sa_solver", {"predictor_order": 2, "corrector_order": 3, "tau": 0.0}, 3),
]


@pytest.mark.parametrize(("index", "case"), list(enumerate(BESIDE)))
def test_orders_of_other_settings(index: int, case: tuple[str, dict[str, Any], int]) -> None:
    """On the Gaussian, on one of the six SDEs in turn."""
    name, settings, declared = case
    solver, problem = get_solver(name, **settings), get_problem_on("gaussian", list(SDES)[index % len(SDES)])
    assert isinstance(solver, FixedStepSolver)
    assert solver.limit_order == declared
    found = order(solver, problem, quick=True, declared=declared)
    assert found.verdict == "pass", found


def test_fixed_coefficients_of_ipndm_are_of_order_two_on_unequal_steps() -> None:
    solver = get_solver("ipndm", coefficients="fixed", **RK)
    assert isinstance(solver, FixedStepSolver)
    assert order(solver, get_problem_on("gaussian", "vp"), quick=True, declared=3).verdict == "fail"
