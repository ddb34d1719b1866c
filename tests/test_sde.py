"""Forward processes against the equations that define them."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.distributions import Normal

from bench.problems.gaussian import Gaussian
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.registry import get_solver, solver_names
from solvers.sde import SDES, VE, VP, ForwardSDE, SubVP, expand, get_sde
from solvers.solver import FixedStepSolver, integrate

FUNCTIONS = ["alpha", "sigma", "drift_coefficient", "diffusion_squared", "diffusion", "lam"]


def sdes() -> list:
    return [pytest.param(cls(), id=name) for name, cls in SDES.items()] + [pytest.param(VE(base=25.0), id="ve-25")]


def times(sde: ForwardSDE, n: int = 40) -> torch.Tensor:
    """Times from t_min_likelihood to t_max, dense at both ends."""
    low, high = sde.t_min_likelihood, sde.t_max
    return (
        torch.cat(
            [
                torch.logspace(math.log10(low), math.log10(high), n, dtype=torch.float64)[:-1],
                torch.linspace(0.01, 1, n, dtype=torch.float64) * high,
            ]
        )
        .sort()
        .values
    )


@pytest.mark.parametrize("sde", sdes())
def test_marginal_solves_the_equations_of_mean_and_variance(sde: ForwardSDE):
    """d log alpha = f dt,  d var = (2 f var + g^2) dt, from t = 0, where VE's data are smoothed by sigma(0) already."""
    start_var = sde.sigma_min**2 if isinstance(sde, VE) and sde.base is None else 0.0
    t_eval = times(sde)[times(sde) > sde.t_max / 100].tolist()

    def equations(t: float, y):
        f = sde.drift_coefficient(t)
        return [f, 2 * f * y[1] + sde.diffusion_squared(t)]

    solution = solve_ivp(
        equations, (0, sde.t_max), [0.0, start_var], method="DOP853", rtol=1e-11, atol=1e-13, t_eval=t_eval
    )
    for t, log_alpha, var in zip(t_eval, *solution.y, strict=True):
        assert math.log(sde.alpha(t)) == pytest.approx(log_alpha, rel=1e-8, abs=1e-9)
        assert sde.sigma(t) ** 2 == pytest.approx(var, rel=1e-7)


