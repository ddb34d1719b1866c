"""Objectives: the reference's numbers, and closed forms on a Gaussian, where the best score is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pretrained.networks.conservative import Conservative
from pretrained.networks.mlp import MLP
from pretrained.networks.precondition import Preconditioned, PreconditionedEnergy
from pretrained.objectives.denoising import Denoising
from pretrained.objectives.directions import Directions, draw_directions
from pretrained.objectives.exact import Exact
from pretrained.objectives.finite_difference import FiniteDifference
from pretrained.objectives.objective import Objective, Reduction
from pretrained.objectives.sliced import Sliced
from pretrained.objectives.times import Uniform
from pretrained.objectives.weighting import Weighting, noise_weight
from solvers.divergence import ExactDivergence
from solvers.errors import UsageError
from solvers.process import Network, ReverseProcess
from solvers.sde import EDM, VE, VP, ForwardSDE, SubVP, expand, get_sde

GOLDEN = Path(__file__).parent / "golden"
CASES = [case for case in json.loads((GOLDEN / "sampling.json").read_text()) if "/loss/" in case["key"]]
SDES: list[ForwardSDE] = [VP(), SubVP(), VE(sigma_max=5.0)]
OBJECTIVES: dict[str, Objective] = {
    "denoising": Denoising(),
    "exact": Exact(),
    "sliced": Sliced(variance_reduced=False),
    "sliced gaussian": Sliced(variance_reduced=False, directions="gaussian", count=2),
    "sliced sphere": Sliced(variance_reduced=False, directions="sphere"),
    "sliced reduced": Sliced(),
    "sliced reduced gaussian": Sliced(directions="gaussian"),
    "sliced reduced sphere": Sliced(directions="sphere", count=3),
    "finite": FiniteDifference(variance_reduced=False),
    "finite reduced": FiniteDifference(distance=0.02),
    "finite reduced sphere": FiniteDifference(directions="sphere", count=2),
}
each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
each_sde = pytest.mark.parametrize("sde", SDES, ids=lambda sde: sde.name)


def golden_sde(case: dict[str, Any]) -> ForwardSDE:
    keys = ("sigma_min", "sigma_max") if case["sde"] == "ve" else ("beta_min", "beta_max")
    return get_sde(case["sde"], **{key: case[key] for key in keys})


def test_there_are_golden_losses_for_every_process_weighting_and_reduction() -> None:
    assert len(CASES) == 12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["key"])
def test_the_loss_is_the_reference_implementations(case: dict[str, Any]) -> None:
    with np.load(GOLDEN / "sampling.npz") as arrays:
        data, u, z, expected = (
            torch.from_numpy(arrays[f"{case['key']}/{name}"]) for name in ("data", "u", "z", "loss")
        )
    weighting, reduction = case["key"].split("/")[2:]
    sde = golden_sde(case)
    # The reference divides the network by -sigma for VP and sub-VP: there it predicts the noise.
    process = ReverseProcess(sde, lambda x, t: 0.3 * torch.tanh(x), "score" if sde.name == "ve" else "noise")
    t = Uniform().draw(sde, u, case["t_min"])
    loss = Denoising().loss(process, data, t, z, torch.Generator(), weighting, reduction).mean()
    assert abs(loss - expected) / (1 + abs(expected)) < 1e-9


# A Gaussian: x_0 ~ N(MEAN, VAR), x_t ~ N(alpha MEAN, V), V = alpha^2 VAR + sigma^2.

VAR = torch.linspace(0.1, 2.0, 8, dtype=torch.float64)
MEAN = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64)


def gaussian_score(sde: ForwardSDE, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
    score: Tensor = -(x - alpha * MEAN) / (alpha**2 * VAR + sigma**2)
    return score


def losses(
    objective: Objective,
    sde: ForwardSDE,
    network: Network,
    t: float,
    weighting: Weighting = "sigma2",
    reduction: Reduction = "half_sum",
    n: int = 20_000,
) -> Tensor:
    """Losses of a score network on the Gaussian, the same draws at every call."""
    generator = torch.Generator().manual_seed(5)
    x_0 = MEAN + VAR.sqrt() * torch.randn(n, 8, generator=generator, dtype=torch.float64)
    z = torch.randn(n, 8, generator=generator, dtype=torch.float64)
    times = torch.full((n,), t, dtype=torch.float64)
    return objective.loss(ReverseProcess(sde, network), x_0, times, z, generator, weighting, reduction, 0.02).detach()


def weight(sde: ForwardSDE, t: float, weighting: str) -> float:
    """w, as the literature writes it."""
    sigma2 = sde.sigma(t) ** 2
    edm = sigma2 * (1 + sigma2 / (0.02 * sde.alpha(t)) ** 2)
    return {"sigma2": sigma2, "likelihood": sde.diffusion_squared(t), "unit": 1.0, "edm": edm}[weighting]


@each_sde
@each_objective
@pytest.mark.parametrize("t", [0.1, 0.6])
def test_at_the_exact_score_the_loss_has_its_closed_form(objective: Objective, sde: ForwardSDE, t: float) -> None:
    """E e = sum of 1 - sigma^2/V over the coordinates; likelihood weighting, summed and halved."""
    found = losses(objective, sde, lambda x, times: gaussian_score(sde, x, times), t, "likelihood")
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    error = float((1 - sigma**2 / (alpha**2 * VAR + sigma**2)).sum())
    expected = weight(sde, t, "likelihood") / sigma**2 * error / 2
    margin = 4 * found.std().item() / len(found) ** 0.5
    assert found.mean().item() == pytest.approx(expected, abs=margin)
    # A wrong term would show: both that depend on the network are near the dimension at these times.
    assert margin < 0.05 * weight(sde, t, "likelihood") / sigma**2 * 8 / 2


@each_objective
@pytest.mark.parametrize("direction", ["constant", "x", "sine"])
def test_the_exact_score_is_the_minimum(objective: Objective, direction: str) -> None:
    """The derivative of the loss along a perturbation d vanishes, and its curvature is that of w |d|^2 / 2."""
    push = {"constant": torch.ones_like, "x": lambda x: x, "sine": torch.sin}[direction]
    sde, t = VP(), 0.6

    def along(a: float) -> Tensor:
        return losses(objective, sde, lambda x, times: gaussian_score(sde, x, times) + a * push(x), t)

    h = 1.0
    plus, zero, minus = along(h), along(0.0), along(-h)
    slope, curvature = (plus - minus) / (2 * h), (plus + minus - 2 * zero) / h**2
    # Finite differences of a sine err by h^2/6 of it; this is where a biased objective would show.
    bias = objective.distance**2 * 8 * weight(sde, t, "sigma2") if isinstance(objective, FiniteDifference) else 0.0
    bias = bias if direction == "sine" else 0.0
    assert abs(slope.mean().item()) < 4 * slope.std().item() / len(slope) ** 0.5 + bias
    x_t = sde.alpha(t) * MEAN + (sde.alpha(t) ** 2 * VAR + sde.sigma(t) ** 2).sqrt() * torch.randn(
        100_000, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    expected = weight(sde, t, "sigma2") * push(x_t).square().sum(1).mean().item()
    assert curvature.mean().item() == pytest.approx(expected, rel=0.05)
    # The slope's test has power: a score that is 20 % off is caught.
    off = losses(objective, sde, lambda x, times: 1.2 * gaussian_score(sde, x, times), t) - zero
    assert off.mean().item() > 4 * off.std().item() / len(off) ** 0.5


@each_sde
@pytest.mark.parametrize("weighting", ["sigma2", "likelihood", "unit", "edm"])
@pytest.mark.parametrize("t", [0.02, 0.4])
def test_every_weighting_multiplies_the_error_of_the_score(sde: ForwardSDE, weighting: Weighting, t: float) -> None:
    """E[loss(score + 1) - loss(score)] = w/2 per coordinate; the slope drops out of the symmetric difference."""

    def along(a: float) -> Tensor:
        return losses(Denoising(), sde, lambda x, times: gaussian_score(sde, x, times) + a, t, weighting, n=100)

    found = ((along(1.0) + along(-1.0)) / 2 - along(0.0)).mean().item()
    assert found == pytest.approx(8 * weight(sde, t, weighting) / 2, rel=1e-6)
    # ... which is told from every other weighting's.
    others = [weight(sde, t, other) for other in ("sigma2", "likelihood", "unit", "edm") if other != weighting]
    assert all(found != pytest.approx(4 * other, rel=0.02) for other in others)


@pytest.mark.parametrize("reduction", ["mean", "half_sum"])
@each_objective
def test_the_reductions_differ_by_half_the_dimension(objective: Objective, reduction: Reduction) -> None:
    """A network that predicts no noise: e is the dimension, on average."""
    x_0, z = torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4)
    process = ReverseProcess(VP(), lambda x, t: 0 * x, "noise")
    generator = torch.Generator().manual_seed(0)
    loss = objective.loss(process, x_0, torch.full((3,), 0.3), z, generator, "sigma2", reduction)
    assert loss.tolist() == [{"mean": 1.0, "half_sum": 16.0}[reduction]] * 3


# Scores that are not linear.


def wavy(x: Tensor, t: Tensor) -> Tensor:
    """A noise network with a Jacobian that is neither constant, diagonal nor symmetric."""
    mix = torch.linspace(-1, 1, 64, dtype=x.dtype).view(8, 8)
    return torch.sin(x @ mix + 1) + 0.3 * x + expand(t, x)


@each_objective
def test_all_objectives_have_the_expectation_of_denoising(objective: Objective) -> None:
    n, sde = 40_000, VP()
    generator = torch.Generator().manual_seed(2)
    x_0 = torch.where(torch.rand(n, 1, generator=generator) < 0.3, -1.0, 2.0) * torch.ones(8)
    x_0, z = (
        (x_0 + 0.2 * torch.randn(n, 8, generator=generator)).double(),
        torch.randn(n, 8, generator=generator).double(),
    )
    t = 0.2 + 0.5 * torch.rand(n, generator=generator, dtype=torch.float64)
    process = ReverseProcess(sde, wavy, "noise")
    small = objective.model_copy(update={"distance": 0.01}) if isinstance(objective, FiniteDifference) else objective
    found = small.loss(process, x_0, t, z, generator).detach() - Denoising().loss(process, x_0, t, z, generator)
    margin = 4 * found.std().item() / n**0.5
    assert abs(found.mean().item()) < margin + 1e-12
    assert margin < 0.1


def test_the_exact_objective_takes_the_trace_of_the_jacobian() -> None:
    sde, t = VP(), torch.tensor([0.3, 0.6], dtype=torch.float64)
    x, z = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    process = ReverseProcess(sde, wavy, "noise")
    found = Exact().error(process, x, t, z, torch.Generator())
    assert process.evaluations.derivative_passes == 8
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda y, i=i: wavy(y[None], t[i : i + 1])[0], x[i])
        square = wavy(x[i : i + 1], t[i : i + 1]).square().sum()
        expected = square - 2 * sde.sigma(t[i]) * jacobian.trace() + 8
        assert found[i].item() == pytest.approx(expected.item(), rel=1e-10)


def test_the_exact_objective_refuses_high_dimensions() -> None:
    process = ReverseProcess(VP(), lambda x, t: x, "noise")
    x = torch.zeros(2, 101)
    with pytest.raises(UsageError, match=r"at most 100 dimensions; got 101\. Choose 'sliced'"):
        Exact().loss(process, x, torch.full((2,), 0.5), x, torch.Generator())
    # n = x: e = |x|^2 - 2 sigma D + D.
    most = Exact().error(process, x[:, :100], torch.full((2,), 0.5), x, torch.Generator())
    assert most.tolist() == pytest.approx([100 * (1 - 2 * VP().sigma(0.5))] * 2)


@pytest.mark.parametrize("variance_reduced", [False, True])
@pytest.mark.parametrize("directions", ["rademacher", "gaussian", "sphere"])
def test_finite_differences_approach_the_derivatives(variance_reduced: bool, directions: Directions) -> None:
    """On the same directions the error falls as h^2."""
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 50, 8, generator=generator, dtype=torch.float64)
    t = torch.full((50,), 0.4, dtype=torch.float64)
    process = ReverseProcess(VP(), wavy, "noise")
    settings: dict[str, Any] = {"variance_reduced": variance_reduced, "directions": directions, "count": 2}

    def error(objective: Objective) -> Tensor:
        return objective.error(process, x, t, z, torch.Generator().manual_seed(1)).detach()

    exact = error(Sliced(**settings))
    coarse, fine = (
        (error(FiniteDifference(distance=distance, **settings)) - exact).square().mean().sqrt().item()
        for distance in (0.02, 0.01)
    )
    assert coarse < 0.1 * exact.std().item()
    assert coarse / fine == pytest.approx(4, rel=0.05)


def test_a_gradient_reaches_the_network_through_every_objective() -> None:
    """That of the mean loss over many directions is that of denoising score matching's own identity: all agree."""
    gradients = {}
    for name, objective in OBJECTIVES.items():
        network = preconditioned_mlp(energy=False)
        generator = torch.Generator().manual_seed(0)
        x_0, z = torch.randn(2, 20_000, 3, generator=generator, dtype=torch.float64)
        t = torch.full((20_000,), 0.5, dtype=torch.float64)
        small = (
            objective.model_copy(update={"distance": 0.01}) if isinstance(objective, FiniteDifference) else objective
        )
        loss = small.loss(ReverseProcess(VP(), network, "noise"), x_0, t, z, generator).mean()
        weights = [p for p in network.parameters() if p.numel() >= 24]
        gradients[name] = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
    reference = gradients["exact"]
    for name, gradient in gradients.items():
        cosine = torch.nn.functional.cosine_similarity(gradient, reference, dim=0).item()
        assert cosine > 0.9, name
        assert gradient.norm().item() == pytest.approx(reference.norm().item(), rel=0.3), name


