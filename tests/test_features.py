"""Metrics of image features: torch-fidelity's own numbers, known answers, and what they refuse."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch_fidelity
from made_inception import make_inception
from records import cell, jackknife
from test_metrics import normal, state
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from bench.metrics import converged, extractors, features
from bench.metrics.bias import FdDigitsAtInfinity, against_n, at_infinity, unbiased
from bench.metrics.converged import TrajectoryRmse
from bench.metrics.extractors import INCEPTION, WEIGHTS_VARIABLE, Extractor, get_extractor, inception_weights
from bench.metrics.frechet import FdDigits, FdDigitsSolver, Fid, check_number, excess, frechet, frechet_by_roots
from bench.metrics.inception_score import InceptionScore
from bench.metrics.kernel_distance import KdDigits, Kid, kernel_distance, measured_distance
from bench.metrics.metric import Outcome
from bench.metrics.precision_recall import Precision, PrecisionDigits, Recall, RecallDigits, precision, recall
from bench.metrics.wasserstein import gaussian_w2
from bench.problems.digits import Digits
from bench.problems.gaussian import Gaussian
from bench.problems.problem import ImageProblem, Problem
from bench.record import MetricValue
from pretrained import zoo
from pretrained.data import load_data
from solvers.errors import UsageError
from solvers.grids import make_grid
from solvers.process import ReverseProcess
from solvers.registry import get_solver
from solvers.sde import VP, expand
from solvers.solver import FixedStepSolver, integrate

CPU = torch.device("cpu")
OWN = "digits-features"


class Images(Dataset[Tensor]):
    """Images as torch-fidelity takes them: uint8, one at a time."""

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index]


def outcome(problem: Problem, samples: Tensor, **changes: Any) -> Outcome:
    spec = cell("euler", problem=problem.key, n=len(samples), **changes)
    return Outcome(spec, problem, get_solver("euler"), samples)


def digit_features(levels: Tensor) -> Tensor:
    return get_extractor(OWN, CPU)(levels)["features"]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


# The project's own extractor.


def test_features_are_those_of_the_middle_of_each_bin() -> None:
    levels = load_data("digits", "test").values[:20]
    network = zoo.load_features(OWN).network
    expected = network.features((levels.float() + 0.5) / 17).double()
    assert torch.allclose(digit_features(levels), expected, atol=1e-4)
    assert not torch.allclose(digit_features(levels), network.features(levels / 16).double(), atol=1e-2)


def test_features_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = load_data("digits", "test").values[:20]
    whole = digit_features(levels)
    monkeypatch.setattr(extractors, "BATCH", 7)
    assert torch.allclose(digit_features(levels), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 1, 8, 9, dtype=torch.uint8), r"its images have the shape \(1, 8, 8\); got \(1, 8, 9\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "its images have the shape"),
        (torch.zeros(3, 1, 8, 8), "images hold levels 0 to 16, uint8; got '3 of torch.float32"),
        (torch.full((3, 1, 8, 8), 17, dtype=torch.uint8), "images hold levels 0 to 16"),
        (torch.zeros(0, 1, 8, 8, dtype=torch.uint8), "images hold levels 0 to 16"),
    ],
)
def test_an_extractor_refuses_what_are_not_its_images(images: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        get_extractor(OWN, CPU)(images)


def test_features_of_the_references_are_known_by_extractor_and_images(digits: Digits) -> None:
    images = digits.reference(30, 0, 0)
    mine = get_extractor(OWN, CPU)
    found = features.reference_features(mine, images)
    assert features.reference_features(mine, images.clone()) is found
    other = Extractor("other", "another hash", lambda x: (x.flatten(1)[:, :2].float(),), ("a",), 17, (1, 8, 8), CPU)
    assert list(features.reference_features(other, images)) == ["a"], "never those of another extractor"
    assert features.reference_features(mine, digits.reference(30, 0, 1)) is not found


# Fréchet distance.


def test_frechet_distance_is_that_of_torch_fidelity_itself() -> None:
    a, b = load_data("digits", "test").values[:200], load_data("digits", "train").values[:150]
    get_extractor(OWN, CPU)
    whole = torch_fidelity.calculate_metrics(
        input1=Images(a),
        input2=Images(b),
        fid=True,
        kid=True,
        kid_subset_size=150,
        kid_subsets=1,
        prc=True,
        feature_extractor=OWN,
        cuda=False,
        verbose=False,
        cache=False,
        save_cpu_ram=True,
    )
    left, right = digit_features(a), digit_features(b)
    assert frechet(left, right) == pytest.approx(whole["frechet_inception_distance"], rel=1e-6)
    assert whole["frechet_inception_distance"] > 0.01
    assert precision(left, right) == pytest.approx(whole["precision"])
    assert recall(left, right) == pytest.approx(whole["recall"])
    assert whole["precision"] != whole["recall"]


def test_frechet_distance_is_the_squared_distance_of_gaussian_fits() -> None:
    a, b = normal(300, 4) @ normal(4, 4, seed=1), normal(300, 4, seed=2)
    for distance in (frechet, frechet_by_roots):
        assert distance(a, b) == pytest.approx(gaussian_w2(a, b) ** 2, rel=1e-6)
        assert distance(a + 2, a) == pytest.approx(16, rel=1e-6)


def test_samples_are_clipped_and_rounded_to_the_levels_first(digits: Digits) -> None:
    levels = digits.reference(60, 0, 1)
    exact = FdDigits().evaluate(outcome(digits, state(digits, levels)))
    within = (torch.rand(levels.shape, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.98 * digits.scale / 17
    jittered = FdDigits().evaluate(outcome(digits, state(digits, levels) + within))
    assert jittered == exact
    beyond = state(digits, levels)
    beyond[levels == 16] += 5
    beyond[levels == 0] -= 5
    clipped = FdDigits().evaluate(outcome(digits, beyond))
    assert (clipped.value, clipped.floor) == (exact.value, exact.floor)
    assert clipped.flag is not None
    assert "% of all values lay outside the data's range" in clipped.flag
    assert exact.value == pytest.approx(exact.floor), "these are the floor's own digits"
    slightly = state(digits, levels)
    slightly[levels == 0] -= 0.06 * digits.scale
    assert FdDigits().evaluate(outcome(digits, slightly)).flag == exact.flag, "a level or so is nothing"
    other = FdDigits().evaluate(outcome(digits, state(digits, levels) + digits.scale / 17))
    assert other.value != exact.value
    assert other.floor == exact.floor


def test_held_out_digits_are_at_distance_zero_and_noise_is_far(digits: Digits) -> None:
    held_out = outcome(digits, state(digits, load_data("digits", "test").values[:100]))
    noise = outcome(digits, digits.prior(100, 0))
    for metric in (FdDigits(), KdDigits()):
        near, far = metric.evaluate(held_out), metric.evaluate(noise)
        assert near.floor is not None
        assert far.value is not None
        assert far.value > 10 * near.floor
    assert FdDigits().evaluate(held_out).value == pytest.approx(0, abs=1e-6)
    for rate in (PrecisionDigits(), RecallDigits()):
        right, wrong = rate.evaluate(held_out).value, rate.evaluate(noise).value
        assert right == 1
        assert wrong is not None
        assert wrong < 0.2


def test_the_record_names_extractor_and_reference(digits: Digits) -> None:
    spec = outcome(digits, digits.prior(50, 0)).spec
    found = FdDigits().hashes(digits, spec)
    assert set(found) == {OWN, f"{OWN} reference"}
    assert all(len(value) == 64 for value in found.values())
    assert FdDigits().hashes(digits, spec.model_copy(update={"seed": 1})) == found, "held-out digits know no seed"
    fewer = FdDigits().hashes(digits, spec.model_copy(update={"n": 40}))
    assert fewer[OWN] == found[OWN]
    assert fewer[f"{OWN} reference"] != found[f"{OWN} reference"]


@pytest.mark.parametrize(("n", "flagged"), [(16, True), (239, True), (240, False)])
def test_few_samples_a_feature_are_flagged(digits: Digits, n: int, flagged: bool) -> None:
    value = FdDigits().measure(outcome(digits, state(digits, digits.reference(n, 0, 1))))
    assert value.value is not None
    assert (value.flag is not None) == flagged
    if flagged:
        assert value.flag == f"n = {n} is below 15 times the 16 features: biased upwards"


def test_fewer_samples_than_features_are_refused(digits: Digits) -> None:
    value = FdDigits().measure(outcome(digits, state(digits, digits.reference(15, 0, 1))))
    assert value.value is None
    assert value.reason == "frechet: a Fréchet distance of 16 features needs 16 samples; got 15. Take 240 or more"
    with pytest.raises(UsageError, match="2048 features needs 2048 samples; got 2047"):
        check_number(2047, 2048)


# Kernel distance.


def test_kernel_distance_is_the_unbiased_cubic_mmd() -> None:
    a, b = normal(40, 3), normal(40, 3, seed=1) + 0.5

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return ((x @ y.T) / 3 + 1) ** 3

    off = ~torch.eye(40, dtype=torch.bool)
    expected = kernel(a, a)[off].mean() + kernel(b, b)[off].mean() - 2 * kernel(a, b).mean()
    assert kernel_distance(a, b) == pytest.approx(float(expected), rel=1e-9)


def test_kernel_distance_has_no_bias_and_the_error_of_repeated_draws() -> None:
    equal = [kernel_distance(normal(50, 3, seed=2 * k), normal(50, 3, seed=2 * k + 1)) for k in range(200)]
    assert abs(np.mean(equal)) < 3 * np.std(equal) / 200**0.5
    pairs = [(normal(80, 3, seed=2 * k) + 0.7, normal(80, 3, seed=2 * k + 1)) for k in range(60)]
    errors = [measured_distance(*pair).standard_error for pair in pairs]
    assert np.mean(errors) == pytest.approx(np.std([kernel_distance(*pair) for pair in pairs]), rel=0.35)


def test_the_error_of_disjoint_subsets_is_that_of_repeated_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.metrics import kernel_distance as module

    monkeypatch.setattr(module, "SUBSET", 40)
    monkeypatch.setattr(module, "SUBSETS", 30)
    pairs = [(normal(400, 3, seed=2 * k) + 0.7, normal(400, 3, seed=2 * k + 1)) for k in range(40)]
    errors = [measured_distance(*pair).standard_error for pair in pairs]
    values = [kernel_distance(*pair) for pair in pairs]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)
    whole = np.mean([jackknife(lambda a, b: kernel_distance(a[:80], b[:80]), *pair) for pair in pairs])
    assert np.mean(errors) < whole, "all 400 samples count"
    # Verdicts take ten values for ten, and pair them.
    found = measured_distance(*pairs[0])
    parts = [kernel_distance(*(x[k : k + 40] for x in pairs[0])) for k in range(0, 400, 40)]
    assert found.replicates == pytest.approx([(sum(parts) - part) / 9 for part in parts])
    assert found.standard_error == pytest.approx(np.std(parts, ddof=1) / 10**0.5)


# Precision and recall.


def test_precision_and_recall_are_not_swapped() -> None:
    """Samples on half of the data: every sample looks real, half of the data is covered."""
    real = torch.cat([normal(100, 2), normal(100, 2, seed=1) + 50])
    half = normal(200, 2, seed=2)
    assert precision(half, real) > 0.9
    assert recall(half, real) < 0.55
    assert (precision(half, real), recall(half, real)) == (recall(real, half), precision(real, half))


def test_the_radius_is_the_distance_to_the_third_neighbour() -> None:
    """On integers the third nearest of 0..6 is at distance 2 in the middle, 3 at the ends."""
    real = torch.arange(7, dtype=torch.float64)[:, None]
    assert precision(torch.tensor([[-2.9], [9.1]] * 5, dtype=torch.float64), real) == 0.5
    assert precision(torch.tensor([[-3.1], [9.1]] * 5, dtype=torch.float64), real) == 0


def test_errors_of_precision_and_recall_err_to_the_wide_side() -> None:
    """A block left out moves the neighbours of the others too: up to twice the spread of repeated draws."""
    for statistic in (precision, recall):
        pairs = [(normal(150, 4, seed=2 * k), normal(150, 4, seed=2 * k + 1)) for k in range(60)]
        spread = np.std([statistic(*pair) for pair in pairs])
        assert 0.9 * spread < np.mean([jackknife(statistic, *pair) for pair in pairs[:30]]) < 2 * spread


# Inception.


class Colours(ImageProblem):
    """Images of random colour, 256 levels: what a data set of photographs looks like to the metrics."""

    key: ClassVar[str] = "digits"
    levels: ClassVar[int] = 256

    def __init__(self, side: int = 32) -> None:
        super().__init__()
        self.sde, self.shape, self.dtype = VP(), (3, side, side), torch.float32
        self.scale, self.offset = 2.0, -1.0

    @classmethod
    def ends(cls) -> tuple[float, float]:
        return -1.0, 1.0

    def process(self) -> ReverseProcess:
        raise NotImplementedError

    def reference(self, n: int, seed: int, draw: int) -> Tensor:
        if n > 100:
            raise UsageError("colours", "there are 100 images", n)
        generator = torch.Generator().manual_seed(draw)
        plain = torch.rand(n, 3, 1, 1, generator=generator) * 200
        return (plain + 55 * torch.rand(n, *self.shape, generator=generator)).to(torch.uint8)

    def samples(self, n: int) -> Tensor:
        return self.scale * (self.reference(n, 0, 2).float() + 0.5) / 256 + self.offset


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inception(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.fixture
def _inception_here(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its weights are here; the layer of 64 features serves as that of 2048, 75 pixels as 299."""
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(weights))
    monkeypatch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", 75)
    monkeypatch.setattr(extractors, "INCEPTION_LAYERS", ("64", "logits_unbiased"))
    extractors._inception.cache_clear()
    yield
    extractors._inception.cache_clear()


