"""NCSN++ and its parts: counts of the published configurations, filters by hand, every choice of the settings."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pretrained.card import load_card
from pretrained.networks.attention import Attention
from pretrained.networks.embedding import FourierFeatures, PositionalFeatures
from pretrained.networks.fir import FIR
from pretrained.networks.initial import conv, group_norm
from pretrained.networks.ncsnpp import NCSNpp
from pretrained.networks.resample import ConvDown, ConvUp, Down, Up
from pretrained.networks.settings import NCSNppSettings
from pretrained.published import load_published_card, published_names
from solvers.errors import UsageError

TAPS = (1.0, 3.0, 3.0, 1.0)
# The reference's, frozen frequencies included.
COUNTS = {
    "cifar10-ncsnpp-ve": 62_758_915,
    "cifar10-ncsnpp-deep-ve": 107_587_075,
    "cifar10-ddpmpp-vp": 61_804_419,
    "cifar10-ddpmpp-subvp": 61_804_419,
    "cifar10-ddpmpp-deep-vp": 106_632_579,
    "cifar10-ddpmpp-deep-subvp": 106_632_579,
    "cifar10-ncsnpp-vp": 62_693_251,
    "cifar10-ncsnpp-deep-subvp": 107_521_411,
}


def settings(**changes: Any) -> NCSNppSettings:
    """A narrow network of two resolutions."""
    narrow: dict[str, Any] = {
        "name": "ncsnpp",
        "nf": 8,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (4,),
        "resamp_with_conv": True,
        "conditional": True,
        "fir": True,
        "fir_kernel": TAPS,
        "skip_rescale": True,
        "resblock_type": "biggan",
        "progressive": "none",
        "progressive_input": "none",
        "progressive_combine": "sum",
        "embedding_type": "positional",
        "scale_by_sigma": False,
    }
    return NCSNppSettings(**narrow | changes)


def network(shape: tuple[int, ...] = (3, 8, 8), centred: bool = True, **changes: Any) -> NCSNpp:
    """A network with every weight away from zero, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = NCSNpp(shape, settings(**changes), centred)
        for parameter in built.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
    return built.double().eval()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0.3, 20.0, 900.0], dtype=torch.float64)


def test_every_published_configuration_has_a_count() -> None:
    of_others = {"cifar10-ddpm", "cifar10-edm-ve", "cifar10-edm-vp"}
    assert set(published_names()) == set(COUNTS) | of_others


@pytest.mark.parametrize("name", COUNTS)
def test_published_configurations_have_the_parameters_of_the_reference(name: str) -> None:
    card = load_published_card(name)
    with torch.device("meta"):
        built = NCSNpp(card.settings.shape, card.settings.model, card.settings.centered)
    assert card.parameters == COUNTS[name] == sum(p.numel() for p in built.parameters())


CHOICES = [
    {"resblock_type": block, "progressive": out, "progressive_input": image, "fir": fir}
    for block, out, image, fir in itertools.product(
        ("ddpm", "biggan"), ("none", "output_skip", "residual"), ("none", "input_skip", "residual"), (True, False)
    )
]
OTHERS: list[dict[str, Any]] = [
    {"progressive_input": "input_skip", "progressive_combine": "cat"},
    {"resblock_type": "ddpm", "resamp_with_conv": False},
    {"resblock_type": "ddpm", "resamp_with_conv": False, "fir": False},
    {"embedding_type": "fourier"},
    {"scale_by_sigma": True},
    {"embedding_type": "fourier", "scale_by_sigma": True},
    {"conditional": False},
    {"skip_rescale": False},
    {"nonlinearity": "lrelu"},
    {"ch_mult": (1, 2, 2), "progressive": "output_skip", "progressive_input": "residual", "num_res_blocks": 2},
]


