"""The command line as its users meet it: real processes for what runs, resumes and is killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
import yaml
from records import cell, fill, record

from bench import cli
from bench.commands import runs
from bench.console import processors
from bench.environment import resolve_device
from bench.problems.gaussian import Gaussian
from bench.standings import standings
from bench.store import Store
from bench.table_files import write_tables
from bench.tables import long_table
from pretrained.zoo import CHECKPOINTS
from solvers import registry

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path(sys.executable).with_name("scorebench")

# A solver that takes 0.1 s a step, and waits while a file "hold" lies beside it, so that a signal finds a cell at work.
SLOW = """
import time
from dataclasses import dataclass
from pathlib import Path
from solvers.methods.euler import Euler
from solvers.registry import register

@register
@dataclass(frozen=True)
class Slow(Euler):
    def step(self, process, x, t, s, brownian, state):
        time.sleep(0.1)
        while Path(__file__).with_name("hold").exists():
            Path(__file__).with_name("held").touch()
            time.sleep(0.02)
        return super().step(process, x, t, s, brownian, state)
"""

MATRIX = {
    "name": "tiny",
    "seeds": [0, 1],
    "budgets": [5, 10],
    "problems": [{"name": "gaussian", "n": 64}],
    "solvers": [
        {"name": "heun"},
        {"name": "euler_maruyama"},
        {"name": "predictor_corrector"},
        {"name": "torchdiffeq", "tolerances": [0.1]},
    ],
}
# 8 + 8 + 8 + 2 of the matrix and 4 of the plug-in's solver, which has no recommended grid.
CELLS = 30
ALL = ["heun", "euler_maruyama", "predictor_corrector", "torchdiffeq", "slow"]

# Columns of time and provenance; every other one is the same in every run.
OWN = ["seconds", "network_seconds", "overhead_seconds", "overhead_per_evaluation", "load_seconds", "warm_up_seconds"]
OWN += ["metric_seconds", "peak_memory_bytes", "date", "commit", "dirty", "threads"]


@dataclass
class Run:
    """A folder with a matrix, a plug-in and room for a run."""

    home: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.home / "tiny.yaml").write_text(yaml.safe_dump(MATRIX))
        (self.home / "slow.py").write_text(SLOW)

    @property
    def out(self) -> Path:
        return self.home / "out"

    def start(self, *arguments: str, module: bool = False) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bench"] if module else [str(SCRIPT)]
        # Runs wait for one another by a lock among the temporary files: these have their own.
        environment = {**os.environ, "TMPDIR": str(self.home), "COLUMNS": "200"}
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT if module else self.home,
            env=environment,
            start_new_session=True,
            # A shell starts what is put in the background with Ctrl-C ignored, and that is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.processes.append(process)
        return process

    def start_matrix(self) -> subprocess.Popen[str]:
        chosen = [word for name in ALL for word in ("--solver", name)]
        return self.start("run", "tiny.yaml", "--plugin", "slow.py", *chosen, "--device", "cpu", "--out", str(self.out))

    def stamps(self) -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (self.out / "records").glob("*.json")}

    @property
    def hold(self) -> Path:
        return self.home / "hold"

    def wait_for_records(self, count: int) -> None:
        """Until there are so many, or the slow solver is held."""
        held = self.home / "held"
        held.unlink(missing_ok=True)
        end = time.monotonic() + 120
        while len(self.stamps()) < count and not held.exists():
            assert time.monotonic() < end, "the run makes no records"
            assert self.processes[-1].poll() is None, self.processes[-1].communicate()
            time.sleep(0.01)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Run]]:
    made: list[Run] = []

    def make(name: str) -> Run:
        made.append(Run(tmp_path_factory.mktemp(name)))
        return made[-1]

    yield make
    for run in made:
        run.close()


@pytest.fixture(scope="module")
def both(homes: Callable[[str], Run]) -> tuple[Run, Run, list[str]]:
    """A run left in peace, and one that was killed, interrupted and started again; the latter's story."""
    calm, rough = homes("calm"), homes("rough")
    undisturbed = calm.start_matrix()
    story: list[str] = []

    rough.hold.touch()
    killed = rough.start_matrix()
    rough.wait_for_records(4)
    children = psutil.Process(killed.pid).children()
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    _, alive = psutil.wait_procs(children, timeout=15)
    story += [f"outlived the kill: {process}" for process in alive]
    before = rough.stamps()
    if not 0 < len(before) < CELLS:
        story.append(f"{len(before)} cells before the kill")

    interrupted = rough.start_matrix()
    rough.wait_for_records(len(before) + 3)
    interrupted.send_signal(signal.SIGINT)
    out, err = interrupted.communicate(timeout=60)
    if interrupted.returncode != 130 or err != "Interrupted: finished cells are kept; the same command goes on.\n":
        story.append(f"interrupt: {interrupted.returncode} {out} {err}")
    rough.hold.unlink()
    middle = rough.stamps()
    story += [f"computed again after the kill: {name}" for name in before if middle.get(name) != before[name]]

    resumed = rough.start_matrix()
    out, err = resumed.communicate(timeout=120)
    told = (f"{CELLS} cells: {CELLS} done", f"{len(middle)} of them were there before.")
    if resumed.returncode != 0 or not all(text in out for text in told) or err:
        story.append(f"resumed: {resumed.returncode} {out} {err}")
    after = rough.stamps()
    story += [f"computed again after the interrupt: {name}" for name in middle if after.get(name) != middle[name]]

    out, err = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, err
    assert f"{CELLS} cells: {CELLS} done" in out
    assert err == ""
    return calm, rough, story


