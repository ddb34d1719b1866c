"""What surrounds the steps of a training: flips, precision, curves and logs, a full disk, several processes."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cards import CLASSIFIER, SCORE, card_of, changed, write
from safetensors.torch import load_file

from pretrained import provenance
from pretrained.card import Card, load_card
from pretrained.data import load_data
from pretrained.tasks import build_task
from pretrained.train import train
from pretrained.training import monitor, precision, run
from pretrained.training.loop import Loop, learning_rate
from pretrained.training.processes import Processes, processes_on
from pretrained.training.restart import restart_path
from solvers.errors import UsageError

ROOT = Path(__file__).parent.parent
PATCHES = changed(
    SCORE,
    data={"name": "patches", "scale": 2.0, "offset": -1.0},
    network={"name": "unet", "data_std": 0.5, "width": 8, "multipliers": [1]},
    training__steps=3,
    training__batch=8,
)


def loop_of(card: Card) -> Loop:
    data = load_data(card.data.name, "train")
    cpu = torch.device("cpu")
    torch.manual_seed(card.training.seed)
    return Loop(card.training, build_task(card, data, cpu), data, card.training.precision, Processes(cpu))


def test_half_of_the_images_are_mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = card_of(tmp_path, changed(PATCHES, training__flip=True, training__batch=1000))
    loop = loop_of(card)
    seen: list[torch.Tensor] = []

    def record(values: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(values)
        return next(loop.network.parameters()).sum()

    monkeypatch.setattr(loop._task, "loss", record)
    loop.step()
    rows = torch.randint(16_224, (1000,), generator=torch.Generator().manual_seed(card.training.seed))
    plain = load_data("patches", "train").values[rows]
    same = (seen[0] == plain).flatten(1).all(1)
    mirrored = (seen[0] == plain.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert mirrored.sum().item() == pytest.approx(500, abs=4.5 * 1000**0.5 / 2)


def test_images_that_have_a_left_and_a_right_are_not_mirrored(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"training.flip needs data whose mirror images .* 'digits' are not; got True"):
        card_of(tmp_path, changed(SCORE, training__flip=True))


def test_the_record_tells_what_the_network_was_trained_on(tmp_path: Path) -> None:
    finished = train(card_of(tmp_path, changed(PATCHES, training__flip=True)), tmp_path, progress=False)
    trained_on = load_card(tmp_path / "tiny-score.yaml").result.trained_on
    assert trained_on == finished.result.trained_on
    spec = card_of(tmp_path, PATCHES).data.build()
    assert trained_on.model_dump(exclude={"sha256"}) == {
        "split": "train",
        "samples": 16_224,
        "levels": 256,
        "dequantisation": "uniform",
        "flip": True,
        "source": spec.source,
        "licence": "CC BY 2.0",
    }
    assert trained_on.sha256 == provenance.sha256(load_data("patches", "train").values.numpy().tobytes())


def test_every_batch_is_dequantised_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the network is shown has the values' levels, each at many places of its bin."""
    loop = loop_of(card_of(tmp_path, changed(CLASSIFIER, training__batch=512)))
    seen: list[torch.Tensor] = []
    forward = loop.network.forward
    monkeypatch.setattr(loop.network, "forward", lambda images: seen.append(images) or forward(images))
    loop.step()
    loop.step()
    for images in seen:
        place = images.double() * 17 % 1
        assert place.mean().item() == pytest.approx(0.5, abs=4.5 * (1 / 12 / place.numel()) ** 0.5)
        assert place.unique().numel() > 0.9 * place.numel()
    difference = (seen[0].double() * 17 % 1 - seen[1].double() * 17 % 1).abs()
    assert difference.mean().item() == pytest.approx(1 / 3, abs=4.5 * (1 / 18 / difference.numel()) ** 0.5)


def test_a_gpu_without_bfloat16_trains_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnDevice:
        def __init__(self, device: torch.device) -> None:
            pass

        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "device", OnDevice)
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    for has_it, expected in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has_it=has_it: has_it)
        assert precision.precision_on(gpu, "bfloat16") == expected
        assert precision.precision_on(gpu, "float32") == "float32"
        assert precision.precision_on(cpu, "bfloat16") == "bfloat16"


def test_another_precision_than_the_cards_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pretrained.train.precision_on", lambda device, asked: "float32")
    card = card_of(tmp_path, changed(SCORE, training__precision="bfloat16", training__steps=2))
    assert train(card, tmp_path).result.precision == "float32"
    assert "cpu has no bfloat16: trained in float32." in capsys.readouterr().out


