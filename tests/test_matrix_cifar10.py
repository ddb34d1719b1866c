"""The matrix of published settings on CIFAR-10: skipped without weights, run whole on narrow ones, read beside them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import edm_network
import pytest
import torch
from made_inception import make_inception
from records import record
from torch import Tensor

from bench import cell as cells
from bench import likelihood
from bench.cell import run_cell
from bench.matrix import load_matrix
from bench.metrics import extractors, features
from bench.metrics.frechet import Fid
from bench.metrics.metric import Outcome
from bench.problems import cifar10, image
from bench.problems.problem import problem_classes
from bench.published_values import PublishedValue, published_table, published_values
from bench.record import CellSpec, Record
from bench.report import write_report
from bench.store import Store
from bench.tables import long_table
from pretrained import published, zoo
from pretrained.importers import song
from pretrained.provenance import sha256_of_file
from pretrained.published import PublishedCard, load_published_card
from solvers.errors import UsageError
from solvers.registry import get_solver

PROBLEMS = [
    "cifar10_edm",
    "cifar10_subvp",
    "cifar10_subvp_deep",
    "cifar10_ve",
    "cifar10_ve_deep",
    "cifar10_vp",
    "cifar10_vp_deep",
]


# Samples that an inception score needs.
ENOUGH = 20


def plan() -> list[CellSpec]:
    return load_matrix("cifar10").select(seeds=[0]).cells("cpu")


def computed(spec: CellSpec, folder: Path) -> Record:
    store = Store(folder)
    store.create()
    return store.read(run_cell(spec, store))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of checkpoints; problems are loaded anew."""
    monkeypatch.setenv(published.FOLDER_VARIABLE, str(tmp_path / "checkpoints"))
    cells.load_problem.cache_clear()
    return tmp_path / "checkpoints"


def test_the_matrix_holds_the_published_settings() -> None:
    found = {(c.problem, c.solver, c.kind, c.budget or c.settings["rtol"], c.n) for c in plan()}
    assert {problem for problem, *_ in found} == set(PROBLEMS)
    for problem, nfe in (("cifar10_ve", 2000), ("cifar10_ve_deep", 2000), ("cifar10_vp", 2000)):
        assert (problem, "predictor_corrector", "sampling", nfe, 50_000) in found
    for problem in ("cifar10_vp", "cifar10_vp_deep", "cifar10_subvp", "cifar10_subvp_deep"):
        assert (problem, "euler_maruyama", "sampling", 1000, 50_000) in found
        assert (problem, "rk45", "sampling", 1e-5, 50_000) in found
        assert (problem, "rk45", "likelihood", 1e-5, 10_000) in found
    assert ("cifar10_edm", "edm_heun", "sampling", 35, 50_000) in found
    assert all(c.settings.get("discretisation", "song") == "song" for c in plan())


def test_without_weights_each_cell_is_skipped_and_says_what_goes_where(folder: Path, tmp_path: Path) -> None:
    for spec in {spec.problem: spec for spec in plan()}.values():
        name = problem_classes()[spec.problem].checkpoint  # type: ignore[attr-defined]
        place = load_published_card(name).where()
        found = computed(spec, tmp_path / "run")
        assert (found.status, found.reason) == ("skipped", f"checkpoint {name}, put it at {place}")
        assert str(place).startswith(str(folder))
    page = write_report(tmp_path / "run").page.read_text()
    assert "put it at" in page
    assert "skipped" in page


def test_a_computed_cell_outlives_its_weights(tmp_path: Path) -> None:
    spec = plan()[0]
    store = Store(tmp_path / "run")
    store.create()
    done = record(spec, {"fid": 2.0})
    store.write(done)
    assert computed(spec, tmp_path / "run") == done


# Run whole.


