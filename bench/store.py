"""The folder of a run: one JSON file a cell, written whole or not at all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from bench.record import SCHEMA_VERSION, CellSpec, Record
from pretrained.lock import only_holder
from pretrained.provenance import write_atomically
from solvers.errors import UsageError


class DamagedRecordError(UsageError):
    """A record that cannot be read."""


def not_writable(folder: Path, error: OSError, todo: str) -> UsageError:
    """The error for a folder of a run that cannot be written."""
    return UsageError("store", "the output folder is writable", str(folder), f"{error}. {todo}")


class Store:
    """Records (``records/*.json``) and samples (``samples/*.safetensors``) below one folder.

    Args:
        folder: made with its parents when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = folder / "records"
        self._samples = folder / "samples"

    def create(self) -> None:
        """Make the folders.

        Raises:
            UsageError: they cannot be written.
        """
        try:
            for path in (self._records, self._samples):
                path.mkdir(parents=True, exist_ok=True)
                probe = path / ".probe"
                probe.touch()
                probe.unlink()
        except OSError as error:
            raise not_writable(self.folder, error, "Choose --out") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder: one run writes it at a time.

        Raises:
            UsageError: another process holds it.
        """
        rule = "one run writes a folder at a time"
        with only_holder(self.folder / ".lock", "store", rule, "Wait, or use --out"):
            yield

    def record_path(self, spec: CellSpec) -> Path:
        """The result file of a cell."""
        return self._records / f"{spec.name}.json"

    def sample_path(self, spec: CellSpec) -> Path:
        """The raw samples of a cell."""
        return self._samples / f"{spec.name}.safetensors"

    def write(self, record: Record, samples: Tensor | None = None) -> Path:
        """Write samples, then the record that vouches for them.

        Raises:
            UsageError: the folder cannot be written, e.g. because the disk is full.
        """
        path = self.record_path(record.spec)
        try:
            if samples is not None:
                write_atomically(self.sample_path(record.spec), save({"samples": samples.cpu().contiguous()}))
            # Not pydantic's own JSON, which turns infinite settings into null and so changes the spec.
            write_atomically(path, (json.dumps(record.model_dump(), indent=1) + "\n").encode())
        except OSError as error:
            raise not_writable(self.folder, error, "What is finished is kept; the same command goes on") from error
        return path

    def read(self, path: Path) -> Record:
        """One record.

        Raises:
            DamagedRecordError: it is not whole, not of this schema, or not the file of its own spec.
        """
        todo = "Remove it and run again: the cell is recomputed"
        try:
            content = json.loads(path.read_bytes())
            version = content.get("schema_version") if isinstance(content, dict) else None
            if version != SCHEMA_VERSION:
                raise DamagedRecordError(
                    f"record {path}",
                    f"schema version {SCHEMA_VERSION} is read here",
                    "none" if version is None else version,
                    todo,
                )
            record = Record.model_validate(content)
            name = record.spec.name
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, DamagedRecordError):
                raise
            what = " ".join(str(error).splitlines()[:2]) or type(error).__name__
            raise DamagedRecordError(f"record {path}", "the file is whole and valid", what, todo) from error
        if path.stem != name:
            raise DamagedRecordError(f"record {path}", "the file's name is that of its spec", name, todo)
        return record

    def records(self) -> Iterator[Record]:
        """All records, by name.

        Raises:
            UsageError: the folder holds none, or one is damaged.
        """
        paths = sorted(self._records.glob("*.json"))
        if not paths:
            raise UsageError("store", "a run's folder holds records", str(self.folder), "Run a matrix into it first")
        for path in paths:
            yield self.read(path)

    def samples(self, spec: CellSpec) -> Tensor | None:
        """The cell's samples, if they were kept.

        Raises:
            UsageError: the file is damaged.
        """
        path = self.sample_path(spec)
        try:
            return load_file(path)["samples"] if path.is_file() else None
        except (SafetensorError, KeyError) as error:
            todo = "Remove it, and its record to have the cell recomputed"
            raise UsageError(f"samples {path}", "the file is whole and valid", str(error), todo) from error

    def finished(self, spec: CellSpec) -> Record | None:
        """The cell's record if it and its samples are good; damaged files are set aside as ``*.damaged``."""
        path, samples = self.record_path(spec), self.sample_path(spec)
        if not path.is_file():
            return None
        try:
            record = self.read(path)
        except DamagedRecordError:
            path.replace(path.with_suffix(".damaged"))
            return None
        try:
            # The header, which knows the file's length: large samples are not read to be left where they are.
            if samples.is_file():
                with safe_open(samples, "pt"):
                    pass
        except SafetensorError:
            samples.replace(samples.with_suffix(".damaged"))
            return None
        return record
