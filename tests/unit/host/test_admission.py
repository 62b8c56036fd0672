"""The line for room on a machine: sums, order, dead processes, pinned CPUs; no container."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agentsweep.errors import InfraError
from agentsweep.host import admission
from agentsweep.host.admission import Need, admitted
from agentsweep.host.capacity import Machine, MachineSettings
from agentsweep.host.topology import Topology, list_text, parse_list

MIB = 2**20
HERE = os.sched_getaffinity(0)


@pytest.fixture
def line(tmp_path, monkeypatch):
    """Enter the line of a small machine: a context, which waits no longer than `wait_s`."""

    monkeypatch.setattr(Machine, "here", lambda: Machine(2**50, 64))

    def enter(name, mib=400, cores=1, wait_s=0.0, said=None, clean=None, pinned=False, **settings):
        given = {"memory": "1000MiB", "cpus": 4, "wait_s": wait_s} | settings
        given["ledger"] = str(tmp_path / "ledger")
        say = (said if said is not None else []).append
        need = Need(name, mib * MIB, cores, pinned)
        return admitted(need, MachineSettings(**given), say, clean or (lambda: None))

    enter.folder = tmp_path / "ledger"
    return enter


def test_what_fits_is_let_in_at_once_and_leaves_nothing(line):
    said = []
    with line("a", said=said) as first, line("b", said=said) as second:
        assert (first.memory_bytes, first.cores, first.cpuset) == (400 * MIB, 1, None)
        assert second.waited_s < 0.1
        states = [json.loads(path.read_bytes())["state"] for path in line.folder.glob("*.json")]
        assert states == ["held", "held"]
    assert said == []
    assert [path.name for path in line.folder.iterdir()] == ["lock"]


def test_who_holds_the_room_is_named_when_the_time_is_over(line):
    said = []
    me = f"process {os.getpid()} of"
    with (
        line("a", 700, 3),
        pytest.raises(InfraError) as refused,
        line("b", 400, 1, said=said, wait_s=0.2),
    ):
        pass
    assert str(refused.value).startswith(
        "b: no room on this machine for 0.2 s (machine.wait_s): 400 MiB and 1 core are needed, "
        f"300 MiB and 1 core are free; held by a (700 MiB, 3 cores, {me}"
    )
    (told,) = said
    assert told.startswith("waiting for room on this machine: 400 MiB and 1 core are needed")
    # CPUs count as memory does.
    with (
        line("a", 1, 3),
        pytest.raises(InfraError, match=r"b: no room .* 1 core are free; held"),
        line("b", 1, 2),
    ):
        pass
    with line("c", 1000, 4):
        pass


def test_what_is_short_is_said_in_one_sentence(line):
    me = f"process {os.getpid()} of {admission._user()}"
    # The other invocation was given more of the machine than this one is.
    with (
        line("a", 1000, 4),
        pytest.raises(InfraError) as refused,
        line("b", 400, 1, memory="500MiB", cpus=2),
    ):
        pass
    assert str(refused.value) == (
        "b: no room on this machine for 0 s (machine.wait_s): 400 MiB and 1 core are needed, "
        f"0 MiB and 0 cores are free; held by a (1000 MiB, 4 cores, {me})"
    )


def test_what_can_never_fit_is_refused_by_name(line):
    with (
        pytest.raises(InfraError, match=r"^a needs 1050 MB of memory, and this machine gives"),
        line("a", 1001),
    ):
        pass
    with (
        pytest.raises(InfraError, match=r"^a needs 5 cores, and this machine gives 4 "),
        line("a", 1, 5),
    ):
        pass
    few = len(HERE) + 1
    with (
        pytest.raises(InfraError, match=rf"^a needs {few} cores of its own, and may use CPUs"),
        line("a", 1, few, pinned=True, cpus=few),
    ):
        pass


def test_without_settings_nine_tenths_of_the_machine_are_there():
    assert Machine(1000, 3).offered(MachineSettings()) == Machine(900, 3)
    assert Machine(1000, 3).offered(MachineSettings(memory="2KiB", cpus=1)) == Machine(2048, 1)


def test_none_overtakes_another(line):
    order, threads = [], []

    def take(name, mib):
        with line(name, mib, wait_s=20):
            order.append(name)

    def begin(name, mib):
        threads.append(threading.Thread(target=take, args=(name, mib)))
        threads[-1].start()
        until(lambda: len(list(line.folder.glob("*.json"))) == 1 + len(threads))

    with line("first", 600):
        begin("large", 900)
        # There is room for these, and yet they do not pass the one before them.
        begin("small", 100)
        begin("another", 100)
        said = []
        with pytest.raises(InfraError) as refused, line("last", 100, said=said):
            pass
        assert "400 MiB and 3 cores are free; held by first" in str(refused.value)
        assert "; before it in line: large (900 MiB" in str(refused.value)
        assert order == []
    for thread in threads:
        thread.join()
    assert order[0] == "large"
    assert sorted(order[1:]) == ["another", "small"]


HOLDER = """
import sys, time
from agentsweep.host.admission import Need, admitted
from agentsweep.host.capacity import MachineSettings
name, mib, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
settings = MachineSettings("1000MiB", 4, 60, folder)
need = Need(name, mib * 2**20, 1)
with admitted(need, settings, lambda line: print("waits", flush=True), lambda: None):
    print("holds", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(line, name, mib, says):
    """Another process that holds or waits; killed at the end at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, name, str(mib), str(line.folder)],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        assert process.stdout.readline() == f"{says}\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_what_a_killed_process_held_is_given_out_when_its_container_is_gone(line):
    cleaned = []
    with holder(line, "other", 700, "holds") as process:
        with (
            pytest.raises(
                InfraError, match=f"held by other .700 MiB, 1 core, process {process.pid}"
            ),
            line("a", clean=lambda: cleaned.append("too early")),
        ):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()

        def clean():
            # What it held is not given out before.
            assert len(list(line.folder.glob("*.json"))) == 2
            cleaned.append("cleaned")

        with line("a", clean=clean), line("b", clean=clean):
            assert cleaned == ["cleaned"]
            assert len(list(line.folder.glob("*.json"))) == 2


def test_a_killed_process_in_the_line_holds_up_nobody(line):
    cleaned = []
    with line("a", 600), holder(line, "other", 700, "waits") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with line("b", clean=lambda: cleaned.append("for nothing")):
            pass
    assert cleaned == []


def test_a_file_that_was_cut_short_by_a_crash_counts_as_held(line):
    with line("a"):
        pass
    (line.folder / "7.json").write_text('{"name": "x", "sta', encoding="utf-8")
    cleaned = []
    with line("a", clean=lambda: cleaned.append("cleaned")):
        assert cleaned == ["cleaned"]
    assert not (line.folder / "7.json").exists()


def test_what_a_dead_process_left_counts_no_more_where_it_cannot_be_deleted(line, monkeypatch):
    """In a directory that users share."""
    with line("a"):
        pass
    (line.folder / "7.json").write_text('{"state": "held", "memory_bytes": 999', encoding="utf-8")
    unlink = Path.unlink

    def refuse(path, missing_ok=False):
        if path.name == "7.json":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with line("a", 1000, 4) as grant:
        assert grant.memory_bytes == 1000 * MIB
    assert sorted(path.name for path in line.folder.iterdir()) == ["7.json", "lock"]


def test_files_that_are_no_tickets_are_let_be(line):
    with line("a"):
        pass
    names = ["-1.json", "1.json.bak", "notes.json", "x1.json", f"{10**18}.json", "5.json"]
    for name in names[:-1]:
        (line.folder / name).write_text("{}", encoding="utf-8")
    # As one that goes between the look at the directory and the look at the file.
    (line.folder / names[-1]).symlink_to("nowhere")
    cleaned = []
    with line("a", 1000, 4, clean=lambda: cleaned.append("for nothing")):
        assert (line.folder / "1.json").exists()
    assert cleaned == []
    assert sorted(path.name for path in line.folder.iterdir()) == sorted([*names, "lock"])


def test_a_fifo_in_the_line_is_not_waited_for(line):
    with line("a"):
        pass
    os.mkfifo(line.folder / "7.json")

    def hangs(_number, _frame):
        raise AssertionError("a FIFO was waited for")

    old = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(10)
    try:
        with line("a", 1000, 4):
            pass
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    assert [path.name for path in line.folder.iterdir()] == ["lock"]


WHOLE = {
    "name": "a", "state": "waiting", "memory_bytes": 0, "cores": 2**63 - 1, "usable": "0-3,8",
    "cpuset": None, "owner": "process 5",
}  # fmt: skip


@pytest.mark.parametrize("state", ["waiting", "held"])
@pytest.mark.parametrize("cpuset", [None, "", "0", "0-3", "0,2-9999"])
def test_what_a_process_writes_of_itself_is_read(state, cpuset):
    content = WHOLE | {"state": state, "cpuset": cpuset}
    assert admission._content(json.dumps(content).encode()) == content


@pytest.mark.parametrize(
    "wrong",
    [
        *({"name": value} for value in (None, 7, ["a"])),
        *({"state": value} for value in (None, "gone", 0)),
        *({"memory_bytes": value} for value in (None, -1, 2**63, 1.0, True, "1")),
        *({"cores": value} for value in (None, -1, 2**63, 1.0, True, "1")),
        *({"usable": value} for value in (None, 7, [], "x", "0-", "0,", "10000", "0\n")),
        *({"cpuset": value} for value in (7, [], "x", "0--1", " 0", "0;1")),
        {"owner": 5},
        {"strange": 1},
    ],
)
def test_what_no_process_writes_of_itself_is_nothing(wrong):
    content = WHOLE | wrong
    expected = {key: value for key, value in WHOLE.items() if key not in wrong}
    assert admission._content(json.dumps(content).encode()) == expected


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b'"name"', b"7", b"null", b"\xff", b"[" * 50_000]
)
def test_what_is_no_object_says_nothing(data):
    assert admission._content(data) == {}


def test_when_the_cleaning_fails_nothing_is_given_out(line):
    def clean():
        raise InfraError("container x cannot be removed")

    with line("a"):
        pass
    (line.folder / "7.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InfraError, match="container x cannot be removed"), line("a", clean=clean):
        pass
    assert sorted(path.name for path in line.folder.iterdir()) == ["7.json", "lock"]


def test_those_on_other_cpus_share_the_memory_alone(line):
    line.folder.mkdir()
    content = {
        "name": "far", "state": "held", "memory_bytes": 700 * MIB, "cores": 4,
        "usable": list_text({cpu + 4096 for cpu in HERE}), "cpuset": None, "owner": "another job",
    }  # fmt: skip
    path = line.folder / "1.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with path.open(encoding="utf-8") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with line("a", 300, 4):
            pass
        with (
            pytest.raises(InfraError, match=r"300 MiB and 4 cores are free; held by far \(700"),
            line("b", 301, 1),
        ):
            pass


def test_pinned_runs_have_cpus_of_their_own(line, monkeypatch):
    eight = tuple(range(8))
    monkeypatch.setattr(admission.os, "sched_getaffinity", lambda _: set(eight))
    topology = Topology(tuple((n, n + 4) for n in range(4)), (eight,))
    monkeypatch.setattr(admission.Topology, "read", lambda usable: topology)
    with (
        line("a", 1, 2, pinned=True, cpus=8) as a,
        line("b", 1, 3, pinned=True, cpus=8) as b,
        # It floats over all of them, and counts all the same.
        line("c", 1, 1, cpus=8) as c,
    ):
        assert [a.cpuset, b.cpuset, c.cpuset] == ["0,4", "1-2,5", None]
        with (
            pytest.raises(InfraError, match=r"CPUs to be pinned to: 3,6-7; held"),
            line("d", 1, 3, pinned=True, cpus=8),
        ):
            pass
        with line("e", 1, 2, pinned=True, cpus=8) as e:
            assert e.cpuset == "3,7"
    # Where more than the machine has is given out, CPUs to be pinned to may be short alone.
    with (
        line("a", 1, 8, pinned=True, cpus=16),
        pytest.raises(InfraError) as refused,
        line("b", 1, 1, pinned=True, cpus=16),
    ):
        pass
    assert (
        "1 MiB and 1 core are needed, 999 MiB and 8 cores are free, CPUs to be pinned to: none; "
        "held by a (1 MiB, 8 cores, "
    ) in str(refused.value)


def test_a_directory_that_cannot_be_written_is_told_in_a_sentence(line):
    line.folder.write_text("not a directory", encoding="utf-8")
    with (
        pytest.raises(InfraError) as refused,
        line("a"),
    ):
        pass
    assert str(refused.value) == (
        f"{line.folder}, in which runs stand in line: File exists: mend it or set machine.ledger"
    )


def test_a_lock_that_is_never_given_back_is_told_in_a_sentence(line):
    line.folder.mkdir()
    with (line.folder / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(InfraError, match=r"^a: .*/lock is locked by another process"),
            line("a", wait_s=0.1),
        ):
            pass


def test_a_lock_that_is_taken_while_one_waits_is_told_in_a_sentence(line):
    with line("a"), (line.folder / "lock").open(encoding="utf-8") as lock:

        class Said:
            def append(self, _words):
                fcntl.flock(lock, fcntl.LOCK_EX)

        with (
            pytest.raises(InfraError, match=r"^b: .*/lock is locked by another process"),
            line("b", 1000, wait_s=0.1, said=Said()),
        ):
            pass


def test_the_line_is_this_users_on_this_machine_whatever_tmpdir_is(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nowhere")
    folder = admission._directory(MachineSettings())
    assert folder.name == "ledger"
    assert folder.parent.name == f"agentsweep-{os.getuid()}"
    assert str(folder.parent.parent) in ("/dev/shm", "/tmp")
    assert folder.parent.stat().st_mode & 0o077 == 0


def _contend(enter, number, results):
    """A process of its own: pinned in every second one."""
    mib, cores = 150 + 100 * (number % 4), 1 + number % 2
    pinned = {"pinned": True} if number % 2 == 0 else {}
    with enter(f"p{number}", mib, cores, wait_s=30, cpus=2, **pinned) as grant:
        start = time.monotonic()
        time.sleep(0.03)
        results.put((start, time.monotonic(), mib, cores, grant.cpuset))


@pytest.mark.slow
def test_many_processes_never_have_more_than_there_is(line):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [context.Process(target=_contend, args=(line, n, results)) for n in range(8)]
    for process in processes:
        process.start()
    had = [results.get() for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    for start, *_ in had:
        at_once = [one for one in had if one[0] <= start < one[1]]
        assert sum(mib for _, _, mib, _, _ in at_once) <= 1000
        assert sum(cores for _, _, _, cores, _ in at_once) <= 2
        pinned = [cpu for *_, cpuset in at_once for cpu in parse_list(cpuset or "")]
        assert len(pinned) == len(set(pinned))
    assert [path.name for path in line.folder.iterdir()] == ["lock"]


def until(condition, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_process_of_ours_takes_the_lock_with_it(line):
    """A child that outlives its parent must not keep what that held."""
    with line("a", 900):
        child = subprocess.Popen(["sleep", "20"])
    try:
        with line("b", 900):
            pass
        for path in Path(f"/proc/{child.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                assert str(line.folder) not in str(path.readlink())
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_line_is_in_memory_and_elsewhere_only_where_that_cannot_be_written(
    tmp_path, monkeypatch, in_memory
):
    asked = []

    def own(base, cure):
        assert cure == "set machine.ledger"
        asked.append(base)
        return tmp_path / "own"

    monkeypatch.setattr(admission.scratch, "own_directory", own)
    monkeypatch.setattr(admission.os, "access", lambda path, mode: in_memory)
    found = admission._directory(MachineSettings())
    assert asked == [Path("/dev/shm") if in_memory else Path("/tmp")]
    assert found == tmp_path / "own" / "ledger" and found.is_dir()
    named = admission._directory(MachineSettings(ledger=str(tmp_path / "deep" / "named")))
    assert named == tmp_path / "deep" / "named" and named.is_dir() and len(asked) == 1


def test_a_ticket_can_be_read_by_all_whatever_the_umask(tmp_path):
    old = os.umask(0o077)
    try:
        os.close(admission._create(tmp_path / "1.json", os.O_RDWR | os.O_EXCL))
    finally:
        os.umask(old)
    assert (tmp_path / "1.json").stat().st_mode & 0o777 == 0o644


def test_a_ticket_that_has_just_gone_is_nobody(tmp_path, monkeypatch):
    assert admission._entry(tmp_path / "1.json") is None
    path = tmp_path / "2.json"
    path.write_text('{"state": "waiting"}', encoding="utf-8")
    here = admission._entry(path)
    assert (here.ticket, here.alive, here.content) == (2, False, {"state": "waiting"})

    def gone(handle):
        path.unlink()
        return True

    # Its process ended between the look at the file and the look at its lock.
    monkeypatch.setattr(admission.locks, "take", gone)
    assert admission._entry(path) is None


@pytest.mark.parametrize(
    ("count", "says"), [(1, "t0"), (8, "t0, t1, t2, t3, t4, t5, t6, t7"), (10, " t7 and 2 more")]
)
def test_many_in_line_are_named_as_far_as_anybody_reads(count, says):
    class Entry:
        def __init__(self, number):
            self.said = f"t{number}"

    told = admission._names([Entry(number) for number in range(count)])
    assert told.endswith(says) and told.startswith("t0")
    assert ("more" in told) == (count > 8)
