"""The reverse process: conversions between predictions, counting, divergence."""

import itertools

import pytest
import torch
from torch import Tensor

from bench.problems.gaussian import Gaussian
from bench.problems.mixture import Mixture2d
from solvers.divergence import ExactDivergence, Hutchinson
from solvers.errors import UsageError
from solvers.process import PARAMETRISATIONS, Evaluations, Parametrisation, ReverseProcess
from solvers.sde import SDES, VP, Array, ForwardSDE, expand


def exact(problem: Gaussian, kind: Parametrisation, x: Tensor, t: Tensor) -> Tensor:
    """Each prediction on the Gaussian from its own definition, t (n,)."""
    sde = problem.sde
    alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
    mean, var = problem.mean.to(x.dtype), problem.var.to(x.dtype)
    var_t = alpha**2 * var + sigma**2
    # Posterior mean of x_0, and of the noise, given x_t.
    denoised = mean + alpha * var / var_t * (x - alpha * mean)
    noise = sigma / var_t * (x - alpha * mean)
    if kind == "velocity":
        # Flow of a Gaussian: d mean_t/dt + (x - mean_t) d log std_t/dt.
        f, g2 = expand(sde.drift_coefficient(t), x), expand(sde.diffusion_squared(t), x)
        return f * alpha * mean + (x - alpha * mean) * (2 * f * var_t + g2) / (2 * var_t)
    return {"denoised": denoised, "noise": noise, "score": -noise / sigma}[kind]


@pytest.mark.parametrize("per_sample", [False, True], ids=["number", "per-sample"])
@pytest.mark.parametrize("sde", [cls() for cls in SDES.values()], ids=lambda sde: sde.name)
@pytest.mark.parametrize(("network", "asked"), list(itertools.product(PARAMETRISATIONS, PARAMETRISATIONS)))
def test_every_prediction_from_every_network(
    sde: ForwardSDE, network: Parametrisation, asked: Parametrisation, per_sample: bool
):
    problem = Gaussian(sde=sde)
    x = problem.marginal_sample(0.5, problem.normals(4, 0), "x")
    t = torch.linspace(0.3, 0.9, 4, dtype=torch.float64) * sde.t_max
    if not per_sample:
        t = t[2].expand(4)
    process = ReverseProcess(sde, lambda x, t: exact(problem, network, x, t), network)
    got = getattr(process, asked)(x, t if per_sample else float(t[0]))
    assert torch.allclose(got, exact(problem, asked, x, t), rtol=1e-9, atol=1e-9)


def test_the_problems_score_is_the_exact_one():
    problem = Gaussian()
    x = problem.marginal_sample(0.5, problem.normals(4, 0), "x")
    t = torch.full((4,), 0.4, dtype=torch.float64)
    assert torch.allclose(problem.process().score(x, 0.4), exact(problem, "score", x, t), rtol=1e-12)


def test_coefficients_of_a_grid_are_computed_once_and_are_those_of_its_steps():
    calls: list[int] = []

    def rule(sde: ForwardSDE, ts: Array, power: int) -> tuple[Array, ...]:
        calls.append(len(ts) - 1)
        return (ts[:-1] + ts[1:]) / 2, sde.alpha(ts[:-1]) ** power

    process, times = Gaussian().process(), [1.0, 0.7, 0.2, 0.1]
    alone = [process.coefficients(rule, t, s, 2) for t, s in itertools.pairwise(times)]
    assert calls == [1, 1, 1]
    process.follow(times)
    assert [process.coefficients(rule, t, s, 2) for t, s in itertools.pairwise(times)] == alone
    assert alone[1] == pytest.approx((0.45, process.sde.alpha(0.7) ** 2))
    # A step off the grid is its own, another process on the same grid finds the coefficients kept.
    assert process.coefficients(rule, 0.7, 0.1, 2)[0] == pytest.approx(0.4)
    other = Gaussian().process()
    other.follow(times)
    assert other.coefficients(rule, 0.7, 0.2, 2) == alone[1]
    assert calls == [1, 1, 1, 3, 1]
    # Settings make other coefficients.
    assert process.coefficients(rule, 0.7, 0.2, 1) == pytest.approx((0.45, process.sde.alpha(0.7)))


@pytest.mark.parametrize("asked", PARAMETRISATIONS)
def test_predictions_on_an_announced_grid_are_the_same(asked: Parametrisation):
    problem = Gaussian()
    process, x, times = problem.process(), problem.prior(5, 0), [1.0, 0.5, 0.01]
    before = [getattr(process, asked)(x, t) for t in (*times, 0.3)]
    process.follow(times)
    for t, expected in zip((*times, 0.3), before, strict=True):
        assert torch.allclose(getattr(process, asked)(x, t), expected, rtol=1e-13, atol=1e-13)