@pytest.mark.parametrize("law", ["rademacher", "gaussian", "sphere"])
def test_directions_have_unit_covariance(law: Directions) -> None:
    v = draw_directions(law, torch.zeros(200_000, 2, 2, dtype=torch.float64), torch.Generator().manual_seed(0)).flatten(
        1
    )
    torch.testing.assert_close(v.T @ v / len(v), torch.eye(4, dtype=torch.float64), rtol=0, atol=0.02)
    fourth = {"rademacher": 1.0, "gaussian": 3.0, "sphere": 3 * 4 / 6}[law]
    assert v.pow(4).mean().item() == pytest.approx(fourth, rel=0.02)


# Energies.


def preconditioned_mlp(energy: bool) -> Preconditioned:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        core: nn.Module = MLP((3,), 16, 1)
        for parameter in core.parameters():
            nn.init.normal_(parameter, std=0.3)
    network = PreconditionedEnergy(Conservative(core), VP(), 0.7) if energy else Preconditioned(core, VP(), 0.7)
    return network.double()


def test_the_score_of_an_energy_is_its_negative_gradient_also_without_recording() -> None:
    network = preconditioned_mlp(energy=True)
    assert isinstance(network, PreconditionedEnergy)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.01, 0.1, 0.3, 0.6, 1.0], dtype=torch.float64)
    h = 1e-5
    process = ReverseProcess(VP(), network, "noise")
    with torch.no_grad():
        score = process.score(x, t)
        assert not score.requires_grad
        for i in range(3):
            step = h * torch.eye(3, dtype=torch.float64)[i]
            slope = (network.energy(x + step, t) - network.energy(x - step, t)) / (2 * h)
            torch.testing.assert_close(-slope, score[:, i], rtol=1e-6, atol=1e-6)
        # A gradient field: the Jacobian is symmetric, the plain network's is not.
    for energy in (True, False):
        plain = preconditioned_mlp(energy)
        jacobian = torch.autograd.functional.jacobian(lambda y, n=plain: n(y[None], t[2:3])[0], x[2])
        assert torch.allclose(jacobian, jacobian.T, atol=1e-12) is energy
    # Likelihoods differentiate it.
    _, divergence = process.score_and_divergence(x[2:3], t[2:3], ExactDivergence())
    exact = torch.autograd.functional.jacobian(lambda y: process.score(y[None], t[2:3])[0], x[2]).trace()
    assert divergence.item() == pytest.approx(exact.item(), rel=1e-9)


