"""The catalogue: which solvers there are, and the orders they declare at the settings of the claims."""

from typing import Any

import pytest

from solvers.registry import get_solver, solver_names

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


def test_the_catalogue_is_complete():
    assert set(NAMES.split()) <= set(solver_names())


@pytest.mark.parametrize(("name", "settings", "order"), ORDERS)
def test_declared_orders(name: str, settings: dict[str, Any], order: int | None):
    assert get_solver(name, **settings).order == order
