"""tox plug-in: environments that share a folder are one environment.

tox 4 takes a folder that another environment made for a foreign one and builds it anew, 6 GB at each change from
``bench`` to ``tests``. The runner ``shared`` calls all environments of a folder by the folder's name; a change of their
dependencies still builds it anew, since that is compared apart.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tox.plugin import impl
from tox.tox_env.info import Info
from tox.tox_env.python.virtual_env.runner import VirtualEnvRunner
from tox.tox_env.register import ToxEnvRegister


class SharedInfo(Info):
    """What a folder knows of its environment, whichever of those that share it asks."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder.name

    @contextmanager
    def compare(self, value: Any, section: str, sub_section: str | None = None) -> Iterator[tuple[bool, Any]]:
        """As tox does, the name apart."""
        if isinstance(value, dict) and "name" in value:
            value = {**value, "name": self._folder}
        with super().compare(value, section, sub_section) as found:
            yield found


class SharedRunner(VirtualEnvRunner):
    """tox's own runner in a folder that several environments share."""

    @staticmethod
    def id() -> str:
        """Its name in tox.ini."""
        return "shared"

    @property
    def cache(self) -> Info:
        """The folder's memory."""
        return SharedInfo(self.env_dir)


@impl
def tox_register_tox_env(register: ToxEnvRegister) -> None:
    """Offer the runner."""
    register.add_run_env(SharedRunner)
