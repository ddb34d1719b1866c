"""Checkpoints of the reference: EMA weights come out, files that are not what they should be are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.menus import checkpoints
from pretrained import published, zoo
from pretrained.importers import song
from pretrained.importers.model import ImportedModel
from pretrained.published import PublishedCard, Source
from pretrained.yaml_model import validate
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import VE, VP, ForwardSDE, SubVP
from solvers.solver import integrate

GOLDEN = Path(__file__).parent / "golden"
PROCESSES: dict[str, ForwardSDE] = {"ve_ncsnpp": VE(), "vp_ddpmpp": VP(), "subvp_ncsnpp": SubVP()}


def load(name: str = "ve_ncsnpp", checkpoint: Path | None = None) -> ImportedModel:
    settings = song.read_settings(GOLDEN / f"network_{name}.json")
    return song.load(checkpoint or GOLDEN / f"network_{name}.pth", settings)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_checkpoint_comes_with_its_process_and_prediction(name: str) -> None:
    model = load(name)
    assert model.sde == PROCESSES[name]
    assert model.parametrisation == ("score" if name.startswith("ve") else "noise")
    assert model.shape == (3, 16, 16)
    assert model.centred is (name != "ve_ncsnpp")
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())


@pytest.mark.parametrize("name", PROCESSES)
def test_a_solver_runs_on_it(name: str) -> None:
    model = load(name)
    process = ReverseProcess(model.sde, model.network, model.parametrisation)
    start = model.sde.prior_sample(torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0)))
    x = integrate(get_solver("heun"), process, start, make_grid("karras", model.sde, 3))
    assert torch.isfinite(x).all()
    assert process.evaluations.calls == 6


def test_the_averages_are_taken_and_the_frozen_frequencies_kept() -> None:
    content = torch.load(GOLDEN / "network_ve_ncsnpp.pth", weights_only=True)
    core = load().network.core
    state = core.state_dict()
    trained = [name for name, _ in core.named_parameters() if name != "all_modules.0.W"]
    for name, average in zip(trained, content["ema"]["shadow_params"], strict=True):
        assert torch.equal(state[name], average)
        assert not torch.equal(average, content["model"][f"module.{name}"]), name
    assert torch.equal(state["all_modules.0.W"], content["model"]["module.all_modules.0.W"])


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    load()
    assert torch.equal(torch.get_rng_state(), before)


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = torch.load(GOLDEN / "network_ve_ncsnpp.pth", weights_only=True)
    change(content)
    torch.save(content, folder / "changed.pth")
    return folder / "changed.pth"


def without_prefix(content: dict[str, Any]) -> None:
    content["model"] = {key.removeprefix("module."): value for key, value in content["model"].items()}


def test_names_may_lack_their_prefix(tmp_path: Path) -> None:
    x, t = torch.ones(1, 3, 16, 16), torch.tensor([0.4])
    assert torch.equal(load(checkpoint=rewritten(tmp_path, without_prefix)).network(x, t), load().network(x, t))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.pop("ema"), r"holds 'model' and 'ema'; got \['model', 'optimizer', 'step'\]"),
        (lambda c: c.update(model=3), "holds 'model' and 'ema'"),
        (lambda c: c["model"].pop("module.sigmas"), r"it lacks 1 of them; got 'sigmas'\. Give the settings"),
        (lambda c: c["model"].update(more=torch.zeros(1)), "it also holds 1 of them; got 'more'"),
        (lambda c: c["ema"]["shadow_params"].pop(), "averages of 156 parameters; got 155"),
        (lambda c: c["ema"].pop("shadow_params"), "averages of 156 parameters"),
        (
            lambda c: c["ema"]["shadow_params"].__setitem__(0, torch.zeros(2)),
            r"all_modules.1.weight has the shape \(32, 16\); got \(2,\)",
        ),
        (lambda c: c["model"].update({"module.sigmas": 3}), r"sigmas has the shape \(1000,\); got 'int'"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        load(checkpoint=rewritten(tmp_path, change))


def test_the_settings_of_another_network_are_told_apart() -> None:
    with pytest.raises(
        UsageError, match=r"the names of its weights are those of the network; it lacks .*belong to this"
    ):
        load("vp_ddpmpp", GOLDEN / "network_ve_ncsnpp.pth")


class Code:
    """A pickle that would write a file where it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "it ran")


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    torch.save({"model": {}, "ema": {}, "extra": Code(trap)}, tmp_path / "code.pth")
    with pytest.raises(UsageError, match=r"tensors and plain values.*holds code or objects is never opened") as refused:
        load(checkpoint=tmp_path / "code.pth")
    assert not trap.exists()
    # What it asked for is told, and not torch's advice to read it all the same.
    assert "it asks for getattr" in str(refused.value)
    assert "weights_only" not in str(refused.value)