def test_a_run_that_was_killed_and_interrupted_computes_no_finished_cell_again(
    both: tuple[Run, Run, list[str]],
) -> None:
    _, _, story = both
    assert story == []


def test_a_resumed_run_loses_no_cell_and_leaves_no_litter(both: tuple[Run, Run, list[str]]) -> None:
    calm, rough, _ = both
    assert len(calm.stamps()) == CELLS
    assert calm.stamps().keys() == rough.stamps().keys()
    names = {path.stem for path in (rough.out / "records").iterdir() if not path.name.endswith(".part")}
    assert names == {path.stem for path in (rough.out / "samples").iterdir() if not path.name.endswith(".part")}


def test_a_resumed_run_has_the_tables_of_an_undisturbed_one(both: tuple[Run, Run, list[str]]) -> None:
    calm, rough, _ = both
    tables = []
    for run in (calm, rough):
        table = long_table(Store(run.out).records())
        write_tables(table, list(standings(table)), run.out / "tables")
        tables.append(pd.read_csv(run.out / "tables" / "long.csv"))
    assert set(OWN) < set(tables[0].columns)
    # A metric a row: pathwise error and Wasserstein distance of every cell.
    assert len(tables[0]) == len(Gaussian.metrics) * CELLS
    pd.testing.assert_frame_equal(tables[0].drop(columns=OWN), tables[1].drop(columns=OWN), check_exact=True)
    boards = [(run.out / "tables" / "leaderboard.md").read_text() for run in (calm, rough)]
    assert boards[0] == boards[1]
    assert "| heun | log_snr |" in boards[0]


def test_samples_of_both_runs_are_the_same_bits(both: tuple[Run, Run, list[str]]) -> None:
    calm, rough, _ = both
    for path in sorted((calm.out / "samples").glob("*.safetensors")):
        assert path.read_bytes() == (rough.out / "samples" / path.name).read_bytes(), path.name


def test_report_prints_the_leaderboard_and_where_things_lie(both: tuple[Run, Run, list[str]]) -> None:
    run = both[0]
    process = run.start("report", str(run.out))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "gaussian: pathwise RMS error [units of x], lower is better" in out
    assert re.search(r"heun +log_snr +\S+@4 +\S+", out), "the odd budget is marked"
    for path in (run.out / "tables", run.out / "figures", run.out / "report.md"):
        assert str(path) in out
        assert path.exists()


# In this process: everything that does not run cells.


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The program's exit code, output and messages."""
    monkeypatch.setattr(registry, "_SOLVERS", registry.solver_classes())

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scorebench", *arguments])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return code, out, err

    return run