@pytest.mark.usefixtures("_inception_here")
def test_inception_metrics_are_those_of_torch_fidelity_itself(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, n = Colours(), 70
    monkeypatch.setattr(extractors, "INCEPTION_LAYERS", ("64",))
    row = outcome(problem, problem.samples(n))
    values = {metric.key: metric.measure(row) for metric in (Fid(), Kid(), Precision(), Recall())}
    whole = torch_fidelity.calculate_metrics(
        input1=Images(problem.reference(n, 0, 2)),
        input2=Images(problem.reference(n, 0, 0)),
        fid=True,
        feature_layer_fid="64",
        kid=True,
        kid_subset_size=n,
        kid_subsets=1,
        feature_layer_kid="64",
        prc=True,
        feature_layer_prc="64",
        feature_extractor=INCEPTION,
        feature_extractor_weights_path=str(weights),
        cuda=False,
        verbose=False,
        cache=False,
        save_cpu_ram=True,
    )
    assert values["fid"].value == pytest.approx(whole["frechet_inception_distance"], rel=1e-4)
    assert values["kid"].value == pytest.approx(whole["kernel_inception_distance_mean"], rel=1e-3)
    assert values["precision"].value == pytest.approx(whole["precision"])
    assert values["recall"].value == pytest.approx(whole["recall"])
    assert whole["frechet_inception_distance"] > 0
    assert values["fid"].flag == "n = 70 is below 15 times the 64 features: biased upwards"
    assert values["fid"].floor is not None
    assert values["fid"].floor > 0


@pytest.mark.usefixtures("_inception_here")
def test_inception_score_is_that_of_torch_fidelity_itself(weights: Path) -> None:
    problem, n = Colours(), 20
    value = InceptionScore().measure(outcome(problem, problem.samples(n)))
    whole = torch_fidelity.calculate_metrics(
        input1=Images(problem.reference(n, 0, 2)),
        isc=True,
        feature_extractor=INCEPTION,
        feature_extractor_weights_path=str(weights),
        cuda=False,
        verbose=False,
        cache=False,
        save_cpu_ram=True,
        samples_shuffle=True,
    )
    assert value.value == pytest.approx(whole["inception_score_mean"], rel=1e-4)
    assert value.standard_error == pytest.approx(whole["inception_score_std"] / 3, rel=1e-3)
    assert value.flag == "n = 20 is below 50000: biased downwards"


def test_inception_score_of_known_class_probabilities() -> None:
    """Ten classes, each sample sure of its own: ten of each class a split of a hundred score 10; all alike score 1."""
    sure = 50 * torch.eye(10, dtype=torch.float64).repeat(1000, 1)
    value = InceptionScore().compare(sure, sure)
    assert value.value == pytest.approx(10, rel=0.02)
    assert value.value is not None
    assert value.value < 10, "the classes of a split are not quite even"
    alike = InceptionScore().compare(torch.ones(100, 10, dtype=torch.float64), sure)
    assert (alike.value, alike.standard_error) == (pytest.approx(1), pytest.approx(0, abs=1e-12))
    with pytest.raises(UsageError, match="each of its 10 splits holds two samples; got '19 samples'"):
        InceptionScore().compare(sure[:19], sure[:19])


def test_the_error_of_the_inception_score_is_that_of_repeated_draws() -> None:
    found = [InceptionScore().compare(2 * normal(400, 5, seed=k), normal(1, 5)) for k in range(80)]
    errors = [value.standard_error or math.nan for value in found]
    assert np.mean(errors) == pytest.approx(np.std([value.value or math.nan for value in found]), rel=0.3)


def test_without_weights_the_reason_says_where_they_belong(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    problem = Colours()
    row = outcome(problem, problem.samples(5))
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    for metric in (Fid(), Kid(), InceptionScore(), Precision(), Recall()):
        value = metric.measure(row)
        assert (value.value, value.floor) == (None, None)
        assert value.reason is not None
        assert "its weights are not here" in value.reason
        assert "weights-inception-2015-12-05-6726825d.pth" in value.reason
        assert "--weights FILE" in value.reason
        assert metric.hashes(problem, row.spec) == {}, "so that the cell is run again once they are there"


def test_weights_are_those_named_and_else_those_of_torch_fidelity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir()
    cached.touch()
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    assert inception_weights() == cached
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(weights))
    assert inception_weights() == weights
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "none.pth"))
    with pytest.raises(UsageError, match=r"its weights are not here; got '.*none\.pth'"):
        inception_weights()


