"""The `agentsweep` command: arguments, and calls to the rest."""

import argparse
import json
import os
import sys
from pathlib import Path

from agentsweep import __version__
from agentsweep.errors import AgentsweepError

EXIT_USAGE = 2


def main(argv: list[str] | None = None) -> int:
    """Run one command; errors are one line each on standard error, without a traceback."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except AgentsweepError as error:
        for line in str(error).splitlines():
            print(f"agentsweep: {line}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("agentsweep: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentsweep",
        description="Measure what memory and CPU limits do to coding agents.",
    )
    parser.add_argument("--version", action="version", version=f"agentsweep {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser("doctor", help="check this host, and say how to mend it")
    _config(doctor)
    doctor.add_argument("--json", action="store_true", help="print the checks as JSON")
    doctor.set_defaults(command=_doctor)

    plan = commands.add_parser(
        "plan", help="list the cells: sealed, to run, and their cost in time"
    )
    _config(plan)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.set_defaults(command=_plan)

    run = commands.add_parser("run", help="run one cell, or recall it from the store")
    run.add_argument("cell", help="cell id, as `agentsweep plan` lists them")
    _config(run)
    run.add_argument("--spec", help="refuse unless the cell's spec is this one")
    run.add_argument("--image", type=Path, help="record of the fixed image (image.json)")
    run.add_argument("--out", type=Path, help="where the run's files go")
    run.set_defaults(command=_run)

    extract = commands.add_parser("extract", help="one run's files to tables")
    extract.add_argument("run_dir", type=Path)
    extract.add_argument("--run-id", required=True)
    extract.add_argument("--out", type=Path, required=True)
    extract.set_defaults(command=_extract)

    trace = commands.add_parser("trace", help="summarise a Claude Code session file as JSON")
    trace.add_argument("file", type=Path)
    trace.set_defaults(command=_trace)

    dataset = commands.add_parser("dataset", help="aggregate extracted runs to one data set")
    dataset.add_argument("--list", type=Path, required=True, help="file with one directory a line")
    dataset.add_argument("--out", type=Path, required=True)
    dataset.set_defaults(command=_dataset)

    lock = commands.add_parser("lock", help="resolve image references to digests")
    _config(lock)
    lock.set_defaults(command=_lock)

    pull = commands.add_parser("image-pull", help="pull one locked image")
    pull.add_argument("--reference", required=True)
    pull.add_argument("--digest", required=True)
    pull.add_argument("--config-digest", required=True)
    _engine(pull)
    pull.add_argument("--out", type=Path, required=True)
    pull.set_defaults(command=_image_pull)

    fix = commands.add_parser("image-fix", help="give an image's work tree to the agent's user")
    fix.add_argument("--pulled", type=Path, required=True)
    fix.add_argument("--workdir", required=True)
    fix.add_argument("--uid", type=int, required=True)
    fix.add_argument("--gid", type=int, required=True)
    fix.add_argument("--tag", required=True)
    _engine(fix)
    fix.add_argument("--out", type=Path, required=True)
    fix.set_defaults(command=_image_fix)

    store = commands.add_parser("store", help="look into the run store")
    store.add_argument("--store", type=Path, default=Path("store"), help="default: store")
    actions = store.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list", help="every attempt, a line each").set_defaults(command=_store_list)
    show = actions.add_parser("show", help="one attempt's spec and result")
    show.add_argument("attempt")
    show.set_defaults(command=_store_show)
    remove = actions.add_parser("remove", help="delete the attempts that you name, and no others")
    remove.add_argument("attempt", nargs="+")
    remove.add_argument("--yes", action="store_true", help="delete sealed attempts too")
    remove.set_defaults(command=_store_remove)
    return parser


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        action="append",
        metavar="FILE|JSON",
        help="configuration file, or the configuration itself as JSON; may be repeated, later "
        "ones win (default: config/config.yaml)",
    )


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="auto", choices=("auto", "podman", "docker"))
    parser.add_argument("--runtime", default="auto")


def _load_config(arguments: argparse.Namespace):
    from agentsweep import config

    sources = arguments.config or ["config/config.yaml"]
    if len(sources) == 1 and sources[0].lstrip().startswith("{"):
        return config.load(json.loads(sources[0]))
    return config.load([Path(source) for source in sources])


def _doctor(arguments: argparse.Namespace) -> int:
    from agentsweep import doctor

    checks = doctor.examine(_load_config(arguments))
    if arguments.json:
        print(json.dumps([vars(check) for check in checks], indent=1))
    else:
        doctor.report(checks)
    return 1 if any(check.state == "fail" for check in checks) else 0


def _plan(arguments: argparse.Namespace) -> None:
    from agentsweep import plan

    plan.main(_load_config(arguments), as_json=arguments.json)


def _run(arguments: argparse.Namespace) -> None:
    from agentsweep import runner

    config = _load_config(arguments)
    cell = config.cell(arguments.cell)
    spec = config.spec(cell)
    if arguments.spec is not None and arguments.spec != spec:
        raise AgentsweepError(
            f"{cell.id}: its task, scenario or settings changed after the workflow was planned: "
            "start the workflow again"
        )
    results = Path(config["paths"]["results"])
    record = (
        arguments.image or results / "images" / config.image_of(cell.task).directory / "image.json"
    )
    try:
        image = json.loads(record.read_text())
    except FileNotFoundError:
        raise AgentsweepError(f"{record} is missing: run `snakemake --cores 1 images`") from None
    out = arguments.out or results / "runs" / cell.id
    runner.run_cell(config.job(cell), spec, image, out, say=_say)


def _extract(arguments: argparse.Namespace) -> None:
    from agentsweep import extract

    extract.extract(arguments.run_dir, arguments.run_id, arguments.out)


def _trace(arguments: argparse.Namespace) -> int:
    from agentsweep import trace

    return trace.main_trace(arguments.file)


def _dataset(arguments: argparse.Namespace) -> None:
    from agentsweep import dataset

    folders = [Path(line) for line in arguments.list.read_text().splitlines() if line]
    dataset.aggregate(folders, arguments.out)


def _lock(arguments: argparse.Namespace) -> None:
    from agentsweep import images, lockfile

    config = _load_config(arguments)
    path = Path(config["images"]["lock"])
    found = {}
    for reference in config.image_references():
        _say(f"looking up {reference}")
        found[reference] = images.resolve(reference)
    changed = lockfile.update(path, found)
    _say(f"{path}: {changed} of {len(found)} images changed")


def _image_pull(arguments: argparse.Namespace) -> None:
    from agentsweep import images

    engine = _find_engine(arguments)
    record = images.pull(engine, arguments.reference, arguments.digest, arguments.config_digest)
    _write_record(arguments.out, record | {"engine": engine.info()})


def _image_fix(arguments: argparse.Namespace) -> None:
    from agentsweep import images

    pulled = json.loads(arguments.pulled.read_text())
    record = images.fix(
        _find_engine(arguments),
        pulled,
        arguments.workdir,
        arguments.uid,
        arguments.gid,
        arguments.tag,
    )
    _write_record(arguments.out, record)


def _find_engine(arguments: argparse.Namespace):
    from agentsweep import engine, workspace

    return engine.find_engine(arguments.engine, arguments.runtime, workspace.engine_dir())


def _write_record(path: Path, record: dict) -> None:
    from agentsweep.store import disk_errors, write_durably

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")


def _store_list(arguments: argparse.Namespace) -> None:
    from agentsweep.store import Store

    store = Store(arguments.store)
    for key in store.keys():
        for attempt in store.attempts(key):
            result = attempt.result() or {}
            names, spec = result.get("names", {}), store.spec(key) or {}
            limits = spec.get("limits", {})
            print(
                f"{attempt.id:<18} {attempt.state:<11} {result.get('outcome', '-'):<14} "
                f"{names.get('task', '-')} mem={limits.get('memory_bytes', '-')} "
                f"cpus={limits.get('cpus', '-')} rep={spec.get('replicate', '-')}"
            )


def _store_show(arguments: argparse.Namespace) -> None:
    from agentsweep.store import Store

    for attempt in Store(arguments.store).resolve(arguments.attempt):
        print(json.dumps(
            {"attempt": attempt.id, "state": attempt.state, "path": str(attempt.path),
             "files": {p.name: p.stat().st_size for p in sorted(attempt.path.iterdir())},
             "result": attempt.result()},
            indent=1,
        ))  # fmt: skip


def _store_remove(arguments: argparse.Namespace) -> None:
    from agentsweep.store import Store

    store = Store(arguments.store)
    named = [attempt for name in arguments.attempt for attempt in store.resolve(name)]
    for attempt in named:
        if attempt.state == "sealed" and not arguments.yes:
            raise AgentsweepError(
                f"{attempt.id} is sealed and may have cost money: add --yes to delete it for ever"
            )
    for attempt in named:
        store.remove(attempt)
        print(f"removed {attempt.id} ({attempt.state})")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
