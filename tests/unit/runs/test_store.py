"""Nothing sealed is lost, and nothing half-written is taken for sealed."""

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from agentsweep.errors import AgentsweepError, InfraError
from agentsweep.files import disk_errors
from agentsweep.runs import store as store_module
from agentsweep.runs.store import Store, publish, spec_sha256

SPEC = '{"protocol":1}'
KEY = spec_sha256(SPEC)


def seal(store: Store, content: str = "data"):
    with store.locked(KEY, SPEC):
        attempt = store.begin(KEY)
        (attempt.path / "result.json").write_text(
            json.dumps({"outcome": content}), encoding="utf-8"
        )
        return store.finish(attempt, "sealed")


def test_a_sealed_attempt_is_found_by_its_spec(tmp_path):
    store = Store(tmp_path / "store")
    assert store.sealed(KEY) is None
    sealed = seal(store)
    assert store.sealed(KEY) == sealed
    assert sealed.path.name == "attempt-1"
    assert sealed.id == f"{KEY[:12]}-1"
    assert store.spec(KEY) == {"protocol": 1}
    assert store.keys() == [KEY]


def test_the_first_sealed_attempt_is_recalled_for_ever(tmp_path):
    store = Store(tmp_path)
    seal(store, "first")
    seal(store, "second")
    assert store.sealed(KEY).result() == {"outcome": "first"}


@pytest.mark.parametrize("state", ["failed", "interrupted", "partial"])
def test_only_sealed_counts(tmp_path, state):
    store = Store(tmp_path)
    with store.locked(KEY, SPEC):
        attempt = store.begin(KEY)
        if state != "partial":
            store.finish(attempt, state)
    assert store.sealed(KEY) is None
    assert [a.state for a in store.attempts(KEY)] == [state]


def test_a_dead_runners_partial_is_kept_and_its_number_not_used_again(tmp_path):
    store = Store(tmp_path)
    with store.locked(KEY, SPEC):
        (store.begin(KEY).path / "stream.jsonl").write_text("evidence", encoding="utf-8")
    with store.locked(KEY, SPEC):
        (retired,) = store.retire_partials(KEY)
        assert store.begin(KEY).number == retired.number + 1
    kept = tmp_path / KEY / "attempt-1.interrupted" / "stream.jsonl"
    assert kept.read_text(encoding="utf-8") == "evidence"


def _hold(root, started, seconds):
    with Store(root).locked(KEY, SPEC):
        started.set()
        time.sleep(seconds)
        seal_path = Store(root).begin(KEY)
        (seal_path.path / "result.json").write_text("{}", encoding="utf-8")
        Store(root).finish(seal_path, "sealed")


def test_a_second_run_of_a_cell_waits_and_then_recalls(tmp_path):
    started = multiprocessing.Event()
    first = multiprocessing.Process(target=_hold, args=(tmp_path, started, 1.5))
    first.start()
    assert started.wait(10)
    begin = time.monotonic()
    with Store(tmp_path).locked(KEY, SPEC):
        assert time.monotonic() - begin > 0.2
        assert Store(tmp_path).sealed(KEY).number == 1
    first.join()


def test_a_killed_holder_leaves_no_lock(tmp_path):
    started = multiprocessing.Event()
    holder = multiprocessing.Process(target=_hold, args=(tmp_path, started, 60))
    holder.start()
    assert started.wait(10)
    holder.kill()
    holder.join()
    with Store(tmp_path).locked(KEY, SPEC):
        assert Store(tmp_path).sealed(KEY) is None


def test_publishing_links_and_survives_removal_of_the_results(tmp_path):
    store = Store(tmp_path / "store")
    sealed = seal(store)
    out = tmp_path / "results"
    publish(sealed, out, ("result.json",))
    publish(sealed, out, ("result.json",))
    assert (out / "result.json").stat().st_ino == (sealed.path / "result.json").stat().st_ino
    (out / "result.json").unlink()
    assert sealed.result() == {"outcome": "data"}


def test_a_second_cell_of_the_same_spec_does_not_touch_the_firsts_times(tmp_path):
    sealed = seal(Store(tmp_path / "store"))
    first, second = tmp_path / "first", tmp_path / "second"
    publish(sealed, first, ("result.json",))
    os.utime(first / "result.json", (1000, 1000))
    publish(sealed, second, ("result.json",))
    assert (first / "result.json").stat().st_mtime == 1000
    assert (second / "result.json").stat().st_mtime > 1000
    assert (second / "result.json").read_text(encoding="utf-8") == (
        first / "result.json"
    ).read_text(encoding="utf-8")