# Side of the images.
SIDE = 16
NARROW: dict[str, Any] = {"nf": 8, "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [8]}


def narrow(name: str) -> PublishedCard:
    """A card of the same process and architecture, of few channels and places."""
    card = load_published_card(name)
    assert card.settings is not None
    model = card.settings.model.model_copy(update=NARROW)
    settings = card.settings.model_copy(update={"model": model, "image_size": SIDE})
    return card.model_copy(update={"settings": settings})


@pytest.fixture
def weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a narrow checkpoint, in the reference's format, to where its card wants it."""

    def write(name: str) -> Path:
        card = narrow(name)
        assert card.settings is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            core = song.build(card.settings).core
            # The last layer starts at next to nothing, and Langevin steps go as the inverse of the score.
            torch.nn.init.xavier_uniform_(core.all_modules[-1].weight)
        path = card.where()
        assert path is not None
        path.parent.mkdir(parents=True)
        trained = [p.detach() for p in core.parameters() if p.requires_grad]
        model = {f"module.{key}": value for key, value in core.state_dict().items()}
        ema = {"decay": 0.999, "num_updates": 1, "shadow_params": trained}
        torch.save({"model": model, "ema": ema, "optimizer": {}, "step": 1}, path)
        return path

    monkeypatch.setattr(zoo, "load_published_card", narrow)
    return write


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coloured noise in place of the photographs."""

    class Data:
        def __init__(self, split: str) -> None:
            generator = torch.Generator().manual_seed(len(split))
            size = {"train": 600, "test": 60}[split]
            self.values = torch.randint(0, 256, (size, 3, SIDE, SIDE), generator=generator).byte()

    monkeypatch.setattr(image, "load_data", lambda name, split: Data(split))


def small(spec: CellSpec, n: int = 4) -> CellSpec:
    """The same cell of few samples and evaluations."""
    one = {"n": 2, "draws": 1, "probes": 1, "batch_size": None}
    changes: dict[str, Any] = {"n": n} if spec.kind == "sampling" else one
    if spec.budget is None:
        changes["settings"] = {**spec.settings, "rtol": 0.3, "atol": 0.3}
    else:
        # Below 20 steps the reference's chain of VP has no real square roots.
        changes["budget"] = max(spec.budget // 40, 7)
    return spec.model_copy(update=changes)


def check_inception(made: Record) -> None:
    """A made Inception file gives a score that means nothing, and a FID is refused so few samples."""
    assert extractors.INCEPTION in made.hashes
    score, fid = made.metrics["inception_score"], made.metrics["fid"]
    assert score.value is not None
    assert 1 <= score.value <= 1008
    assert "below 50000" in str(score.flag)
    assert fid.value is None
    assert "needs 2048 samples" in str(fid.reason)


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Makes the file of weights; until then there is none."""
    path = tmp_path / "inception.pth"
    monkeypatch.setenv(extractors.WEIGHTS_VARIABLE, str(path))
    return lambda: make_inception(path)


def test_it_runs_whole_with_a_narrow_checkpoint_and_a_made_inception_file(
    weights: Callable[[str], Path],
    images: None,
    inception: Callable[[], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every cell under VP; features, which take most of the time, of one of them."""
    monkeypatch.setattr(likelihood, "CONVERGED", {**likelihood.CONVERGED, "rtol": 0.1, "atol": 0.1})
    path = weights("cifar10-ddpmpp-vp")
    run = tmp_path / "run"
    specs = [small(spec) for spec in plan() if spec.problem == "cifar10_vp"]
    found = {(spec.solver, spec.kind): computed(spec, run) for spec in specs}
    assert len(found) == len(specs) == 7
    for (solver, kind), made in found.items():
        assert made.status == "done", (solver, kind, made.reason, made.traceback)
        assert made.hashes["cifar10-ddpmpp-vp"] == sha256_of_file(path)
        if kind == "sampling":
            assert "its weights are not here" in str(made.metrics["fid"].reason)
            samples = Store(run).samples(made.spec)
            assert samples is not None
            assert samples.shape == (4, 3, SIDE, SIDE)
    bits = found["rk45", "likelihood"].metrics["bits_per_dim"]
    assert bits.value is not None
    assert 3 < bits.value < 20, "random weights"
    inception()
    whole = next(spec for spec in plan() if (spec.problem, spec.solver) == ("cifar10_vp", "euler_maruyama"))
    check_inception(computed(small(whole, ENOUGH), tmp_path / "with features"))
    assert "## Published values" in write_report(run).page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["cifar10_ve", "cifar10_vp", "cifar10_subvp"])
def test_every_cell_runs_with_features(
    problem: str, weights: Callable[[str], Path], images: None, inception: Callable[[], Path], tmp_path: Path
) -> None:
    inception()
    weights(problem_classes()[problem].checkpoint)  # type: ignore[attr-defined]
    for spec in (small(spec, ENOUGH) for spec in plan() if spec.problem == problem and spec.kind == "sampling"):
        made = computed(spec, tmp_path / "run")
        assert made.status == "done", (made.reason, made.traceback)
        check_inception(made)


def test_the_sampler_of_edm_runs_on_a_narrow_pickle(
    folder: Path, images: None, inception: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = load_published_card("cifar10-edm-vp")
    path = card.where()
    assert path is not None
    path.parent.mkdir(parents=True)
    arguments = dict.fromkeys(("augment_dim", "label_dim"), 0) | {"img_resolution": SIDE, "img_channels": 3}
    kinds = {"embedding_type": "positional", "encoder_type": "standard", "decoder_type": "standard"}
    sizes = {"model_channels": 8, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [8]}
    rest = {"use_fp16": True, "model_type": "SongUNet", "dropout": 0.13, "channel_mult_noise": 1}
    network = edm_network.EDMPrecond(**arguments, **kinds, **sizes, **rest, resample_filter=[1, 1])
    edm_network.write(path, {"ema": network.eval().requires_grad_(False)})
    parameters = sum(p.numel() for p in network.parameters())
    narrow_card = card.model_copy(update={"parameters": parameters})
    monkeypatch.setattr(zoo, "load_published_card", lambda name: narrow_card)
    spec = next(spec for spec in plan() if spec.problem == "cifar10_edm").model_copy(update={"n": 4})
    made = computed(spec, tmp_path / "run")
    assert made.status == "done", (made.reason, made.traceback)
    assert made.cost is not None
    assert (made.last, made.cost.nfe, made.cost.steps) == ("tweedie", 35, 17)


def test_a_checkpoint_that_arrives_is_used_by_the_next_run(
    weights: Callable[[str], Path], images: None, inception: Callable[[], Path], tmp_path: Path
) -> None:
    spec = small(next(spec for spec in plan() if spec.problem == "cifar10_ve" and spec.solver == "ancestral"))
    assert computed(spec, tmp_path / "run").status == "skipped"
    path = weights("cifar10-ncsnpp-ve")
    assert computed(spec, tmp_path / "run").status == "done"
    shutil.rmtree(path.parent)
    cells.load_problem.cache_clear()
    assert computed(spec, tmp_path / "run").status == "done"


def test_features_are_compared_with_training_images_and_likelihoods_taken_of_test_images(
    weights: Callable[[str], Path], images: None
) -> None:
    weights("cifar10-ddpmpp-subvp")
    problem = cifar10.Cifar10SubVP()
    train, test = (image.load_data("cifar10", split).values for split in ("train", "test"))
    assert torch.equal(problem.compared_with(600, 3, 0), train)
    assert torch.equal(problem.compared_with(60, 3, 1), test)
    assert torch.equal(problem.reference(60, 3, 0), test)
    chosen = problem.reference(600, 3, 1)
    assert not torch.equal(chosen, train)
    assert torch.equal(chosen.long().sum(0), train.long().sum(0))
    with pytest.raises(UsageError, match="there are 60 test images; got 61"):
        problem.compared_with(61, 0, 1)


def test_fid_is_against_the_training_images(
    weights: Callable[[str], Path], images: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its features are those that a cell's hash of the reference tells."""
    weights("cifar10-ddpmpp-subvp")
    problem = cifar10.Cifar10SubVP()
    spec = next(spec for spec in plan() if spec.problem == "cifar10_subvp").model_copy(update={"n": 40})
    seen: list[Tensor] = []

    class Pixels:
        sha256, layers, levels = "pixels", ("first",), 256

        def check(self, shape: tuple[int, ...], levels: int) -> None:
            assert (shape, levels) == ((3, SIDE, SIDE), 256)

        def __call__(self, values: Tensor) -> dict[str, Tensor]:
            seen.append(values)
            return {"first": values[:, :, 0, 0].double()}

    monkeypatch.setattr(features, "get_extractor", lambda name, device: Pixels())
    train = image.load_data("cifar10", "train").values[:40]
    samples = 2 * (train.float() + 0.5) / 256 - 1
    found = Fid().evaluate(Outcome(spec, problem, get_solver("euler_maruyama"), samples))
    assert found.value == pytest.approx(0, abs=1e-6)
    assert found.floor is not None
    assert found.floor > 1, "the test images"
    assert torch.equal(seen[0], train)
    assert Fid().hashes(problem, spec)["inception-v3-compat reference"] == features.hash_of(train)


def test_a_network_in_parts_is_the_network() -> None:
    seen = []

    class Network(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append(len(x))
            return x * t[:, None]

    x, t = torch.randn(7, 2), torch.rand(7)
    assert torch.equal(image.InParts(Network(), 3)(x, t), x * t[:, None])
    assert seen == [3, 3, 1]


# Published values.


def test_every_published_value_has_its_cell() -> None:
    matrix = plan()
    for value in published_values():
        cells_of = [
            spec
            for spec in matrix
            if (spec.problem, spec.solver, spec.grid, spec.last)
            == (value.problem, value.solver, value.grid, value.last)
            and spec.budget == value.budget
            and (spec.budget is not None or spec.settings["rtol"] == value.tolerance)
            and all(spec.settings[key] == setting for key, setting in value.settings.items())
            and (spec.kind == "likelihood") == (value.metric == "bits_per_dim")
        ]
        assert len(cells_of) == 1, value


def test_the_values_are_those_of_the_papers() -> None:
    """The two of each paper that its abstract states, and what kind of number each is."""
    by_row = {(v.problem, v.solver, v.metric, v.network): v for v in published_values()}
    deep = by_row["cifar10_ve_deep", "predictor_corrector", "fid", "this"]
    assert (deep.value, deep.error, deep.statistic) == (2.20, None, "one value")
    assert by_row["cifar10_ve_deep", "predictor_corrector", "inception_score", "this"].value == 9.89
    assert by_row["cifar10_subvp_deep", "rk45", "bits_per_dim", "this"].value == 2.99
    edm = by_row["cifar10_edm", "edm_heun", "fid", "this"]
    assert (edm.value, edm.budget, edm.statistic) == (1.97, 35, "minimum of 3")
    assert all((v.error is not None) == (v.statistic == "mean ± std of 5 runs") for v in published_values())
    assert all((v.network == "other") == ("table 1" in v.source) for v in published_values())


def test_measured_values_stand_beside_the_published_ones() -> None:
    spec = next(spec for spec in plan() if spec.problem == "cifar10_edm")
    found = [
        record(spec.model_copy(update={"seed": seed}), {"fid": (2.0 + seed / 10, 0.05), "inception_score": 9.8})
        for seed in (0, 1, 2)
    ]
    text = published_table(long_table(found))
    assert text is not None
    (line,) = [line for line in text.splitlines() if "cifar10_edm" in line]
    parts = [part.strip() for part in line.strip("|").split("|")]
    assert parts[:6] == ["cifar10_edm", "edm_heun (last step tweedie)", "35", "FID", "1.97", "minimum of 3"]
    assert parts[6].startswith("2.100 ± ")
    assert parts[6].endswith("(3 seeds)")


def test_a_run_without_published_values_has_no_such_table(tmp_path: Path) -> None:
    spec = plan()[0].model_copy(update={"problem": "gaussian", "solver": "euler", "settings": {}, "last": None})
    assert published_table(long_table([record(spec, {"pathwise_rmse": 1.0})])) is None


def test_a_value_has_a_budget_or_a_tolerance() -> None:
    value = published_values()[0].model_dump()
    for wrong in ({"budget": None}, {"tolerance": 1e-5}):
        with pytest.raises(ValueError, match="a budget or a tolerance"):
            PublishedValue.model_validate(value | wrong)
