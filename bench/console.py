"""What the commands share: consoles, options, progress, and what becomes of Ctrl-C."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

out = Console()
err = Console(stderr=True)

DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i")]
PluginOption = Annotated[list[Path] | None, typer.Option(help="Python file that registers a solver; repeatable")]

# Lines printed on the way where there is no terminal for a bar.
REPORTS = 20


@contextmanager
def told_when_interrupted(text: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM end a run with a word on what is kept (typer would end it without)."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(text)
        raise typer.Exit(130) from None
    except SystemExit:
        err.print(text)
        raise


def load_plugins(plugins: list[Path] | None) -> list[str]:
    """Registers what the files hold; their absolute paths, for worker processes."""
    from solvers.registry import load_plugin

    paths = [str(path.resolve()) for path in plugins or []]
    for path in paths:
        load_plugin(path)
    return paths


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def progress_bar(console: Console = out) -> Progress:
    """A bar, shown where there is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