@pytest.mark.parametrize("module", [False, True])
def test_help_and_the_bare_command_show_the_commands(homes: Callable[[str], Run], module: bool) -> None:
    run = homes("help")
    help_, bare = run.start("--help", module=module), run.start(module=module)
    out, err = help_.communicate(timeout=60)
    assert (help_.returncode, err) == (0, "")
    for command in ("run", "report", "list", "train"):
        assert re.search(rf"^\W*{command}\b", out, re.MULTILINE)
    assert "run" in "".join(bare.communicate(timeout=60))
    for process in (help_, bare):
        assert process.returncode in (0, 2)


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("problems", "digits"),
        ("solvers", "heun"),
        ("metrics", "fd_digits"),
        ("matrices", "quick"),
        ("checkpoints", "digits-vp"),
        ("data", "fashion_mnist"),
        ("peers", "diffusers:HeunDiscreteScheduler"),
    ],
)
def test_lists(call: Callable[..., tuple[int, str, str]], what: str, name: str) -> None:
    code, out, err = call("list", what, "--json")
    assert (code, err) == (0, "")
    entries = json.loads(out)
    assert name in [entry["name"] for entry in entries]
    assert len({entry["name"] for entry in entries}) == len(entries)
    code, out, err = call("list", what)
    assert (code, err) == (0, "")
    for entry in entries:
        assert entry["name"] in out


def test_a_plugin_is_listed(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLOW)
    _, out, _ = call("list", "solvers", "--json", "--plugin", str(tmp_path / "mine.py"))
    assert "mine" in [entry["name"] for entry in json.loads(out)]


# {who}: {rule}; got {value}. {what to do}, or of a name: {who}: no {kind} {name}[; did you mean ...?] Known: ...
FORM = re.compile(
    r"^[^:\n]+(: [^\n]+)?: ([^\n]+; got [^\n]+\. [A-Z][^\n]+|no \w[^\n]* '[^\n]*'(; did you mean .*\?|\.) Known: .+)\n$"
)


def assert_told(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert FORM.match(err), err
    for part in parts:
        assert part in err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "quik"], ["no matrix 'quik'; did you mean 'quick'?"]),
        (["run", "nowhere.yaml"], ["no such file; got 'nowhere.yaml'"]),
        (["run", "quick", "--solver", "huen"], ["no solver 'huen'; did you mean 'heun'?"]),
        (["run", "quick", "--problem", "digit"], ["no problem 'digit'; did you mean 'digits'?"]),
        (["run", "quick", "--nfe", "0"], ["greater than 0; got 0."]),
        (["run", "quick", "--nfe", "-5"], ["greater than 0; got -5."]),
        (["run", "quick", "--device", "tpu"], ["device: a device is auto, cpu, cuda or cuda:i; got 'tpu'."]),
        (["run", "quick", "--device", "cuda:99"], ["CUDA devices; got 'cuda:99'.", "--device cpu"]),
        (["run", "quick", "--device", "cuda:²"], ["got 'cuda:²'."]),
        (["run", "quick", "--plugin", "nowhere.py"], ["a plug-in is a Python file; got", "nowhere.py"]),
        (["run", "quick", "--weights", "no.pth"], ["inception-v3-compat: its weights are not here; got", "no.pth"]),
        (["report", "nowhere"], ["a run's folder holds records; got 'nowhere'."]),
        (["list", "solver"], ["no menu 'solver'; did you mean 'solvers'?"]),
        (["train", "digit-vp"], ["'digit-vp'", "did you mean 'digits-vp'"]),
    ],
)
def test_bad_input_is_told_in_one_message(
    arguments: list[str],
    parts: list[str],
    call: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_told(call(*arguments), *parts)
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_told(call("run", "quick", "--device", "cuda", "--out", str(out)), "0 CUDA devices; got 'cuda'.")
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"sovlers": []}, ["no key 'sovlers'; did you mean 'solvers'?"]),
        ({"budgets": [0]}, ["budgets.0", "got 0."]),
        ({"solvers": [{"name": "huen"}]}, ["no solver 'huen'; did you mean 'heun'?"]),
        ({"problems": [{"name": "gausian", "n": 4}]}, ["no problem 'gausian'; did you mean 'gaussian'?"]),
        ({"seeds": []}, ["seeds", "got []."]),
    ],
)
def test_a_mistake_in_a_matrix_file_is_told(
    change: dict[str, object], parts: list[str], call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump({**MATRIX, **change}))
    assert_told(call("run", str(path), "--out", str(out)), *parts)
    assert not out.exists()


