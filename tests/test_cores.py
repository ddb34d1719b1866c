"""The MLP and the compact U-Net: sizes, gradients, samples apart, precision, cards, and a loss that falls."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pretrained import zoo
from pretrained.card import ScoreCard, dump_card, load_card
from pretrained.data import load_data
from pretrained.networks.attention import Attention
from pretrained.networks.mlp import MLP
from pretrained.networks.precondition import Preconditioned
from pretrained.networks.unet import UNet
from pretrained.tasks import build_network, build_task, held_out_loss
from pretrained.train import train
from solvers.errors import UsageError
from solvers.sde import VE, VP

CORES: dict[str, Any] = {
    "mlp": lambda: MLP((1, 8, 8), 32, 2),
    "mlp of points": lambda: MLP((2,), 32, 1, 0.2),
    "unet": lambda: UNet((1, 8, 8), 8, (1, 2), 1),
    "unet of three resolutions": lambda: UNet((3, 8, 12), 8, (1, 2, 2), 2, attention=(2, 4), dropout=0.1),
    "unet of one resolution": lambda: UNet((1, 7, 5), 8, (1,), 1, attention=(7,)),
    "unet of patches": lambda: UNet((1, 8, 12), 12, (1, 2), 2, attention=(2,), patch=2),
    "unet with classes": lambda: UNet((1, 8, 8), 8, (1, 2), 1, classes=10),
}
LAM = torch.tensor([-5.0, 0.0, 4.0], dtype=torch.float64)


def core(kind: str) -> Any:
    """A network with every weight away from zero, in double precision."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CORES[kind]()
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
    return network.double().eval()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", CORES)
def test_every_parameter_counts_and_samples_stay_apart(kind: str) -> None:
    network = core(kind)
    x = normal(3, *network.shape)
    labels = (torch.tensor([1, 10, 4]),) if kind == "unet with classes" else ()
    whole = network(x, LAM, *labels)
    assert (whole.shape, whole.dtype) == (x.shape, torch.float64)
    alone = [network(x[i : i + 1], LAM[i : i + 1], *(part[i : i + 1] for part in labels)) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-10, atol=1e-10)
    whole.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert ((network(x, LAM + 0.1, *labels) - whole).abs().flatten(1).amax(1) > 0).all()
    assert torch.equal(copy.deepcopy(network)(x, LAM, *labels), whole)


@pytest.mark.parametrize("kind", ["mlp", "unet", "unet of three resolutions"])
def test_the_networks_have_second_derivatives(kind: str) -> None:
    network = core(kind)
    x = normal(3, *network.shape).requires_grad_()
    (slope,) = torch.autograd.grad(network(x, LAM).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_the_untrained_network_is_the_exact_answer_for_gaussian_data(kind: str) -> None:
    x, t = normal(3, 1, 8, 8).float(), torch.tensor([0.1, 0.5, 1.0])
    with torch.random.fork_rng():
        found = Preconditioned(CORES[kind](), VP(), 0.7)(x, t)
    alpha, sigma = VP().alpha(t)[:, None, None, None], VP().sigma(t)[:, None, None, None]
    # The U-Net's last layer starts at 1e-5 of its usual scale, the MLP's at zero.
    torch.testing.assert_close(found, sigma * x / (alpha**2 * 0.49 + sigma**2), rtol=1e-3, atol=1e-4)


def test_a_class_changes_the_answer_and_any_class_is_one_of_them() -> None:
    network = core("unet with classes")
    x = normal(3, 1, 8, 8)
    unknown = network(x, LAM)
    assert torch.equal(unknown, network(x, LAM, torch.full((3,), 10)))
    known = network(x, LAM, torch.tensor([3, 3, 10]))
    assert ((known - unknown).abs().amax((1, 2, 3)) > 0).tolist() == [True, True, False]
    preconditioned = Preconditioned(network, VE(), 0.5)
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    assert not torch.equal(preconditioned(x, t, torch.tensor([3, 3, 3])), preconditioned(x, t))
    with pytest.raises(UsageError, match="the network has no classes"):
        core("unet")(x, LAM, torch.zeros(3, dtype=torch.long))


def test_attention_stands_where_it_is_wanted() -> None:
    for heights, expected in (((), []), ((4,), [4, 4, 4]), ((2,), [2, 2, 2]), ((2, 4), [4, 2, 2, 2, 4, 4])):
        network, seen = UNet((1, 8, 8), 8, (1, 2), 1, heights, patch=2), []
        for module in network.modules():
            if isinstance(module, Attention):
                module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape[2]))
        network(torch.zeros(1, 1, 8, 8), torch.zeros(1))
        assert seen == expected, heights


