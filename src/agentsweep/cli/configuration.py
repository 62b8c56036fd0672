"""The configuration that a command is given: files, or JSON on the command line."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentsweep.errors import ConfigError

if TYPE_CHECKING:
    from agentsweep.config.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a configuration."""
    parser.add_argument(
        "--config",
        action="append",
        metavar="FILE|JSON|-",
        help="configuration file, laid over config/config.yaml; may be repeated, later ones win. "
        "Or a whole configuration as JSON (`-` reads it from standard input), which stands alone",
    )


def load(arguments: argparse.Namespace) -> "Config":
    """The configuration that `--config` names, checked."""
    from agentsweep.config.load import load as load_configuration

    return load_configuration(source(arguments))


def source(arguments: argparse.Namespace) -> list[Path] | dict[str, Any]:
    """What --config names: files and those below them, or a configuration itself."""
    from agentsweep.config import layers

    sources = arguments.config or []
    # No argument may have more than 128 KiB (MAX_ARG_STRLEN of Linux), which a long list passes.
    texts = [
        _standard_input() if source == "-" else source
        for source in sources
        if source == "-" or source.lstrip().startswith("{")
    ]
    if not texts:
        if not sources and not layers.BASE.exists():
            raise ConfigError(
                f"{layers.BASE}: there is no such file: start agentsweep in the project's "
                "directory, or name your configuration with --config"
            )
        return layers.files(Path(source) for source in sources)
    if len(sources) > 1:
        raise ConfigError("--config: JSON stands alone: put it into a file to lay it over another")
    from agentsweep import untrusted

    try:
        found = untrusted.loads(texts[0])
    except ValueError as error:
        raise ConfigError(
            f"--config: not JSON ({error}): mend it, or give the name of a file"
        ) from None
    if not isinstance(found, dict):
        raise ConfigError("--config: not a mapping: write the keys of a configuration")
    return found


def _standard_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise ConfigError("--config -: standard input is not UTF-8: write it in UTF-8") from None