def test_publishing_to_another_file_system_copies(tmp_path, monkeypatch):
    sealed = seal(Store(tmp_path / "store"))

    def refuse(*_):
        raise OSError(errno.EXDEV, "cross-device link")

    monkeypatch.setattr(store_module.os, "link", refuse)
    publish(sealed, tmp_path / "results", ("result.json",))
    assert json.loads((tmp_path / "results/result.json").read_text(encoding="utf-8")) == {
        "outcome": "data"
    }


def test_a_published_file_is_newer_than_its_inputs(tmp_path):
    sealed = seal(Store(tmp_path / "store"))
    os.utime(sealed.path / "result.json", (1, 1))
    publish(sealed, tmp_path / "results", ("result.json",))
    assert (tmp_path / "results/result.json").stat().st_mtime > time.time() - 60


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOSPC, "is full"), (errno.EACCES, "cannot be written")]
)
def test_disk_trouble_is_one_sentence(tmp_path, number, says):
    with pytest.raises(InfraError, match=says) as caught, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_dressed_up(tmp_path):
    with pytest.raises(OSError, match="Is a directory"), disk_errors(tmp_path):
        raise OSError(errno.EISDIR, "Is a directory")


@pytest.fixture
def disk(monkeypatch):
    """What reaches the disk, in order: `sync` of a file or folder, and each rename's target."""
    seen = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(handle):
        seen.append(("sync", Path(f"/proc/self/fd/{handle}").readlink()))
        real_sync(handle)

    def rename(path, target):
        seen.append(("rename", Path(target)))
        return real_rename(path, target)

    monkeypatch.setattr(store_module.os, "fsync", sync)
    monkeypatch.setattr(store_module.Path, "rename", rename)
    return seen


@pytest.mark.parametrize("state", ["sealed", "failed", "interrupted"])
def test_an_attempt_is_on_disk_before_its_name_and_its_name_before_anybody_relies_on_it(
    tmp_path, disk, state
):
    store = Store(tmp_path)
    with store.locked(KEY, SPEC):
        attempt = store.begin(KEY)
        (attempt.path / "session" / "deep").mkdir(parents=True)
        written = [attempt.path / "result.json", attempt.path / "session" / "deep" / "x.jsonl"]
        for path in written:
            path.write_text("{}", encoding="utf-8")
        (attempt.path / "link").symlink_to("nowhere")
        disk.clear()
        sealed = store.finish(attempt, state)
    at = disk.index(("rename", sealed.path))
    folders = [attempt.path, attempt.path / "session", attempt.path / "session" / "deep"]
    # The seal comes when all that it speaks of is on disk.
    end = disk.index(("rename", attempt.path / "seal.json")) - 1 if state == "sealed" else at
    assert {path for what, path in disk[:end] if what == "sync"} == {*written, *folders}
    if state == "sealed":
        sync, _, last = disk[end:at]
        assert (sync[0], sync[1].parent, last) == ("sync", attempt.path, ("sync", attempt.path))
    assert disk[at + 1 :] == [("sync", attempt.path.parent)]


def test_a_durable_file_is_on_disk_before_its_name_and_its_name_after(tmp_path, disk):
    target = tmp_path / "spec.json"
    store_module.write_durably(target, b"{}")
    (first, written), renamed, last = disk
    assert (first, written.parent) == ("sync", tmp_path) and written != target
    assert (renamed, last) == (("rename", target), ("sync", tmp_path))
    assert target.read_bytes() == b"{}"


def test_users_name_attempts_by_prefix(tmp_path):
    store = Store(tmp_path)
    seal(store)
    seal(store)
    assert [a.number for a in store.resolve(KEY[:8])] == [1, 2]
    assert [a.number for a in store.resolve(f"{KEY[:8]}-2")] == [2]
    for name, says in (
        ("ffffffff", "no spec"),
        (f"{KEY[:8]}-9", "no such attempt"),
        ("x", "names"),
    ):
        with pytest.raises(AgentsweepError, match=says):
            store.resolve(name)


def test_removal_takes_what_is_named_and_nothing_else(tmp_path):
    store = Store(tmp_path)
    first, second = seal(store), seal(store)
    store.remove(first)
    assert store.attempts(KEY) == [second]


def test_a_damaged_result_is_no_result(tmp_path):
    sealed = seal(Store(tmp_path))
    for damaged in ('{"outcome"', "[]", "null"):
        (sealed.path / "result.json").write_text(damaged, encoding="utf-8")
        assert sealed.result() is None
