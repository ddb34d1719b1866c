"""The classifier of noisy images."""

import pytest
import torch

from pretrained.networks.noisy_classifier import NoisyClassifier
from solvers.errors import UsageError
from solvers.sde import get_sde


def classifier(sde: str = "vp", shape: tuple[int, ...] = (1, 8, 8)) -> NoisyClassifier:
    torch.manual_seed(0)
    network = NoisyClassifier(shape, 3, get_sde(sde), data_std=0.8, width=16, blocks=1, dropout=0.0).double().eval()
    torch.nn.init.normal_(network.head.weight, std=0.1)
    return network


def test_guidance_is_the_slope_of_the_log_probability() -> None:
    network, labels = classifier(), torch.tensor([0, 2])
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([0.1, 0.7], dtype=torch.float64)
    direction, h = torch.randn_like(x), 1e-6

    def log_p(x: torch.Tensor) -> torch.Tensor:
        return network(x, t).log_softmax(1)[torch.arange(2), labels]

    slope = (log_p(x + h * direction) - log_p(x - h * direction)) / (2 * h)
    found = (network.guidance(x, t, labels) * direction).flatten(1).sum(1)
    assert torch.allclose(found, slope.detach(), rtol=1e-6, atol=1e-9)


def test_guidance_averages_to_nothing_over_the_classes() -> None:
    network = classifier()
    x, t = torch.randn(1, 1, 8, 8, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    p = network(x, t).softmax(1)[0]
    each = torch.cat([network.guidance(x, t, torch.tensor([y])) for y in range(3)])
    assert each.abs().max() > 1e-4
    assert torch.allclose((p[:, None, None, None] * each).sum(0), torch.zeros_like(x[0]), atol=1e-12)


def test_it_sees_x_over_its_scale_and_the_noise_level_alone() -> None:
    """At equal sigma/alpha the state over alpha is the same image, whatever the process."""
    vp, ve = classifier("vp"), classifier("ve")
    t = torch.tensor([0.2], dtype=torch.float64)
    s = ve.sde.t_of_lam(vp.sde.lam(t))
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(vp(vp.sde.alpha(t) * x, t), ve(ve.sde.alpha(s) * x, s), atol=1e-9)


def test_untrained_every_class_is_as_likely() -> None:
    network = NoisyClassifier((1, 8, 8), 3, get_sde("vp"), data_std=0.8, width=16, blocks=1, dropout=0.0)
    assert torch.equal(network(torch.randn(2, 1, 8, 8), torch.full((2,), 0.5)), torch.zeros(2, 3))


def test_an_image_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(UsageError, match=r"multiples of 4; got \(1, 6, 8\)"):
        classifier(shape=(1, 6, 8))
