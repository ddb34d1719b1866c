"""Converged solves on disk, below the folder of a run: its workers share them, and so do the runs that resume it.

A file is found by a hash of all that its tensors depend on: the tensors that went in, the hashes of the problem's
files, the settings of the solve, this project's own code, torch's version, and the device. It begins with a hash of
itself and that key: one that is damaged, or goes by another's name, is computed anew.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from bench.environment import ROOT
from pretrained.provenance import device_model, write_atomically

PACKAGES = ("solvers", "pretrained", "bench")
DIGEST = hashlib.sha256().digest_size

Tensors = dict[str, Tensor]

_folder: ContextVar[Path | None] = ContextVar("references", default=None)


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Keep references in a folder, made when the first one is written; outside of this none are."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def kept(
    name: str, inputs: Mapping[str, Tensor], facts: Mapping[str, object], compute: Callable[[], Tensors]
) -> Tensors:
    """Tensors that were computed before, or are now, on the CPU.

    Args:
        name: of the file, for people.
        inputs: tensors that they depend on.
        facts: whatever else they depend on, as JSON writes it: hashes of files, settings.
        compute: gives them.
    """
    folder = _folder.get()
    if folder is None:
        return _on_cpu(compute())
    key = _key(inputs, facts)
    path = folder / f"{name}-{key}.safetensors"
    found = _read(path, key)
    if found is None:
        found = _on_cpu(compute())
        content = save(found)
        # A reference that cannot be kept is still one.
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _digest(key, content) + content)
    return found


def _on_cpu(tensors: Tensors) -> Tensors:
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _read(path: Path, key: str) -> Tensors | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, tensors = content[:DIGEST], content[DIGEST:]
    return load(tensors) if digest == _digest(key, tensors) else None


def _digest(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _key(inputs: Mapping[str, Tensor], facts: Mapping[str, object]) -> str:
    tensors = {
        name: [list(x.shape), str(x.dtype), device_model(x.device), hashlib.sha256(_bytes(x)).hexdigest()]
        for name, x in inputs.items()
    }
    content = {"inputs": tensors, "facts": dict(facts), "code": _code(), "torch": torch.__version__}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().numpy().tobytes()


@cache
def _code() -> str:
    """Hash of this project's code as it is on disk, committed or not."""
    files = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    parts = (f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() for path in files)
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()