@pytest.mark.parametrize("choice", CHOICES + OTHERS, ids=lambda choice: " ".join(map(str, choice.values())))
def test_every_choice_is_differentiable_and_keeps_samples_apart(choice: dict[str, Any]) -> None:
    built = network(**choice)
    x = normal(3, 3, 8, 8)
    whole = built(x, LABELS)
    assert whole.shape == x.shape
    assert whole.dtype == torch.float64
    alone = torch.cat([built(x[i : i + 1], LABELS[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, alone, rtol=1e-10, atol=1e-10)
    whole.square().sum().backward()
    unused = [] if choice.get("conditional", True) else ["Dense_0"]
    for name, parameter in built.named_parameters():
        if parameter.requires_grad and not any(part in name for part in unused):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        moved = built(x, LABELS * 0.9)
    assert torch.equal(moved, whole.detach()) == (choice == {"conditional": False})


@pytest.mark.parametrize("choice", OTHERS[:5], ids=lambda choice: " ".join(map(str, choice.values())))
def test_a_copy_is_the_same_network_and_a_part_of_none(choice: dict[str, Any]) -> None:
    built = network(**choice)
    x = normal(3, 3, 8, 8)
    twin = copy.deepcopy(built)
    assert torch.equal(twin(x, LABELS), built(x, LABELS))
    with torch.no_grad():
        twin.get_parameter("all_modules.0.weight" if "embedding_type" not in choice else "all_modules.1.weight").zero_()
    assert not torch.equal(twin(x, LABELS), built(x, LABELS))


def test_the_network_has_a_second_derivative() -> None:
    """Sliced score matching differentiates the divergence."""
    built = network()
    x = normal(3, 3, 8, 8).requires_grad_()
    (slope,) = torch.autograd.grad(built(x, LABELS).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_dropout_acts_in_training_alone() -> None:
    built = network(dropout=0.3)
    x = normal(3, 3, 8, 8)
    assert torch.equal(built(x, LABELS), built(x, LABELS))
    with torch.random.fork_rng():
        assert not torch.equal(built.train()(x, LABELS), built(x, LABELS))


def test_images_about_the_unit_interval_are_centred() -> None:
    x = normal(3, 3, 8, 8)
    assert torch.equal(network(centred=False)(x, LABELS), network(centred=True)(2 * x - 1, LABELS))


@pytest.mark.parametrize("embedding", ["fourier", "positional"])
def test_the_output_is_divided_by_the_noise_level(embedding: str) -> None:
    x = normal(3, 3, 8, 8)
    plain = network(embedding_type=embedding)(x, LABELS)
    divided = network(embedding_type=embedding, scale_by_sigma=True)(x, LABELS)
    # Positional labels count the levels from the largest; 20 of 999 steps down from 50 to 0.01.
    sigma = LABELS if embedding == "fourier" else 50 * (0.01 / 50) ** (LABELS.floor() / 999)
    torch.testing.assert_close(divided, plain / sigma[:, None, None, None], rtol=1e-5, atol=0)


def test_wrong_sizes_and_widths_are_refused() -> None:
    with pytest.raises(UsageError, match=r"a multiple of 2\^1 = 2 .*; got \(3, 9, 9\)\. Pad or crop"):
        NCSNpp((3, 9, 9), settings())
    with pytest.raises(UsageError, match="images are square"):
        NCSNpp((3, 8, 16), settings())
    with pytest.raises(UsageError, match=r"equal groups; got 18\. Choose widths"):
        NCSNpp((3, 8, 8), settings(nf=18))
    with pytest.raises(UsageError, match=r"images have the shape \(3, 8, 8\); got \(3, 16, 16\)"):
        network()(normal(1, 3, 16, 16), LABELS[:1])
    with pytest.raises(UsageError, match="two taps or more"):
        FIR((1.0,))


def test_a_gpu_is_not_made_to_touch_the_host() -> None:
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda"):
            choice = {"progressive_input": "residual", "progressive": "residual", "scale_by_sigma": True}
            built = NCSNpp((3, 8, 8), settings(**choice))
            x, labels = torch.empty(2, 3, 8, 8), torch.empty(2)
        out = built(x, labels)
        assert (out.device.type, out.shape) == ("cuda", (2, 3, 8, 8))


# Parts.


def filtered_by_hand(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """The whole convolution of each row with the taps: of length w + L - 1."""
    return np.stack([np.convolve(row, taps) for row in x])


@pytest.mark.parametrize("taps", [(1.0, 3.0, 3.0, 1.0), (1.0, 1.0), (1.0, 4.0, 2.0), (1.0, 2.0, 4.0, 5.0, 1.0, 3.0)])
def test_the_filter_is_that_of_the_formulas(taps: tuple[float, ...]) -> None:
    """Each direction apart, by numpy: down takes every second value of k * x, up filters between zeros."""
    image = normal(2, 3, 6, 8)
    fir = FIR(taps).double()
    k = np.array(taps) / sum(taps)
    x = image[0, 0].numpy()
    whole = filtered_by_hand(filtered_by_hand(x, k).T, k).T
    first = len(taps) // 2
    np.testing.assert_allclose(fir.down(image)[0, 0], whole[first : first + 6 : 2, first : first + 8 : 2], atol=1e-6)
    spread = np.zeros((12, 16))
    spread[::2, ::2] = x
    whole = 4 * filtered_by_hand(filtered_by_hand(spread, k).T, k).T
    first = len(taps) // 2 - 1
    np.testing.assert_allclose(fir.up(image)[0, 0], whole[first : first + 12, first : first + 16], atol=1e-6)
    # Channels and samples apart.
    torch.testing.assert_close(fir.down(image)[1:, 2:], fir.down(image[1:, 2:]))
    torch.testing.assert_close(fir.up(image)[1:, 2:], fir.up(image[1:, 2:]))


@pytest.mark.parametrize("taps", [TAPS, None])
def test_resampling_keeps_constants_and_mean_away_from_the_border(taps: tuple[float, ...] | None) -> None:
    ones = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(Down(taps)(ones)[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(Up(taps)(ones)[..., 1:-1, 1:-1], torch.ones(1, 1, 14, 14))
    # The two are each other's transposes, up to the four places that one becomes.
    x, y = normal(1, 1, 8, 8).float(), normal(1, 1, 4, 4, seed=1).float()
    torch.testing.assert_close(4 * (Down(taps)(x) * y).sum(), (x * Up(taps)(y)).sum())


def test_filter_and_convolution_are_the_two_in_turn_away_from_the_border() -> None:
    x = normal(1, 2, 16, 16)
    down, up = ConvDown(2, 3, TAPS).double(), ConvUp(2, 3, TAPS).double()
    with torch.no_grad():
        low = torch.nn.functional.conv2d(FIR(TAPS).double().blur(x, 1, 2), down.Conv2d_0.weight, padding=1)
        shifted = low[:, :, 0::2, 0::2], low[:, :, 1::2, 1::2]
        found = down(x)
        assert any(torch.allclose(found[..., 2:-2, 2:-2], s[..., 2:-2, 2:-2], atol=1e-7) for s in shifted)
        high = torch.nn.functional.conv2d(Up(TAPS).double()(x), up.Conv2d_0.weight, padding=1)
        torch.testing.assert_close(up(x)[..., 3:-3, 3:-3], high[..., 3:-3, 3:-3], atol=1e-6, rtol=0)
    assert found.shape == (1, 3, 8, 8)
    assert up(x).shape == (1, 3, 32, 32)


def test_convolutions_without_a_filter_have_their_frame_below_and_right() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 1
    layer = ConvDown(1, 1)
    with torch.no_grad():
        found = layer(x)
    # The first output sees the corner under the kernel's first weight; framed on both sides it would be the middle one.
    assert found[0, 0, 0, 0].item() == pytest.approx(layer.Conv_0.weight[0, 0, 0, 0].item())
    assert ConvUp(1, 2)(x).shape == (1, 2, 8, 8)


def test_attention_is_its_formula() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = Attention(8, rescale=True, scale=1.0).double()
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter)
    x = normal(2, 8, 3, 4)
    with torch.no_grad():
        h = layer.GroupNorm_0(x)
        q, k, v = (torch.einsum("ncij,cd->nijd", h, m.W) + m.b for m in (layer.NIN_0, layer.NIN_1, layer.NIN_2))
        weights = torch.einsum("nijd,nkld->nijkl", q, k) / math.sqrt(8)
        weights = weights.flatten(3).softmax(3).view(weights.shape)
        mixed = torch.einsum("nijkl,nkld->nijd", weights, v) @ layer.NIN_3.W + layer.NIN_3.b
        torch.testing.assert_close(layer(x), (x + mixed.permute(0, 3, 1, 2)) / math.sqrt(2))


def test_features_are_their_formulas() -> None:
    label = torch.tensor([0.5, 40.0], dtype=torch.float64)
    fourier = FourierFeatures(6, 16.0).double()
    phase = 2 * math.pi * torch.log(label)[:, None] * fourier.W
    torch.testing.assert_close(fourier(label), torch.cat([phase.sin(), phase.cos()], 1))
    assert not fourier.W.requires_grad
    for width in (8, 9):
        found = PositionalFeatures(width).double()(label)
        assert found.shape == (2, width)
        for i in range(4):
            rate = 10000 ** (-i / 3)
            torch.testing.assert_close(found[:, i], (label * rate).sin(), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found[:, 4 + i], (label * rate).cos(), rtol=1e-5, atol=1e-5)


def test_weights_start_at_their_scale() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, nothing = conv(64, 64), conv(64, 64, scale=0.0)
    assert layer.weight.var().item() == pytest.approx(1 / (64 * 9), rel=0.03)
    assert nothing.weight.var().item() == pytest.approx(1e-10 / (64 * 9), rel=0.03)
    assert group_norm(128).num_groups == group_norm(256).num_groups == 32
    assert group_norm(24).num_groups == 6


def test_published_cards_are_not_trained() -> None:
    with pytest.raises(UsageError, match="no card 'cifar10-ncsnpp-ve'"):
        load_card("cifar10-ncsnpp-ve")
