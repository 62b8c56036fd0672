"""Commands about tasks: fetch their sets, and write down which a sweep has."""

import argparse
from pathlib import Path

from agentsweep.cli import configuration, records
from agentsweep.cli.progress import say


def add_fetch_tasks(parser: argparse.ArgumentParser) -> None:
    configuration.add_arguments(parser)
    parser.set_defaults(command=_fetch_tasks)


def add_tasks(parser: argparse.ArgumentParser) -> None:
    configuration.add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(command=_tasks)


def _fetch_tasks(arguments: argparse.Namespace) -> None:
    from agentsweep.config.load import hub_splits
    from agentsweep.tasks import hub

    splits = hub_splits(configuration.source(arguments))
    for wanted in splits:
        say(f"fetching {wanted}")
        for path in hub.fetch(wanted):
            say(f"  {path}")
    if not splits:
        say("the configuration names no task set of the hub: there is nothing to fetch")


def _tasks(arguments: argparse.Namespace) -> None:
    from agentsweep.cli import tasks_file

    document = tasks_file.document(configuration.load(arguments))
    records.write(arguments.out, document)
    say(f"{arguments.out}: {len(document['tasks'])} tasks")


# How each command gets its arguments.
ADD = {
    "fetch-tasks": add_fetch_tasks,
    "tasks": add_tasks,
}
