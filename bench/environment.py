"""Where a run takes place: versions, commit, machine; devices and their clocks and memory."""

import contextlib
import os
import platform
import re
import socket
import time
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from bench.record import Environment
from pretrained import provenance
from solvers.errors import UsageError

PACKAGES = ("torch", "torchdiffeq", "torchsde", "torch-fidelity", "numpy", "scipy", "scikit-learn", "scorebench")
# Of the extra peers, where they are installed.
PEERS = ("azula", "diffusers")

ROOT = Path(__file__).resolve().parent.parent


def resolve_device(name: str) -> torch.device:
    """The device named ``auto | cpu | cuda | cuda:i``, a GPU with its number; auto takes one where there is one.

    It computes in :func:`full_precision` from then on.

    Raises:
        UsageError: no such device here.
    """
    full_precision()
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch("cpu|cuda(:[0-9]+)?", name):
        raise UsageError("device", "a device is auto, cpu, cuda or cuda:i", name, "E.g. --device cpu")
    count = torch.cuda.device_count()
    kind, _, index = name.partition(":")
    if kind == "cuda" and int(index or 0) >= count:
        raise UsageError("device", f"this machine has {count} CUDA devices", name, "Take --device cpu, or auto")
    return torch.device("cuda:0" if name == "cuda" else name)


def full_precision() -> None:
    """Have a GPU compute in the precision of its numbers, in this process.

    Left alone, torch lets convolutions round single precision to the ten bits of TensorFloat-32: an error of 1e-3 in
    the score, far above what converged solves and adaptive steps resolve.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def now(device: torch.device) -> float:
    """Seconds on the wall clock, the device idle."""
    synchronise(device)
    return time.perf_counter()


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak: of the device's allocator, on the CPU of the resident set (Linux keeps one that resets)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Bytes at the peak since the reset; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return None


def energy(device: torch.device) -> float | None:
    """Joules the device has taken since its driver was loaded; None where it, or its library, does not tell.

    NVIDIA's counter, read through ``pynvml`` (the extra ``energy``); on the CPU there is none that any user may read.
    """
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    except pynvml.NVMLError:
        return None


def peer_versions() -> dict[str, str]:
    """Versions of the libraries of the extra ``peers`` that are installed."""
    found = {}
    for name in PEERS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@cache
def _constant() -> dict[str, object]:
    commit, dirty = provenance.commit(ROOT)
    return {
        "commit": commit,
        "dirty": dirty,
        "trees": provenance.trees(ROOT, ("solvers", "pretrained", "bench")),
        "host": socket.gethostname(),
        "cpu": provenance.cpu_model(),
        "cores": psutil.cpu_count(logical=True) or 1,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            **peer_versions(),
        },
    }


def environment(device: torch.device) -> Environment:
    """The record's account of where it is being made."""
    return Environment.model_validate(
        {
            **_constant(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "threads": torch.get_num_threads(),
            "device": provenance.device_model(device),
            "load_average": os.getloadavg()[0],
        }
    )
