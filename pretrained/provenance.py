"""Where and from what a file was made: the commit, the machine, the hash."""

import hashlib
import os
import platform
import subprocess
from pathlib import Path

import torch


def commit(folder: Path) -> tuple[str | None, bool | None]:
    """Commit of the repository that holds ``folder``, and whether tracked files differ from it; None outside of one."""
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return None, None
    return head, bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))


def cpu_model() -> str:
    """The processor as its maker names it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def device_model(device: torch.device) -> str:
    """The accelerator as its maker names it, ``cpu`` without one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def sha256(content: bytes) -> str:
    """Hash of a file's content, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hash of a file of any size, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def trees(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Git's hashes of the committed content of folders below ``folder``, for those that have one."""
    found = {name: _git(folder, "rev-parse", f"HEAD:{name}") for name in names}
    return {name: value for name, value in found.items() if value is not None}
