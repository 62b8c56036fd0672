"""YAML files against their schema: every problem as one line, and the defaults filled in.

A line says where (file and key), what is there and what is allowed there.
"""

import difflib
import functools
import math
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from agentsweep import yamlfile
from agentsweep.errors import ConfigError, show

SCHEMAS = resources.files("agentsweep") / "schemas"

_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_FAR = 1000
_COMMAND_LINE_BOOLEANS = {"true", "false", "yes", "no", "on", "off"}


def read_mapping(path: Path) -> dict:
    """A YAML file whose top level is a mapping; an empty file is an empty one.

    Raises ConfigError with one line for a file that is not that.
    """
    content = yamlfile.read(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {show(content)} is not allowed here; write a mapping of keys")
    return content


@functools.cache
def load_schema(name: str) -> dict:
    """One of the schemas of this package: `config`, `task` or `task_set`."""
    return yamlfile.read(SCHEMAS / f"{name}.schema.yaml")


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(load_schema(name))


def problems(name: str, content: Any) -> list[tuple[tuple, str]]:
    """What is wrong with `content`: (path of keys, what is there and allowed), each once."""
    return list(dict.fromkeys(_problems(name, content)))


def _unusable(content: Any) -> Iterator[tuple[tuple, str]]:
    """What no key of any schema may hold, wherever it is."""
    left: list[tuple[tuple, Any]] = [((), content)]
    while left:
        path, value = left.pop()
        if isinstance(value, Mapping):
            for key, below in value.items():
                if isinstance(key, str):
                    left.append(((*path, key), below))
                else:
                    yield (*path, str(key)), "the key is not a text; put it into quotes"
        elif isinstance(value, list | tuple):
            left += [((*path, index), below) for index, below in enumerate(value)]
        elif isinstance(value, str) and "\0" in value:
            yield path, "a NUL character is not allowed; leave it out"
        elif isinstance(value, float) and not math.isfinite(value):
            yield path, f"{value} is not allowed; write a finite number"


def _problems(name: str, content: Any) -> Iterator[tuple[tuple, str]]:
    unusable = list(_unusable(content))
    if unusable:
        # The rest is asked when these are gone: a schema cannot say anything of such keys.
        yield from unusable
        return
    found = sorted(_validator(name).iter_errors(content), key=lambda e: str(list(e.absolute_path)))
    for error in found:
        path = tuple(error.absolute_path)
        if error.validator in ("additionalProperties", "unevaluatedProperties"):
            # A bad value below makes jsonschema call its key unevaluated too.
            known = properties(name, error.schema)
            for key in error.instance:
                if key not in known:
                    yield (*path, key), f"unknown key; {_did_you_mean(str(key), list(known))}"
        elif error.validator == "required":
            for key in error.validator_value:
                if key not in error.instance:
                    known = properties(name, error.schema)[key]
                    yield (*path, key), f"missing; {_allowed(known)} must be there"
        elif error.validator == "propertyNames" or "propertyNames" in error.absolute_schema_path:
            yield (
                (*path, error.instance),
                "is not a name; allowed are letters, digits, `.`, `_` and `-`, beginning with a "
                "letter or digit",
            )
        else:
            allowed = _allowed(error.schema, error.validator == "maximum")
            found = show(error.instance)
            if error.schema.get("x-secret"):
                found = "what is there (not shown, it may be a secret)"
            yield path, f"{found} is not allowed; write {allowed}{_hint(error)}"


def properties(name: str, node: Mapping) -> dict[str, dict]:
    """The keys that a node of a schema knows, those of its `$ref` included."""
    known = {}
    if "$ref" in node:
        target = load_schema(name)
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        known |= properties(name, target)
    return known | node.get("properties", {})


def with_defaults(name: str, content: Mapping, node: Mapping | None = None) -> dict:
    """`content` with the schema's default wherever a key is absent, in the schema's order."""
    node = load_schema(name) if node is None else node
    filled = {}
    for key, known in properties(name, node).items():
        value = content.get(key, known.get("default"))
        if known.get("type") == "object" and isinstance(value, Mapping):
            value = with_defaults(name, value, known)
        if key in content or "default" in known:
            filled[key] = value
    return filled | {key: content[key] for key in content if key not in filled}


def keys(name: str, node: Mapping | None = None, prefix: str = "") -> Iterator[tuple[str, dict]]:
    """Every key of a schema with a dotted name (`agents.<name>.model`), and what it says."""
    node = load_schema(name) if node is None else node
    for key, known in properties(name, node).items():
        named = known.get("additionalProperties")
        if isinstance(named, Mapping) and "properties" in named:
            # What an agent may override is listed once, under `agent`.
            own = {"properties": named["properties"]}
            yield from keys(name, own, f"{prefix}{key}.<name>.")
        elif properties(name, known):
            yield from keys(name, known, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", known


def dotted(path: tuple) -> str:
    """`("sweep", "memory", 1)` as `sweep.memory[1]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def type_in_words(node: Mapping) -> str:
    """What kind of value a key holds: `a whole number or null`, or the words it may be."""
    if "x-type" in node:
        return node["x-type"]
    if "enum" in node:
        return _one_of([str(value) for value in node["enum"]])
    types = node.get("type", "object")
    return _one_of([_TYPES[kind] for kind in ([types] if isinstance(types, str) else types)])


def _allowed(node: Mapping, too_large: bool = False) -> str:
    """What a key may hold, in words, from its schema.

    A bound that is only there because numbers end somewhere is named where it was passed.
    """
    if "x-allowed" in node:
        return node["x-allowed"]
    if "enum" in node:
        return type_in_words(node)
    words = type_in_words(node)
    near = "maximum" in node and (too_large or node["maximum"] < _FAR)
    if "minimum" in node and near:
        words += f" from {node['minimum']} to {node['maximum']}"
    elif near:
        words += f", {node['maximum']} or less"
    elif "minimum" in node:
        words += f", {node['minimum']} or more"
    elif "exclusiveMinimum" in node:
        words += f" greater than {node['exclusiveMinimum']}"
    if node.get("minItems") or node.get("minProperties") or node.get("minLength"):
        words += " that is not empty"
    if "pattern" in node:
        words += f" that matches {node['pattern']}"
    return words


def _one_of(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _hint(error: jsonschema.ValidationError) -> str:
    wanted, found = error.schema.get("type"), error.instance
    if wanted == "boolean" and isinstance(found, str) and found.lower() in _COMMAND_LINE_BOOLEANS:
        return " (after --config: True or False, with a capital letter)"
    return ""


def _did_you_mean(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else f"allowed are {', '.join(known)}"
