"""What YAML files may hold, as models: every problem is one line, and defaults are filled in.

A model's fields are its file's keys. From them come what is checked, the defaults, the JSON Schema
that editors read, and the tables of config/README.md. A line says where (file and key), what is
there and what is allowed there.
"""

import difflib
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from agentsweep import yamlfile
from agentsweep.errors import ConfigError, show

# What JSON or YAML from outside says, of which nothing is known before it is checked.
Json = dict[str, Any]
# Keys and indices that lead to a value.
KeyPath = tuple[Any, ...]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
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


class Section(BaseModel):
    """A mapping of a file: its keys are the fields, no others are allowed, nothing is converted."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


M = TypeVar("M", bound=Section)


def key(
    default: Any,
    description: str,
    *,
    reruns: str | None = None,
    allowed: str | None = None,
    type_words: str | None = None,
    secret: bool = False,
    **limits: Any,
) -> Any:
    """A key of a section; `...` as default for one that must be there.

    reruns: whether a change reruns agents (`yes`, `no`, `new`, `repeat`); allowed and type_words:
    what messages and the table say in place of what follows from the type; secret: messages do not
    show the value; limits: pydantic's (`ge`, `pattern`, `examples` ...).
    """
    return Field(
        default, description=description, json_schema_extra=hints(
            reruns=reruns, allowed=allowed, type=type_words, secret=secret or None
        ), **limits,
    )  # fmt: skip


def hints(**said: Any) -> Json:
    """The keys of ours in a JSON Schema: `x-allowed` and the like, those that are not None."""
    return {f"x-{name}": value for name, value in said.items() if value is not None}


def not_allowed(allowed: str) -> PydanticCustomError:
    """What a validator raises: the value is not allowed, and this is."""
    return PydanticCustomError("not_allowed", "not allowed", {"allowed": allowed})


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _EachOnce:
    """A list in which no value is twice; pydantic has no such limit of its own."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"uniqueItems": True}

    @staticmethod
    def _check(values: list[Any]) -> list[Any]:
        if any(value in values[:index] for index, value in enumerate(values)):
            raise PydanticCustomError("not_unique", "a value is there twice")
        return values


class _AsWritten:
    """A number that stays an int where it is one."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        same = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        return core_schema.no_info_wrap_validator_function(
            self._check, handler(source), serialization=same
        )

    @staticmethod
    def _check(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        check(value)
        return value


class _NotNull:
    """A key that may be left out, and where null is no value: `Annotated[X | None, NOT_NULL]`."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        made = handler(source)
        return made["schema"] if made["type"] == "nullable" else made


# Limits stand before these, next to the type: `Annotated[float, Field(gt=0), AS_WRITTEN]`.
AS_WRITTEN = _AsWritten()
# 2.0 is whole, as JSON Schema has it.
WHOLE = BeforeValidator(_whole)
EACH_ONCE = _EachOnce()
NOT_NULL = _NotNull()
Number = Annotated[float, AS_WRITTEN]
Whole = Annotated[int, WHOLE]