def test_an_output_folder_that_cannot_be_written_is_told(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    result = call("run", "quick", "--out", str(tmp_path / "file" / "run"))
    assert_told(result, "the output folder is writable", "file/run", "--out")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_use_is_told(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    store = fill(tmp_path, [])
    with store.lock():
        result = call("run", "quick", "--out", str(tmp_path))
    assert_told(result, "one run writes a folder at a time; got", str(tmp_path))


def test_a_damaged_record_is_told_by_report(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    store = fill(tmp_path, [record(cell(), {"w2_gaussian": 1.0}), record(cell(seed=1), {"w2_gaussian": 1.0})])
    path = store.record_path(cell())
    path.write_bytes(path.read_bytes()[:100])
    others = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    assert_told(call("report", str(tmp_path)), str(path), "the file is whole and valid", "recomputed")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.json")} == others
    assert not (tmp_path / "report.md").exists()


# A plug-in may do anything, so this one gives the program other checkpoints.
ELSEWHERE = """
from pathlib import Path
from pretrained import zoo
zoo.CHECKPOINTS = Path({folder!r})
"""


def test_a_checkpoint_with_a_wrong_hash_ends_the_run_and_damages_nothing(homes: Callable[[str], Run]) -> None:
    run = homes("wrong_hash")
    folder = run.home / "checkpoints"
    shutil.copytree(CHECKPOINTS, folder)
    weights = folder / "digits-vp.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    (run.home / "slow.py").write_text(ELSEWHERE.format(folder=str(folder)) + SLOW)
    problems = [{"name": "gaussian", "n": 16}, {"name": "digits", "n": 4}]
    matrix = {**MATRIX, "problems": problems, "budgets": [2], "seeds": [0], "solvers": [{"name": "euler"}]}
    (run.home / "tiny.yaml").write_text(yaml.safe_dump(matrix))
    process = run.start("run", "tiny.yaml", "--plugin", "slow.py", "--out", str(run.out))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Traceback" not in err
    assert FORM.match(err), err
    assert "load digits-vp" in err
    assert str(weights) in err
    (made,) = Store(run.out).records()
    assert (made.spec.problem, made.status) == ("gaussian", "done")


@pytest.mark.parametrize(("asked", "threads"), [("3", 3), ("0", None), ("many", None), ("", None)])
def test_the_environment_may_set_the_threads(monkeypatch: pytest.MonkeyPatch, asked: str, threads: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert runs.threads() == (threads or processors())


def test_a_gpu_has_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two names would hold two locks on one device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(resolve_device(name)) for name in ("auto", "cuda", "cuda:0", "cuda:1", "cpu")] == [
        *["cuda:0"] * 3,
        "cuda:1",
        "cpu",
    ]


def test_what_has_no_value_says_why_on_the_terminal(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, folder = tmp_path / "few.yaml", tmp_path / "out"
    problems = [
        {"name": "gaussian", "n": 20, "solvers": [{"name": "heun", "budgets": [1, 4]}]},
        {"name": "cifar10_vp", "n": 20, "solvers": [{"name": "euler"}]},
    ]
    content = {"name": "few", "description": "Few cells.", "seeds": [0], "budgets": [4], "grids": ["log_snr"]}
    matrix.write_text(yaml.safe_dump(content | {"recommended_grids": False, "problems": problems}))
    monkeypatch.setenv("SCOREBENCH_CHECKPOINTS", str(tmp_path))
    code, out, err = call("run", str(matrix), "--out", str(folder))
    assert code == 0, err
    lines = out[out.index("3 cells:") :].splitlines()
    assert lines[0] == "3 cells: 1 done, 2 skipped"
    assert "  1 skipped: one step takes 2 evaluations, the budget is 1" in lines
    assert any(line.startswith("  1 skipped: checkpoint cifar10-ddpmpp-vp, put it at ") for line in lines)
    code, out, err = call("report", str(folder))
    assert code == 0, err
    board = out[out.index("cifar10_vp: FID") :].splitlines()
    assert board[1].startswith("No values: skipped: checkpoint cifar10-ddpmpp-vp, put it at ")
