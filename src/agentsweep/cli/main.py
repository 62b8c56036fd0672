"""The `agentsweep` command: arguments, and calls to the rest."""

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from agentsweep import __version__, utf8
from agentsweep.errors import AgentsweepError, ConfigError

_TICK_S = 1
_NAME_CHARS = 400
_PULLED_KEYS = ("reference", "digest", "config_digest", "id", "size_bytes", "pull_s")
_IMAGE_KEYS = (
    *("reference", "digest", "config_digest", "tag", "id", "size_bytes"),
    *("workdir", "uid", "gid", "history", "pull_s", "fix_s"),
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; errors are one line each on standard error, without a traceback."""
    if argv is None:
        utf8.restart_in_utf8()
    utf8.set_streams()
    arguments = _parser().parse_args(argv)
    try:
        if getattr(arguments, "is_job", False):
            return _as_job(arguments, sys.argv[1:] if argv is None else argv)
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

    return retries.run(lambda: arguments.command(arguments) or 0, words, _say)


def _os_sentence(error: OSError) -> str:
    """What the system refused: which file, why, and what to look at."""
    where = f"{error.filename}: " if error.filename is not None else ""
    if isinstance(error, FileNotFoundError):
        return f"{where}there is no such file or directory: check the path"
    return f"{where}{error.strerror or error}: check the path, its permissions and the disk"


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
        "plan", help="list the cells: sealed, to run, and their cost in time and money"
    )
    _config(plan)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.set_defaults(command=_plan)

    run = commands.add_parser("run", help="run one cell, or recall it from the store")
    run.add_argument("cell", help="cell id, as `agentsweep plan` lists them")
    _config(run)
    run.add_argument("--spec", help="refuse unless the cell's spec, or its SHA-256, is this one")
    run.add_argument("--image", type=Path, help="record of the fixed image (image.json)")
    run.add_argument("--out", type=Path, help="where the run's files go")
    run.set_defaults(command=_run, is_job=True)

    rerun = commands.add_parser(
        "rerun", help="run a cell again, although it has its run, which is kept"
    )
    rerun.add_argument("cell", nargs="+", help="cell id, as `agentsweep plan` lists them")
    _config(rerun)
    rerun.add_argument("--remove", action="store_true", help="delete its sealed run (with --yes)")
    rerun.add_argument("--yes", action="store_true", help="with --remove: delete it for ever")
    rerun.set_defaults(command=_rerun)

    extract = commands.add_parser("extract", help="one run's files to tables")
    extract.add_argument("run_dir", type=Path)
    extract.add_argument("--run-id", required=True)
    extract.add_argument("--out", type=Path, required=True)
    extract.add_argument("--dataset", help="name of the data set (default: as the run was made)")
    extract.set_defaults(command=_extract)

    trace = commands.add_parser("trace", help="summarise a Claude Code session file as JSON")
    trace.add_argument("file", type=Path)
    trace.set_defaults(command=_trace)

    imported = commands.add_parser("import", help="runs that others made, to tables")
    imported.add_argument("directory", type=Path, help="where the runs lie")
    imported.add_argument("--name", required=True, help="name of the data set")
    imported.add_argument("--layout", choices=("agentcgroup",), default="agentcgroup")
    imported.add_argument(
        "--attempts",
        choices=("last", "first", "all"),
        default="last",
        help="which attempts of a task count (default: last)",
    )
    imported.add_argument("--out", type=Path, required=True)
    imported.set_defaults(command=_import)

    dataset = commands.add_parser("dataset", help="aggregate extracted runs to one data set")
    dataset.add_argument("--list", type=Path, required=True, help="file with one directory a line")
    dataset.add_argument("--patches", type=Path, help="list of the patches that were graded")
    dataset.add_argument("--cells", type=int, help="how many runs were wanted, for captions")
    dataset.add_argument(
        "--judged",
        type=Path,
        help="file with what is known of a task a line, as JSON: `task`, `validation` (path of its "
        "record or null), `ungradable` (why its tests cannot be graded, or null)",
    )
    dataset.add_argument("--out", type=Path, required=True)
    dataset.set_defaults(command=_dataset)

    patches = commands.add_parser("patches", help="list the distinct patches of runs")
    patches.add_argument(
        "--list",
        type=Path,
        required=True,
        help="file with a task, a tab and a run's directory a line",
    )
    patches.add_argument("--out", type=Path, required=True)
    patches.set_defaults(command=_patches)

    grade = commands.add_parser("grade", help="grade a patch, or recall its grading")
    grade.add_argument("task", help="the task's name in the configuration")
    grade.add_argument("--patch", type=Path, required=True)
    grade.add_argument("--out", type=Path, required=True, help="directory for the grading's files")
    _config(grade)
    grade.set_defaults(command=_grade, is_job=True)

    validate = commands.add_parser(
        "validate-task", help="whether a task's gold patch resolves it and no patch does not"
    )
    validate.add_argument("task", help="the task's name in the configuration")
    validate.add_argument("--out", type=Path, required=True, help="the record to write")
    _config(validate)
    validate.set_defaults(command=_validate, is_job=True)

    validations = commands.add_parser("validations", help="say which tasks are valid")
    validations.add_argument(
        "--list", type=Path, required=True, help="file with the path of one record a line"
    )
    validations.set_defaults(command=_validations)

    claims = commands.add_parser("claims", help="a paper's claims for data sets, in both modes")
    claims.add_argument(
        "--tables",
        type=Path,
        action="append",
        required=True,
        help="directory of the tables of one or more data sets; may be repeated",
    )
    claims.add_argument("--published", type=Path, help="CSV file with what a paper prints")
    claims.add_argument("--out", type=Path, required=True)
    claims.set_defaults(command=_claims)

    export = commands.add_parser("export", help="the finished runs, in the formats of others")
    formats = export.add_subparsers(required=True, metavar="FORMAT")
    for name, command, said in (
        ("swebench", _export_swebench, "patches as predictions for SWE-bench's harness"),
        ("atif", _export_atif, "runs as trajectories in Harbor's ATIF"),
    ):
        exported = formats.add_parser(name, help=said)
        _config(exported)
        exported.add_argument("--output", type=Path, required=True, help="directory to write to")
        exported.set_defaults(command=command)

    lock = commands.add_parser("lock", help="resolve image references to digests")
    _config(lock)
    lock.set_defaults(command=_lock)

    fetch = commands.add_parser(
        "fetch-tasks", help="download the task sets that are on the Hugging Face hub"
    )
    _config(fetch)
    fetch.set_defaults(command=_fetch_tasks)

    tasks = commands.add_parser("tasks", help="write down which tasks a sweep has")
    _config(tasks)
    tasks.add_argument("--out", type=Path, required=True)
    tasks.set_defaults(command=_tasks)

    pull = commands.add_parser("image-pull", help="pull one locked image")
    pull.add_argument("--reference", required=True)
    pull.add_argument("--digest", required=True)
    pull.add_argument("--config-digest", required=True)
    _engine(pull)
    _images(pull)
    pull.add_argument("--out", type=Path, required=True)
    pull.set_defaults(command=_image_pull, is_job=True)

    fix = commands.add_parser("image-fix", help="give an image's work tree to the agent's user")
    fix.add_argument("--pulled", type=Path, required=True)
    fix.add_argument("--workdir", required=True)
    fix.add_argument("--uid", type=int, required=True)
    fix.add_argument("--gid", type=int, required=True)
    fix.add_argument("--tag", required=True)
    fix.add_argument("--base-commit", help="the commit that the benchmark says it is at")
    _engine(fix)
    _images(fix)
    fix.add_argument("--out", type=Path, required=True)
    fix.set_defaults(command=_image_fix, is_job=True)

    store = commands.add_parser("store", help="look into the run store")
    _store(store, Path("store"))
    actions = store.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser(
        "list", help="every attempt: a table on a terminal, else tab-separated lines"
    )
    listing.set_defaults(command=_store_list)
    show = actions.add_parser("show", help="what one attempt measured, and its files")
    show.add_argument("attempt", help="<hash>-<n>, or <hash> for all attempts of a spec")
    show.add_argument("--json", action="store_true", help="print the whole result.json instead")
    show.set_defaults(command=_store_show)
    remove = actions.add_parser("remove", help="delete the attempts that you name, and no others")
    remove.add_argument("attempt", nargs="+", help="<hash>-<n>, or <hash> for all of a spec")
    remove.add_argument("--yes", action="store_true", help="delete sealed attempts too")
    remove.set_defaults(command=_store_remove)
    verify = actions.add_parser(
        "verify", help="compare sealed attempts and gradings, file by file, with their seals"
    )
    verify.add_argument("attempt", nargs="*", help="<hash>-<n>, or <hash> (default: all)")
    verify.set_defaults(command=_store_verify)
    for action in (listing, show, remove, verify):
        # On either side of the action; the one beside it must not undo the one before it.
        _store(action, argparse.SUPPRESS)
    return parser


def _store(parser: argparse.ArgumentParser, default: Path | str) -> None:
    parser.add_argument(
        "--store",
        type=Path,
        default=default,
        help="the store's directory, `paths.store` of the configuration (default: store)",
    )


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        action="append",
        metavar="FILE|JSON|-",
        help="configuration file, laid over config/config.yaml; may be repeated, later ones win. "
        "Or a whole configuration as JSON (`-` reads it from standard input), which stands alone",
    )


def _engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="auto", choices=("auto", "podman", "docker"))
    parser.add_argument("--runtime", default="auto")


def _images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-in",
        type=Path,
        metavar="DIR",
        help="keep the image there for all nodes (`images.archive_directory`)",
    )
    parser.add_argument(
        "--registry", metavar="REPOSITORY", help="keep it there, and only its record in --keep-in"
    )


def _load_config(arguments: argparse.Namespace):
    from agentsweep.config import config

    return config.load(_config_source(arguments))


def _config_source(arguments: argparse.Namespace) -> list[Path] | dict:
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


def _doctor(arguments: argparse.Namespace) -> int:
    from agentsweep.cli import doctor

    checks = doctor.examine(_load_config(arguments))
    if arguments.json:
        print(json.dumps([vars(check) for check in checks], indent=1))
    else:
        doctor.report(checks)
    return 1 if any(check.state == "fail" for check in checks) else 0


def _plan(arguments: argparse.Namespace) -> None:
    from agentsweep.cli import plan

    plan.main(_load_config(arguments), as_json=arguments.json)


def _run(arguments: argparse.Namespace) -> None:
    from agentsweep.runs import run_cell

    config = _load_config(arguments)
    cell = config.cell(arguments.cell)
    spec = config.spec(cell)
    if arguments.spec not in (None, spec, config.spec_sha256(cell)):
        raise AgentsweepError(
            f"{cell.id}: its task, scenario or settings changed after the workflow was planned: "
            "start the workflow again"
        )
    job = config.job(cell)
    # A run that is recalled, or refused, needs no image.
    needed = job["on_miss"] == "run" and not config.is_sealed(cell)
    image = _image_record(config, cell, arguments.image) if needed else {}
    out = arguments.out or Path(config["paths"]["results"]) / "runs" / cell.id
    with _progress() as say:
        run_cell.run_cell(job, spec, image, out, say=say)
        say(f"its files are in {out}")


def _rerun(arguments: argparse.Namespace) -> None:
    from agentsweep.cli import rerun

    if arguments.remove and not arguments.yes:
        raise AgentsweepError(
            "--remove: a sealed run may have cost money: add --yes to delete it for ever, or leave "
            "--remove out to keep it in the store"
        )
    config = _load_config(arguments)
    cells = [config.cell(name) for name in arguments.cell]
    rerun.rerun(config, cells, _say, remove=arguments.remove)


def _image_record(config, cell, path: Path | None) -> dict:
    """The record of the cell's image; ConfigError where it is another image's."""
    image = config.image_of(cell.task)
    if image.digest is None:
        raise ConfigError(
            f"{config['images']['lock']}: {image.reference} is not in it: run "
            "`snakemake --cores 1 lock`"
        )
    path = path or Path(config["paths"]["results"]) / "images" / image.directory / "image.json"
    record = _record(path, _IMAGE_KEYS, "run `snakemake --cores 1 images`")
    if record["digest"] != image.digest:
        raise ConfigError(
            f"{path}: it is the record of {record['digest']}, and task {cell.task} has "
            f"{image.digest}: run `snakemake --cores 1 images`"
        )
    return record


def _record(path: Path, keys: tuple[str, ...], cure: str) -> dict:
    """A record of ours, with all its keys; one sentence where it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: {cure}") from None
    except ValueError:
        raise ConfigError(f"{path} is damaged (not JSON): delete it and {cure}") from None
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise ConfigError(f"{path} is no complete record: delete it and {cure}")
    return content


def _extract(arguments: argparse.Namespace) -> None:
    from agentsweep.extraction import extract

    if not arguments.run_dir.is_dir():
        raise AgentsweepError(
            f"{arguments.run_dir} is no directory: name the directory of one run, as they are "
            "below results/runs/"
        )
    rows = extract.extract(arguments.run_dir, arguments.run_id, arguments.out, arguments.dataset)
    _say(f"{arguments.out}: {_counted(rows)}")


def _trace(arguments: argparse.Namespace) -> int:
    from agentsweep.agents.claude_code import trace

    return trace.main_trace(arguments.file)


def _import(arguments: argparse.Namespace) -> None:
    from agentsweep.extraction import importer

    rows = importer.import_runs(
        arguments.directory, arguments.name, arguments.attempts, arguments.out
    )
    _say(f"{arguments.out}: {_counted(rows)}")


def _dataset(arguments: argparse.Namespace) -> None:
    from agentsweep.extraction import aggregate
    from agentsweep.grading import run_grades

    folders = [Path(line) for line in _lines(arguments.list)]
    judged = _judged(arguments.judged) if arguments.judged else {}
    gradings = run_grades.Grades(arguments.patches, judged)
    rows = aggregate.aggregate(folders, arguments.out, gradings, arguments.cells)
    for task, known in judged.items():
        if known.invalid:
            _say(f"left out of shares and figures: all runs of {task}: {known.invalid}")
    _say(f"{arguments.out}: {_counted(rows)}")


def _judged(path: Path) -> dict:
    """What is known of tasks before their runs are looked at, by name."""
    from agentsweep.grading import run_grades

    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        record = None
        if said["validation"] is not None:
            keys = ("valid", "problems")
            record = _record(Path(said["validation"]), keys, "run again")
        found[said["task"]] = run_grades.Judged.of(
            record, said["ungradable"], said.get("keep_invalid", False)
        )
    return found


def _patches(arguments: argparse.Namespace) -> None:
    from agentsweep.grading import patches

    lines = [line.split("\t") for line in _lines(arguments.list)]
    found = patches.collect([(task, Path(run)) for task, run in lines], arguments.out)
    _say(f"{arguments.out}: {found} patches of {len(lines)} runs")


def _grade(arguments: argparse.Namespace) -> None:
    from agentsweep.containers import cleanup
    from agentsweep.grading import grading_job

    config = _load_config(arguments)
    _refuse_ungradable(config, arguments.task)
    try:
        patch = arguments.patch.read_bytes()
    except OSError as error:
        raise AgentsweepError(f"{arguments.patch}: {error.strerror}; name a patch file") from None
    found = grading_job.grade(
        config,
        arguments.task,
        patch,
        arguments.out,
        lambda: cleanup.clean_engine(config["container"]),
        _say,
    )
    if found.status == "ungraded":
        _say(f"{arguments.task}: ungraded: {found.detail}")
        return
    verdict = "resolved" if found.resolved else "not resolved"
    _say(
        f"{arguments.task}: {verdict} ({found.status}{f': {found.detail}' if found.detail else ''})"
    )


def _validate(arguments: argparse.Namespace) -> None:
    from agentsweep.containers import cleanup
    from agentsweep.grading import grading_job

    config = _load_config(arguments)
    _refuse_ungradable(config, arguments.task)
    record = grading_job.validate(
        config, arguments.task, lambda: cleanup.clean_engine(config["container"]), _say
    )
    _write_record(arguments.out, record)
    _say("; ".join([_validity(record), *record["problems"]]))


def _validations(arguments: argparse.Namespace) -> None:
    paths = [Path(line) for line in _lines(arguments.list)]
    if not paths:
        print("no task of the sweep has a row whose tests can be graded")
    for path in paths:
        record = _record(path, ("task", "valid", "problems", "repeats"), "validate again")
        print(_validity(record))
        for problem in record["problems"]:
            print(f"    {problem}")


def _lines(path: Path) -> list[str]:
    """The lines of a list of paths, which may have any character in them but a line feed."""
    return [line for line in os.fsdecode(path.read_bytes()).split("\n") if line]


def _validity(record: dict) -> str:
    if record["valid"] is None:
        return f"{record['task']}: not known, for it could not be validated: {record['unknown']}"
    word = "valid" if record["valid"] else "NOT VALID, left out of shares and figures"
    return f"{record['task']}: {word} (gold and empty patch, {record['repeats']} times each)"


def _refuse_ungradable(config, task: str) -> None:
    from agentsweep.grading import grading_job

    reason = grading_job.ungradable(config, task)
    if config.task(task).row is None:
        reason = "it has no `row` of a benchmark: name one"
    if reason is not None:
        raise ConfigError(f"tasks.{task}: ungraded: {reason}")


def _claims(arguments: argparse.Namespace) -> None:
    from agentsweep.analysis import claims, cohort

    published = claims.read_published(arguments.published) if arguments.published else {}
    rows = claims.compute(cohort.load(arguments.tables))
    claims.write(rows, published, arguments.out)
    _say(f"{arguments.out}: {len(rows)} values")


def _export_swebench(arguments: argparse.Namespace) -> None:
    from agentsweep.exports import swebench

    swebench.export(_load_config(arguments), arguments.output, _say)


def _export_atif(arguments: argparse.Namespace) -> None:
    from agentsweep.exports import atif_files

    atif_files.export(_load_config(arguments), arguments.output, _say)


def _lock(arguments: argparse.Namespace) -> None:
    from agentsweep.containers import image_lock, images

    config = _load_config(arguments)
    path = Path(config["images"]["lock"])
    found = {}
    for reference in config.references_to_lock():
        _say(f"looking up {reference}")
        found[reference] = images.resolve(reference)
    changed = image_lock.update(path, found)
    _say(f"{path}: {changed} of {len(found)} images changed")


def _fetch_tasks(arguments: argparse.Namespace) -> None:
    from agentsweep.config import config
    from agentsweep.tasks import hub

    splits = config.hub_splits(_config_source(arguments))
    for wanted in splits:
        _say(f"fetching {wanted}")
        for path in hub.fetch(wanted):
            _say(f"  {path}")
    if not splits:
        _say("the configuration names no task set of the hub: there is nothing to fetch")


def _tasks(arguments: argparse.Namespace) -> None:
    from agentsweep.cli import tasks_file

    document = tasks_file.document(_load_config(arguments))
    _write_record(arguments.out, document)
    _say(f"{arguments.out}: {len(document['tasks'])} tasks")


def _image_pull(arguments: argparse.Namespace) -> None:
    from agentsweep.containers import image_distribution

    engine = _find_engine(arguments)
    _say(f"pulling {arguments.reference}")
    wanted = (arguments.reference, arguments.digest, arguments.config_digest)
    record = image_distribution.pull(engine, *wanted, _place(arguments))
    _write_record(arguments.out, record | {"engine": engine.info()})
    _say(f"pulled {record['id']} in {record['pull_s']} s")


def _image_fix(arguments: argparse.Namespace) -> None:
    from agentsweep.containers import image_distribution, images

    cure = "pull the image again with `agentsweep image-pull`"
    pulled = _record(arguments.pulled, _PULLED_KEYS, cure)
    _say(f"giving {arguments.workdir} to user {arguments.uid} in {pulled['reference']}")
    engine, place = _find_engine(arguments), _place(arguments)
    # It may have been pulled on another node.
    names = ("reference", "digest", "config_digest")
    image_distribution.pull(engine, *(pulled[name] for name in names), place)
    record = images.fix(
        engine,
        pulled,
        arguments.workdir,
        arguments.uid,
        arguments.gid,
        arguments.tag,
        arguments.base_commit,
    )
    image_distribution.publish(engine, record, place)
    _write_record(arguments.out, record)
    _say(f"made {record['tag']} in {record['fix_s']} s")


def _place(arguments: argparse.Namespace):
    from agentsweep.containers import image_distribution

    if arguments.keep_in is None:
        return None
    return image_distribution.Place(arguments.keep_in.absolute(), arguments.registry)


def _find_engine(arguments: argparse.Namespace):
    from agentsweep.containers import engines
    from agentsweep.host import scratch

    engine = engines.find_engine(arguments.engine, arguments.runtime, scratch.engine_dir())
    _say(engines.chosen(engine, arguments.engine))
    return engine


def _write_record(path: Path, record: dict) -> None:
    from agentsweep.files import disk_errors, write_durably

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")


def _open_store(arguments: argparse.Namespace):
    from agentsweep.runs.store import Store

    if not arguments.store.is_dir():
        raise AgentsweepError(
            f"{arguments.store}: there is no such directory: run a sweep first, or name the store "
            "with --store"
        )
    return Store(arguments.store)


def _store_list(arguments: argparse.Namespace) -> None:
    from agentsweep.cli import store_view

    found = list(store_view.rows(_open_store(arguments)))
    print(store_view.table(found, for_people=sys.stdout.isatty()))


def _store_show(arguments: argparse.Namespace) -> None:
    from agentsweep.cli import store_view

    attempts = _open_store(arguments).resolve(arguments.attempt)
    if arguments.json:
        for attempt in attempts:
            print((attempt.path / "result.json").read_text(encoding="utf-8").rstrip())
        return
    print("\n\n".join(store_view.describe(attempt) for attempt in attempts))


def _store_remove(arguments: argparse.Namespace) -> None:
    from agentsweep.runs.store import SEALED, SUPERSEDED

    store = _open_store(arguments)
    named = {a.path: a for name in arguments.attempt for a in store.resolve(name)}.values()
    for attempt in named:
        if attempt.state in (SEALED, SUPERSEDED) and not arguments.yes:
            raise AgentsweepError(
                f"{attempt.id} is {attempt.state} and may have cost money: add --yes to delete it "
                "for ever"
            )
        if attempt.state == "partial" and store.is_locked(attempt.spec_sha256):
            raise AgentsweepError(
                f"{attempt.id} is being written by a run: stop that run first, or wait for it"
            )
    for attempt in named:
        store.remove(attempt)
        print(f"removed {attempt.id} ({attempt.state})")


def _store_verify(arguments: argparse.Namespace) -> int:
    from agentsweep.cli import store_verify

    store = _open_store(arguments)
    return 1 if store_verify.verify(store, arguments.attempt, _say) else 0


@contextlib.contextmanager
def _progress() -> Iterator:
    """A `say` for long work: a line for each step; on a terminal also how long the last one takes.

    A log gets the plain lines.
    """
    if not sys.stdout.isatty():
        yield _say
        return
    over, writing, begin = threading.Event(), threading.Lock(), [time.monotonic()]

    def say(line: str) -> None:
        with writing:
            begin[0] = time.monotonic()
            # Back to the first column, and nothing left of the seconds that stood there.
            print(f"\r\033[K{line}", flush=True)

    def tick() -> None:
        while not over.wait(_TICK_S):
            with writing:
                print(f"\r\033[K  {time.monotonic() - begin[0]:.0f} s", end="", flush=True)

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield say
    finally:
        over.set()
        ticking.join()
        print("\r\033[K", end="", flush=True)


def _counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in rows.items())


def _say(line: str) -> None:
    print(line, flush=True)
