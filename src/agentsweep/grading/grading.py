"""One grading: a patch and a task's tests in a fresh container, sealed in the store.

A grading is evidence, not a verdict: `verdict.judge` reads it. It is kept in the store by the hash
of all that decides it, so that equal patches share one, and a reader of the results needs no
engine.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from agentsweep import seal
from agentsweep.containers import image_distribution
from agentsweep.containers.client import EngineTimeout
from agentsweep.containers.engine import LABEL, OWNER_LABEL, Container, ContainerSpec, Engine, Mount
from agentsweep.errors import AgentsweepError, InfraError
from agentsweep.files import disk_errors, write_durably
from agentsweep.grading import evidence, grading_script
from agentsweep.grading.verdict import KINDS
from agentsweep.hashes import text_sha256
from agentsweep.host import disk, scratch
from agentsweep.host.admission import Need
from agentsweep.host.cgroup import reader_for_pid
from agentsweep.host.cgroup_reader import CgroupReader
from agentsweep.host.processes import owner_tag
from agentsweep.runs import watch
from agentsweep.runs.signals import Signals, kept_unsealed
from agentsweep.runs.spec import canonical, cores
from agentsweep.runs.store import Attempt, Store, publish, spec_sha256
from agentsweep.tasks.task_row import TaskRow

# What decides a grading beside its inputs; a new one grades every patch again.
GRADER = 1

# What gradings leave: since 2 also what a plugin saw (`witness`). Those of before are recalled as
# they are, and their verdicts say that there was none.
EVIDENCE = 2

# Below the run store's root, whose own names are hashes.
FOLDER = "gradings"

# What root is given where the work tree, or a part of it, is not root's to write: it then writes
# whatever the modes say, as root does in the benchmark's own containers.
_OVERRIDE = ("DAC_OVERRIDE",)

# What the tests of a patch may write in their container, and what is kept of what they leave.
_LAYER_BYTES, _EVIDENCE_BYTES = disk.BUDGET_BYTES, 256 * 2**20
_PACK_S = 60


FindEngine = Callable[[], Engine]
# A context that holds the room of a grading on this machine.
Room = Callable[[Need], AbstractContextManager[object]]


class CannotGrade(AgentsweepError):
    """This grading cannot be made here, however often it is tried: the message says why."""


class _LockedTree(CannotGrade):
    """Root without capabilities cannot write the work tree."""


@dataclass(frozen=True)
class Grader:
    """The fixed conditions of all gradings: bytes, CPUs, seconds, and whether there is a network.

    install: run the row's own installation first, which nearly always needs a network.
    """

    memory_bytes: int
    cpus: str
    timeout_s: float
    network: bool
    install: bool


@dataclass(frozen=True)
class Ground:
    """Where a task's patches are graded: row, image digest, work tree, environment."""

    row: TaskRow
    reference: str
    digest: str
    config_digest: str
    workdir: str
    environment: str | None


def spec(ground: Ground, grader: Grader, patch_sha256: str, repeat: int = 0) -> str:
    """The canonical JSON of all that decides a grading; `repeat` tells validations apart."""
    return canonical(
        {
            "grader": GRADER,
            **asdict(grader),
            "row_sha256": ground.row.sha256,
            "image_digest": ground.digest,
            "workdir": ground.workdir,
            "environment_sha256": text_sha256(ground.environment),
            "patch_sha256": patch_sha256,
            "repeat": repeat,
        }
    )


def grade(
    store: Store,
    ground: Ground,
    grader: Grader,
    patch: bytes,
    engine: FindEngine,
    room: Room,
    repeat: int = 0,
    place: image_distribution.Place | None = None,
) -> Attempt:
    """The sealed grading of a patch, recalled from `store` or made now.

    Where there is nothing to recall, `engine` is called without arguments for an Engine, and
    `room` with the grading's Need for a context that holds the room on this machine; `place` is
    where its node may find the image. Raises InfraError where the container could not be had; the
    attempt is then kept as failed, and CannotGrade where it never will be had. Raises Interrupted
    on a signal (kept as interrupted).
    """
    wanted = spec(ground, grader, hashlib.sha256(patch).hexdigest(), repeat)
    key = spec_sha256(wanted)
    with store.locked(key, wanted):
        store.retire_partials(key)
        sealed = recalled(store, key)
        if sealed is not None:
            return sealed
        need = Need(
            f"the grading of {ground.row.instance_id}",
            grader.memory_bytes,
            cores(grader.cpus),
            cure="set grading.memory and grading.cpus, or grade on a larger machine",
        )
        with Signals(print), room(need):
            return _made(store, store.begin(key), ground, grader, patch, engine, place)


