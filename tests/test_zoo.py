"""The zoo: what is shipped is what its cards say, and a checkpoint that is not is refused."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import sklearn.datasets
import torch
from torch import nn

from bench.feature_statistics import read_statistics, shipped_statistics
from bench.image_model import CheckpointModel
from pretrained import provenance, zoo
from pretrained.card import CARDS, ScoreCard, load_card
from pretrained.data import DATA_SETS, load_data
from pretrained.tasks import accuracy, held_out_loss
from pretrained.yaml_model import read_mapping
from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.sde import EDM, VE, VP, ForwardSDE, SubVP

SHIPPED = sorted(path.stem for path in zoo.CHECKPOINTS.glob("*.safetensors"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped feature extractor, as ``train`` would have written it."""
    shutil.copy(CARDS / "digits-features.yaml", tmp_path)
    shutil.copy(zoo.CHECKPOINTS / "digits-features.safetensors", tmp_path)
    return tmp_path


def test_every_card_has_its_weights_and_the_other_way_round() -> None:
    trained = sorted(path.stem for path in CARDS.glob("*.yaml") if "result" in read_mapping(path, "card"))
    assert {"digits-features", "digits-vp"} <= set(trained) <= set(zoo.names())
    assert sorted(path.stem for path in zoo.CHECKPOINTS.glob("*.safetensors")) == trained


@pytest.mark.parametrize("name", SHIPPED)
def test_the_facts_on_a_card_hold(name: str) -> None:
    card = load_card(name)
    loaded = getattr(zoo, zoo.LOADERS[card.kind])(name)
    assert card.name == name
    assert card.result is not None
    assert loaded.sha256 == card.result.sha256
    assert sum(p.numel() for p in loaded.network.parameters()) == card.result.parameters
    assert card.result.steps == card.training.steps
    assert card.result.command == f"scorebench train {name}"
    assert len(card.result.loss_curve) > 1
    trained_on = card.result.trained_on
    assert trained_on is not None
    data_set = card.data.build()
    assert (trained_on.split, trained_on.source, trained_on.licence) == ("train", data_set.source, data_set.licence)
    assert card.result.commit is not None
    assert card.result.dirty is False
    assert (zoo.CHECKPOINTS / f"{name}.safetensors").stat().st_size <= 6e6
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())


# Squared error of denoised held-out images over the noise's variance, at sigma/alpha = 1/2.
DENOISED = {"digits": 0.22, "fashion_mnist": 0.11, "patches": 0.07}


@pytest.mark.parametrize("name", [name for name in SHIPPED if load_card(name).kind == "score"])
def test_score_models_denoise_held_out_images(name: str) -> None:
    data = load_card(name).data
    if not data.build().is_here:
        pytest.skip(f"{data.name} is not here")
    model = CheckpointModel(name, "test")
    held_out = model.scale * (model.reference(48, 0, 0).double() + 0.5) / model.levels + model.offset
    t = model.sde.t_of_lam(math.log(2))
    noise = torch.randn(held_out.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = model.sde.alpha(t) * held_out + model.sde.sigma(t) * noise
    with torch.no_grad():
        denoised = model.process().denoised(x.float(), t)
    assert float((denoised - held_out).square().mean()) < DENOISED[data.name] / 4


def test_digits_vp_has_the_held_out_loss_of_its_card() -> None:
    checkpoint = zoo.load("digits-vp")
    assert checkpoint.card.result is not None
    expected = checkpoint.card.result.held_out_loss
    assert held_out_loss(checkpoint.network, checkpoint.card) == pytest.approx(expected, abs=1e-4)
    assert expected < 0.9 * best_linear_loss()


def best_linear_loss() -> float:
    """Held-out loss of the exact score of a Gaussian with the data's covariance C: mean of c/(c + sigma^2/alpha^2)."""
    sde = VP()
    values = load_data("digits", "train").values.flatten(1).double()
    c = torch.linalg.eigvalsh(torch.cov((2 / 17) * values.T)) + (2 / 17) ** 2 / 12
    lam = torch.linspace(sde.lam(1e-5), sde.lam(1.0), 1001, dtype=torch.float64)
    return (c[:, None] / (c[:, None] + torch.exp(-2 * lam))).mean().item()


def test_the_classifier_has_the_accuracy_of_its_card() -> None:
    extractor = zoo.load_features("digits-features")
    assert extractor.card.result is not None
    found = accuracy(extractor.network, extractor.card)
    assert found >= 0.97
    assert found == pytest.approx(extractor.card.result.test_accuracy, abs=2 / 599)


def test_digits_vp_knows_its_process_and_its_data() -> None:
    checkpoint = zoo.load("digits-vp")
    assert checkpoint.sde.name == "vp"
    assert (checkpoint.shape, checkpoint.levels) == ((1, 8, 8), 17)
    assert (checkpoint.card.data.scale, checkpoint.card.data.offset) == (2.0, -1.0)
    assert checkpoint.parametrisation == "noise"


@pytest.mark.parametrize("sde", [SubVP(), VE(), EDM()], ids=lambda sde: sde.name)
def test_a_checkpoint_serves_other_processes(sde: ForwardSDE) -> None:
    """x/alpha at the same sigma/alpha has the same denoised, whatever the process."""
    native = zoo.load("digits-vp")
    other = native.under(sde)
    assert (other.sde, other.sha256) == (sde, native.sha256)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.01, 0.1, 0.4, 0.8], dtype=torch.float64)
    s = sde.t_of_lam(native.sde.lam(t))
    scale = (sde.alpha(s) / native.sde.alpha(t)).float()[:, None, None, None]
    first, second = (ReverseProcess(c.sde, c.network, c.parametrisation) for c in (native, other))
    torch.testing.assert_close(second.denoised(scale * x, s), first.denoised(x, t), rtol=1e-3, atol=1e-3)


