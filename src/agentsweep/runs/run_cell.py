"""One cell: recall its sealed attempt, or measure it, seal it and publish it."""

import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentsweep import seal, untrusted
from agentsweep.containers import cleanup
from agentsweep.cpu_modes import CPUSET
from agentsweep.errors import AgentsweepError, InfraError, LastingError
from agentsweep.extraction import gateway_facts
from agentsweep.files import disk_errors
from agentsweep.host import admission, machine_facts
from agentsweep.runs import outcome, record
from agentsweep.runs.job import Job
from agentsweep.runs.live_run_count import Ledger
from agentsweep.runs.measurement import measure
from agentsweep.runs.phases import Say
from agentsweep.runs.recall import Recall, Repeat, verify
from agentsweep.runs.signals import Signals, kept_unsealed
from agentsweep.runs.store import (
    PUBLISHED,
    SEALED,
    SUPERSEDED,
    Attempt,
    Store,
    publish,
    spec_sha256,
)

# Less than this on the store's disk, and a run could end for want of space and look like data.
MIN_FREE_BYTES = 64 * 2**20
# So many attempts of a cell may fail after a model has answered: each may have cost money.
MAX_PAID_FAILURES = 6
_ERROR_BYTES = 2**16


def run_cell(
    job: Job, spec: str, image: dict[str, Any], out: Path, say: Say = print
) -> dict[str, Any]:
    """Measure one cell, or recall it, and publish its files to `out`; returns `result.json`.

    `spec` is the canonical spec and `image` the record of the fixed
    image. Raises InfraError when nothing could be measured (the attempt is kept as failed),
    Interrupted on a signal (kept as interrupted), AgentsweepError where `on_miss` is `fail` or
    `max_live_runs` is reached (nothing was started).
    """
    # Absolute, because the engine takes a relative path for the name of a volume.
    store, key = Store(job.paths.store.absolute()), spec_sha256(spec)
    with store.locked(key, spec):
        for left in store.retire_partials(key):
            say(f"attempt {left.id} was interrupted; it is kept in {left.path.parent}")
        repeat = Repeat.of(job.on_miss, job.repeat, job.repeat_times)
        sealed = Recall(store).choose(spec, repeat).attempt
        if sealed is not None:
            if verify(sealed, job.cell) == seal.NO_HASHES:
                say(f"{sealed.id} was sealed without hashes, by an earlier version")
            say(f"recalled sealed attempt {sealed.id}: no new run")
            _tell_of_garbled_prompt(store, sealed, spec, say)
        else:
            if job.on_miss == "fail":
                raise AgentsweepError(
                    f"{job.cell}: no sealed run in {store.root} and agent.on_miss is `fail`: "
                    "add the archive that holds it, or set on_miss to `run`"
                )
            _refuse_more_failures(store, key, job)
            _back_off(store, key, say)
            sealed = _attempt(store, key, spec, job, image, say)
        result = sealed.result()
        if result is None:
            raise LastingError(
                f"{sealed.path}/result.json is damaged: `agentsweep store remove` it"
            )
        publish(sealed, out, PUBLISHED)
    return result


def _tell_of_garbled_prompt(store: Store, sealed: Attempt, spec: str, say: Say) -> None:
    # Only a recall needs it, and a run's process is to start quickly.
    from agentsweep.extraction.run_directory import prompt_was_garbled

    if prompt_was_garbled(sealed.path / "trace.jsonl", json.loads(spec).get("prompt_sha256")):
        say(
            f"the agent of {sealed.id} got a garbled prompt, not that of the spec: run "
            f"`agentsweep store --store {store.root} remove {sealed.id} --yes` and start again"
        )


def _refuse_more_failures(store: Store, key: str, job: Job) -> None:
    """LastingError where attempts failed again and again after their agents had been answered.

    Nothing is sealed for it: what failed of the host is no outcome of the agent.
    """
    attempts = store.attempts(key)
    last = max((a.number for a in attempts if a.state in (SEALED, SUPERSEDED)), default=0)
    paid = [
        attempt
        for attempt in attempts
        if attempt.state == "failed"
        and attempt.number > last
        and gateway_facts.was_answered(attempt.path / "api.jsonl")
    ]
    if len(paid) >= MAX_PAID_FAILURES:
        raise LastingError(
            f"{job.cell}: {len(paid)} attempts failed after a model had answered "
            f"({_why(paid[-1])}), so no more are made: fix what made them fail, and remove them "
            f"with `agentsweep store --store {store.root} remove {' '.join(a.id for a in paid)}`"
        )


def _why(attempt: Attempt) -> str:
    """What ended a failed attempt, in its own words."""
    try:
        text = untrusted.read(attempt.path / "error.txt", _ERROR_BYTES)
    except OSError:
        return "no reason is known"
    return text.decode(errors="replace").strip().partition(": ")[2] or "no reason is known"


def _back_off(store: Store, key: str, say: Say) -> None:
    """Wait after an infrastructure failure: 5, 10, 20 ... 60 s after the last one."""
    failed = [a for a in store.attempts(key) if a.state == "failed"]
    if not failed:
        return
    # A clock that was set back, or that of a file server, must not make this wait for hours.
    since = max(0, time.time() - failed[-1].path.stat().st_mtime)
    wait = min(60, 5 * 2 ** min(len(failed) - 1, 4)) - since
    if wait > 0:
        say(f"the last attempt failed {since:.0f} s ago; waiting {wait:.0f} s")
        time.sleep(wait)


def _attempt(
    store: Store, key: str, spec: str, job: Job, image: dict[str, Any], say: Say
) -> Attempt:
    """One attempt under the spec's lock: sealed, or kept as failed or interrupted."""
    free = machine_facts.free_bytes(store.root)
    if free < MIN_FREE_BYTES:
        raise LastingError(
            f"the disk that holds {store.root} has {free // 2**20} MiB left: free at least "
            f"{MIN_FREE_BYTES // 2**20} MiB and run again"
        )
    with Signals(say) as signals, _room(job, say) as granted:
        limits = replace(job.limits, cpuset=granted.cpuset)
        job = replace(job, limits=limits, granted=granted)
        return _measured(store, key, spec, job, image, say, signals)


def _room(job: Job, say: Say) -> contextlib.AbstractContextManager[admission.Grant]:
    """The place on this machine that a run needs, waited for and held."""
    need = admission.Need(
        job.cell,
        job.needs.memory_bytes,
        job.needs.cores,
        pinned=job.limits.cpu_mode == CPUSET,
    )
    container = job.container
    return admission.admitted(
        need, job.machine, say, lambda: cleanup.clean_engine(container.engine, container.runtime)
    )


def _measured(
    store: Store, key: str, spec: str, job: Job, image: dict[str, Any], say: Say, signals: Signals
) -> Attempt:
    """The attempt itself, once there is room for it."""
    if job.is_live:
        entry = {"utc_ns": time.time_ns(), "cell": job.cell, "spec_sha256": key}
        Ledger(store.root).start(job.max_live_runs, entry)
    attempt = store.begin(key)
    say(f"attempt {attempt.id} of {job.cell}")
    with kept_unsealed(store, attempt):
        with disk_errors(attempt.path):
            result = measure(attempt, job, spec, image, say, signals.hold)
            record.write(result, attempt.path)
        if result.outcome == "infra_error":
            detail = result.outcome_detail
            failure = LastingError if outcome.is_lasting(detail) else InfraError
            raise failure(f"{job.cell}: {detail}")
        sealed = store.finish(attempt, "sealed", PUBLISHED, result.written)
    say(f"{job.cell}: {result.outcome}: {result.outcome_detail}")
    return sealed