def test_the_curve_holds_the_means_of_equal_parts(tmp_path: Path) -> None:
    card = card_of(tmp_path, changed(SCORE, training__steps=70))
    loop = loop_of(card)
    losses = []
    for _ in range(70):
        loop.step()
        losses.append(loop.losses()[-1])
    curve = loop.loss_curve(points=7)
    assert curve == pytest.approx([sum(losses[k : k + 10]) / 10 for k in range(0, 70, 10)], rel=1e-4)
    result = train(card, tmp_path, progress=False).result
    assert len(result.loss_curve) == 50
    assert result.loss_curve == loop.loss_curve()
    assert result.loss_curve[-1] < 0.95 * result.loss_curve[0]
    assert "loss_curve: [" in (tmp_path / "tiny-score.yaml").read_text()
    short = train(card_of(tmp_path, changed(SCORE, training__steps=3)), tmp_path, progress=False)
    assert len(short.result.loss_curve) == 3


def test_what_is_no_terminal_gets_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step at once, the last one, and a line a minute between them, whatever a step takes."""
    card = card_of(tmp_path, changed(SCORE, training__steps=5))
    times = [0.0]
    monkeypatch.setattr(monitor.time, "perf_counter", lambda: times[0])
    step = Loop.step

    def slow(self: Loop) -> None:
        step(self)
        times[0] += 40.0

    monkeypatch.setattr(Loop, "step", slow)
    losses = train(card, tmp_path).result.loss_curve
    lines = capsys.readouterr().out.splitlines()
    # 64 images in 40 seconds.
    assert [line.partition(", loss ")[0] for line in lines] == [f"tiny-score: step {k}/5" for k in (1, 3, 5)]
    assert [line.partition(", loss ")[2].partition(",")[2] for line in lines] == [
        " 2 images/s, 0:02:40 left",
        " 2 images/s, 0:01:20 left",
        " 2 images/s, 0:00:00 left",
    ]
    assert f"loss {losses[0]:.4f}," in lines[0]
    assert f"loss {sum(losses) / 5:.4f}," in lines[2]
    train(card, tmp_path / "silent", progress=False)
    assert capsys.readouterr().out == ""


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows of a folder of event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_tensorboard_shows_a_run_in_stretches_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CHECK_EVERY", 1)
    card = card_of(tmp_path, changed(SCORE, training__steps=6))
    train(card, tmp_path, progress=False, logs=True, minutes=0)
    train(card, tmp_path, progress=False, logs=True, resume=True, minutes=0)
    finished = train(card, tmp_path, progress=False, logs=True, resume=True)
    shown = scalars(tmp_path / "logs" / "tiny-score")
    assert {name: list(values) for name, values in shown.items()} == {
        f"training/{name}": [1, 2, 3, 4, 5, 6]
        for name in ("loss", "learning_rate", "gradient_norm", "images_per_second")
    }
    assert list(shown["training/loss"].values()) == pytest.approx(finished.result.loss_curve, rel=1e-4)
    expected = [learning_rate(card.training, step) for step in range(6)]
    assert list(shown["training/learning_rate"].values()) == pytest.approx(expected, rel=1e-6)
    assert all(value > 0 for value in shown["training/gradient_norm"].values())


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write beyond that size; Python ignores the signal it sends too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_disk_that_refuses_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "out"
    card = card_of(tmp_path, SCORE)
    whole = train(card, tmp_path / "whole", progress=False)
    train(card, out, progress=False, minutes=0)
    before = restart_path(out, card.name).read_bytes()
    with (
        files_of_at_most(len(before) // 2),
        pytest.raises(UsageError, match=r"train tiny-score: .*out can be written; got .*Make room there .*--resume"),
    ):
        train(card, out, progress=False, resume=True, checkpoint_minutes=0)
    assert sorted(path.name for path in out.iterdir()) == [".tiny-score.lock", "tiny-score.resume.pt"]
    assert restart_path(out, card.name).read_bytes() == before
    assert train(card, out, progress=False, resume=True).result.sha256 == whole.result.sha256


def test_a_full_disk_at_the_end_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights cannot be written: the state of the last step is there, and its run ends when there is room."""
    card = card_of(tmp_path, SCORE)
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target.suffix == ".safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UsageError, match=r"No space left on device"):
            train(card, tmp_path / "out", progress=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".tiny-score.lock", "tiny-score.resume.pt"]
    finished = train(card, tmp_path / "out", progress=False, resume=True)
    assert finished.result.sha256 == train(card, tmp_path / "whole", progress=False).result.sha256


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"train tiny-score: .*file/out can be written; got .*choose --out"):
        train(card_of(tmp_path, SCORE), tmp_path / "file" / "out", progress=False)