def test_a_network_that_is_told_the_time_serves_its_own_process_alone() -> None:
    checkpoint = zoo.load("digits-vp")
    told = replace(checkpoint, network=nn.Identity())
    with pytest.raises(UsageError, match=r"digits-vp under ve: a network serves another .* alone; got 'Identity'"):
        told.under(VE())


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    zoo.load_features("digits-features")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_of_ones_own_is_read(folder: Path) -> None:
    assert zoo.load_features("digits-features", folder=folder).sha256 == zoo.load_features("digits-features").sha256


def test_weights_that_are_not_the_cards_are_refused(folder: Path) -> None:
    path = folder / "digits-features.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        zoo.load_features("digits-features", folder=folder)
    expected = load_card("digits-features").result
    assert expected is not None
    assert expected.sha256 in str(caught.value)
    assert "; got '" in str(caught.value)
    assert f"scorebench train CARD.yaml --out {folder}" in str(caught.value), "git knows nothing of this folder"


def test_missing_weights_and_untrained_cards_say_so(folder: Path) -> None:
    path = folder / "digits-features.safetensors"
    path.unlink()
    with pytest.raises(UsageError, match=r"its weights are missing; got .*scorebench train CARD"):
        zoo.load_features("digits-features", folder=folder)
    card = folder / "digits-features.yaml"
    card.write_text(card.read_text().partition("result:")[0])
    with pytest.raises(UsageError, match="its card has no result"):
        zoo.load_features("digits-features", folder=folder)


def test_unknown_names_and_the_wrong_kind_name_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no card 'digits-pv'; did you mean 'digits-vp'"):
        zoo.load("digits-pv")
    with pytest.raises(UsageError, match=r"no card 'digits-vp'. Known: "):
        zoo.load("digits-vp", folder=tmp_path)
    with pytest.raises(UsageError, match=r"of kind 'score' is needed; got 'classifier'. Use load_features\("):
        zoo.load("digits-features")
    with pytest.raises(UsageError, match=r"of kind 'classifier' is needed; got 'score'. Use load\("):
        zoo.load_features("digits-vp")


EVALUATED = [name for name in zoo.names() if "evaluation" in read_mapping(CARDS / f"{name}.yaml", "card")]


@pytest.mark.parametrize("name", EVALUATED)
def test_the_evaluation_on_a_card_is_of_what_is_shipped(name: str) -> None:
    card = load_card(name)
    assert isinstance(card, ScoreCard)
    found = card.measured
    assert found is not None, "run: scorebench evaluate NAME --write"
    assert found.dirty is False
    assert found.grid == provenance.sha256_of_file(zoo.CHECKPOINTS / f"{name}.png")
    # Of patches by tile: those of one lie side by side in two photographs.
    assert found.bits_per_dim.standard_error < (0.3 if card.data.name == "patches" else 0.05)
    if found.distance is not None:
        assert found.distance.n >= 15 * found.distance.features
        assert found.distance.extractor_sha256 == zoo.load_features(found.distance.extractor).sha256
        path = shipped_statistics(card.data)
        assert path is not None
        assert found.distance.reference_sha256 == read_statistics(path).sha256


def test_the_models_of_digits_are_described() -> None:
    described = {name for name in zoo.names() if getattr(load_card(name), "measured", None)}
    assert {"digits-vp", "digits-subvp", "digits-ve", "digits-vp-conditional"} <= described


def test_the_data_tell_their_licence() -> None:
    """As their makers state it; of the photographs, in scikit-learn's own text beside them."""
    text = (Path(sklearn.datasets.__file__).parent / "images" / "README.txt").read_text()
    assert text.count("https://creativecommons.org/licenses/by/2.0/") == 2
    assert "6061409035" in text
    assert "6056698931" in text
    licences = {"digits": "CC BY 4.0", "fashion_mnist": "MIT", "cifar10": "none stated", "patches": "CC BY 2.0"}
    assert {name: DATA_SETS[name].licence for name in licences} == licences
    for name in zoo.names():
        result = load_card(name).result
        if result is not None and result.trained_on is not None:
            assert result.trained_on.licence == DATA_SETS[load_card(name).data.name].licence
            assert result.trained_on.source == DATA_SETS[load_card(name).data.name].source