class Trap:
    """A pickle that runs code when it is read."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("the file was unpickled without restraint",))


@pytest.mark.parametrize("content", ["text", "other tensors", "code"])
def test_files_of_anything_else_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("no weights")
    else:
        torch.save({"weight": torch.zeros(3)} if content == "other tensors" else Trap(), path)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(path))
    with pytest.raises(UsageError, match=r"weights\.pth holds its weights in torch-fidelity's form"):
        get_extractor(INCEPTION, CPU)


@pytest.mark.usefixtures("_inception_here")
def test_inception_refuses_grey_images_and_other_levels(digits: Digits) -> None:
    grey = Fid().measure(outcome(digits, state(digits, digits.reference(20, 0, 1))))
    assert grey.value is None
    assert grey.reason is not None
    assert "its images have the shape (3, 'any', 'any'); got (1, 8, 8)" in grey.reason
    with pytest.raises(UsageError, match="its images have 256 levels; got 17"):
        get_extractor(INCEPTION, CPU).check((3, 8, 8), 17)


def test_metrics_of_features_refuse_points() -> None:
    problem = Gaussian()
    value = FdDigits().measure(outcome(problem, problem.prior(20, 0)))
    assert value == MetricValue(reason="features: they are of images; got 'gaussian'. Take metrics of points")


# The solver's part and the network's.


@pytest.fixture
def white(monkeypatch: pytest.MonkeyPatch) -> Digits:
    """Digits under the network of a unit Gaussian, on which the flow leaves x_T as it is."""
    problem = Digits()
    monkeypatch.setattr(problem, "process", lambda: ReverseProcess(problem.sde, lambda x, t: -x, "score"))
    return problem


def test_the_converged_solve_of_a_still_flow_is_its_start(white: Digits) -> None:
    x = white.prior(40, 0)
    assert torch.allclose(converged.converged_samples(white, 40, 0), x, atol=1e-4)
    value = TrajectoryRmse().measure(outcome(white, x + 0.25))
    assert value.value == pytest.approx(0.25, rel=1e-5)
    assert value.floor is not None
    assert 0 <= value.floor < 1e-6
    assert TrajectoryRmse.resolves, "differences below the floor are the reference's"
    half = x.clone()
    half[:16] += 0.25
    left = TrajectoryRmse().measure(outcome(white, half)).replicates
    # Of 32 starts in 20 blocks the first ten hold 16; without one or two of those, 15 or 14 are off.
    off = [16 - sum(i * 20 // 32 == k for i in range(16)) for k in range(20)]
    kept = [32 - sum(i * 20 // 32 == k for i in range(32)) for k in range(20)]
    assert left == pytest.approx([0.25 * math.sqrt(o / n) for o, n in zip(off, kept, strict=True)], rel=1e-5)
    later = x.clone()
    later[converged.STARTS :] += 5
    assert TrajectoryRmse().measure(outcome(white, later)).value == pytest.approx(0, abs=1e-5), "the first 32 count"
    assert TrajectoryRmse().measure(outcome(white, x, seed=1)).value == pytest.approx(2**0.5, rel=0.1), "own starts"


def test_the_converged_solve_of_a_gaussian_is_its_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of variance 1/4 under VP: the flow scales by the root of the variances' ratio."""
    problem = Digits()
    sde = problem.sde

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x / expand(sde.alpha(t) ** 2 / 4 + sde.sigma(t) ** 2, x)

    monkeypatch.setattr(problem, "process", lambda: ReverseProcess(sde, score, "score"))
    start, end = (sde.alpha(t) ** 2 / 4 + sde.sigma(t) ** 2 for t in (sde.t_max, sde.t_min))
    exact = problem.prior(40, 0).double() * math.sqrt(end / start)
    miss = (converged.converged_samples(problem, 40, 0) - exact).square().mean().sqrt()
    value = TrajectoryRmse().measure(outcome(problem, exact))
    assert value.value is not None
    assert value.floor is not None
    assert 0 < value.value < 1e-8
    assert 0.1 * value.value < value.floor < 1e-7
    assert miss < 3e-5


