"""Commands that make tables, and other formats, of finished runs."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from agentsweep.cli import configuration, records
from agentsweep.cli.progress import counted, say
from agentsweep.errors import AgentsweepError

if TYPE_CHECKING:
    from agentsweep.grading.run_grades import Judged


def add_extract(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", help="name of the data set (default: as the run was made)")
    parser.set_defaults(command=_extract)


def add_trace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path)
    parser.set_defaults(command=_trace)


def add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, help="where the runs lie")
    parser.add_argument("--name", required=True, help="name of the data set")
    parser.add_argument("--layout", choices=("agentcgroup",), default="agentcgroup")
    parser.add_argument(
        "--attempts",
        choices=("last", "first", "all"),
        default="last",
        help="which attempts of a task count (default: last)",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(command=_import)


def add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", type=Path, required=True, help="file with one directory a line")
    parser.add_argument("--patches", type=Path, help="list of the patches that were graded")
    parser.add_argument("--cells", type=int, help="how many runs were wanted, for captions")
    parser.add_argument(
        "--judged",
        type=Path,
        help="file with what is known of a task a line, as JSON: `task`, `validation` (path of its "
        "record or null), `ungradable` (why its tests cannot be graded, or null)",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(command=_dataset)


def add_claims(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tables",
        type=Path,
        action="append",
        required=True,
        help="directory of the tables of one or more data sets; may be repeated",
    )
    parser.add_argument("--published", type=Path, help="CSV file with what a paper prints")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(command=_claims)


def add_export(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_subparsers(required=True, metavar="FORMAT")
    for name, command, said in (
        ("swebench", _export_swebench, "patches as predictions for SWE-bench's harness"),
        ("atif", _export_atif, "runs as trajectories in Harbor's ATIF"),
    ):
        exported = formats.add_parser(name, help=said)
        configuration.add_arguments(exported)
        exported.add_argument("--output", type=Path, required=True, help="directory to write to")
        exported.set_defaults(command=command)


def _extract(arguments: argparse.Namespace) -> None:
    from agentsweep.extraction import extract

    if not arguments.run_dir.is_dir():
        raise AgentsweepError(
            f"{arguments.run_dir} is no directory: name the directory of one run, as they are "
            "below results/runs/"
        )
    rows = extract.extract(arguments.run_dir, arguments.run_id, arguments.out, arguments.dataset)
    say(f"{arguments.out}: {counted(rows)}")


def _trace(arguments: argparse.Namespace) -> int:
    from agentsweep.agents.claude_code import trace

    return trace.main_trace(arguments.file)


def _import(arguments: argparse.Namespace) -> None:
    from agentsweep.extraction import importer

    rows = importer.import_runs(
        arguments.directory, arguments.name, arguments.attempts, arguments.out
    )
    say(f"{arguments.out}: {counted(rows)}")


def _dataset(arguments: argparse.Namespace) -> None:
    from agentsweep.extraction import aggregate
    from agentsweep.grading import run_grades

    folders = [Path(line) for line in records.lines(arguments.list)]
    judged = _judged(arguments.judged) if arguments.judged else {}
    gradings = run_grades.Grades(arguments.patches, judged)
    rows = aggregate.aggregate(folders, arguments.out, gradings, arguments.cells)
    for task, known in judged.items():
        if known.invalid:
            say(f"left out of shares and figures: all runs of {task}: {known.invalid}")
    say(f"{arguments.out}: {counted(rows)}")


def _judged(path: Path) -> "dict[str, Judged]":
    """What is known of tasks before their runs are looked at, by name."""
    from agentsweep.grading import run_grades

    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        record = None
        if said["validation"] is not None:
            keys = ("valid", "problems")
            record = records.read(Path(said["validation"]), keys, "run again")
        found[said["task"]] = run_grades.Judged.of(
            record, said["ungradable"], said.get("keep_invalid", False)
        )
    return found


def _claims(arguments: argparse.Namespace) -> None:
    from agentsweep.analysis import claims, cohort

    published = claims.read_published(arguments.published) if arguments.published else {}
    rows = claims.compute(cohort.load(arguments.tables))
    claims.write(rows, published, arguments.out)
    say(f"{arguments.out}: {len(rows)} values")


def _export_swebench(arguments: argparse.Namespace) -> None:
    from agentsweep.exports import swebench

    swebench.export(configuration.load(arguments), arguments.output, say)


def _export_atif(arguments: argparse.Namespace) -> None:
    from agentsweep.exports import atif_files

    atif_files.export(configuration.load(arguments), arguments.output, say)


# How each command gets its arguments.
ADD = {
    "extract": add_extract,
    "trace": add_trace,
    "import": add_import,
    "dataset": add_dataset,
    "claims": add_claims,
    "export": add_export,
}
