"""The menu of solvers: one file a solver in ``solvers/methods``, entry points, plug-in files."""

import contextlib
import importlib
import importlib.util
import math
import numbers
import pkgutil
import re
import sys
from dataclasses import fields
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from solvers.errors import UsageError, unknown_name
from solvers.solver import FixedStepSolver, Solver

S = TypeVar("S", bound=Solver)

_SOLVERS: dict[str, type[Solver]] = {}


def register(cls: type[S]) -> type[S]:
    """Class decorator: put a solver on the menu under the name of its file.

    Raises:
        UsageError: another class has that name already.
    """
    key = cls.__module__.rpartition(".")[2]
    known = _SOLVERS.get(key)
    if known is not None and known.__module__ != cls.__module__:
        raise UsageError("register", f"the name {key!r} is taken by {known.__module__}", cls.__module__, "Rename")
    cls.key = key
    _SOLVERS[key] = cls
    return cls


@cache
def _load_all() -> None:
    from solvers import methods

    for module in pkgutil.iter_modules(methods.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{methods.__name__}.{module.name}")
    for point in entry_points(group="scorebench.solvers"):
        point.load()


def solver_classes() -> dict[str, type[Solver]]:
    """Every registered solver, by name."""
    _load_all()
    return dict(sorted(_SOLVERS.items()))


def solver_names() -> list[str]:
    """Names of the registered solvers."""
    return list(solver_classes())


def get_solver(name: str, **settings: Any) -> Solver:
    """A solver by name, with its settings; ``library:sampler`` is one of another library (:mod:`solvers.peers`).

    Settings may also stand in the name, as ``parse_solver`` reads them.

    Raises:
        UsageError: no such solver, no such setting, or a value that the solver refuses.
    """
    name, written = split_settings(name)
    for key in written:
        if key in settings:
            raise UsageError("get_solver", f"the setting {key} of {name} is given twice", None, "Leave one out")
    settings = {**written, **settings}
    if ":" in name:
        from solvers.peers import get_peer

        return get_peer(name, **settings)
    classes = solver_classes()
    if name not in classes:
        raise unknown_name("get_solver", "solver", name, classes)
    cls = classes[name].form(settings)
    known = [f.name for f in fields(cls)]
    for key in settings:
        if key not in known:
            if not known:
                raise UsageError("get_solver", f"{name} has no settings", key, "Leave it out")
            raise unknown_name("get_solver", f"setting of {name}", key, known)
    _check_types(cls, settings)
    return cls(**settings)


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
_ABSTRACT: dict[type, type] = {int: numbers.Integral, float: numbers.Real}


def _check_types(cls: type[Solver], settings: dict[str, Any]) -> None:
    """Refuse settings of another type than their field's, where that is plain; what values it admits the solver knows.

    Raises:
        UsageError: one is.
    """
    try:
        hints = get_type_hints(cls) if settings else {}
    except NameError:
        # A plug-in's, that are there for type checkers alone.
        return
    for name, value in settings.items():
        hint = hints[name]
        offered = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        kinds = {
            kind for part in offered for kind in (map(type, get_args(part)) if get_origin(part) is Literal else (part,))
        }
        if kinds <= _KINDS.keys() and not any(_fits(value, kind) for kind in kinds):
            told = " or ".join(sorted(_KINDS[kind] for kind in kinds))
            raise UsageError(cls.key, f"{name} is {told}", value, _hint(value) if float in kinds else "")


def _fits(value: object, kind: type) -> bool:
    if kind in _ABSTRACT and isinstance(value, bool):
        return False
    return isinstance(value, _ABSTRACT.get(kind, kind))


def _hint(value: object) -> str:
    """How YAML reads a number that it took for text, e.g. 1e-5."""
    with contextlib.suppress(TypeError, ValueError):
        if isinstance(value, str) and math.isfinite(float(value)):
            return f"In YAML write {float(value):e}"
    return "Give one"


def parse_solver(text: str) -> Solver:
    """The solver written as ``key`` or ``key?setting=value&...``; values as YAML writes scalars.

    Raises:
        UsageError: a setting without a value, or whatever :func:`get_solver` refuses.
    """
    return get_solver(text)


def split_settings(text: str) -> tuple[str, dict[str, Any]]:
    """Name and settings of ``key?setting=value&...``.

    Raises:
        UsageError: a setting without a value, or given twice.
    """
    name, mark, rest = text.partition("?")
    settings: dict[str, Any] = {}
    for part in rest.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if not (key and equals) or key in settings:
            raise UsageError("parse_solver", "settings read ?setting=value&..., each once", text, "E.g. deis?order=2")
        settings[key] = _scalar(value)
    return name, settings


def _scalar(text: str) -> Any:
    """A YAML scalar: null, true, false, whole number, number or text."""
    words = {"": None, "~": None, "null": None, "true": True, "false": False, ".inf": math.inf, ".nan": math.nan}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        if re.fullmatch(r"[-+.0-9][-+.0-9eE]*", text):
            with contextlib.suppress(ValueError):
                return kind(text)
    return text


def load_plugin(path: str | Path) -> None:
    """Import a solver from a file outside the project; its name is the file's.

    Raises:
        UsageError: there is no such file, it does not import, registers nothing, or declares too little.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError("load_plugin", "a plug-in is a Python file", str(path), "Give its path")
    _load_all()
    # A name of its own: a plug-in called like a module on the path must not take that module's place.
    name = f"scorebench_plugins.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("load_plugin", "a plug-in's name ends in .py", str(path), "Rename it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        if path.stem not in _SOLVERS or _SOLVERS[path.stem].__module__ != name:
            raise UsageError(
                "load_plugin", "a plug-in registers a solver", str(path), "Decorate its class by @register"
            )
        _check_declared(_SOLVERS[path.stem])
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        for key in [key for key, cls in _SOLVERS.items() if cls.__module__ == name]:
            del _SOLVERS[key]
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            "load_plugin", f"{path} does not import", f"{type(error).__name__}: {error}", "Mend"
        ) from error


def _check_declared(cls: type[Solver]) -> None:
    """Refuse a class that lists, plans and certificates would stumble over.

    Raises:
        UsageError: something that every solver declares is missing.
    """
    for name in ("family", "order", "stochastic", "reference"):
        if not hasattr(cls, name):
            raise UsageError("load_plugin", f"a solver declares {name}", cls.__name__, f"Add {name}: ClassVar[...]")
    try:
        solver = cls()
    except TypeError as error:
        raise UsageError("load_plugin", "every setting has a default", str(error), "Give it one") from error
    if isinstance(solver, FixedStepSolver) and not 0 < solver.nfe(1) < solver.nfe(2):
        got = (solver.nfe(1), solver.nfe(2))
        raise UsageError("load_plugin", "nfe(steps) grows with the steps, from 1 or more", got, f"Mend {cls.key}.nfe")