def recalled(store: Store, key: str) -> Attempt | None:
    """The first sealed grading that counts; None where there is none.

    Earlier versions could not write each work tree, and not apply a test patch without its last
    newline: what they say of a patch that did not apply may be wrong. A damaged one is kept, and
    another is made, which costs no money.
    """
    for attempt in store.attempts(key):
        if attempt.state == "sealed":
            try:
                record, _ = evidence.read(attempt.path)
            except AgentsweepError:
                print(f"the sealed grading {attempt.path} is damaged: it is kept, and made again")
                continue
            if "capabilities" in record or (record["applied_by"] and record["tests_applied"]):
                return attempt
    return None


def _made(
    store: Store,
    attempt: Attempt,
    ground: Ground,
    grader: Grader,
    patch: bytes,
    engine: FindEngine,
    place: image_distribution.Place | None,
) -> Attempt:
    with kept_unsealed(store, attempt), disk_errors(attempt.path):
        record = _graded(engine(), attempt, ground, grader, patch, place)
        record["spec_sha256"] = attempt.spec_sha256
        written = {evidence.ARCHIVE: {"sha256": record["evidence_sha256"]}}
        record[seal.MARK] = written
        content = json.dumps(record, indent=1, sort_keys=True) + "\n"
        write_durably(attempt.path / evidence.RECORD, content.encode())
        return store.finish(attempt, "sealed", (evidence.RECORD, evidence.ARCHIVE), written)


def published(attempt: Attempt, out: Path) -> None:
    """Put a grading's files into a result directory."""
    publish(attempt, out, (evidence.RECORD, evidence.ARCHIVE))


def _graded(
    engine: Engine,
    attempt: Attempt,
    ground: Ground,
    grader: Grader,
    patch: bytes,
    place: image_distribution.Place | None,
) -> evidence.Record:
    """Grade in a container of its own; the evidence goes into the attempt."""
    wanted = (ground.reference, ground.digest, ground.config_digest)
    pulled = image_distribution.pull(engine, *wanted, place)
    try:
        return _in_container(engine, attempt, ground, grader, patch, pulled["id"], ())
    except _LockedTree:
        return _in_container(engine, attempt, ground, grader, patch, pulled["id"], _OVERRIDE)


def _in_container(
    engine: Engine,
    attempt: Attempt,
    ground: Ground,
    grader: Grader,
    patch: bytes,
    image: str,
    capabilities: tuple[str, ...],
) -> evidence.Record:
    begin = time.monotonic()
    folder = scratch.create(f"grading-{attempt.id}-{os.getpid()}")
    try:
        with _container(engine, attempt, image, grader, folder, capabilities) as container:
            _give(folder / "given", ground, grader, patch)
            with contextlib.closing(_counters(container)) as counters:
                applied = _apply(engine, container)
                tests_applied = bool(applied["tests_applied"])
                with _on_budget(counters, container, (folder, attempt.path), _LAYER_BYTES):
                    timed_out = tests_applied and _timed_out(engine, container, grader)
                oom_kill_count, peak_bytes = _counted(counters)
            _collect(engine, container, attempt.path / evidence.ARCHIVE, _EVIDENCE_BYTES)
    finally:
        scratch.remove(folder)
    return {
        "schema": 1,
        "instance_id": ground.row.instance_id,
        "row_sha256": ground.row.sha256,
        **{kind: getattr(ground.row, kind) for kind in KINDS},
        "patch_sha256": hashlib.sha256(patch).hexdigest(),
        "image_digest": ground.digest,
        "grader": {"version": EVIDENCE, **asdict(grader)},
        "capabilities": list(capabilities),
        "applied_by": next(iter(applied["applied_by"]), None),
        "tests_applied": tests_applied,
        "restored": applied["restored"],
        "placed": dict(zip(grading_script.test_files(ground.row), applied["placed"], strict=False)),
        "settings_changed": applied["settings"],
        "n_commands": len(grading_script.commands(ground.row)),
        "timed_out": timed_out,
        "oom_kill_count": oom_kill_count,
        "mem_peak_bytes": peak_bytes,
        "evidence_sha256": evidence.digest(attempt.path),
        "wall_s": round(time.monotonic() - begin, 3),
    }


@contextlib.contextmanager
def _on_budget(
    counters: CgroupReader, container: Container, folders: tuple[Path, ...], layer_bytes: int
) -> Iterator[None]:
    """End the tests of a patch that fills the disk, or writes more than `layer_bytes`: they are
    then missing in what they leave."""

    def end() -> None:
        with contextlib.suppress(InfraError):
            watch.kill_all_but_init(counters, container.pid)

    def pids() -> list[int]:
        with contextlib.suppress(InfraError):
            return counters.pids()
        return []

    layer = (container.layer,) if container.layer else ()
    # Only the layer is written to by the patch's code; the others are told how full their disk is.
    seen = disk.Watch(layer, (*layer, *folders), layer_bytes, pids, end)
    seen.start()
    try:
        yield
    finally:
        seen.stop()


