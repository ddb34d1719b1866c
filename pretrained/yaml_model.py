"""YAML files read into pydantic models, their mistakes told in the project's words."""

from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from solvers.errors import UsageError, unknown_name

M = TypeVar("M", bound=BaseModel)


def read_mapping(path: Path, who: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UsageError: no such file, not YAML, or no mapping.
    """
    if not path.is_file():
        raise UsageError(who, "no such file", str(path), "Correct the path")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = " ".join(str(error).split())
        raise UsageError(f"{who} {path}", "the file is YAML", what, "Correct its syntax") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"{who} {path}", "the file holds a mapping", type(content).__name__, "Start from a shipped file"
        )
    return content


def validate(content: dict[str, Any], model: type[M], who: str) -> M:
    """A model from a mapping.

    Raises:
        UsageError: the first thing wrong: an unknown key (with near names), a missing one, or a value.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _explain(error, who, model) from error


def _explain(error: ValidationError, who: str, model: type[BaseModel]) -> UsageError:
    problem = error.errors()[0]
    location = problem["loc"]
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        return unknown_name(who, "key", key, _siblings(model, location[:-1]))
    if problem["type"] == "missing":
        return UsageError(who, f"key {key!r} is required", None, "Add it; the shipped files show every key")
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, UsageError):
        return cause
    return UsageError(who, f"{key}: {problem['msg']}", problem["input"], "Correct that value")


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Dotted keys that the section at ``location`` knows."""
    for part in location:
        if isinstance(part, str):
            model = _section(model.model_fields[part].annotation)
    prefix = "".join(f"{part}." for part in location)
    return [prefix + name for name in model.model_fields]


def _section(annotation: Any) -> type[BaseModel]:
    """The model inside an annotation such as ``Section``, ``Section | None`` or ``list[Section]``."""
    if isinstance(annotation, UnionType) or get_origin(annotation) in (list, tuple):
        return next(found for option in get_args(annotation) if (found := _section(option)) is not None)
    result: type[BaseModel] = annotation
    return result
