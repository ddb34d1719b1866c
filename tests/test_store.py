"""The folder of a run: whole files or none, damaged ones found and named, one writer at a time."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from records import cell, cost, environment, fill, record

from bench import store as store_module
from bench.cell import run_cell
from bench.record import CellSpec, MetricValue, Record
from bench.report import write_report
from bench.store import DamagedRecordError, Store
from solvers.errors import UsageError

# Round trips.

texts = st.text(max_size=30)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
metrics = st.builds(MetricValue, value=numbers, standard_error=numbers, floor=numbers, reason=st.none() | texts)
specs = st.builds(
    CellSpec,
    problem=st.sampled_from(["gaussian", "digits"]),
    n=st.integers(1, 10**6),
    solver=st.sampled_from(["heun", "some_plugin"]),
    settings=st.dictionaries(
        texts, st.one_of(st.floats(allow_nan=False), st.integers(), st.booleans(), texts, st.none())
    ),
    grid=st.sampled_from(["log_snr", "uniform"]),
    budget=st.integers(1, 10**4),
    seed=st.integers(0, 2**63 - 1),
    device=st.sampled_from(["cpu", "cuda:1"]),
    batch_size=st.none() | st.integers(1, 100),
)
records = st.builds(
    Record,
    spec=specs,
    status=st.sampled_from(["done", "diverged", "timeout", "out_of_memory", "error", "skipped"]),
    last=st.none() | st.sampled_from(["keep", "mean"]),
    reason=st.none() | texts,
    traceback=st.none() | texts,
    cost=st.builds(cost, seconds=st.floats(0, 1e6), nfe=st.floats(0, 1e6), peak_memory_bytes=st.none()),
    metrics=st.dictionaries(texts, metrics, max_size=3),
    hashes=st.dictionaries(texts, texts, max_size=2),
    environment=st.builds(environment, host=texts, commit=st.none() | texts, dirty=st.none() | st.booleans()),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("run"))
    store.create()
    return store


@given(item=records)
def test_a_record_is_read_as_it_was_written(shared: Store, item: Record) -> None:
    path = shared.write(item)
    assert shared.read(path) == item
    assert shared.finished(item.spec) == item


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    item, samples = record(cell()), torch.randn(16, 8, dtype=torch.float64).T
    store = fill(tmp_path, [])
    store.write(item, samples)
    found = store.samples(item.spec)
    assert found is not None
    assert found.dtype == samples.dtype
    assert torch.equal(found, samples)
    assert store.samples(cell(seed=1)) is None


# Atomic writes.


class CrashError(BaseException):
    """Nothing that the code under test may catch."""


def crash(*arguments: object) -> None:
    raise CrashError


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_crash_while_writing_leaves_the_old_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    old, new = record(cell(), {"w2_gaussian": 1.0}), record(cell(), {"w2_gaussian": 2.0})
    store = fill(tmp_path, [old])
    with monkeypatch.context() as patched:
        patched.setattr(os, call, crash)
        with pytest.raises(CrashError):
            store.write(new, torch.zeros(2))
    assert store.read(store.record_path(old.spec)) == old
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [store.record_path(old.spec).name], "no temporary file is left"
    store.write(new)
    assert store.finished(new.spec) == new


def test_the_record_comes_after_the_samples_that_it_vouches_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, item = fill(tmp_path, []), record(cell())
    replaced: list[str] = []
    real = os.replace

    def note(source: Path, target: Path) -> None:
        replaced.append(Path(target).suffix)
        real(source, target)

    monkeypatch.setattr(os, "replace", note)
    store.write(item, torch.zeros(2))
    assert replaced == [".safetensors", ".json"]


def test_files_left_by_a_killed_writer_are_no_records(tmp_path: Path) -> None:
    item = record(cell())
    store = fill(tmp_path, [item])
    path = store.record_path(item.spec)
    path.with_name(f".{path.name}.host.123.part").write_text("{")
    assert list(store.records()) == [item]


# Damage.


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\x00\xfe")


def changed(**keys: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))

    return change


def a_list(path: Path) -> None:
    path.write_text("[1, 2]")


def key_removed(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["spec"]["seed"]
    path.write_text(json.dumps(content))


def without_budget(path: Path) -> None:
    content = json.loads(path.read_text())
    content["spec"]["budget"] = None
    path.write_text(json.dumps(content))


def of_another_cell(path: Path) -> None:
    content = json.loads(path.read_text())
    content["spec"]["seed"] = 7
    path.write_text(json.dumps(content))


DAMAGE = [
    pytest.param(truncated, "the file is whole and valid", id="truncated"),
    pytest.param(emptied, "the file is whole and valid", id="empty"),
    pytest.param(not_text, "the file is whole and valid", id="binary"),
    pytest.param(a_list, "schema version 1 is read here", id="a list"),
    pytest.param(changed(schema_version=2), "schema version 1 is read here; got 2", id="schema"),
    pytest.param(changed(extra=1), "the file is whole and valid", id="extra key"),
    pytest.param(changed(status="fine"), "the file is whole and valid", id="unknown status"),
    pytest.param(key_removed, "the file is whole and valid", id="missing key"),
    pytest.param(without_budget, "the file is whole and valid; got \"'rtol'\"", id="no effort"),
    pytest.param(changed(cost=None), "has its cost", id="done for nothing"),
    pytest.param(of_another_cell, "the file's name is that of its spec", id="of another cell"),
]


@pytest.mark.parametrize(("damage", "rule"), DAMAGE)
def test_report_names_a_damaged_record_and_writes_nothing(tmp_path: Path, damage: Any, rule: str) -> None:
    good, bad = record(cell(seed=1)), record(cell())
    store = fill(tmp_path, [good, bad])
    path = store.record_path(bad.spec)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(DamagedRecordError) as caught:
        write_report(tmp_path)
    assert str(path) in str(caught.value)
    assert rule in str(caught.value)
    assert "recomputed" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert not (tmp_path / "tables").exists()
    assert not (tmp_path / "report.md").exists()


@pytest.mark.parametrize(("damage", "rule"), DAMAGE)
def test_a_run_sets_a_damaged_record_aside_and_computes_the_cell_again(tmp_path: Path, damage: Any, rule: str) -> None:
    spec = cell()
    store = fill(tmp_path, [])
    path = run_cell(spec, store)
    first = store.read(path)
    damage(path)
    damaged = path.read_bytes()
    assert run_cell(spec, store) == path
    again = store.read(path)
    assert again.metrics == first.metrics
    assert again.status == "done"
    assert path.with_suffix(".damaged").read_bytes() == damaged, "nothing is thrown away"
    assert [item.spec for item in store.records()] == [spec]


def test_a_run_sets_damaged_samples_aside_and_computes_the_cell_again(tmp_path: Path) -> None:
    spec = cell()
    store = fill(tmp_path, [])
    run_cell(spec, store)
    path = store.sample_path(spec)
    first = path.read_bytes()
    truncated(path)
    run_cell(spec, store)
    assert path.read_bytes() == first
    assert path.with_suffix(".damaged").read_bytes() == first[:-40]


@pytest.mark.parametrize("part", ["record", "samples"])
def test_a_disk_that_is_full_ends_the_run_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    store = fill(tmp_path, [])
    finished = store.read(run_cell(cell(seed=1), store))
    write = store_module.write_atomically

    def full(path: Path, content: bytes) -> None:
        if (path.suffix == ".json") == (part == "record"):
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(store_module, "write_atomically", full)
    with pytest.raises(UsageError, match=r"store: the output folder is writable; got .*No space left.*goes on"):
        run_cell(cell(), store)
    assert list(store.records()) == [finished]


def test_damaged_samples_are_named(tmp_path: Path) -> None:
    spec = cell()
    store = fill(tmp_path, [])
    store.write(record(spec), torch.zeros(4, 8))
    path = store.sample_path(spec)
    truncated(path)
    with pytest.raises(UsageError, match="the file is whole and valid") as caught:
        store.samples(spec)
    assert str(path) in str(caught.value)


def test_an_infinite_setting_is_the_same_cell_when_read(tmp_path: Path) -> None:
    spec = cell("ddim").model_copy(update={"settings": {"eta": 0.0, "churn_max": math.inf}})
    store = fill(tmp_path, [])
    assert store.read(store.write(record(cell()).model_copy(update={"spec": spec}))).spec == spec


# Folders.


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError, match=r"holds records; got '.*'\. Run a matrix") as caught:
            list(Store(folder).records())
        assert str(folder) in str(caught.value)
    assert not (tmp_path / "missing").exists()


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"store: the output folder is writable; got '.*file/run'\. .*--out"):
        Store(tmp_path / "file" / "run").create()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path).create()

    def deny(self: Path, *arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", deny)  # a run as root may write everywhere
    with pytest.raises(UsageError, match=r"the output folder is writable.*Permission denied"):
        Store(tmp_path).create()


def test_a_report_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, [record(cell(), {"w2_gaussian": 1.0})])
    (tmp_path / "tables").write_text("in the way")
    with pytest.raises(UsageError, match="the output folder is writable") as caught:
        write_report(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_creating_leaves_nothing_but_the_folders(tmp_path: Path) -> None:
    Store(tmp_path / "a" / "b").create()
    assert sorted(p.name for p in (tmp_path / "a" / "b").rglob("*")) == ["records", "samples"]


def test_a_second_run_on_the_folder_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    fill(tmp_path, [])
    with Store(tmp_path).lock():
        with pytest.raises(UsageError, match="one run writes a folder at a time") as caught, Store(tmp_path).lock():
            pass
        assert str(tmp_path) in str(caught.value)
    with Store(tmp_path).lock():
        pass


def test_the_lock_is_let_go_by_a_run_that_fails(tmp_path: Path) -> None:
    fill(tmp_path, [])
    with pytest.raises(CrashError), Store(tmp_path).lock():
        raise CrashError
    with Store(tmp_path).lock():
        pass
