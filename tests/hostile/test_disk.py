"""What an agent can write, counted and bounded; no containers."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import LIMIT, growth

from agentsweep import files
from agentsweep.agents.claude_code import invocation
from agentsweep.host import disk
from agentsweep.sampler.peaks import Ledger

KIB = 1024


def blocks(path: Path) -> int:
    return path.lstat().st_blocks * 512


def test_all_folders_count_and_nothing_counts_twice(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    (one / "deep" / "er").mkdir(parents=True)
    two.mkdir()
    (one / "deep" / "er" / "file").write_bytes(os.urandom(300 * KIB))
    os.link(one / "deep" / "er" / "file", two / "again")
    (two / "link").symlink_to("/usr")
    with (two / "sparse").open("wb") as file:
        file.truncate(2**40)
    used = disk.used_bytes([one, two, tmp_path / "gone"])
    assert 300 * KIB <= used < 400 * KIB


def test_empty_files_are_no_way_around(tmp_path):
    before = disk.used_bytes([tmp_path])
    for number in range(1000):
        (tmp_path / str(number)).touch()
    assert disk.used_bytes([tmp_path]) - before >= 1000 * 512
    assert disk.used_bytes([tmp_path], most_entries=999) is None


def test_files_without_a_name_are_seen_while_they_are_open(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(os.urandom(500 * KIB))
        file.flush()
        path.unlink()
        pids = [os.getpid(), 2**22 + 1]
        assert disk.unlinked_bytes(pids, [tmp_path]) >= 500 * KIB
        assert disk.unlinked_bytes(pids, [tmp_path], most_entries=2) is None
    assert disk.unlinked_bytes([os.getpid()], [tmp_path]) < 500 * KIB


def watch(folder: Path, budget_bytes: int, pids=()) -> disk.Watch:
    return disk.Watch([folder], [folder], budget_bytes, lambda: pids)


def test_a_run_that_meets_its_budget_is_told_within_seconds(tmp_path):
    seen = watch(tmp_path, 2**20)
    seen.start()
    (tmp_path / "file").write_bytes(os.urandom(2**21))
    deadline = time.monotonic() + 30
    while seen.over is None and time.monotonic() < deadline:
        time.sleep(0.05)
    seen.stop()
    assert seen.over == "the run wrote more than container.disk allows (1 MiB)"
    assert seen.used_bytes >= 2**21


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_without_a_name_is_no_way_around(tmp_path, mapped):
    code = """if 1:
        import mmap, os, sys
        handle = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
        os.unlink(sys.argv[1])
        os.write(handle, os.urandom(2**21))
        if sys.argv[2] == "True":
            held = mmap.mmap(handle, 0)
            os.closerange(3, 100)
        print("ready", flush=True)
        sys.stdin.read()
        """
    command = [sys.executable, "-c", code, tmp_path / "file", str(mapped)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        seen = watch(tmp_path, 2**20, [process.pid])
        seen.look()
        process.stdin.close()
    assert seen.over == "the run wrote more than container.disk allows (1 MiB)"


def test_memory_is_no_disk(tmp_path):
    handle = os.memfd_create("memory")
    try:
        os.write(handle, bytes(2**21))
        seen = watch(tmp_path, 2**20, [os.getpid()])
        seen.look()
    finally:
        os.close(handle)
    assert (seen.over, seen.host) == (None, None)


def test_a_run_within_its_budget_is_left_alone(tmp_path):
    (tmp_path / "file").write_bytes(os.urandom(2**19))
    seen = watch(tmp_path, 2**20)
    seen.look()
    assert (seen.over, seen.host) == (None, None)


def test_files_that_take_long_to_count_hide_no_flood(tmp_path, monkeypatch):
    """The next time to count is minutes away, and the disk itself says that it is filling."""
    free, used, counted = {"bytes": 2**40}, {"bytes": 0}, threading.Semaphore(0)

    def count(folders):
        time.sleep(0.1)
        counted.release()
        return used["bytes"]

    monkeypatch.setattr(disk, "_free", lambda path: (free["bytes"], True))
    monkeypatch.setattr(disk, "used_bytes", count)
    monkeypatch.setattr(disk, "_SHARE", 6000)
    seen = watch(tmp_path, 2**30)
    seen.start()
    assert counted.acquire(timeout=20)
    # By somebody else, and less than the run has left: no reason.
    free["bytes"] -= 2**29
    assert not counted.acquire(timeout=2)
    used["bytes"] = 2**31
    free["bytes"] -= 2**31
    assert counted.acquire(timeout=20)
    seen.stop()
    assert seen.over == "the run wrote more than container.disk allows (1.0 GiB)"


def test_who_filled_a_disk_is_the_one_that_ends(tmp_path, monkeypatch):
    free = {"bytes": 2**22}
    monkeypatch.setattr(disk, "_free", lambda path: (free["bytes"], True))
    monkeypatch.setattr(disk, "RESERVE_BYTES", 2**20)
    monkeypatch.setattr(disk, "_PATIENCE_S", 0)
    names = ("guilty", "innocent")
    for name in names:
        (tmp_path / name).mkdir()
    guilty, innocent = (watch(tmp_path / name, 2**30) for name in names)
    (tmp_path / "guilty" / "file").write_bytes(os.urandom(2**21))
    free["bytes"] = 0
    for seen in (guilty, innocent):
        seen.look()
    assert guilty.over.startswith("the run filled the disk of")
    assert innocent.over is None
    time.sleep(0.01)
    innocent.look()
    assert "not of what this run wrote" in innocent.host


def test_space_that_comes_back_is_no_failure(tmp_path, monkeypatch):
    free = {"bytes": 0}
    monkeypatch.setattr(disk, "_free", lambda path: (free["bytes"], True))
    seen = watch(tmp_path, 2**30)
    seen._free_bytes = dict.fromkeys(seen._free_bytes, 2**30)
    seen.look()
    free["bytes"] = 2**30
    seen.look()
    monkeypatch.setattr(disk, "_PATIENCE_S", 0)
    free["bytes"] = 0
    seen.look()
    assert (seen.over, seen.host) == (None, None)


@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b" ")), max_size=30),
    limit=st.integers(1, 400),
)
def test_what_is_cut_are_whole_lines_from_the_beginning(tmp_path_factory, lines, limit):
    path = tmp_path_factory.getbasetemp() / "cut"
    whole = b"".join(line + b"\n" for line in lines)
    path.write_bytes(whole)
    files.cut(path, limit)
    left = path.read_bytes()
    assert whole.startswith(left)
    assert len(left) <= limit or left == whole
    if b"\n" in whole[:limit]:
        assert left == whole if len(whole) <= limit else left.endswith(b"\n")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")])
def test_only_files_are_cut(tmp_path, make):
    make(tmp_path / "odd")
    files.cut(tmp_path / "odd", 1)
    files.cut(tmp_path / "none", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["odd"]


def test_space_that_was_held_is_given_back_and_no_byte_changes(tmp_path):
    path = tmp_path / "record"
    with path.open("ab", buffering=0) as file:
        file.write(b"one\n")
        disk.hold(path, 2**20)
        assert blocks(path) >= 2**20
        assert path.stat().st_size == 4
        file.write(b"two\n")
        disk.release(path)
        assert path.read_bytes() == b"one\ntwo\n"
        assert blocks(path) < 2**20
    disk.hold(tmp_path / "none", 1)
    disk.release(tmp_path / "none")


SESSION = "5f" * 16


def test_of_a_flood_the_beginning_of_the_session_is_kept(tmp_path):
    project = tmp_path / "projects" / "-testbed"
    project.mkdir(parents=True)
    (project / f"{SESSION}.jsonl").write_bytes(b'{"a": 1}\n' * 1000)
    (project / "small.jsonl").write_bytes(b"{}\n")
    (project / "large.jsonl").write_bytes(b"x" * 20_000)
    (tmp_path / "flood").write_bytes(b"x" * 20_000)
    invocation.drop_all_but_session(tmp_path, SESSION, 5000)
    left = {p.name: p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {f"{SESSION}.jsonl": 4995, "small.jsonl": 3}


class Reader:
    can_reset_peak = False


def test_forged_calls_do_not_fill_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr("agentsweep.sampler.peaks.MARKS_BYTES", 10_000)
    path = tmp_path / "marks.jsonl"
    ledger = Ledger(Reader(), path)
    for number in range(1000):
        ledger._write({"seq": number, "command": "x" * 100})
    ledger.close()
    assert path.stat().st_size <= 10_000
    assert ledger.cut
    assert ledger.write_error is None
    assert path.read_bytes().endswith(b"}\n")


def test_counting_many_files_is_linear(tmp_path):
    def counting(files: int):
        folder = tmp_path / str(files)
        folder.mkdir()
        for number in range(files):
            (folder / str(number)).touch()
        return lambda: disk.used_bytes([folder])

    assert growth(counting, 4000) < LIMIT


def test_a_disk_that_is_really_full_keeps_what_is_held(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "test", str(small)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("NOT RUN: a file system of its own needs root")
    try:
        record = small / "record"
        with record.open("ab", buffering=0) as file:
            disk.hold(record, 2**20)
            flood = f"open({str(small / 'flood')!r}, 'wb').write(bytes(2**23))"
            done = subprocess.run([sys.executable, "-c", flood], capture_output=True, check=False)
            assert done.returncode != 0
            assert file.write(b"x" * 2**19) == 2**19
            assert disk._is_full(small)
    finally:
        subprocess.run(["umount", str(small)], check=True)
