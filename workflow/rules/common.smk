"""The configuration, checked once, and what the rules look up in it.

REQUIRES `config` (merged by Snakemake from config/config.yaml, --configfile and --config). Where none
of them says what to sweep, the demo's file, config/demo.yaml, is laid below them.
PROVIDES the functions that rules use as inputs, params and resources. Reads files only: parsing
needs no engine, no network and no key.
"""

import atexit
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# The modules of this clone, whichever clone the environment was made in.
SOURCE = (
    Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1] / "src"
)
sys.path.insert(0, str(SOURCE))
# profiles/default has imported some already, from wherever the environment has them.
for name in [name for name in sys.modules if name.partition(".")[0] == "agentsweep"]:
    del sys.modules[name]

from agentsweep import utf8

# Snakemake names files and jobs in the locale's encoding, which is chosen when Python starts.
if not utf8.is_on():
    # Not with -d, after which relative arguments mean other files.
    if Path(sys.argv[0]).name in ("snakemake", "__main__.py") and (
        workflow.overwrite_workdir is None
    ):
        utf8.restart_in_utf8()
    raise WorkflowError(
        f"the locale's encoding is {sys.getfilesystemencoding()}, in which Snakemake cannot name "
        "every file: set PYTHONUTF8=1 in its environment"
    )

from agentsweep import codehash, retries
from agentsweep.cli import tasks_file
from agentsweep.config import layers
from agentsweep.containers import image_distribution
from agentsweep.errors import ConfigError, InfraError
from agentsweep.extraction import agentcgroup_layout
from agentsweep.grading import grading_plan, patches
from agentsweep.host.capacity import Machine
from agentsweep.runs import live_run_count
from agentsweep.workflow import failures, sweep
from agentsweep.workflow.job_files import JobFile

# Jobs inherit it, also those that are run on other machines.
if workflow.is_main_process:
    os.environ[live_run_count.VARIABLE] = (
        os.environ.get(live_run_count.VARIABLE) or live_run_count.new_invocation()
    )

    # Jobs try again by themselves, as often as `--retries` says, which `onstart` knows.
    os.environ[retries.RETRIES] = "0"
    NOTES = Path(
        ".snakemake/agentsweep/notes", live_run_count.new_invocation()
    ).absolute()
    os.environ[retries.NOTES] = str(NOTES)

    envvars:
        live_run_count.VARIABLE,
        retries.RETRIES,
        retries.NOTES,


# While it parses, Snakemake does not say who executes the jobs, but any executor other than the
# local one has default resources. One that is given them for this machine has a cap of its memory.
RUNS_ARE_HERE = (
    workflow.resource_settings.default_resources is None
    or "mem_mb" in workflow.global_resources
)
# Snakemake's own, for all rules. On a cluster a job may fail before a command of ours has begun.
RETRIES = 0 if RUNS_ARE_HERE else None

try:
    completed, below = layers.of_workflow(
        config,
        workflow.overwrite_configfiles or [],
        workflow.config_settings.config or {},
    )
    config.update(completed)
    SWEEP = sweep.Sweep(
        config,
        [*below, *workflow.configfiles],
        announce=workflow.is_main_process,
        machine=Machine.here() if RUNS_ARE_HERE else None,
    )
    IMPORTS = {found.name: found for found in SWEEP.config.imports()}
    # Read here: Snakemake is silent about an error in an input function whose outputs exist.
    ATTEMPTS = sweep.imported_attempts(IMPORTS.values())
except ConfigError as error:
    raise WorkflowError(*error.problems) from None

prefix = sweep.shell_prefix(
    SOURCE,
    python=Path(sys.executable),
    prefer_path=bool(workflow.deployment_settings.deployment_method),
)
# Snakemake formats it.
shell.prefix(prefix.replace("{", "{{").replace("}", "}}"))
# Not in the prefix, which Snakemake prints of a job that failed.
os.environ[sweep.SECRETS] = " ".join(SWEEP.secret_variables())