def test_sizes_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"UNet: height and width are multiples of 2: .*; got \(1, 7, 8\)\. Pad or crop"
    ):
        UNet((1, 7, 8), 8, (1, 2))
    with pytest.raises(UsageError, match=r"multiples of 4: 3 resolutions"):
        UNet((1, 8, 6), 8, (1, 2, 2))
    with pytest.raises(UsageError, match=r"multiples of 4: 2 resolutions halve them, patches divide them by 2"):
        UNet((1, 8, 6), 8, (1, 2), patch=2)
    with pytest.raises(UsageError, match=r"attention is at heights that occur; got 8\. Heights, in patches: 4, 2"):
        UNet((1, 8, 8), 8, (1, 2), attention=(2, 8), patch=2)
    for kind in ("mlp", "unet"):
        with pytest.raises(UsageError, match=r"have the shape \(1, 8, 8\); got \(1, 8, 9\)"):
            core(kind)(normal(3, 1, 8, 9), LAM)


@pytest.mark.parametrize("kind", CORES)
def test_a_gpu_is_not_made_to_touch_the_host(kind: str) -> None:
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda"):
            network = CORES[kind]()
            x, lam = torch.empty(2, *network.shape), torch.empty(2)
        out = network(x, lam)
        assert out.device.type == "cuda"


# Cards.

BASE: dict[str, Any] = {
    "name": "tiny",
    "kind": "score",
    "description": "A network small enough for a test.",
    "data": {"name": "digits", "scale": 2.0, "offset": -1.0},
    "sde": {"name": "vp", "settings": {}},
    "parametrisation": "noise",
    "training": {
        "seed": 3,
        "steps": 30,
        "batch": 32,
        "learning_rate": 0.01,
        "warm_up": 5,
        "ema": 0.9,
        "weighting": "sigma2",
        "reduction": "mean",
        "times": "log_snr",
    },
}
TRAINING = BASE["training"]
MLP_OF_DIGITS = {"name": "mlp", "data_std": 0.8, "width": 64, "blocks": 1}
NCSNPP = {
    "name": "ncsnpp",
    "nf": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [4],
    "resamp_with_conv": True,
    "conditional": True,
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_input": "residual",
    "progressive_combine": "sum",
    "embedding_type": "positional",
    "scale_by_sigma": False,
    "dropout": 0.0,
}
VE_CHANGES = {
    "sde": {"name": "ve", "settings": {"sigma_max": 20.0}},
    "data": {"name": "digits", "scale": 1.0, "offset": 0.0},
    "parametrisation": "score",
}
CARDS: dict[str, dict[str, Any]] = {
    "mlp": {"network": MLP_OF_DIGITS},
    "sliced": {"network": MLP_OF_DIGITS, "training": TRAINING | {"objective": "sliced"}},
    "finite differences": {
        "network": MLP_OF_DIGITS,
        "training": TRAINING | {"objective": {"name": "finite_difference", "directions": "sphere"}},
    },
    "energy": {"network": MLP_OF_DIGITS | {"energy": True}},
    "energy by finite differences": {
        "network": MLP_OF_DIGITS | {"energy": True},
        "training": TRAINING
        | {
            "objective": {"name": "finite_difference", "count": 4},
            "weighting": "likelihood",
            "times": "importance",
            "steps": 150,
        },
    },
    "denoised": {
        "network": MLP_OF_DIGITS | {"precondition": False},
        "parametrisation": "denoised",
        "training": TRAINING | {"weighting": "edm", "times": {"law": "ddpm", "count": 100}},
    },
    "velocity": {
        "network": MLP_OF_DIGITS | {"width": 128, "precondition": False},
        "parametrisation": "velocity",
        "training": TRAINING | {"steps": 200, "learning_rate": 0.003},
    },
    "unet": {"network": {"name": "unet", "data_std": 0.8, "width": 8, "attention": [4]}},
    "unet with classes": {"network": {"name": "unet", "data_std": 0.8, "width": 8, "class_conditional": True}},
    "edm": {
        "network": {"name": "unet", "data_std": 0.8, "width": 12, "patch": 2},
        "sde": {"name": "edm"},
        "training": TRAINING | {"steps": 60, "weighting": "edm", "times": {"law": "log_normal", "tails": 0.1}},
    },
    "ddpmpp": {"network": NCSNPP | {"fir": False, "progressive_input": "none"}},
    "ncsnpp": {"network": NCSNPP | {"embedding_type": "fourier", "scale_by_sigma": True}} | VE_CHANGES,
}


def card(folder: Path, changes: dict[str, Any]) -> ScoreCard:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(BASE | changes))
    found = load_card(path)
    assert isinstance(found, ScoreCard)
    return found