@contextlib.contextmanager
def _container(
    engine: Engine,
    attempt: Attempt,
    image: str,
    grader: Grader,
    folder: Path,
    capabilities: tuple[str, ...],
) -> Iterator[Container]:
    (folder / "given").mkdir()
    name = f"agentsweep-grading-{attempt.id}-{os.getpid()}"
    wanted = ContainerSpec(
        name,
        image,
        {LABEL: name, OWNER_LABEL: owner_tag()},
        memory_bytes=grader.memory_bytes,
        cpus=grader.cpus,
        pids=4096,
        network="bridge" if grader.network else "none",
        mounts=(Mount(folder / "given", grading_script.GIVEN),),
        user="0:0",
        kept_capabilities=capabilities,
    )
    try:
        yield engine.start(engine.create(wanted), name)
    finally:
        engine.remove(name)


def _give(folder: Path, ground: Ground, grader: Grader, patch: bytes) -> None:
    row, script = ground.row, grading_script
    plugin = f"witness_{secrets.token_hex(8)}"
    plugins = folder / Path(script.PLUGINS).name
    plugins.mkdir()
    for name, content in script.plugins(row, ground.workdir, plugin).items():
        (plugins / name).write_text(content, encoding="utf-8")
    files = {
        "patch.diff": _ended(patch),
        "test.diff": _ended(row.test_patch.encode()),
        "apply.sh": script.apply_script(row, ground.workdir, empty=not patch).encode(),
        "test.sh": script.test_script(
            row, ground.workdir, ground.environment, grader.install, plugin
        ).encode(),
    }
    if row.eval_script is not None:
        files["eval.sh"] = row.eval_script.encode()
    for name, whole in files.items():
        (folder / name).write_bytes(whole)
    scratch.open_to_all(folder)


def _ended(patch: bytes) -> bytes:
    """A patch with the newline that ends its last line: tools that move rows strip it.

    A file that ends without one has a line of its own in a patch that says so.
    """
    return patch + b"\n" if patch and not patch.endswith(b"\n") else patch


def _apply(engine: Engine, container: Container) -> dict[str, list[str]]:
    """Put the patch and the tests in place; the lines of each file that says what was done.

    They are read before the patch's code runs, which could write there what it likes.
    """
    given, left = grading_script.GIVEN, grading_script.LEFT
    names = " ".join(grading_script.APPLIED)
    script = f"""\
mkdir -p {left} || exit
sh {given}/apply.sh > {left}/apply.log 2>&1 || {{
  status=$?
  for name in missing locked; do [ ! -e {left}/$name ] || cat {left}/$name; done
  exit $status
}}
cd {left} && for name in {names}; do [ ! -e $name ] || sed "s/^/$name /" $name; done"""
    done = engine.exec(container.id, "sh", "-c", script, check=False)
    if done.returncode in grading_script.CANNOT:
        reason = grading_script.CANNOT[done.returncode]
        culprits = done.stdout.split("\n")[:-1]
        named = f" {', '.join(culprits)}" if culprits else ""
        kind = _LockedTree if done.returncode == grading_script.LOCKED else CannotGrade
        raise kind(f"{reason}{named}")
    if done.returncode != 0:
        raise InfraError(
            f"the patch could not be put into {container.name}: "
            f"`sh` ended with status {done.returncode}"
        )
    found: dict[str, list[str]] = {name: [] for name in grading_script.APPLIED}
    for line in done.stdout.split("\n")[:-1]:
        name, _, content = line.partition(" ")
        # A path may break its line.
        if name in found:
            found[name].append(content)
    return found


def _timed_out(engine: Engine, container: Container, grader: Grader) -> bool:
    """Run the tests; whether they took too long."""
    # Without the engine's own pipe, which the patch's code could hold open or fill.
    script = f"exec bash {grading_script.GIVEN}/test.sh > /dev/null 2>&1"
    try:
        engine.exec(container.id, "sh", "-c", script, check=False, timeout_s=grader.timeout_s)
    except EngineTimeout:
        return True
    return False


def _collect(engine: Engine, container: Container, target: Path, most_bytes: int) -> None:
    """What the grading left, as an archive that is read and never unpacked, up to `most_bytes`.

    It is made in the container, where the patch's code had every right: a link in it must lead
    nowhere here, and it must not fill the disk.
    """
    pack = f"tar -C {grading_script.LEFT} -cf - . | gzip | head -c {most_bytes}"
    for _ in range(2):
        try:
            engine.exec_to_file(container.id, target, "sh", "-c", pack, timeout_s=_PACK_S)
            return
        except InfraError:
            # The tests killed all processes of the container, its first one too, or theirs go on.
            engine.call("restart", "--time", "0", container.id, check=False)
    # Where the engine still knows the container, the tests took away what it needs to go on.
    engine.inspect(container.id)
    target.write_bytes(b"")


def _counters(container: Container) -> CgroupReader:
    reader = reader_for_pid(container.pid)
    reader.open()
    return reader


def _counted(counters: CgroupReader) -> tuple[int | None, int | None]:
    """OOM kills and peak of memory in bytes; null where the container ended with its tests."""
    try:
        return counters.read().memory_oom_kill, counters.peak_bytes()
    except (InfraError, OSError):
        return None, None