def test_whole_samples_are_converged_far_below_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels near -1/2 or 1/2, on which a coarse solve errs by more."""
    problem = Digits()
    sde = problem.sde

    def score(x: Tensor, t: Tensor) -> Tensor:
        centre, var = expand(sde.alpha(t) / 2, x), expand(sde.alpha(t) ** 2 / 100 + sde.sigma(t) ** 2, x)
        return (centre * torch.tanh(centre * x / var) - x) / var

    monkeypatch.setattr(problem, "process", lambda: ReverseProcess(sde, score, "score"))
    tight = converged.converged_end(problem, problem.prior(8, 0), 1e-8, torch.float64)
    miss, coarse = (
        float((found - tight).square().mean().sqrt())
        for found in (
            converged.converged_samples(problem, 8, 0),
            converged.converged_end(problem, problem.prior(8, 0), 1e-2, problem.dtype),
        )
    )
    assert miss < 1e-3 * problem.scale / problem.levels < coarse


def test_the_distance_from_the_converged_trajectory_is_the_solvers_error() -> None:
    """On a learned network: an order of magnitude from ten steps to fifty of a second-order solver."""
    problem, values = Digits(), []
    solver = get_solver("dpmpp_2m")
    assert isinstance(solver, FixedStepSolver)
    for budget in (10, 50):
        ts = make_grid("log_snr", problem.sde, budget)
        x = integrate(solver, problem.process(), problem.prior(4, 0), ts)
        values.append(TrajectoryRmse().measure(outcome(problem, x)).value or math.nan)
    assert 5 < values[0] / values[1] < 100


def test_a_stochastic_solver_has_no_trajectory(digits: Digits) -> None:
    spec = cell("ancestral", problem="digits", n=20)
    row = Outcome(spec, digits, get_solver("ancestral"), digits.prior(20, 0))
    for metric in (TrajectoryRmse(), FdDigitsSolver()):
        assert metric.measure(row) == MetricValue(reason="not an ODE solver")


def test_the_frechet_distance_comes_apart_into_solver_and_network(white: Digits) -> None:
    """What comes to the converged ends has no solver's part; the two parts are the whole."""
    right = outcome(white, white.prior(200, 0))
    none = FdDigitsSolver().measure(right)
    assert none.value == pytest.approx(0, abs=1e-2)
    assert none.converged == pytest.approx(FdDigits().measure(right).value, rel=1e-4)
    wrong = outcome(white, 0.8 * white.prior(200, 0))
    part, whole = FdDigitsSolver().measure(wrong), FdDigits().measure(wrong)
    assert part.converged == none.converged
    assert part.value is not None
    assert part.converged is not None
    assert part.value + part.converged == pytest.approx(whole.value, rel=1e-4)
    assert abs(part.value) > 10
    assert part.standard_error is not None
    assert whole.standard_error is not None
    assert part.standard_error < whole.standard_error, "paired"


