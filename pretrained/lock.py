"""A file that one process at a time holds; its end, even by ``kill -9``, gives the file back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from solvers.errors import UsageError


@contextmanager
def only_holder(path: Path, who: str, rule: str, todo: str) -> Iterator[None]:
    """Holds a file, made if missing, in a folder that is there.

    Args:
        path: the file.
        who: of the error.
        rule: what the file stands for.
        todo: what to do while another process holds it.

    Raises:
        UsageError: another process holds it.
        OSError: the folder cannot be written.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(who, rule, str(path.parent), todo) from error
    try:
        yield
    finally:
        lock.release()
