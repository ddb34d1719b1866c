"""The classifier of noisy images."""

import math

import pytest
import torch

from pretrained import zoo
from pretrained.card import NoisyClassifierCard, load_card
from pretrained.data import load_data
from pretrained.networks.noisy_classifier import NoisyClassifier
from pretrained.tasks import NoisyClassifierTask, build_task, noisy_accuracy
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


# Its card: what it is trained on, and how well it does.


@pytest.fixture(scope="module")
def card() -> NoisyClassifierCard:
    found = load_card("digits-classifier")
    assert isinstance(found, NoisyClassifierCard)
    return found


def test_the_loss_of_a_classifier_that_knows_nothing_is_the_entropy(card: NoisyClassifierCard) -> None:
    data = load_data("digits", "train")
    task = build_task(card, data, torch.device("cpu"))
    loss = task.loss(data.values[:64], data.labels[:64], torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(math.log(10), rel=1e-6)


def test_it_is_trained_on_states_of_the_process_at_the_times_of_the_card(card: NoisyClassifierCard) -> None:
    data, seen = load_data("digits", "train"), []

    class Spy(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            seen.append((x, t))
            return torch.zeros(len(x), 10)

    values = data.values[:1].expand(4000, -1, -1, -1)
    task = NoisyClassifierTask(card, Spy(), data)
    task.loss(values, data.labels[:1].expand(4000), torch.Generator().manual_seed(0))
    ((x, t),) = seen
    sde = card.sde.build()
    lam = sde.lam(t.double())
    ends = sde.lam(card.t_min), sde.lam(sde.t_max)
    share = ((lam - ends[0]) / (ends[1] - ends[0])).sort().values
    assert torch.allclose(share, torch.linspace(0, 1, 4000, dtype=torch.float64), atol=1e-2), "lam is uniform"
    x_0 = 2 * (data.values[0].double() + 0.5) / 17 - 1
    z = (x - sde.alpha(t.double())[:, None, None, None] * x_0) / sde.sigma(t.double())[:, None, None, None]
    late = t > 0.05  # Earlier the noise of dequantisation shows.
    assert z[late].mean().abs() < 0.01
    assert z[late].std() == pytest.approx(1, abs=0.01)


def test_accuracies_are_shares_of_the_test_digits(card: NoisyClassifierCard) -> None:
    class AlwaysSeven(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(7), 10).float())

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.bias.expand(len(x), -1)

    share = (load_data("digits", "test").labels == 7).float().mean().item()
    assert noisy_accuracy(AlwaysSeven(), card) == pytest.approx((share, share), abs=1e-6)


def test_the_shipped_one_knows_clear_digits_and_has_the_accuracies_of_its_card() -> None:
    guide = zoo.load_classifier("digits-classifier")
    result = guide.card.result
    assert result is not None
    found = noisy_accuracy(guide.network, guide.card)
    assert found == pytest.approx((result.test_accuracy, result.noisy_accuracy), abs=0.004)
    assert found[0] > 0.95 > found[1] > 0.5


def test_another_kind_is_refused_with_the_function_that_takes_it() -> None:
    with pytest.raises(UsageError, match=r"load_classifier digits-vp: .*'noisy_classifier'.* Use load\('digits-vp'\)"):
        zoo.load_classifier("digits-vp")
    with pytest.raises(UsageError, match=r"Use load_classifier\('digits-classifier'\)"):
        zoo.load("digits-classifier")