def test_the_error_of_the_solvers_part_is_that_of_repeated_draws() -> None:
    draws = [[normal(300, 4, seed=3 * k + j) for j in range(3)] for k in range(60)]
    triples = [(1.2 * (a + 0.1 * b) + 0.5, a, c) for a, b, c in draws]
    errors = [jackknife(excess, *triple) for triple in triples]
    assert np.mean(errors) == pytest.approx(np.std([excess(*triple) for triple in triples]), rel=0.3)


# The number of samples.


def test_distances_at_infinity_have_little_bias_left() -> None:
    """1.2 N + 0.3 against N in 16 dimensions: 16 (0.3^2 + 0.2^2); n = 400 adds 0.48."""
    pairs = [(1.2 * normal(400, 16, seed=2 * k) + 0.3, normal(400, 16, seed=2 * k + 1)) for k in range(100)]
    values, true = [unbiased(*pair) for pair in pairs], 16 * (0.3**2 + 0.2**2)
    spread = np.std(values)
    assert abs(np.mean(values) - true) < 4 * spread / 100**0.5
    assert np.mean([frechet(*pair) for pair in pairs]) - true > 2 * spread
    assert 0.8 * spread < np.mean([jackknife(unbiased, *pair) for pair in pairs[:10]]) < 1.6 * spread


