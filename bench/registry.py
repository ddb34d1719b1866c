"""Menus of classes: one family a file of a package, found by looking through it."""

import importlib
import pkgutil
from typing import Generic, TypeVar

from solvers.errors import unknown_name

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """Classes with a ``key``, from the modules of a package.

    Args:
        kind: what they are, for messages.
        package: dotted name of the package; its modules are imported at the first look.
    """

    def __init__(self, kind: str, package: str) -> None:
        self._kind = kind
        self._package = package
        self._classes: dict[str, type[T]] = {}

    def register(self, cls: C) -> C:
        """Class decorator: put a class on the menu."""
        self._classes[cls.key] = cls  # type: ignore[attr-defined]  # every class of a menu has a key
        return cls

    def classes(self) -> dict[str, type[T]]:
        """Every registered class, by name."""
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        return dict(sorted(self._classes.items()))

    def find(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            UsageError: there is none.
        """
        classes = self.classes()
        if name not in classes:
            raise unknown_name(f"get_{self._kind}", self._kind, name, classes)
        return classes[name]