# Beside the Snakefile, wherever the working directory is. As a relative path where it can be: the
# set of inputs is then the same in a clone that was moved.
ENVIRONMENT = (
    "environment.yml"
    if SOURCE.parent.samefile(".")
    else str(SOURCE.parent / "environment.yml")
)

TABLES = ("runs", "tool_calls", "api_calls", "messages", "samples")
DATASET_TABLES = (*TABLES, "tests", "hosts")
FIGURES = (
    "outcome_map",
    "resolved_share",
    "wall_time",
    "peak_memory",
    "throttling",
    "time_split",
    "tool_calls",
    "timelines",
    "fidelity",
)
FIGURE_SCRIPTS = SOURCE.parent / "workflow" / "scripts" / "figures"
IMPORTED_TABLES = ("runs", "tool_calls", "messages", "samples")
PAPER_FIGURES = (
    "exec_overview",
    "tool_breakdown",
    "tool_pattern",
    "resource_profile",
    "timeseries",
    "change_rates",
)
PAPER_SCRIPTS = SOURCE.parent / "workflow" / "scripts" / "paper"
CLAIMS = ("csv", "json", "md", "tex")

# What each grading reserves, and the gradings of a validation.
GRADER = grading_plan.grader(SWEEP.config)
VALIDATIONS = SWEEP.config.grading.validations

# A cap that profiles and --resources can lower or raise, and that holds without either.
workflow.global_resources.setdefault("agent_sessions", SWEEP.config.agent.max_sessions)


pathvars:
    results=SWEEP.config.paths.results,
    cell=SWEEP.cell_pattern(),


wildcard_constraints:
    **SWEEP.image_constraints(),
    imported=sweep.one_of(IMPORTS),
    graded=sweep.one_of(SWEEP.gradable),
    validated=sweep.one_of(SWEEP.validations()),
    patch="[0-9a-f]{64}",


def job_file(text):
    """What goes into a command by a file, which a dry run does not write."""
    return JobFile(text, write=not workflow.dryrun)


def report_failures():
    """Say at the very end, after all that Snakemake prints, which jobs failed and why."""
    for line in failures.lines(workflow.scheduler.failed):
        atexit.register(print, line, file=sys.stderr)


def cell_id(wildcards):
    return SWEEP.cell(wildcards).id


def cell_spec(wildcards):
    """What identifies a run: all that decides its outcome, and nothing else."""
    return SWEEP.config.spec(SWEEP.cell(wildcards))


def cell_spec_sha256(wildcards, threads):
    """The same in short; untracked, because it takes `threads`."""
    return SWEEP.config.spec_sha256(SWEEP.cell(wildcards))


def cell_run(wildcards):
    """How many older runs of a cell do not count: it changes when the cell is to be run again."""
    return SWEEP.config.choice(SWEEP.cell(wildcards)).before


def refuse_beforehand():
    """Refuse to start anything where a run would have no key to pay with, or no limits."""
    jobs = workflow.dag.needrun_jobs()
    cells = [SWEEP.cell(job.wildcards) for job in jobs if job.rule.name == "agent_run"]
    try:
        SWEEP.check_credentials(cells)
        # The nodes of a cluster are other machines: there each run asks for itself.
        if RUNS_ARE_HERE:
            SWEEP.check_host(cells)
    except ConfigError as error:
        raise WorkflowError(*error.problems) from None
    except InfraError as error:
        raise WorkflowError(str(error)) from None


def say_coverage():
    """Say at the end how much of a sweep there is, where not all of it."""
    said = SWEEP.coverage()
    if said is not None:
        print(f"agentsweep: {said}", file=sys.stderr)


def cell_config(wildcards, threads):
    """What `agentsweep run` reads. Untracked, because it takes `threads`: cell_spec is tracked."""
    return job_file(json.dumps(SWEEP.config.for_cell(SWEEP.cell(wildcards))))


def task_config(wildcards, threads):
    """What a grading reads, untracked: its spec is tracked."""
    return job_file(json.dumps(SWEEP.config.for_task(wildcards.graded)))


