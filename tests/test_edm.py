"""Pickles of EDM: tensors and arguments come out, nothing in them is run, and the network computes what theirs does."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import edm_network as theirs
import numpy as np
import pytest
import torch
from torch import Tensor

from bench.menus import checkpoints
from pretrained import published, zoo
from pretrained.importers import edm, persistence
from solvers.errors import UsageError
from solvers.process import ReverseProcess
from solvers.sde import EDM, VE, VP, ForwardSDE

DDPMPP: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
    "augment_dim": 9,
    "dropout": 0.13,
    "use_fp16": True,
    "label_dim": 0,
    "model_type": "SongUNet",
    "channel_mult_noise": 1,
}
NCSNPP = DDPMPP | {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
    "augment_dim": 0,
}
PYRAMIDS = NCSNPP | {"encoder_type": "skip", "decoder_type": "skip", "channel_mult": [1, 2, 2]}
NETWORKS = {"ddpmpp": DDPMPP, "ncsnpp": NCSNPP, "pyramids": PYRAMIDS, "narrow": NCSNPP | {"resample_filter": [1, 1]}}
PROCESSES: dict[type[theirs.Precond], ForwardSDE] = {
    theirs.EDMPrecond: EDM(),
    theirs.VPPrecond: VP(),
    theirs.VEPrecond: VE(0.02, 100.0),
}


def made(kind: type[theirs.Precond] = theirs.EDMPrecond, **arguments: Any) -> theirs.Precond:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(**(arguments or DDPMPP)).eval().requires_grad_(False)


def snapshot(path: Path, network: Any) -> Path:
    return theirs.write(path / "network-snapshot.pkl", {"ema": network, "dataset_kwargs": {"resolution": 8}})


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("kind", PROCESSES, ids=lambda kind: kind.__name__)
def test_it_denoises_as_theirs_does(kind: type[theirs.Precond], architecture: str, tmp_path: Path) -> None:
    """In double precision, over the range of noise levels; under VP x is theirs over sqrt(1 + sigma^2).

    Only the frequencies of the positional features are in single precision in both, each rounded in its own way.
    """
    network = made(kind, **NETWORKS[architecture])
    model = edm.load(snapshot(tmp_path, network))
    assert model.sde == PROCESSES[kind]
    assert (model.shape, model.centred, model.parametrisation) == ((3, 8, 8), True, "noise")
    assert not any(p.requires_grad for p in model.network.parameters())
    assert next(model.network.parameters()).dtype == torch.float32
    t = torch.tensor([0.05, 0.3, 0.8], dtype=torch.float64)
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
    expected = network.double()(x / alpha[:, None, None, None], sigma / alpha)
    found = ReverseProcess(model.sde, model.network.double(), "noise").denoised(x, t)
    assert ((found - expected).abs() / (1 + expected.abs())).max() < (1e-9 if "freqs" in names(network) else 1e-6)
    assert (expected - x).abs().max() > 0.1, "the network's part is seen"


def test_levels_of_the_file_bound_the_process(tmp_path: Path) -> None:
    network = made(theirs.EDMPrecond, **DDPMPP, sigma_min=0.01, sigma_max=50.0)
    assert edm.load(snapshot(tmp_path, network)).sde == EDM(0.01, 50.0)
    network = made(theirs.EDMPrecond, **DDPMPP, sigma_min=0.0, sigma_max=np.float64(np.inf))
    assert edm.load(snapshot(tmp_path, network)).sde == EDM()


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    path = snapshot(tmp_path, made())
    before = torch.get_rng_state()
    edm.load(path)
    assert torch.equal(torch.get_rng_state(), before)


def names(network: torch.nn.Module) -> set[str]:
    """Last parts of the names of what a network holds."""
    return {name.rpartition(".")[2] for name in network.state_dict()}


# What is in the file stays there.


class Calls:
    """A pickle that calls something where it is opened."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize(
    "place",
    [
        lambda trap: trap,
        lambda trap: {"ema": trap},
        lambda trap: {"ema": made(), "loss_fn": trap},
        lambda trap: {"ema": made(theirs.EDMPrecond, **DDPMPP, sigma_data=trap)},
    ],
    ids=["alone", "as the network", "beside the network", "among its arguments"],
)
@pytest.mark.parametrize("how", ["open", "system", "write_text", "exec", "getattr"])
def test_code_is_refused_and_does_not_run(how: str, place: Any, tmp_path: Path) -> None:
    created = tmp_path / "created"
    traps = {
        "open": Calls(open, str(created), "w"),
        "system": Calls(os.system, f"touch {created}"),
        "write_text": Calls(Path.write_text, created, "it ran"),
        "exec": Calls(exec, f"open({str(created)!r}, 'w')"),
        "getattr": Calls(getattr, created, "touch"),
    }
    path = theirs.write(tmp_path / "trap.pkl", place(traps[how]))
    with pytest.raises(UsageError, match=r"persistent objects alone; got 'UnpicklingError: it asks for .*never opened"):
        edm.load(path)
    assert not created.exists()