@pytest.mark.parametrize("sde", sdes())
def test_diffusion_is_the_slope_of_lam(sde: ForwardSDE):
    """g^2 = -2 sigma^2 dlam/dt, and lam = log(alpha/sigma)."""
    for t in torch.linspace(0.05, 0.95, 10, dtype=torch.float64).mul(sde.t_max).tolist():
        h = 1e-5 * t
        slope = (sde.lam(t + h) - sde.lam(t - h)) / (2 * h)
        assert sde.diffusion_squared(t) == pytest.approx(-2 * sde.sigma(t) ** 2 * slope, rel=1e-7)
        assert sde.diffusion(t) ** 2 == pytest.approx(sde.diffusion_squared(t), rel=1e-14)
        assert sde.lam(t) == pytest.approx(math.log(sde.alpha(t) / sde.sigma(t)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("sde", sdes())
def test_lam_decreases_and_is_inverted(sde: ForwardSDE):
    t = times(sde)
    lam = sde.lam(t)
    assert (lam.diff() < 0).all()
    assert torch.allclose(sde.t_of_lam(lam), t, rtol=1e-10, atol=1e-12)
    assert [sde.t_of_lam(value) for value in lam.tolist()] == pytest.approx(t.tolist(), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("sde", sdes())
def test_numbers_and_tensors_agree(sde: ForwardSDE, function: str):
    t = times(sde)
    values = getattr(sde, function)(t)
    assert values.shape == t.shape
    assert values.dtype == t.dtype
    one_by_one = [getattr(sde, function)(value) for value in t.tolist()]
    assert all(isinstance(value, float) for value in one_by_one)
    assert values.tolist() == pytest.approx(one_by_one, rel=1e-11, abs=1e-14)


@pytest.mark.parametrize("sde", sdes())
def test_levels_at_once_are_those_asked_one_by_one(sde: ForwardSDE):
    t = times(sde)
    for t_of_a_kind in (t, t.numpy(), float(t[1])):
        expected = [getattr(sde, name)(t_of_a_kind) for name in ("alpha", "sigma", "lam")]
        for value, alone in zip(sde.levels(t_of_a_kind), expected, strict=True):
            assert type(value) is type(alone)
            assert np.array_equal(np.asarray(value), np.asarray(alone))


@pytest.mark.parametrize("sde", sdes())
def test_transitions_compose_to_the_marginal(sde: ForwardSDE):
    """x_u -> x_s -> x_t is x_u -> x_t, and applied to the marginal at s it gives the marginal at t."""
    u, s, t = (sde.t_max * fraction for fraction in (0.1, 0.3, 0.8))
    for as_tensor in (False, True):
        a_ts, b_ts = (
            sde.transition(*(torch.tensor(v, dtype=torch.float64) for v in (t, s)))
            if as_tensor
            else sde.transition(t, s)
        )
        a_su, b_su = sde.transition(s, u)
        a_tu, b_tu = sde.transition(t, u)
        assert float(a_ts * a_su) == pytest.approx(a_tu, rel=1e-12)
        assert float(b_ts + a_ts**2 * b_su) == pytest.approx(b_tu, rel=1e-12)
        assert float(a_ts * sde.alpha(s)) == pytest.approx(sde.alpha(t), rel=1e-12)
        assert float(b_ts + a_ts**2 * sde.sigma(s) ** 2) == pytest.approx(sde.sigma(t) ** 2, rel=1e-12)


@pytest.mark.parametrize("sde", sdes())
def test_a_short_transition_is_one_step_of_the_equation(sde: ForwardSDE):
    t = 0.4 * sde.t_max
    s = t * (1 - 1e-9)
    a, variance = sde.transition(t, s)
    assert variance == pytest.approx(sde.diffusion_squared(t) * (t - s), rel=1e-5)
    assert a - 1 == pytest.approx(sde.drift_coefficient(t) * (t - s), rel=1e-5, abs=1e-14)


@pytest.mark.parametrize("sde", sdes())
def test_marginal_and_drift_take_one_time_a_sample(sde: ForwardSDE):
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64) * sde.t_max
    mean, std = sde.marginal(x, t)
    drift = sde.drift(x, t)
    assert mean.dtype == std.dtype == drift.dtype == x.dtype
    for i, value in enumerate(t.tolist()):
        mean_i, std_i = sde.marginal(x[i : i + 1], value)
        assert torch.allclose(mean[i : i + 1], mean_i, rtol=1e-6)
        assert std[i].item() == pytest.approx(std_i, rel=1e-6)
        assert torch.allclose(drift[i : i + 1], sde.drift_coefficient(value) * x[i : i + 1], rtol=1e-6)
    assert expand(0.5, x) == 0.5


@pytest.mark.parametrize("sde", sdes())
def test_prior_density_is_that_of_its_samples(sde: ForwardSDE):
    unit = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = sde.prior_sample(unit)
    expected = (
        Normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(sde.prior_std, dtype=torch.float64))
        .log_prob(x)
        .flatten(1)
        .sum(1)
    )
    assert torch.allclose(sde.prior_log_prob(x), expected, rtol=1e-13)
    assert torch.allclose(x, sde.prior_std * unit)


def test_constants_of_the_paper():
    """Song et al. 2021, app. C; Karras et al. 2022; Nichol & Dhariwal 2021."""
    std = {name: cls().prior_std for name, cls in SDES.items()}
    assert std == {
        "vp": 1.0,
        "subvp": 1.0,
        "ve": pytest.approx(50.0),
        "edm": 80.0,
        "cosine": 1.0,
        "rectifiedflow": 0.999,
    }
    assert VP().alpha(1.0) == pytest.approx(math.exp(-0.5 * (0.1 + 19.9 / 2)), rel=1e-14)
    assert SubVP().sigma(0.3) == pytest.approx(1 - SubVP().alpha(0.3) ** 2, rel=1e-14)
    assert SubVP().diffusion_squared(0.3) == pytest.approx(
        (0.1 + 0.3 * 19.9) * (1 - SubVP().alpha(0.3) ** 4), rel=1e-14
    )
    assert VE().diffusion(0.7) == pytest.approx(VE().sigma(0.7) * math.sqrt(2 * math.log(50 / 0.01)), rel=1e-14)
    phi = [math.cos((t + 0.008) / 1.008 * math.pi / 2) for t in (0.6, 0.0)]
    assert SDES["cosine"]().alpha(0.6) == pytest.approx(phi[0] / phi[1], rel=1e-14)
    assert {name: (cls().t_min, cls().t_min_likelihood, cls().t_max) for name, cls in SDES.items()} == {
        "vp": (1e-3, 1e-5, 1.0),
        "subvp": (1e-3, 1e-5, 1.0),
        "ve": (1e-5, 1e-5, 1.0),
        "edm": (0.002, 0.002, 80.0),
        "cosine": (1e-3, 1e-5, 0.999),
        "rectifiedflow": (1e-3, 1e-5, 0.999),
    }


def test_ve_treats_data_as_smoothed_by_its_smallest_noise():
    sde = VE(sigma_min=0.02, sigma_max=30.0)
    assert sde.sigma(0.0) == pytest.approx(0.02)
    assert sde.sigma(1.0) == pytest.approx(30.0)
    # The kernel from 0 that the SDE really has.
    assert sde.transition(0.5, 0.0)[1] == pytest.approx(sde.sigma(0.5) ** 2 - 0.02**2, rel=1e-12)


def test_ve_in_the_form_of_a_base():
    """g = 25^t, std^2 = (25^(2t) - 1) / (2 ln 25); the form of two noise levels is the default and as before."""
    sde = VE(base=25.0)
    for t in (0.001, 0.3, 1.0):
        assert sde.diffusion(t) == pytest.approx(25**t, rel=1e-14)
        assert sde.sigma(t) == pytest.approx(math.sqrt((25 ** (2 * t) - 1) / (2 * math.log(25))), rel=1e-12)
    assert sde.sigma(0.0) == 0.0
    assert (sde.prior_std, sde.t_min) == (pytest.approx(9.845, abs=1e-3), 1e-3)
    assert VE() == VE(0.01, 50.0) == get_sde("ve", sigma_min=0.01)
    assert get_sde("ve", base=25.0) == sde
    for base in (1.0, 0.0, -2.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="ve: base is above 1; got"):
            VE(base=base)


@pytest.mark.parametrize("name", [name for name in solver_names() if get_solver(name).family != "Langevin"])
def test_solvers_run_on_ve_in_the_form_of_a_base(name: str):
    """To the law at t_min of the Gaussian, as close as the steps and 500 samples allow.

    Langevin steps alone would not come so near in as many: at their snr what they keep of the start is more.
    """
    problem, n = Gaussian(sde=VE(base=25.0)), 500
    sde, solver = problem.sde, get_solver(name)
    ts = make_grid("karras", sde, solver.steps_for(80) if isinstance(solver, FixedStepSolver) else 1)
    x = problem.marginal_sample(sde.t_max, problem.normals(n, 0), "start")
    found = integrate(solver, problem.process(), x, ts, problem.brownian(n, 0))
    mean, var = problem.law(sde.t_min)
    # At its fixed snr the corrector keeps a bias.
    slack = 0.6 if solver.order is None else 0.25
    assert ((found.mean(0) - mean).abs() < slack * (1 + var.sqrt())).all()
    assert ((found.std(0) / var.sqrt()).log().abs() < slack).all()


@pytest.mark.parametrize("name", ["reverse_diffusion", "ancestral", "predictor_corrector"])
def test_the_references_chain_is_of_two_noise_levels(name: str):
    problem = Gaussian(sde=VE(base=25.0))
    solver, ts = get_solver(name, discretisation="song"), make_grid("uniform", problem.sde, 5)
    with pytest.raises(UsageError, match=f"{name}: the reference's chain of ve is of two noise levels; got VE"):
        integrate(solver, problem.process(), problem.prior(2, 0), ts, problem.brownian(2, 0))


def test_get_sde():
    assert get_sde("vp", beta_max=10.0) == VP(beta_max=10.0)
    assert {get_sde(name).name for name in SDES} == set(SDES)
    with pytest.raises(UsageError, match=r"get_sde: no SDE 'subvq'; did you mean 'subvp'.* Known: cosine, edm, rect"):
        get_sde("subvq")
    with pytest.raises(UsageError, match=r"get_sde: vp has no setting 'beta'. Known: beta_max, beta_min"):
        get_sde("vp", beta=3.0)


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("vp", {"beta_min": -0.1}, r"vp: beta_min is 0 or more, beta_max is positive; got \(-0.1, 20.0\)"),
        ("subvp", {"beta_max": 0.0}, "subvp: beta_min is 0 or more"),
        ("vp", {"beta_max": math.inf}, "beta_max is positive"),
        ("ve", {"sigma_min": 0.0}, r"ve: 0 < sigma_min < sigma_max; got \(0.0, 50.0\)"),
        ("edm", {"sigma_min": 5.0, "sigma_max": 1.0}, r"edm: 0 < sigma_min < sigma_max; got \(5.0, 1.0\)"),
        ("edm", {"sigma_max": math.nan}, "edm: 0 < sigma_min < sigma_max"),
        ("cosine", {"offset": -0.1}, "cosine: offset is 0 or more; got -0.1"),
    ],
)
def test_settings_that_make_no_process_are_refused(name: str, settings: dict[str, float], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        get_sde(name, **settings)