def whole_config(wildcards, threads):
    """The merged configuration, untracked."""
    return job_file(json.dumps(config))


def cell_cores(wildcards):
    return SWEEP.config.reserved_cores(SWEEP.cell(wildcards))


def cell_mem_mb(wildcards):
    return SWEEP.config.reserved_mb(SWEEP.cell(wildcards))


def cell_minutes(wildcards):
    return SWEEP.config.reserved_minutes(SWEEP.cell(wildcards))


def reservation(wildcards, threads, resources):
    """Refuse by name a cell that Snakemake would silently give less than it needs."""
    refusal = SWEEP.refusal(SWEEP.cell(wildcards), threads, resources.get("mem_mb"))
    if refusal:
        raise WorkflowError(refusal)
    return f"{threads} cores, {resources.get('mem_mb')} MB"


def image_of(wildcards):
    return SWEEP.images[f"{wildcards.image}~{wildcards.key}"]


def base_commit_option(wildcards):
    commit = SWEEP.base_commit(image_of(wildcards))
    return ["--base-commit", commit] if commit else []


def image_record(wildcards):
    """The record of the image that a cell runs in."""
    return (
        f"<results>/images/{SWEEP.config.image_of(wildcards.task).directory}/image.json"
    )


def image_records():
    return [f"<results>/images/{directory}/image.json" for directory in SWEEP.images]


def engine_options(wildcards, threads):
    """Untracked: neither who makes an image nor where it is kept changes the image."""
    settings, images = SWEEP.config.container, SWEEP.config.images
    options = ["--engine", settings.engine, "--runtime", settings.runtime]
    place = image_distribution.place_of(
        images.distribute,
        images.archive_directory,
        images.registry,
        SWEEP.config.paths.results,
    )
    if place is not None:
        options += ["--keep-in", str(place.directory)]
        options += ["--registry", place.registry] if place.registry else []
    return options


def run_results(wildcards):
    return [f"<results>/runs/{cell.id}/result.json" for cell in SWEEP.wanted()]


def extracted_tables(wildcards):
    return [
        f"<results>/extracted/{cell.id}/{table}.parquet"
        for cell in SWEEP.wanted()
        for table in TABLES
    ]


def extracted_directories(wildcards, input):
    """A line each; untracked, because it takes `input`, which is tracked."""
    return job_file(
        "\n".join(dict.fromkeys(str(Path(path).parent) for path in input.tables))
    )


def graded_results(wildcards):
    """The results of the runs whose patches are graded."""
    return [f"<results>/runs/{cell.id}/result.json" for cell in SWEEP.graded_cells()]


def graded_runs(wildcards, input):
    """A line each: task, tab, directory; untracked, because it takes `input`, which is tracked."""
    return job_file(
        "\n".join(
            f"{cell.task}\t{Path(path).parent}"
            for cell, path in zip(SWEEP.graded_cells(), input.results)
        )
    )


def patch_list(wildcards):
    """The list of patches, where there is anything to grade."""
    if not SWEEP.graded_cells():
        return []
    return [checkpoints.patches.get().output.list]


def grades(wildcards):
    """The grading of each patch, known once all runs are there."""
    if not SWEEP.graded_cells():
        return []
    path = Path(checkpoints.patches.get().output.list)
    return [
        f"{patches.grading_folder(path, patch)}/grade.json"
        for patch in patches.read(path)
    ]


def patch_list_option(wildcards, input):
    return [f"--patches={path}" for path in input.patches]


def patch_file(wildcards, threads):
    """A run's copy of the patch: untracked, for its hash is in the path and in the spec."""
    listed = Path(SWEEP.config.paths.results) / "grades" / "patches.json"
    return patches.find(listed, wildcards.graded, wildcards.patch)


def grading_spec(wildcards):
    """The one tracked parameter of a grading: all that decides it."""
    return grading_plan.plan(SWEEP.config, wildcards.graded).spec(wildcards.patch)


def validated_task(wildcards):
    """A task of those that share a validation."""
    return SWEEP.validations()[wildcards.validated]


