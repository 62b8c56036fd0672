"""Commands that grade patches and validate tasks."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentsweep.cli import configuration, records
from agentsweep.cli.progress import say
from agentsweep.errors import AgentsweepError, ConfigError

if TYPE_CHECKING:
    from agentsweep.config.config import Config


def add_patches(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--list",
        type=Path,
        required=True,
        help="file with a task, a tab and a run's directory a line",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(command=_patches)


def add_grade(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help="the task's name in the configuration")
    parser.add_argument("--patch", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="directory for the grading's files")
    configuration.add_arguments(parser)
    parser.set_defaults(command=_grade, is_job=True)


def add_validate_task(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", help="the task's name in the configuration")
    parser.add_argument("--out", type=Path, required=True, help="the record to write")
    configuration.add_arguments(parser)
    parser.set_defaults(command=_validate, is_job=True)


def add_validations(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--list", type=Path, required=True, help="file with the path of one record a line"
    )
    parser.set_defaults(command=_validations)


def _patches(arguments: argparse.Namespace) -> None:
    from agentsweep.grading import patches

    lines = [line.split("\t") for line in records.lines(arguments.list)]
    found = patches.collect([(task, Path(run)) for task, run in lines], arguments.out)
    say(f"{arguments.out}: {found} patches of {len(lines)} runs")


def _grade(arguments: argparse.Namespace) -> None:
    from agentsweep.containers import cleanup
    from agentsweep.grading import grading_job, grading_plan

    config = configuration.load(arguments)
    _refuse_ungradable(config, arguments.task)
    try:
        patch = arguments.patch.read_bytes()
    except OSError as error:
        raise AgentsweepError(f"{arguments.patch}: {error.strerror}; name a patch file") from None
    found = grading_job.grade(
        grading_plan.plan(config, arguments.task),
        patch,
        arguments.out,
        lambda: cleanup.clean_engine(config.container.engine, config.container.runtime),
        say,
    )
    if found.status == "ungraded":
        say(f"{arguments.task}: ungraded: {found.detail}")
        return
    verdict = "resolved" if found.resolved else "not resolved"
    say(
        f"{arguments.task}: {verdict} ({found.status}{f': {found.detail}' if found.detail else ''})"
    )


def _validate(arguments: argparse.Namespace) -> None:
    from agentsweep.containers import cleanup
    from agentsweep.grading import grading_job, grading_plan

    config = configuration.load(arguments)
    _refuse_ungradable(config, arguments.task)
    record = grading_job.validate(
        grading_plan.plan(config, arguments.task),
        lambda: cleanup.clean_engine(config.container.engine, config.container.runtime),
        say,
    )
    records.write(arguments.out, record)
    say("; ".join([_validity(record), *record["problems"]]))


def _validations(arguments: argparse.Namespace) -> None:
    paths = [Path(line) for line in records.lines(arguments.list)]
    if not paths:
        print("no task of the sweep has a row whose tests can be graded")
    for path in paths:
        record = records.read(path, ("task", "valid", "problems", "repeats"), "validate again")
        print(_validity(record))
        for problem in record["problems"]:
            print(f"    {problem}")


def _validity(record: dict[str, Any]) -> str:
    if record["valid"] is None:
        return f"{record['task']}: not known, for it could not be validated: {record['unknown']}"
    word = "valid" if record["valid"] else "NOT VALID, left out of shares and figures"
    return f"{record['task']}: {word} (gold and empty patch, {record['repeats']} times each)"


def _refuse_ungradable(config: "Config", task: str) -> None:
    from agentsweep.grading import grading_plan

    reason = grading_plan.ungradable(config, task)
    if config.task(task).row is None:
        reason = "it has no `row` of a benchmark: name one"
    if reason is not None:
        raise ConfigError(f"tasks.{task}: ungraded: {reason}")


# How each command gets its arguments.
ADD = {
    "patches": add_patches,
    "grade": add_grade,
    "validate-task": add_validate_task,
    "validations": add_validations,
}
