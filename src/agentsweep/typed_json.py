"""Frozen dataclasses as JSON, and back: what passes between processes, or is kept for years.

A reader refuses what it does not know, because a setting that is passed over in silence is one
that somebody believes to be in force.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from agentsweep.errors import ConfigError, show

T = TypeVar("T")

# Of a field: its key is left out where its value is None.
OMIT_NONE: Mapping[str, bool] = {"omit_none": True}

_KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def to_json(value: object) -> Any:
    """The plain value of a dataclass and of all that is in it: mappings, lists, texts, numbers."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((one, getattr(value, one.name)) for one in dataclasses.fields(value))
        return {
            one.name: to_json(inner)
            for one, inner in pairs
            if inner is not None or not one.metadata.get("omit_none")
        }
    if isinstance(value, Mapping):
        return {key: to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value


def from_json(kind: type[T], content: object, name: str) -> T:
    """A dataclass from its plain value; `name` is what messages call it.

    Raises ConfigError with one sentence where a key is unknown or missing, or a value is of
    another kind than its field.
    """
    made: T = _value(kind, content, name)
    return made


def _value(kind: Any, content: object, place: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return content
    if origin in (Union, types.UnionType):
        return _one_of(arguments, content, place)
    if origin is Literal:
        return _checked(content, content in arguments, place, f"one of {', '.join(arguments)}")
    if origin is tuple:
        _checked(content, isinstance(content, list | tuple), place, "a list")
        items = typing.cast("list[object]", content)
        return tuple(_value(arguments[0], item, f"{place}[{n}]") for n, item in enumerate(items))
    if origin is dict:
        pairs = _mapping(content, place)
        return {key: _value(arguments[1], item, f"{place}.{key}") for key, item in pairs.items()}
    if kind is Path:
        return Path(_checked(content, isinstance(content, str), place, "a path"))
    if dataclasses.is_dataclass(kind):
        return _fields(kind, _mapping(content, place), place)
    of_kind = type(content) is kind or (kind is float and type(content) is int)
    return _checked(content, of_kind, place, _KINDS[kind])


def _one_of(kinds: tuple[Any, ...], content: object, place: str) -> Any:
    """Of several dataclasses that whose `mode` is the content's; `X | None` is the common case."""
    if content is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) > 1:
        mode = _mapping(content, place).get("mode")
        modes = {typing.get_args(_hints(kind)["mode"])[0]: kind for kind in others}
        _checked(
            mode,
            isinstance(mode, str) and mode in modes,
            f"{place}.mode",
            f"one of {', '.join(modes)}",
        )
        return _value(modes[str(mode)], content, place)
    return _value(others[0], content, place)


def _fields(kind: Any, content: dict[str, object], place: str) -> Any:
    fields = {one.name: one for one in dataclasses.fields(kind)}
    for key in content:
        if key not in fields:
            raise ConfigError(
                f"{place}.{key}: unknown key; this version of agentsweep knows {', '.join(fields)}"
            )
    values = {}
    for name, one in fields.items():
        if name in content:
            values[name] = _value(_hints(kind)[name], content[name], f"{place}.{name}")
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise ConfigError(
                f"{place}.{name}: missing; it must be there: use the version of agentsweep that "
                "reads it for writing it too"
            )
    return kind(**values)


def _mapping(content: object, place: str) -> dict[str, object]:
    _checked(content, isinstance(content, dict), place, "a mapping")
    return typing.cast("dict[str, object]", content)


def _checked(content: Any, is_right: bool, place: str, allowed: str) -> Any:
    if not is_right:
        raise ConfigError(f"{place}: {show(content)} is not allowed; write {allowed}")
    return content


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)
