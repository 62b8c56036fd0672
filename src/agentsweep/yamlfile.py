"""Reading YAML files that people write: one line for whatever is wrong with one."""

from pathlib import Path
from typing import Any

import yaml

from agentsweep.errors import ConfigError

try:
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    # PyYAML was built without libyaml.
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment] # the same, slower


class Loader(_SafeLoader):
    """YAML that refuses a key written twice, of which the last would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a text, not a list or a mapping", key_node.start_mark
                )
            if key_node.value in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is written twice", key_node.start_mark
                )
            if isinstance(key_node.value, str):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


# Far deeper than any file that people write. libyaml's binding calls itself for each level, and
# no limit of Python's ends that before the stack does.
_MOST_LEVELS = 200
# What aliases stand for, in values: some lines of them may stand for more than any memory holds.
_MOST_COPIED = 100_000


def check(text: str) -> None:
    """RecursionError for text that is nested deeper than _MOST_LEVELS, ValueError where its
    aliases stand for more than _MOST_COPIED values."""
    # Each level begins with one of these, so that most files need no second look.
    if sum(map(text.count, "[{-?:")) <= _MOST_LEVELS and "*" not in text:
        return
    sizes: dict[str, int] = {}
    # Of each collection that is open: its anchor, and how many values are in it so far.
    opened: list[tuple[str | None, int]] = [(None, 0)]
    copied = 0
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, 1))
            if len(opened) > _MOST_LEVELS:
                raise RecursionError
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            # One that stands for what it is in is refused by whoever follows it.
            anchor, size = None, sizes.get(event.anchor or "", 1)
            copied += size
            if copied > _MOST_COPIED:
                raise ValueError(f"its aliases stand for more than {_MOST_COPIED} values")
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        opened[-1] = (opened[-1][0], opened[-1][1] + size)


def read(path: Path) -> Any:
    """What a YAML file says; None for an empty one.

    Raises ConfigError with one line: missing, unreadable, not UTF-8, not YAML, a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        check(text)
        return yaml.load(text, Loader=Loader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {said}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        said = getattr(error, "problem", None) or getattr(error, "reason", None)
        kind = "" if isinstance(error, yaml.constructor.ConstructorError) else "not YAML: "
        raise ConfigError(f"{path}: {line}{kind}{said or 'it cannot be parsed'}") from None
    except (ValueError, TypeError, AttributeError, OverflowError, LookupError) as error:
        # A path with a NUL, and what a tag or a date promises and the text does not keep.
        said = str(error).split("\n", 1)[0]
        raise ConfigError(f"{str(path)!r}: not YAML that can be read: {said}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply, or an alias that holds itself") from None
