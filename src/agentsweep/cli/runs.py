"""Commands about runs: whether this host is fit for them, which there are, and making them."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentsweep.cli import configuration, records
from agentsweep.cli.progress import progress, say
from agentsweep.errors import AgentsweepError, ConfigError

if TYPE_CHECKING:
    from agentsweep.config.cells import Cell
    from agentsweep.config.config import Config

_IMAGE_KEYS = (
    *("reference", "digest", "config_digest", "tag", "id", "size_bytes"),
    *("workdir", "uid", "gid", "history", "pull_s", "fix_s"),
)


def add_doctor(parser: argparse.ArgumentParser) -> None:
    configuration.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    parser.set_defaults(command=_doctor)


def add_plan(parser: argparse.ArgumentParser) -> None:
    configuration.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(command=_plan)


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cell", help="cell id, as `agentsweep plan` lists them")
    configuration.add_arguments(parser)
    parser.add_argument("--spec", help="refuse unless the cell's spec, or its SHA-256, is this one")
    parser.add_argument("--image", type=Path, help="record of the fixed image (image.json)")
    parser.add_argument("--out", type=Path, help="where the run's files go")
    parser.set_defaults(command=_run, is_job=True)


def add_rerun(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cell", nargs="+", help="cell id, as `agentsweep plan` lists them")
    configuration.add_arguments(parser)
    parser.add_argument("--remove", action="store_true", help="delete its sealed run (with --yes)")
    parser.add_argument("--yes", action="store_true", help="with --remove: delete it for ever")
    parser.set_defaults(command=_rerun)


def _doctor(arguments: argparse.Namespace) -> int:
    from agentsweep.cli import doctor

    checks = doctor.examine(configuration.load(arguments))
    if arguments.json:
        print(json.dumps([vars(check) for check in checks], indent=1))
    else:
        doctor.report(checks)
    return 1 if any(check.state == "fail" for check in checks) else 0


def _plan(arguments: argparse.Namespace) -> None:
    from agentsweep.cli import plan

    plan.main(configuration.load(arguments), as_json=arguments.json)


def _run(arguments: argparse.Namespace) -> None:
    from agentsweep.runs import run_cell

    config = configuration.load(arguments)
    cell = config.cell(arguments.cell)
    spec = config.spec(cell)
    if arguments.spec not in (None, spec, config.spec_sha256(cell)):
        raise AgentsweepError(
            f"{cell.id}: its task, scenario or settings changed after the workflow was planned: "
            "start the workflow again"
        )
    job = config.job(cell)
    # A run that is recalled, or refused, needs no image.
    needed = job.on_miss == "run" and not config.is_sealed(cell)
    image = _image_record(config, cell, arguments.image) if needed else {}
    out = arguments.out or Path(config.paths.results) / "runs" / cell.id
    with progress() as say:
        run_cell.run_cell(job, spec, image, out, say=say)
        say(f"its files are in {out}")


def _rerun(arguments: argparse.Namespace) -> None:
    from agentsweep.cli import rerun

    if arguments.remove and not arguments.yes:
        raise AgentsweepError(
            "--remove: a sealed run may have cost money: add --yes to delete it for ever, or leave "
            "--remove out to keep it in the store"
        )
    config = configuration.load(arguments)
    cells = [config.cell(name) for name in arguments.cell]
    rerun.rerun(config, cells, say, remove=arguments.remove)


def _image_record(config: "Config", cell: "Cell", path: Path | None) -> dict[str, Any]:
    """The record of the cell's image; ConfigError where it is another image's."""
    image = config.image_of(cell.task)
    if image.digest is None:
        raise ConfigError(
            f"{config.images.lock}: {image.reference} is not in it: run `snakemake --cores 1 lock`"
        )
    path = path or Path(config.paths.results) / "images" / image.directory / "image.json"
    record = records.read(path, _IMAGE_KEYS, "run `snakemake --cores 1 images`")
    if record["digest"] != image.digest:
        raise ConfigError(
            f"{path}: it is the record of {record['digest']}, and task {cell.task} has "
            f"{image.digest}: run `snakemake --cores 1 images`"
        )
    return record


# How each command gets its arguments.
ADD = {
    "doctor": add_doctor,
    "plan": add_plan,
    "run": add_run,
    "rerun": add_rerun,
}