def test_the_energy_of_a_linear_core_has_its_closed_form() -> None:
    """G = A u: psi = u . A u, F = -(A + A^T) u; with u = x/root, E = |u|^2/2 + (alpha s/sigma) psi."""
    a = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    class Core(nn.Module):
        def forward(self, scaled: Tensor, lam: Tensor) -> Tensor:
            return scaled @ a.T

    sde, s = VP(), 0.7
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([0.01, 0.2, 0.5, 1.0], dtype=torch.float64)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    u = x / (alpha**2 * s**2 + sigma**2).sqrt()[:, None]
    psi = torch.einsum("ni,ij,nj->n", u, a, u)
    conservative = Conservative(Core())
    torch.testing.assert_close(conservative.potential(u, sde.lam(t)), psi)
    torch.testing.assert_close(conservative(u, sde.lam(t)), -u @ (a + a.T))
    found = PreconditionedEnergy(conservative, sde, s).energy(x, t)
    torch.testing.assert_close(found, u.square().sum(1) / 2 + alpha * s / sigma * psi)


def test_finite_differences_of_energies_approach_the_derivatives_of_their_score() -> None:
    network = preconditioned_mlp(energy=True)
    generator = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    t = torch.full((50,), 0.4, dtype=torch.float64)
    process = ReverseProcess(VP(), network, "noise")

    def error(objective: Objective) -> Tensor:
        return objective.error(process, x, t, z, torch.Generator().manual_seed(1)).detach()

    exact = error(Sliced(variance_reduced=False, count=2))
    coarse, fine = (
        (error(FiniteDifference(distance=distance, count=2)) - exact).square().mean().sqrt().item()
        for distance in (0.04, 0.02)
    )
    assert coarse < 0.1 * exact.std().item()
    assert coarse / fine == pytest.approx(4, rel=0.1)


