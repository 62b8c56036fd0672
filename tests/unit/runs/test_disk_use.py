"""The budget of a run, and what is freed of one that has used it up."""

import contextlib
import os
from types import SimpleNamespace

import pytest
from run_parts import FakeReader, attempt_run, disk_watch

from agentsweep.containers.engine import Container
from agentsweep.errors import LastingError
from agentsweep.runs import disk_use


@pytest.fixture
def full(tmp_path, monkeypatch):
    """A run with large files; returns it with its scratch directory."""
    monkeypatch.setattr(disk_use, "_KEPT_BYTES", 10)
    run = attempt_run(tmp_path / "attempt")
    for name in ("stream.jsonl", "stderr.txt", "api.jsonl"):
        (run.path / name).write_bytes(b"x" * 100)
    session = run.path / "session" / "projects" / "x"
    session.mkdir(parents=True)
    (session / "the-session.jsonl").write_bytes(b"{}\n")
    (session / "junk").write_bytes(b"x" * 100)
    home = tmp_path / "scratch" / "home"
    home.mkdir(parents=True)
    (home / "junk").write_bytes(b"x" * 100)
    return run, tmp_path / "scratch"


def sizes(run) -> dict[str, int]:
    files = (path for path in run.path.rglob("*") if path.is_file())
    return {path.name: path.stat().st_size for path in files}


def test_of_a_full_run_the_beginnings_are_kept_and_the_records_whole(full):
    run, folder = full
    disk_use.make_room(run, folder)
    assert sizes(run) == {
        "stream.jsonl": 10, "stderr.txt": 10, "api.jsonl": 100, "the-session.jsonl": 3,
    }  # fmt: skip
    assert not (folder / "home").exists()


@pytest.mark.parametrize(
    ("state", "freed"),
    [({}, False), ({"over": "x"}, True), ({"host": "x"}, True)],
)
def test_only_a_failed_attempt_on_a_full_disk_is_freed(full, state, freed):
    run, folder = full
    with contextlib.suppress(KeyError), disk_use.freed_on_failure(run, folder, disk_watch(**state)):
        raise KeyError
    assert ("junk" not in sizes(run)) == freed


def test_a_run_that_went_well_is_not_touched(full):
    run, folder = full
    with disk_use.freed_on_failure(run, folder, disk_watch(over="x")):
        pass
    assert "junk" in sizes(run)


def test_a_failure_goes_on_to_whom_it_concerns(full):
    run, folder = full
    with pytest.raises(KeyError), disk_use.freed_on_failure(run, folder, disk_watch(over="x")):
        raise KeyError


def test_settling_looks_once_more_unless_it_is_known(full):
    run, folder = full
    watch = disk_watch()
    disk_use.settle(run, folder, watch, [SimpleNamespace(cut=False)])
    assert (watch.stopped, watch.looks, watch.over) == (True, 1, None)
    assert "junk" in sizes(run)
    watch = disk_watch()
    disk_use.settle(run, folder, watch, [SimpleNamespace(cut=False), SimpleNamespace(cut=True)])
    assert watch.over == "the agent's output is longer than what is kept of it"
    assert "junk" not in sizes(run)
    watch = disk_watch(over="it wrote too much")
    disk_use.settle(run, folder, watch, [])
    assert (watch.looks, watch.over) == (0, "it wrote too much")


def test_all_that_a_run_writes_is_watched(tmp_path, monkeypatch):
    run, seen = attempt_run(tmp_path / "attempt", disk_bytes=123), []

    class Watch(SimpleNamespace):
        def __init__(self, folders, disks, budget_bytes, pids):
            seen.append((list(folders), list(disks), budget_bytes, pids()))
            super().__init__(start=lambda: seen.append("start"), stop=lambda: seen.append("stop"))

    monkeypatch.setattr(disk_use.disk, "Watch", Watch)
    reader = FakeReader(tmp_path)

    def watched(layer) -> list:
        seen.clear()
        with contextlib.ExitStack() as stack:
            disk_use.watch(run, tmp_path / "scratch", Container("i", "n", 1, layer), reader, stack)
        return list(seen)

    reader.processes = {os.getpid()}
    folders = [run.path, tmp_path / "scratch"]
    assert watched(None) == [(folders, folders, 123, {os.getpid()}), "start", "stop"]
    assert watched(tmp_path / "layer")[0][:2] == ([*folders, tmp_path / "layer"],) * 2
    reader.processes = None
    assert watched(None)[0][3] == set()


def test_records_have_their_space_while_the_agent_runs(tmp_path):
    run = attempt_run(tmp_path / "attempt")
    names = ("samples.arrow", "api.jsonl", "marks.jsonl")
    for name in names:
        (run.path / name).write_bytes(b"x")
    with contextlib.ExitStack() as stack:
        disk_use.watch(run, tmp_path, Container("i", "n", 1), FakeReader(tmp_path), stack)
        held = {name: (run.path / name).stat().st_blocks * 512 for name in names}
    if not any(n_bytes > 2**20 for n_bytes in held.values()):
        pytest.skip("this file system gives no space beyond a file's end")
    assert all(n_bytes >= 2**20 for n_bytes in held.values())
    disk_use.release(run)
    assert all((run.path / name).stat().st_blocks * 512 < 2**20 for name in names)
    assert all((run.path / name).stat().st_size == 1 for name in names)


def test_a_disk_that_filled_up_is_no_data(tmp_path, monkeypatch):
    run = attempt_run(tmp_path / "attempt")
    monkeypatch.setattr(disk_use.machine_facts, "free_bytes", lambda _: 2**20)
    assert disk_use.refuse_full(run) is None
    monkeypatch.setattr(disk_use.machine_facts, "free_bytes", lambda _: 2**20 - 1)
    with pytest.raises(LastingError, match=f"the disk that holds {tmp_path} filled up"):
        disk_use.refuse_full(run)