def test_the_line_over_one_over_n_is_carried_to_zero() -> None:
    sizes = [400.0, 200.0, 400 / 3, 100.0]
    assert at_infinity(sizes, [2 + 300 / n for n in sizes]) == pytest.approx(2)
    # Least squares by hand: means 2.5 and 6, slope 9/5.
    assert at_infinity([1, 1 / 2, 1 / 3, 1 / 4], [3.0, 5.0, 8.0, 8.0]) == pytest.approx(1.5)
    found, values = against_n(normal(400, 3), normal(400, 3, seed=1))
    assert found == sizes
    halves = zip(normal(400, 3).split(200), normal(400, 3, seed=1).split(200), strict=True)
    assert values[1] == pytest.approx(np.mean([frechet(*half) for half in halves]), rel=1e-6)


def test_too_few_samples_to_part_are_refused(digits: Digits) -> None:
    value = FdDigitsAtInfinity().measure(outcome(digits, state(digits, digits.reference(63, 0, 1))))
    assert value.value is None
    assert value.reason is not None
    assert "each of 4 parts of the samples covers the 16 features; got '63 samples'. Take 64 or more" in value.reason
    enough = FdDigitsAtInfinity().measure(outcome(digits, state(digits, digits.reference(64, 0, 1))))
    assert enough.value is not None
    assert enough.floor == enough.value, "the floor's own digits"
    assert enough.flag is not None
    assert "n = 16 is below 15 times the 16 features: biased upwards" in enough.flag, "of the smallest parts"