def test_the_trap_is_one(tmp_path: Path) -> None:
    """Opened the usual way, the same bytes do create the file."""
    created = tmp_path / "created"
    pickle.loads(pickle.dumps(Calls(open, str(created), "w"))).close()
    assert created.exists()


@pytest.mark.parametrize(
    "call",
    [
        (torch.load, "somewhere"),
        (np.load, "somewhere"),
        (OrderedDict.fromkeys, [1]),
        (torch._utils._rebuild_tensor, None, 0, (1,), (1,)),
        (np._core.multiarray._reconstruct, np.ndarray, (0,), b"b"),
        (torch.nn.Linear, 2, 2),
    ],
    ids=lambda call: call[0].__name__,
)
def test_only_known_names_are_looked_up(call: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it asks for "):
        persistence.read(theirs.write(tmp_path / "file.pkl", Calls(*call)))


def test_code_inside_a_storage_is_refused(tmp_path: Path) -> None:
    """The bytes of a storage are a file of torch's own, which may hold a pickle in turn."""
    created = tmp_path / "created"
    torch.save(Calls(open, str(created), "w"), tmp_path / "inner.pt", _use_new_zipfile_serialization=False)
    inner = (tmp_path / "inner.pt").read_bytes()
    path = theirs.write(tmp_path / "file.pkl", Calls(torch.storage._load_from_bytes, inner))
    with pytest.raises(UsageError, match="never opened"):
        persistence.read(path)
    assert not created.exists()


def test_a_tensor_cannot_reach_beyond_its_storage(tmp_path: Path) -> None:
    storage = torch.ones(4)._typed_storage()
    for offset, size, stride in ((3, (2,), (1,)), (0, (2, 2), (4, 1)), (-1, (1,), (1,)), (0, (2**40,), (1,))):
        call = Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())
        with pytest.raises(UsageError, match="never opened"):
            persistence.read(theirs.write(tmp_path / "file.pkl", call))


@pytest.mark.parametrize(
    "known",
    [("dnnlib.util", "EasyDict"), ("torch._utils", "_rebuild_parameter"), ("torch.storage", "_load_from_bytes")],
)
def test_a_pickle_changes_nothing_for_the_next(known: tuple[str, str], tmp_path: Path) -> None:
    """One that sets an attribute of what the unpickler hands out; pickle itself writes no such thing."""
    look_up = b"c" + "\n".join(known).encode() + b"\n"
    build = b"(N}(X\x08\x00\x00\x00polluted\x88utb."
    (tmp_path / "attack.pkl").write_bytes(b"\x80\x02" + look_up + build)
    handed_out = persistence.read(tmp_path / "attack.pkl")
    assert handed_out.polluted
    assert not hasattr(persistence._names()[known], "polluted")


def test_plain_values_tensors_and_scalars_come_out(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    content = {
        "half": np.float64(0.5),
        "flag": np.bool_(True),
        "count": np.int32(3),
        "view": weight.t(),
        "parameter": torch.nn.Parameter(weight[1]),
        "whole": torch.arange(3),
        "half precision": weight.bfloat16(),
        "rest": [None, (1, "a"), {2.0}, b"c", OrderedDict(a=1)],
    }
    found = persistence.read(theirs.write(tmp_path / "file.pkl", content))
    assert list(found) == list(content)
    for key, value in content.items():
        if isinstance(value, Tensor):
            assert torch.equal(found[key], value)
            assert found[key].dtype == value.dtype
            assert type(found[key]) is Tensor
        else:
            assert found[key] == value
            assert not isinstance(found[key], np.generic)


def test_files_that_are_no_pickles_are_refused(tmp_path: Path) -> None:
    whole = snapshot(tmp_path, made()).read_bytes()
    for name, content in (("text", b"not a pickle"), ("empty", b""), ("half", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="never opened"):
            edm.load(tmp_path / name)
    torch.save({"ema": 1}, tmp_path / "saved.pkl")
    with pytest.raises(UsageError, match="never opened"):
        edm.load(tmp_path / "saved.pkl")
    with pytest.raises(UsageError, match="there is no such file"):
        edm.load(tmp_path / "none.pkl")


# What is another network is refused.


class DhariwalUNet(theirs.Persistent):
    pass


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (lambda: 3, r"a network under 'ema'; got \['dataset_kwargs', 'ema'\]"),
        (lambda: DhariwalUNet(), "no preconditioning 'DhariwalUNet'. Known: EDMPrecond, VEPrecond, VPPrecond"),
        (lambda: changed(model_type="DhariwalUNet"), "no network 'DhariwalUNet'. Known: SongUNet"),
        (lambda: changed(label_dim=10), "an unconditional network is read; got 'label_dim 10'"),
        (lambda: changed(channel_mult_noise=2), "channel_mult_noise is 1 with positional features; got 2"),
        (lambda: changed(channel_mult_emb=2), "channel_mult_emb: Input should be 4; got 2"),
        (lambda: changed(resample_filter=[1, 2, 1]), "symmetric, of an even number of taps"),
        (lambda: changed(resample_filter=[1, 2]), "symmetric, of an even number of taps"),
        (lambda: changed(num_heads=4), "no key 'num_heads'"),
        (lambda: changed(num_blocks=2), r"its weights are those of its arguments: all_modules\.\d+\..* is "),
        (lambda: changed(model_channels=16), r"arguments: all_modules\.0\.weight is \(64, 16\); got \(32, 8\)"),
        (lambda: changed(attn_resolutions=[]), "its weights are those of its arguments"),
        (lambda: positional(), "made with named arguments; got"),
        (lambda: without_weight(), "its weights are those of its arguments"),
    ],
)
def test_a_network_that_is_not_read_here_says_so(network: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=text):
        edm.load(snapshot(tmp_path, network()))


