"""Snakemake's command line as people write it: targets after `--configfile`, dotted keys.

Snakemake takes every word after `--configfile` for a file and every word after `--config` for
`key=value`, also a target, and knows no keys below the first level. profiles/default starts it
again with the same meaning in words that it understands.
"""

import json
import os
import re
import sys
from pathlib import Path

import yaml

from agentsweep import yamlfile
from agentsweep.errors import ConfigError

_FILES = ("--configfile", "--configfiles")
_VALUES = ("--config", "-C")
_FILE = re.compile(r"\.(ya?ml|json)$", re.IGNORECASE)
_DOTTED = re.compile(r"([A-Za-z_][\w-]*)((?:\.[\w~-]+)+)=(.*)", re.DOTALL)


def start_again(argv: list[str]) -> None:
    """Replace this process by Snakemake with the words put right, if any has to be.

    argv: as in `sys.argv`; where that is not Snakemake's own command line, nothing is done. Where a
    file after `--configfile` cannot be read, this process ends with a sentence that says why.
    """
    if not _is_snakemake(argv[0]):
        return
    words = put_right(argv[1:])
    try:
        for path in config_files(words):
            yamlfile.read(path)
    except ConfigError as error:
        # Snakemake would end with a traceback, or without the line.
        sys.exit("\n".join(f"agentsweep: {problem}" for problem in error.problems))
    if words != argv[1:]:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, "-m", "snakemake", *words])


def put_right(words: list[str]) -> list[str]:
    """The words with targets at the end, after `--`, and `a.b=1` as `a={"b": 1}`."""
    end = words.index("--") if "--" in words else len(words)
    kept, targets, option, first = [], [], None, False
    for word in words[:end]:
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            if equals and option in _VALUES:
                word = f"{option}={_nested(value)}"
            # The value after `=` is the option's only one.
            option, first = (None if equals else option), True
        elif option in _FILES and not first and not _FILE.search(word):
            targets.append(word)
            continue
        elif option in _VALUES:
            if "=" not in word and not first:
                targets.append(word)
                continue
            word = _nested(word)
            first = False
        else:
            first = False
        kept.append(word)
    return [*kept, *(["--", *targets] if targets else []), *words[end + bool(targets) :]]


def config_files(words: list[str]) -> list[Path]:
    """The YAML files after `--configfile`, in words that were put right."""
    found, option = [], None
    for word in words[: words.index("--") if "--" in words else len(words)]:
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            word = value if equals else ""
        if option in _FILES and word.lower().endswith((".yaml", ".yml")):
            found.append(Path(word))
    return found


def _nested(entry: str) -> str:
    """`agent.max_turns=3` as `agent={"max_turns": 3}`; any other entry as it is."""
    match = _DOTTED.fullmatch(entry)
    if not match:
        return entry
    first, rest, text = match.groups()
    try:
        value = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        value = text
    for key in reversed(rest.split(".")[1:]):
        value = {key: value}
    return f"{first}={json.dumps(value)}"


def _is_snakemake(program: str) -> bool:
    path = Path(program)
    return path.name == "snakemake" or path.parts[-2:] == ("snakemake", "__main__.py")
