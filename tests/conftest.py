"""One thread a process: the tests' tensors are small, and threads that wait for each other cost more than they give."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Timings are taken when they are asked for: ``pytest tests/performance``."""
    asked = any("performance" in Path(argument.partition("::")[0]).parts for argument in config.args)
    return True if collection_path.name == "performance" and not asked else None