def changed(**arguments: Any) -> theirs.Precond:
    """A network whose recorded arguments are not those that it was made of."""
    network = made()
    network._init_kwargs = network._init_kwargs | arguments
    return network


def positional() -> theirs.Precond:
    network = made()
    network._init_args = (8, 3)
    return network


def without_weight() -> theirs.Precond:
    network = made()
    network.model.map_layer0.weight = None
    return network


# In the zoo.


def test_the_zoo_loads_a_pickle_by_path(tmp_path: Path) -> None:
    network = made(theirs.VEPrecond)
    checkpoint = zoo.load(str(snapshot(tmp_path, network)))
    assert (checkpoint.shape, checkpoint.levels, checkpoint.parametrisation) == ((3, 8, 8), 256, "noise")
    assert checkpoint.sde == VE(0.02, 100.0)
    assert (checkpoint.card.data.scale, checkpoint.card.data.offset) == (2.0, -1.0)
    assert len(checkpoint.sha256) == 64
    with pytest.raises(UsageError, match="there is no such file"):
        zoo.load(str(tmp_path / "none.pkl"))


def test_a_published_pickle_is_looked_for_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And held against its card: a small network of the same format is not the one of the authors."""
    monkeypatch.setenv(published.FOLDER_VARIABLE, str(tmp_path))
    place = tmp_path / "edm" / "edm-cifar10-32x32-uncond-vp.pkl"
    with pytest.raises(published.MissingCheckpointError, match=r"Download .* from https://nvlabs-fi-cdn") as caught:
        zoo.load("cifar10-edm-vp")
    assert caught.value.reason == f"checkpoint cifar10-edm-vp, put it at {place}"
    place.parent.mkdir()
    snapshot(tmp_path, made()).rename(place)
    with pytest.raises(UsageError, match=r"those of its card, \(55732739, 2.0, -1.0\); got"):
        zoo.load("cifar10-edm-vp")


def test_the_list_says_where_each_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(published.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(published.diffusers, "is_cached", lambda name: name == "google/ddpm-cifar10-32")
    rows = {row["name"]: row for row in checkpoints()}
    assert rows["cifar10-edm-vp"]["where"] == "not here"
    assert rows["cifar10-edm-vp"]["file"] == str(tmp_path / "edm" / "edm-cifar10-32x32-uncond-vp.pkl")
    assert (rows["cifar10-ddpm"]["where"], rows["cifar10-ddpm"]["file"]) == ("here", "google/ddpm-cifar10-32")
    monkeypatch.setattr(published.diffusers, "is_cached", lambda name: False)
    assert {row["name"]: row["where"] for row in checkpoints()}["cifar10-ddpm"] == "on the hub"


@pytest.mark.parametrize("name", ["cifar10-edm-vp", "cifar10-edm-ve"])
def test_cards_count_what_the_networks_hold(name: str) -> None:
    """EDM's DDPM++ has 55 733 891 weights with the map of its 9 augmentation labels, which is left out here."""
    more = {"embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual"}
    arguments = {} if name.endswith("vp") else more | {"resample_filter": (1, 3, 3, 1)}
    network = edm.EDMNetwork(img_resolution=32, img_channels=3, channel_mult=(2, 2, 2), augment_dim=9, **arguments)
    with torch.device("meta"):
        predictor, _, _ = edm.build(network)
    count = sum(p.numel() for p in predictor.parameters())
    assert published.load_published_card(name).parameters == count
    assert name.endswith("ve") or count == 55_733_891 - 9 * 128