@pytest.mark.parametrize("kind", CARDS)
def test_training_lowers_the_loss_on_real_digits(tmp_path: Path, kind: str) -> None:
    recipe = card(tmp_path, CARDS[kind])
    finished = train(recipe, tmp_path, progress=False)
    assert isinstance(finished, ScoreCard)
    assert finished.result is not None
    with torch.random.fork_rng():
        torch.manual_seed(recipe.training.seed)
        untrained = build_network(recipe, load_data("digits", "train")).eval()
    checkpoint = zoo.load("tiny", folder=tmp_path)
    assert checkpoint.parametrisation == recipe.parametrisation
    loss = held_out_loss(checkpoint.network, finished, repeats=1)
    assert loss < 0.97 * held_out_loss(untrained, recipe, repeats=1)
    assert loss == pytest.approx(finished.result.held_out_loss, rel=0.2)
    path = tmp_path / "again.yaml"
    path.write_text(dump_card(finished))
    assert load_card(path) == finished


def test_classes_reach_the_network_in_training_and_some_are_left_out(tmp_path: Path) -> None:
    data = load_data("digits", "train")
    seen: list[torch.Tensor] = []
    task = build_task(card(tmp_path, CARDS["unet with classes"]), data, torch.device("cpu"))
    task.network.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["labels"]), with_kwargs=True)
    task.loss(data.values[:1000], data.labels[:1000], torch.Generator().manual_seed(0))
    left_out = seen[0] == 10
    assert 0.05 < left_out.double().mean() < 0.15
    assert torch.equal(seen[0][~left_out], data.labels[:1000][~left_out])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"network": {"name": "unett"}}, "no network 'unett'; did you mean 'unet'.* Known: convnet, mlp, ncsnpp, unet"),
        ({"network": {"width": 8}}, r"key 'network\.name' is required"),
        ({"network": {"name": "mlp", "data_std": 1, "width": 8}}, r"key 'network\.blocks' is required"),
        (
            {"network": CARDS["mlp"]["network"] | {"widht": 8}},
            r"no key 'network\.widht'; did you mean 'network\.width'",
        ),
        ({"network": NCSNPP | {"progressive": "out"}}, r"network\.progressive: Input should be 'none'"),
        (
            CARDS["mlp"] | {"training": TRAINING | {"times": {"law": "log_normal", "tail": 0.1}}},
            r"no key 'training\.times\.tail'; did you mean 'training\.times\.tails'",
        ),
        (
            CARDS["mlp"] | {"training": TRAINING | {"times": "log_normel"}},
            r"no training\.times 'log_normel'; did you mean 'log_normal'",
        ),
        (
            CARDS["ddpmpp"] | {"training": TRAINING | {"weighting": "edm"}},
            "'edm' takes a network with data_std",
        ),
        (
            CARDS["mlp"] | {"training": TRAINING | {"objective": "slicd"}},
            r"no training\.objective 'slicd'; did you mean 'sliced'",
        ),
        (
            CARDS["mlp"] | {"training": TRAINING | {"times": "ncsn"}},
            r"times ncsn: the process is ve with two noise levels; got 'vp'",
        ),
        (
            {"network": MLP_OF_DIGITS | {"energy": True, "precondition": False}, "parametrisation": "score"},
            r"network\.energy takes network\.precondition",
        ),
        (CARDS["mlp"] | {"parametrisation": "score"}, "'mlp' under 'vp' predicts 'noise'; got 'score'"),
        (CARDS["ncsnpp"] | {"parametrisation": "noise"}, "'ncsnpp' under 've' predicts 'score'; got 'noise'"),
    ],
)
def test_a_wrong_network_section_says_which_key(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        card(tmp_path, changes)


def test_networks_that_do_not_fit_the_data_or_the_process_are_refused(tmp_path: Path) -> None:
    data = load_data("digits", "train")
    scaled = card(tmp_path, CARDS["ddpmpp"] | {"data": {"name": "digits", "scale": 2.0, "offset": 0.0}})
    with pytest.raises(UsageError, match=r"takes states in \[-1, 1\] .*; got \(2.0, 0.0\)"):
        build_network(scaled, data)
    deep = card(tmp_path, {"network": {"name": "unet", "data_std": 1, "width": 8, "multipliers": [1, 1, 1, 1, 1]}})
    with pytest.raises(UsageError, match="multiples of 16"):
        build_network(deep, data)
    other = card(tmp_path, CARDS["ddpmpp"] | {"sde": {"name": "cosine", "settings": {}}})
    with pytest.raises(UsageError, match="the process is one of vp, subvp, ve; got 'cosine'"):
        build_network(other, data)