# EDM.


@pytest.mark.parametrize("sde", [*SDES, EDM()], ids=lambda sde: sde.name)
def test_the_edm_weighting_is_that_of_its_denoised(sde: ForwardSDE) -> None:
    """w/sigma^2 |noise - z|^2 = (r^2 + s^2)/(r s)^2 |D - x_0|^2, and for a preconditioned core |F - target|^2."""
    s, t = 0.7, torch.tensor([0.05, 0.3, 0.9], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    x_0, z, answer = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(3))

    class Core(nn.Module):
        def forward(self, scaled: Tensor, lam: Tensor) -> Tensor:
            return answer

    process = ReverseProcess(sde, Preconditioned(Core(), sde, s), "noise")
    found = Denoising().loss(process, x_0, t, z, generator, "edm", "mean", s)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    r = sigma / alpha
    x = alpha * x_0 + sigma * z
    error = process.denoised(x, t) - x_0
    weight = (r**2 + s**2) / (r * s) ** 2
    torch.testing.assert_close(found, (weight * error**2).mean(1), rtol=1e-9, atol=0)
    # Karras et al. 2022, table 1: D(y; r) = c_skip y + c_out F, so the target of F is (x_0 - c_skip y)/c_out.
    c_skip, c_out = s**2 / (r**2 + s**2), r * s / (r**2 + s**2).sqrt()
    target = (x_0 - c_skip * x / alpha) / c_out
    torch.testing.assert_close(found, ((answer - target) ** 2).mean(1), rtol=1e-9, atol=0)
    assert noise_weight("edm", sde, t, s).shape == t.shape
