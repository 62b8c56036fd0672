"""The `agentsweep` command: arguments, and calls to the rest."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from agentsweep import __version__, utf8
from agentsweep.cli.progress import say
from agentsweep.errors import AgentsweepError

_NAME_CHARS = 400


class Command(NamedTuple):
    """A command: the module beside this one that has it, and what `--help` says of it."""

    name: str
    module: str
    help: str


# In the order of `--help`. A module is loaded for its own commands alone.
COMMANDS = (
    Command("doctor", "runs", "check this host, and say how to mend it"),
    Command("plan", "runs", "list the cells: sealed, to run, and their cost in time and money"),
    Command("run", "runs", "run one cell, or recall it from the store"),
    Command("rerun", "runs", "run a cell again, although it has its run, which is kept"),
    Command("extract", "tables", "one run's files to tables"),
    Command("trace", "tables", "summarise a Claude Code session file as JSON"),
    Command("import", "tables", "runs that others made, to tables"),
    Command("dataset", "tables", "aggregate extracted runs to one data set"),
    Command("patches", "gradings", "list the distinct patches of runs"),
    Command("grade", "gradings", "grade a patch, or recall its grading"),
    Command(
        "validate-task", "gradings", "whether a task's gold patch resolves it and no patch does not"
    ),
    Command("validations", "gradings", "say which tasks are valid"),
    Command("claims", "tables", "a paper's claims for data sets, in both modes"),
    Command("export", "tables", "the finished runs, in the formats of others"),
    Command("lock", "images", "resolve image references to digests"),
    Command("fetch-tasks", "tasks", "download the task sets that are on the Hugging Face hub"),
    Command("tasks", "tasks", "write down which tasks a sweep has"),
    Command("image-pull", "images", "pull one locked image"),
    Command("image-fix", "images", "give an image's work tree to the agent's user"),
    Command("store", "store", "look into the run store"),
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; errors are one line each on standard error, without a traceback."""
    if argv is None:
        utf8.restart_in_utf8()
    utf8.set_streams()
    words = sys.argv[1:] if argv is None else argv
    arguments = parser_for(words).parse_args(words)
    try:
        if getattr(arguments, "is_job", False):
            return _as_job(arguments, words)
        return arguments.command(arguments) or 0
    except AgentsweepError as error:
        for line in str(error).splitlines():
            print(f"agentsweep: {line}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"agentsweep: {_os_sentence(error)}", file=sys.stderr)
        return 1
    except UnicodeEncodeError as error:
        # Text is checked where it is read, so that this is the name of a file.
        print(
            f"agentsweep: {error.object[:_NAME_CHARS]}: the name is not UTF-8: rename it",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("agentsweep: interrupted", file=sys.stderr)
        return 130


def _as_job(arguments: argparse.Namespace, words: list[str]) -> int:
    """A command that jobs of the workflow run, and that is tried again where that may help."""
    from agentsweep import retries

    return retries.run(lambda: arguments.command(arguments) or 0, words, say)


def _os_sentence(error: OSError) -> str:
    """What the system refused: which file, why, and what to look at."""
    where = f"{error.filename}: " if error.filename is not None else ""
    if isinstance(error, FileNotFoundError):
        return f"{where}there is no such file or directory: check the path"
    return f"{where}{error.strerror or error}: check the path, its permissions and the disk"


def parser_for(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command line; of its commands, the one that is named has its arguments."""
    parser = argparse.ArgumentParser(
        prog="agentsweep",
        description="Measure what memory and CPU limits do to coding agents.",
    )
    parser.add_argument("--version", action="version", version=f"agentsweep {__version__}")
    parsers = parser.add_subparsers(required=True, metavar="COMMAND")
    named = next((word for word in words if not word.startswith("-")), None)
    for command in COMMANDS:
        own = parsers.add_parser(command.name, help=command.help)
        if command.name == named:
            importlib.import_module(f"agentsweep.cli.{command.module}").ADD[command.name](own)
    return parser