def test_the_zoo_says_how_a_checkpoint_of_ones_own_is_read() -> None:
    with pytest.raises(
        UsageError, match=r"comes with settings \(\.json\)\. Read it by pretrained\.importers\.song\.load"
    ):
        zoo.load(str(GOLDEN / "network_ve_ncsnpp.pth"))


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not a checkpoint")
    (tmp_path / "empty.pth").write_bytes(b"")
    whole = (GOLDEN / "network_ve_ncsnpp.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "empty", "half"):
        with pytest.raises(UsageError, match=r"written by torch\.save"):
            load(checkpoint=tmp_path / f"{name}.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="holds 'model' and 'ema'; got 'list'"):
        load(checkpoint=tmp_path / "list.pth")
    with pytest.raises(UsageError, match="there is no such file"):
        load(checkpoint=tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("sde", "edm", "sde: Input should be 'vesde', 'vpsde' or 'subvpsde'; got 'edm'"),
        ("centred", True, "no key 'centred'; did you mean 'centered'"),
        ("image_size", 15, r"a multiple of 2\^1"),
        ("model.name", "ncsnv2", "no network 'ncsnv2'.* Known: ncsnpp"),
        ("model.progressive", "output", "model.progressive: .*'output_skip'"),
        ("model.resblock_type", "resnet", "model.resblock_type: .*'ddpm' or 'biggan'; got 'resnet'"),
        ("model.embedding_type", "learned", "model.embedding_type: "),
        ("model.progressive_combine", "mean", "model.progressive_combine: "),
        ("model.normalization", "InstanceNorm++", "model.normalization: "),
        ("model.nonlinearity", "gelu", "model.nonlinearity: "),
        ("model.nf", 2, "model.nf: "),
        ("model.heads", 4, "no key 'model.heads'"),
        ("model", 3, "model: "),
    ],
)
def test_settings_that_are_not_known_are_refused(tmp_path: Path, key: str, value: Any, text: str) -> None:
    settings = json.loads((GOLDEN / "network_ve_ncsnpp.json").read_text())
    *section, last = key.split(".")
    (settings[section[0]] if section else settings)[last] = value
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(UsageError, match=text):
        song.build(song.read_settings(path))
    for wrong, why in (("{", "are JSON"), ("[]", "one JSON object"), ("{}", "key '.*' is required")):
        path.write_text(wrong)
        with pytest.raises(UsageError, match=why):
            song.read_settings(path)


# Published checkpoints.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(published.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_a_missing_checkpoint_says_what_to_download_and_where_it_goes(folder: Path) -> None:
    place = folder / "ve" / "cifar10_ncsnpp_continuous"
    with pytest.raises(UsageError) as caught:
        zoo.load("cifar10-ncsnpp-ve")
    text = str(caught.value)
    assert f"its weights are not here; got '{place / 'checkpoint_24.pth'}'" in text
    assert "Download checkpoint_24.pth from https://drive.google.com/drive/folders/" in text
    assert f"put it into {place}" in text
    assert "SCOREBENCH_CHECKPOINTS" in text
    with pytest.raises(UsageError, match="published no weights of this configuration"):
        zoo.load("cifar10-ncsnpp-vp")
    with pytest.raises(UsageError, match="no card 'cifar10-ncsnpp-vee'; did you mean 'cifar10-ncsnpp-ve'"):
        zoo.load("cifar10-ncsnpp-vee")


def test_without_a_folder_of_ones_own_the_cache_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(published.FOLDER_VARIABLE, raising=False)
    assert published.checkpoint_folder() == Path.home() / ".cache" / "scorebench" / "checkpoints"


def test_the_list_says_which_are_here(folder: Path) -> None:
    place = folder / "vp" / "cifar10_ddpmpp_continuous" / "checkpoint_8.pth"
    place.parent.mkdir(parents=True)
    place.touch()
    rows = {row["name"]: row for row in checkpoints()}
    found = {name: row["where"] for name, row in rows.items()}
    assert found["digits-vp"] == "shipped"
    assert found["cifar10-ddpmpp-vp"] == "here"
    assert found["cifar10-ncsnpp-ve"] == "not here"
    assert found["cifar10-ncsnpp-vp"] == "not published"
    assert rows["cifar10-ddpmpp-vp"]["file"] == str(place)


def test_a_published_checkpoint_that_is_there_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the card of a small one in place of the authors'."""
    settings = song.read_settings(GOLDEN / "network_vp_ddpmpp.json")
    data = published.PublishedData(name="cifar10", levels=256, scale=2.0, offset=-1.0)
    small = PublishedCard(
        name="small",
        kind="published",
        description="",
        source=Source(file="network_vp_ddpmpp.pth", page="nowhere"),
        parameters=1,
        data=data,
        settings=settings,
    )
    monkeypatch.setenv(published.FOLDER_VARIABLE, str(GOLDEN))
    monkeypatch.setattr(zoo, "load_published_card", lambda name: small)
    checkpoint = zoo.load("cifar10-ddpmpp-vp")
    assert (checkpoint.shape, checkpoint.levels, checkpoint.parametrisation) == ((3, 16, 16), 256, "noise")
    assert (checkpoint.card.data.scale, checkpoint.card.data.offset) == (2.0, -1.0)
    assert len(checkpoint.sha256) == 64
    x, t = torch.ones(1, 3, 16, 16), torch.tensor([0.4])
    assert torch.equal(checkpoint.network(x, t), load("vp_ddpmpp").network(x, t))
    with pytest.raises(UsageError, match="the state has"):
        validate(small.model_dump() | {"data": data.model_dump() | {"scale": 1.0}}, PublishedCard, "card")