def read_mapping(path: Path) -> Json:
    """A YAML file whose top level is a mapping; an empty file is an empty one.

    Raises ConfigError with one line for a file that is not that.
    """
    content = yamlfile.read(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: {show(content)} is not allowed here; write a mapping of keys")
    return content


def check(model: type[M], content: Any) -> tuple[M | None, list[tuple[KeyPath, str]]]:
    """A content as its model, with defaults; or None, and what is wrong with it.

    A problem is a path of keys, and what is there and allowed; each is there once.
    """
    unusable = list(dict.fromkeys(_unusable(content)))
    if unusable:
        # The rest is asked when these are gone: a model cannot say anything of such keys.
        return None, unusable
    try:
        return model.model_validate(content), []
    except ValidationError as error:
        schema = json_schema(model)
        found = sorted(
            (_problem(schema, content, detail) for detail in error.errors(include_url=False)),
            key=lambda problem: str(list(problem[0])),
        )
    return None, list(dict.fromkeys((path, said) for _, path, said in found))


def problems(model: type[Section], content: Any) -> list[tuple[KeyPath, str]]:
    """What is wrong with `content`: (path of keys, what is there and allowed), each once."""
    return check(model, content)[1]


def _unusable(content: Any) -> Iterator[tuple[KeyPath, str]]:
    """What no key of any model may hold, wherever it is."""
    left: list[tuple[KeyPath, Any]] = [((), content)]
    while left:
        path, value = left.pop()
        if isinstance(value, Mapping):
            for name, below in value.items():
                if isinstance(name, str):
                    left.append(((*path, name), below))
                else:
                    yield (*path, str(name)), "the key is not a text; put it into quotes"
        elif isinstance(value, list | tuple):
            left += [((*path, index), below) for index, below in enumerate(value)]
        elif isinstance(value, str) and "\0" in value:
            yield path, "a NUL character is not allowed; leave it out"
        elif isinstance(value, float) and not math.isfinite(value):
            yield path, f"{value} is not allowed; write a finite number"


def _problem(schema: Json, content: Any, error: ErrorDetails) -> tuple[KeyPath, KeyPath, str]:
    """One error of pydantic's: the mapping or value that it is of, its path, and our sentence."""
    kind, loc = error["type"], error["loc"]
    if kind == "missing":
        path = _path(content, loc[:-1])
        known = properties(schema, _node(schema, path))[str(loc[-1])]
        return path, (*path, loc[-1]), f"missing; {_allowed(known)} must be there"
    path = _path(content, loc)
    if kind == "extra_forbidden":
        known = properties(schema, _node(schema, path[:-1]))
        said = f"unknown key; {_did_you_mean(str(path[-1]), list(known))}"
        return path[:-1], path, said
    if loc and loc[-1] == "[key]":
        said = (
            "is not a name; allowed are letters, digits, `.`, `_` and `-`, beginning with a "
            "letter or digit"
        )
        return path[:-1], path, said
    node, value = _node(schema, path), _at(content, path)
    far = kind in ("less_than", "less_than_equal")
    allowed = error.get("ctx", {}).get("allowed") or _allowed(node, far)
    found = show(value)
    if node.get("x-secret"):
        found = "what is there (not shown, it may be a secret)"
    return path, path, f"{found} is not allowed; write {allowed}{_hint(node, value)}"


def _path(content: Any, loc: tuple[int | str, ...]) -> KeyPath:
    """The part of pydantic's path that leads through the content; the rest names its validators."""
    path: KeyPath = ()
    for part in loc:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            continue
        path = (*path, part)
    return path


def _at(content: Any, path: KeyPath) -> Any:
    for part in path:
        content = content[part]
    return content


class _Generator(GenerateJsonSchema):
    """Short schemas, in the words that messages and tables are made of."""

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        return {"enum": list(schema["expected"])}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        if isinstance(inner.get("type"), str):
            return inner | {"type": [inner["type"], "null"]}
        return {"anyOf": [inner, {"type": "null"}]}

    def union_schema(self, schema: core_schema.UnionSchema) -> JsonSchemaValue:
        merged = super().union_schema(schema)
        options = merged.get("anyOf", ())
        if options and all(option.keys() == {"type"} for option in options):
            return {"type": [option["type"] for option in options]}
        return merged

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made: Json = {"type": "object"}
        if "keys_schema" in schema:
            names = self.generate_inner(schema["keys_schema"])
            names.pop("type")
            made |= {"propertyNames": names} if names else {}
        values = self.generate_inner(schema["values_schema"]) if "values_schema" in schema else {}
        made |= {"additionalProperties": values} if values else {}
        return made | ({"minProperties": schema["min_length"]} if "min_length" in schema else {})

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        if "title" not in schema["cls"].model_config:
            made.pop("title", None)
        return made


@functools.cache
def json_schema(model: type[Section]) -> Json:
    """The JSON Schema of a model, as editors read it."""
    return {"$schema": DIALECT} | model.model_json_schema(schema_generator=_Generator)


def _options(schema: Json, node: Json) -> Iterator[Json]:
    """A node of a schema, what it refers to, and what it lets choose from."""
    yield node
    if "$ref" in node:
        yield from _options(schema, schema["$defs"][node["$ref"].removeprefix("#/$defs/")])
    for choice in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from _options(schema, choice)


def properties(schema: Json, node: Json) -> dict[str, Json]:
    """The keys that a node of a schema knows, those that it refers to included."""
    known: dict[str, Json] = {}
    for option in _options(schema, node):
        known |= option.get("properties", {})
    return known


def _node(schema: Json, path: KeyPath) -> Json:
    """What a schema says of the value at a path."""
    node = schema
    for part in path:
        node = _below(schema, node, part)
    return node


def _below(schema: Json, node: Json, part: str | int) -> Json:
    for option in _options(schema, node):
        below = (
            option.get("items")
            if isinstance(part, int)
            else option.get("properties", {}).get(part, option.get("additionalProperties"))
        )
        if isinstance(below, dict):
            return below
    return {}


def keys(model: type[Section], prefix: str = "") -> Iterator[tuple[str, Json]]:
    """Every key of a model with a dotted name (`agents.<name>.model`), and what its schema says.

    What the sections of a mapping by names share with another one (as agents with `agent`) is not
    repeated. A section that has words for its type is one value.
    """
    known = json_schema(model)["properties"]
    for name, field in model.model_fields.items():
        section, named = _section(field.annotation), _named_section(field.annotation)
        if section is not None and "x-type" not in known[name]:
            yield from keys(section, f"{prefix}{name}.")
        elif named is not None:
            own = json_schema(named)["properties"]
            for of_name in named.model_fields:
                if of_name in named.__annotations__:
                    yield f"{prefix}{name}.<name>.{of_name}", own[of_name]
        else:
            yield f"{prefix}{name}", known[name]


def _section(annotation: Any) -> type[Section] | None:
    """The section that a field holds, if it does, or `null` in its place."""
    choices = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    for choice in choices:
        if isinstance(choice, type) and issubclass(choice, Section):
            return choice
    return None


def _named_section(annotation: Any) -> type[Section] | None:
    """The section that a field holds by names of the user's."""
    return _section(get_args(annotation)[1]) if get_origin(annotation) is dict else None


def dotted(path: KeyPath) -> str:
    """`("sweep", "memory", 1)` as `sweep.memory[1]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def type_in_words(node: Json) -> str:
    """What kind of value a key holds: `a whole number or null`, or the words it may be."""
    if "x-type" in node:
        return str(node["x-type"])
    if "enum" in node:
        return _one_of([str(value) for value in node["enum"]])
    return _one_of([_TYPES[kind] for kind in _types(node)])


def _types(node: Json) -> list[str]:
    if "type" in node:
        types = node["type"]
        return [types] if isinstance(types, str) else list(types)
    if "anyOf" in node:
        return [kind for choice in node["anyOf"] for kind in _types(choice)]
    # What is referred to are sections.
    return ["object"]


def _allowed(node: Json, too_large: bool = False) -> str:
    """What a key may hold, in words, from its schema.

    A bound that is only there because numbers end somewhere is named where it was passed.
    """
    if "x-allowed" in node:
        return str(node["x-allowed"])
    words = type_in_words(node)
    if "enum" in node:
        return words
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


def _hint(node: Json, found: Any) -> str:
    wanted = node.get("type")
    if wanted == "boolean" and isinstance(found, str) and found.lower() in _COMMAND_LINE_BOOLEANS:
        return " (after --config: True or False, with a capital letter)"
    return ""


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"allowed are {', '.join(known)}"
