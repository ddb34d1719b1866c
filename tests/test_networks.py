"""Networks: derivatives, devices, determinism, and what the preconditioning promises at both ends."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pretrained.networks.classifier import Classifier
from pretrained.networks.convnet import ConvNet
from pretrained.networks.direct import Direct
from pretrained.networks.precondition import Preconditioned
from solvers.divergence import ExactDivergence, Hutchinson
from solvers.process import PARAMETRISATIONS, Parametrisation, ReverseProcess
from solvers.sde import EDM, VE, VP, Cosine, ForwardSDE, SubVP


def score_network(sde: ForwardSDE | None = None, seed: int = 0) -> Preconditioned:
    """A small network with every weight away from zero, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Preconditioned(ConvNet((1, 8, 8), (-1.0, -0.88, 1.0), 0.8, 16, 2, 32, 0.3), sde or VP(), 0.8)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.1)
    return network.double().eval().requires_grad_(False)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_sample_depends_on_itself_alone() -> None:
    network = score_network()
    x, t = normal(5, 1, 8, 8), torch.tensor([1e-5, 0.01, 0.2, 0.7, 1.0], dtype=torch.float64)
    whole = network(x, t)
    assert whole.shape == x.shape
    assert torch.isfinite(whole).all()
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(whole, alone, rtol=1e-12, atol=1e-12)
    # ... on every pixel of itself, and on the time.
    moved = network(x + 0.1 * torch.eye(64, dtype=torch.float64)[27].view(1, 1, 8, 8), t)
    assert ((moved - whole).abs() > 0).all()
    assert ((network(x, t * 0.9) - whole).abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize("t", [1e-3, 0.1, 0.8])
def test_the_divergence_is_that_of_finite_differences(t: float) -> None:
    process = ReverseProcess(VP(), score_network(), "noise")
    x, v = normal(3, 1, 8, 8), normal(3, 1, 8, 8, seed=1).sign()
    with torch.no_grad():
        score, divergence = process.score_and_divergence(x, t, Hutchinson(v[None]))
        h = 1e-5 * VP().sigma(t)
        difference = (process.score(x + h * v, t) - process.score(x - h * v, t)) / (2 * h)
        torch.testing.assert_close(score, process.score(x, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(divergence[:, 0], (v * difference).flatten(1).sum(1), rtol=1e-6, atol=1e-6)


def test_the_exact_divergence_is_the_trace_of_the_jacobian() -> None:
    network = score_network()
    x, t = normal(1, 1, 8, 8), 0.05
    _, divergence = ReverseProcess(VP(), network, "noise").score_and_divergence(x, t, ExactDivergence())
    process = ReverseProcess(VP(), network, "noise")
    jacobian = torch.autograd.functional.jacobian(lambda z: process.score(z.view(1, 1, 8, 8), t).flatten(), x.flatten())
    assert divergence.item() == pytest.approx(jacobian.trace().item(), rel=1e-9)


def test_dropout_acts_in_training_and_not_in_evaluation() -> None:
    network = score_network().requires_grad_(False)
    x, t = normal(4, 1, 8, 8), torch.full((4,), 0.3, dtype=torch.float64)
    assert torch.equal(network(x, t), network(x, t))
    with torch.random.fork_rng():
        assert not torch.equal(network.train()(x, t), network(x, t))


@pytest.mark.parametrize("sde", [VP(), VE()], ids=lambda sde: sde.name)
def test_an_empty_core_is_the_exact_answer_for_gaussian_data(sde: ForwardSDE) -> None:
    """x_0 ~ N(0, s^2 I): E[z | x_t] = sigma x / (alpha^2 s^2 + sigma^2)."""

    class Zero(nn.Module):
        def forward(self, scaled: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(scaled)

    x, t = normal(4, 3), torch.tensor([1e-5, 0.1, 0.5, 1.0], dtype=torch.float64)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    expected = sigma * x / (alpha**2 * 0.49 + sigma**2)
    torch.testing.assert_close(Preconditioned(Zero(), sde, 0.7)(x, t), expected, rtol=1e-12, atol=0)


def test_input_and_target_of_the_core_have_unit_scale_at_every_time() -> None:
    """The target is what the core must say for the prediction to be z: F = (sigma scaled - root z) / (alpha s)."""
    sde, s = VP(), 0.7
    seen: list[torch.Tensor] = []

    class Ones(nn.Module):
        def forward(self, scaled: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
            seen.append(scaled)
            return torch.ones_like(scaled)

    class Zero(nn.Module):
        def forward(self, scaled: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(scaled)

    x_0, z = s * normal(100_000, 1), normal(100_000, 1, seed=1)
    for time in (1e-5, 0.05, 0.3, 1.0):
        t = torch.full((len(z),), time, dtype=torch.float64)
        x = sde.alpha(time) * x_0 + sde.sigma(time) * z
        zero, one = Preconditioned(Zero(), sde, s)(x, t), Preconditioned(Ones(), sde, s)(x, t)
        target = (z - zero) / (one - zero)
        assert seen[-1].std().item() == pytest.approx(1, rel=0.02)
        assert target.std().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("sde", [VP(), SubVP(), VE(), EDM()], ids=lambda sde: sde.name)
def test_one_core_serves_every_process_by_change_of_variables(sde: ForwardSDE) -> None:
    """denoised(x, t) = D(x/alpha; sigma/alpha) with EDM's D, from a network made for another process."""
    network = score_network(Cosine())
    x, t = normal(4, 1, 8, 8), torch.tensor([0.01, 0.1, 0.5, 0.9], dtype=torch.float64)
    r, s = (sde.sigma(t) / sde.alpha(t))[:, None, None, None], network.data_std
    y = x / sde.alpha(t)[:, None, None, None]
    core = network.core(y / (r**2 + s**2).sqrt(), -r.flatten().log())
    expected = (s**2 * y + r * s * (r**2 + s**2).sqrt() * core) / (r**2 + s**2)
    found = ReverseProcess(sde, network.under(sde), "noise").denoised(x, t)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert not network.under(sde).training


@pytest.mark.parametrize("sde", [VP(), SubVP(), VE(), EDM(), Cosine()], ids=lambda sde: sde.name)
@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_every_prediction_is_of_order_one_and_means_what_the_process_reads(
    sde: ForwardSDE, kind: Parametrisation
) -> None:
    """A core that answers with the target in units of c predicts the very x_0 and z of its sample."""
    s, t = 0.7, torch.tensor([0.01, 0.1, 0.5, 0.9], dtype=torch.float64)
    x_0, z = s * normal(4, 50_000), normal(4, 50_000, seed=1)
    alpha, sigma = (c(t)[:, None] for c in (sde.alpha, sde.sigma))
    h = 1e-6
    rates = [((c(t + h) - c(t - h)) / (2 * h))[:, None] for c in (sde.alpha, sde.sigma)]
    targets = {"score": -z / sigma, "noise": z, "denoised": x_0, "velocity": rates[0] * x_0 + rates[1] * z}

    class Core(nn.Module):
        def forward(self, scaled: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
            return targets[kind] / network.scale(t)[:, None]

    network = Direct(Core(), sde, s, kind)
    torch.testing.assert_close(targets[kind].std(1), network.scale(t), rtol=0.02, atol=0)
    process = ReverseProcess(sde, network, kind)
    x = alpha * x_0 + sigma * z
    torch.testing.assert_close(sigma / alpha * process.noise(x, t), sigma / alpha * z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(process.denoised(x, t), x_0, rtol=1e-5, atol=1e-5 * float((sigma / alpha).max()))


def test_the_noise_keeps_its_digits_at_the_smallest_times() -> None:
    """Single precision at t = 1e-5, where x - alpha D cancels: agrees with double precision to its own rounding."""
    network = score_network()
    x, t = normal(8, 1, 8, 8), torch.full((8,), 1e-5, dtype=torch.float64)
    exact = network(x, t)
    single = network.float()(x.float(), t.float()).double()
    assert ((single - exact).abs() / exact.abs().mean()).max().item() < 1e-4


@pytest.mark.parametrize("kind", ["score", "classifier"])
def test_networks_run_on_a_gpu_without_touching_the_cpu(kind: str) -> None:
    """Fake tensors raise when devices mix; a constant made on the CPU inside forward would do that."""
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        x, t = torch.empty(4, 1, 8, 8), torch.empty(4)
        if kind == "classifier":
            out = Classifier((1, 8, 8), 10, 8, 16, 0.1).eval()(x)
            assert out.shape == (4, 10)
        else:
            network = Preconditioned(ConvNet((1, 8, 8), (-1.0, -0.88, 1.0), 0.8, 16, 2, 32, 0.3), VP(), 0.8).eval()
            out = network(x, t)
            assert out.shape == x.shape
        assert out.device.type == "cuda"


def test_logits_are_the_head_of_the_features() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Classifier((1, 8, 8), 10, 8, 16, 0.5).eval()
    images = normal(6, 1, 8, 8).float()
    features = network.features(images)
    assert features.shape == (6, 16)
    torch.testing.assert_close(network(images), network.head(features))
    assert features.std(0).min().item() > 0