def test_the_network_gets_a_time_for_each_sample():
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return x

    process, times = ReverseProcess(VP(), network), [1.0, 0.5, 0.01]
    process.follow(times)
    for x in (torch.zeros(5, 2), torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.float64)):
        for t in (*times, 0.3):
            process.score(x, t)
    # None of them changes with those after it.
    for k, (n, dtype) in enumerate([(5, torch.float32), (3, torch.float32), (3, torch.float64)]):
        for t, row in zip((*times, 0.3), seen[4 * k : 4 * k + 4], strict=True):
            assert torch.equal(row, torch.full((n,), t, dtype=dtype))
    process.follow([0.9, 0.5])
    process.score(torch.zeros(3, 2), 0.9)
    assert torch.equal(seen[-1], torch.full((3,), 0.9))


def test_a_solve_in_inference_mode_leaves_nothing_to_later_ones():
    weight, x, times = torch.ones((), requires_grad=True), torch.ones(3, 2), [0.77, 0.33]

    def network(x: Tensor, t: Tensor) -> Tensor:
        return weight * t[:, None] * x

    with torch.inference_mode():
        process = ReverseProcess(VP(), network)
        process.follow(times)
        process.score(x, 0.77)
    process = ReverseProcess(VP(), network)
    process.follow(times)
    process.score(x, 0.77).sum().backward()
    assert float(weight.grad) == pytest.approx(6 * 0.77)


def test_every_evaluation_is_counted():
    problem = Gaussian()
    process, x = problem.process(), problem.prior(5, 0)

    def counted() -> tuple[int, int, int]:
        return process.evaluations.calls, process.evaluations.rows, process.evaluations.derivative_passes

    for calls, kind in enumerate(PARAMETRISATIONS, start=1):
        getattr(process, kind)(x, 0.5)
        assert counted() == (calls, 5 * calls, 0)
    process.score(x[:2], torch.full((2,), 0.5))
    assert counted() == (5, 22, 0)
    process.score_and_divergence(x, 0.5, ExactDivergence())
    assert counted() == (6, 27, 8)
    process.score_and_divergence(x, 0.5, Hutchinson(torch.ones_like(x)[None]))
    assert counted() == (7, 32, 9)
    assert problem.process().evaluations == Evaluations()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_network_gets_one_time_a_sample_in_the_states_type(dtype: torch.dtype):
    seen = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        seen.append((t.shape, t.dtype, t[0].item()))
        return x

    x = torch.ones(3, 2, dtype=dtype)
    process = ReverseProcess(SDES["vp"](), network, "noise")
    for t in (0.25, torch.full((3,), 0.25, dtype=torch.float64)):
        for kind in PARAMETRISATIONS:
            assert getattr(process, kind)(x, t).dtype == dtype
    assert set(seen) == {((3,), dtype, 0.25)}


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("per_sample", [False, True], ids=["number", "per-sample"])
def test_exact_divergence_is_the_trace_of_the_jacobian(parametrisation: Parametrisation, per_sample: bool):
    problem = Mixture2d()
    scores = problem.process()
    # A network of any parametrisation, made of the exact score.
    network = ReverseProcess(problem.sde, problem._score, "score")
    process = ReverseProcess(problem.sde, lambda x, t: getattr(network, parametrisation)(x, t), parametrisation)
    x = problem.marginal_sample(0.3, problem.normals(6, 0), "x")
    t = torch.linspace(0.2, 0.6, 6, dtype=torch.float64) if per_sample else torch.full((6,), 0.3, dtype=torch.float64)
    score, divergence = process.score_and_divergence(x, t if per_sample else 0.3, ExactDivergence())
    assert torch.allclose(score, scores.score(x, t), rtol=1e-9)
    for i in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda z, i=i: problem._score(z[None], t[i : i + 1])[0], x[i])
        assert divergence[i].item() == pytest.approx(jacobian.trace().item(), rel=1e-9, abs=1e-9)


def test_a_network_without_derivatives_has_no_divergence():
    @torch.no_grad()
    def network(x: Tensor, t: Tensor) -> Tensor:
        return -x

    process, x = ReverseProcess(SDES["vp"](), network), torch.ones(3, 2)
    with pytest.raises(UsageError, match=r"score_and_divergence: .*; got 'a prediction without a gradient'. Remove"):
        process.score_and_divergence(x, 0.5, ExactDivergence())


def test_an_unknown_parametrisation_is_refused():
    with pytest.raises(
        UsageError,
        match=r"ReverseProcess: no parametrisation 'denoise'; did you mean 'denoised' or 'noise'. "
        "Known: denoised, noise, score, velocity",
    ):
        ReverseProcess(SDES["vp"](), lambda x, t: x, "denoise")