@pytest.mark.parametrize("spoiled", ["loss", "weights"])
def test_a_run_that_goes_wrong_keeps_its_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str
) -> None:
    card = card_of(tmp_path, SCORE)
    train(card, tmp_path, progress=False, minutes=0)
    before = restart_path(tmp_path, card.name).read_bytes()
    step = Loop.step

    def spoil(self: Loop) -> None:
        step(self)
        if spoiled == "loss":
            self._waiting[-1] = torch.tensor(float("inf"))
        else:
            with torch.no_grad():
                next(self.network.parameters()).mul_(float("nan"))

    monkeypatch.setattr(Loop, "step", spoil)
    with pytest.raises(UsageError, match=r"train tiny-score: loss and weights must stay finite, step 2"):
        train(card, tmp_path, progress=False, resume=True, checkpoint_minutes=0)
    assert restart_path(tmp_path, card.name).read_bytes() == before


def test_missing_data_are_told_before_anything_is_made(tmp_path: Path) -> None:
    folder = {"name": "folder", "settings": {"path": str(tmp_path / "gone")}, "scale": 2.0, "offset": -1.0}
    with pytest.raises(UsageError, match=r"data set 'folder': path is a folder; got '.*gone'"):
        train(card_of(tmp_path, changed(PATCHES, data=folder)), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def launch(folder: Path, processes: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Train the card of a folder with several CPU processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = ["--module", "bench", "train", str(folder / "card.yaml"), "--out", str(folder / "out"), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, *command, *options],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def by_hand(card: Card, count: int) -> list[torch.Tensor]:
    """The averaged weights of a run whose batches are shared: gradients of each share, then their mean."""
    data = load_data(card.data.name, "train")
    shares = []
    for rank in range(count):
        processes = Processes(torch.device("cpu"))
        processes.rank, processes.count = rank, count
        torch.manual_seed(card.training.seed)
        shares.append(Loop(card.training, build_task(card, data, processes.device), data, "float32", processes))
    first = shares[0]
    optimiser = torch.optim.Adam(first.network.parameters(), betas=(0.9, 0.99))
    for step in range(card.training.steps):
        for loop in shares:
            loop.network.load_state_dict(first.network.state_dict())
            loop.network.zero_grad()
            loop._task.loss(*loop._batch(), loop._generator).backward()
        for own, *others in zip(*(loop.network.parameters() for loop in shares), strict=True):
            own.grad = torch.stack([own.grad, *(other.grad for other in others)]).mean(0)
        torch.nn.utils.clip_grad_norm_(first.network.parameters(), card.training.clip)
        optimiser.param_groups[0]["lr"] = learning_rate(card.training, step)
        optimiser.step()
        decay = min(card.training.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for average, weight in zip(first.average.parameters(), first.network.parameters(), strict=True):
                average.lerp_(weight, 1 - decay)
    return list(first.average.parameters())


@pytest.mark.slow
def test_two_processes_share_each_batch(tmp_path: Path) -> None:
    """Against the same steps by hand; without dropout, whose draws in one process would not be those of two."""
    content = changed(SCORE, network__dropout=0.0, training__steps=25)
    card = load_card(write(tmp_path, content))
    done = launch(tmp_path, 2, "--minutes", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--resume goes on") == 1
    with pytest.raises(UsageError, match=r"a run of 2 processes goes on with as many; got 1"):
        train(card, tmp_path / "out", progress=False, resume=True)
    done = launch(tmp_path, 2, "--resume")
    assert done.returncode == 0, done.stderr
    finished = load_card(tmp_path / "out" / "tiny-score.yaml")
    assert finished.result.processes == 2
    assert len(finished.result.loss_curve) == 25
    weights = load_file(tmp_path / "out" / "tiny-score.safetensors")
    names = [name for name, _ in loop_of(card).average.named_parameters()]
    for name, expected in zip(names, by_hand(card, 2), strict=True):
        torch.testing.assert_close(weights[name], expected, rtol=1e-4, atol=1e-5)


def test_without_accelerate_several_processes_are_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UsageError, match=r"share a run through accelerate; got .*pip install 'scorebench\[gpus\]'"):
        processes_on(torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert processes_on(torch.device("cpu")).count == 1


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    card = card_of(tmp_path, SCORE)
    processes = Processes(torch.device("cpu"))
    processes.count = 3
    data = load_data("digits", "train")
    with pytest.raises(UsageError, match=r"training.batch is shared evenly by 3 processes; got 64"):
        Loop(card.training, build_task(card, data, processes.device), data, "float32", processes)