def validation_spec(wildcards):
    """All that decides whether a task is valid, but for the patches."""
    return grading_plan.plan(SWEEP.config, validated_task(wildcards)).spec("")


def validation_config(wildcards, threads):
    """What a validation reads, untracked: its spec is tracked."""
    return job_file(json.dumps(SWEEP.config.for_task(validated_task(wildcards))))


def validation_name(wildcards, threads):
    """Untracked: which of the tasks that share a validation stands for them changes nothing."""
    return validated_task(wildcards)


def validation_record(validated):
    return f"<results>/validation/{validated}.json"


def validation_records():
    return [validation_record(validated) for validated in SWEEP.validations()]


def validation_list(wildcards, input):
    """A line each; untracked, because it takes `input`, which is tracked."""
    return job_file("\n".join(input))


def dataset_validations(wildcards):
    """The validations of the tasks that are graded."""
    found = dict.fromkeys(SWEEP.validated().values())
    return [validation_record(validated) for validated in found]


def judged_tasks(wildcards, input):
    """A line each: what is known of a task. Untracked: all of it is in `input` and `ungradable`."""
    paths = dict(zip(dict.fromkeys(SWEEP.validated().values()), input.validations))
    validated = {task: str(paths[name]) for task, name in SWEEP.validated().items()}
    reasons = SWEEP.ungradable()
    return job_file(
        "\n".join(
            json.dumps(
                {
                    "task": task,
                    "validation": validated.get(task),
                    "ungradable": reasons.get(task),
                    "keep_invalid": SWEEP.config.grading.keep_invalid,
                }
            )
            for task in dict.fromkeys([*validated, *reasons])
        )
    )


def ungradable_digest():
    """Hash of why the tests of tasks cannot be graded."""
    said = json.dumps(SWEEP.ungradable(), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def figure_files():
    return expand(
        "<results>/figures/{figure}.{format}",
        figure=FIGURES,
        format=("pdf", "svg", "png"),
    )


def figure_code(figure):
    """Hash of a figure's script and of all that it imports."""
    return codehash.digest(FIGURE_SCRIPTS / f"{figure}.py")


def figure_script(figure):
    """The script's path: untracked, because it takes `input`; its contents are `code`."""
    return lambda wildcards, input: FIGURE_SCRIPTS / f"{figure}.py"


def import_files(wildcards):
    """The files of an imported data set."""
    return agentcgroup_layout.files(ATTEMPTS[wildcards.imported])


def import_places(wildcards):
    """Hash of the names of the attempts: one without a file has a row, too."""
    places = "\0".join(attempt.place for attempt in ATTEMPTS[wildcards.imported])
    return hashlib.sha256(places.encode()).hexdigest()


def import_setting(name):
    """One setting of an imported data set."""
    return lambda wildcards: getattr(IMPORTS[wildcards.imported], name)


def paper_tables(wildcards):
    """The tables of all data sets: the sweep's own, if it has cells, and the imported ones."""
    own = rules.dataset.output if SWEEP.cells else []
    return [
        *own,
        *expand(
            "<results>/imported/{imported}/{table}.parquet",
            imported=IMPORTS,
            table=IMPORTED_TABLES,
        ),
    ]


def tables_options(wildcards, input):
    """Where these tables are; untracked, because it takes `input`, which is tracked."""
    directories = dict.fromkeys(str(Path(path).parent) for path in input.tables)
    return [f"--tables={directory}" for directory in directories]


def published_option(wildcards, input):
    return [f"--published={path}" for path in input.published]


def paper_script(figure):
    """The script's path: untracked, because it takes `input`; its contents are `code`."""
    return lambda wildcards, input: PAPER_SCRIPTS / f"{figure}.py"


def paper_files():
    return [
        *expand("<results>/paper/claims.{format}", format=CLAIMS),
        *expand(
            "<results>/paper/{figure}_{mode}.{format}",
            figure=PAPER_FIGURES,
            mode=("paper", "corrected"),
            format=("pdf", "svg"),
        ),
    ]
