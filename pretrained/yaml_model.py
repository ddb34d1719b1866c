"""YAML files read into pydantic models, their mistakes told in the project's words."""

from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from solvers.errors import UsageError, unknown_name

M = TypeVar("M", bound=BaseModel)


class _UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings give a key once: of two, one would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, who: str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        UsageError: no such file, not YAML, or no mapping.
    """
    if not path.is_file():
        raise UsageError(who, "no such file", str(path), "Correct the path")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
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
    location, owner = _locate(model, problem["loc"])
    key = ".".join(location)
    context = problem.get("ctx", {})
    if problem["type"] == "extra_forbidden":
        prefix = "".join(f"{part}." for part in location[:-1])
        return unknown_name(who, "key", key, [prefix + name for name in owner.model_fields])
    if problem["type"] == "missing":
        return UsageError(who, f"key {key!r} is required", None, "Add it; the shipped files show every key")
    if problem["type"] == "union_tag_invalid":
        return unknown_name(who, key, str(context["tag"]), context["expected_tags"].replace("'", "").split(", "))
    if problem["type"] == "union_tag_not_found":
        name = context["discriminator"].strip("'")
        return UsageError(who, f"key '{key}.{name}' is required", None, "Add it; the shipped files show every key")
    cause = context.get("error")
    if isinstance(cause, UsageError):
        return cause
    return UsageError(who, f"{key}: {problem['msg']}", problem["input"], "Correct that value")


def _locate(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], type[BaseModel]]:
    """The keys that lead to a problem, without the tags that choose between sections, and the section it is in."""
    keys: list[str] = []
    owner = model
    here: Any = model
    for part in location:
        if isinstance(here, dict):
            here = here[part]
            continue
        keys.append(str(part))
        if isinstance(part, str) and isinstance(here, type) and issubclass(here, BaseModel):
            owner = here
            field = here.model_fields.get(part)
            here = None if field is None else _section(field)
    return keys, owner


def _section(field: FieldInfo) -> Any:
    """The model inside a field; where its ``discriminator`` chooses between some, those by their tag."""
    options = _options(field.annotation)
    if isinstance(field.discriminator, str):
        return {get_args(option.model_fields[field.discriminator].annotation)[0]: option for option in options}
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)


def _options(annotation: Any) -> list[Any]:
    """The types inside an annotation such as ``Section``, ``Section | None`` or ``list[Section]``."""
    if get_origin(annotation) in (UnionType, Union, list, tuple):
        return [option for argument in get_args(annotation) for option in _options(argument)]
    return [annotation]
