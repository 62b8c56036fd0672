"""Containers that Podman has forgotten, with made-up processes; real ones: test_faults.py."""

import json
import os
from pathlib import Path

from agentsweep.containers import strays
from agentsweep.containers.strays import Monitor, Note


def test_monitors_are_told_by_their_command_line(tmp_path):
    words = ["/usr/bin/conmon", "--api-version", "1", "-c", "id", "-r", "/usr/bin/runc", "-n", "me"]
    for pid, command in enumerate((words, ["conmon", "--version"], ["vi", "-n", "conmon"], [""])):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_text("\0".join(command), encoding="utf-8")
    (tmp_path / "9").mkdir()
    (tmp_path / "self").mkdir()
    assert strays.monitors(tmp_path) == [Monitor("id", "me", "/usr/bin/runc")]


def test_what_the_runtime_still_has_is_deleted_and_nothing_of_others(tmp_path):
    log, runtime = tmp_path / "log", tmp_path / "runc"
    # The first time it has not made the container yet.
    runtime.write_text(
        f'#!/bin/sh\necho "$*" >> {log}\n[ "$(wc -l < {log})" -gt 1 ]\n', encoding="utf-8"
    )
    runtime.chmod(0o755)
    mine, other = Monitor("1", "mine", str(runtime)), Monitor("2", "other", "/nonexistent")

    def find():
        gone = log.exists() and len(log.read_text(encoding="utf-8").splitlines()) > 1
        return [other] if gone else [other, mine]

    if os.getuid() == 0:
        assert strays.remove("mine", {"PATH": os.environ["PATH"]}, find)
        assert log.read_text(encoding="utf-8").splitlines() == ["delete --force 1"] * 2


def test_a_monitor_that_ends_by_itself_is_left_alone():
    calls = iter([[Monitor("1", "mine", "/nonexistent")], []])
    assert strays.remove("1", {}, lambda: next(calls))


def test_one_that_stays_is_said_to_stay(monkeypatch):
    monkeypatch.setattr(strays, "_PATIENCE_S", 0.2)
    assert not strays.remove("mine", {}, lambda: [Monitor("1", "mine", "/nonexistent")])


ID = "5f" * 32


def test_a_container_is_remembered_until_nothing_of_it_is_left(tmp_path):
    assert strays.noted(tmp_path) == []
    strays.note(tmp_path, Note(ID, "mine", "me"))
    (tmp_path / "containers" / ("ab" * 32)).write_text("torn", encoding="utf-8")
    (tmp_path / "containers" / "README").write_text("a\nb\n", encoding="utf-8")
    assert strays.noted(tmp_path) == [Note(ID, "mine", "me")]
    strays.forget(tmp_path, ID)
    strays.forget(tmp_path, ID)
    assert strays.noted(tmp_path) == []


def runtime(tmp_path, monkeypatch, body: str) -> Path:
    """An OCI runtime that is a script, and the state that it has of one container."""
    program = tmp_path / "bin" / "crun"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: 0)
    state = tmp_path / "crun" / ID
    state.mkdir(parents=True)
    return state


def test_what_a_runtime_and_the_kernel_still_hold_is_deleted(tmp_path, monkeypatch):
    state = runtime(tmp_path, monkeypatch, f'[ "$*" = "delete --force {ID}" ] && rmdir crun/{ID}')
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "cgroup"
    for name in (f"memory/libpod-{ID}/below", f"pids/a.slice/libpod-{ID}.scope", "pids/other"):
        (root / name).mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"]}
    assert strays.cgroups_of(ID, root)[0] == root / f"pids/a.slice/libpod-{ID}.scope"
    assert strays.purge(ID, environment, root)
    assert not state.exists()
    assert sorted(p.name for p in root.rglob("*")) == ["a.slice", "memory", "other", "pids"]
    assert strays.purge(ID, environment, root)


def test_what_a_runtime_cannot_delete_is_said_to_stay(tmp_path, monkeypatch):
    runtime(tmp_path, monkeypatch, "exit 1")
    assert not strays.purge(ID, {"PATH": os.environ["PATH"]}, tmp_path / "cgroup")


def test_only_a_thawed_container_is_frozen_again(tmp_path, monkeypatch):
    state = runtime(tmp_path, monkeypatch, "")
    assert not strays.freeze_again(ID)
    file = tmp_path / "freezer.state"
    known = {"cgroup_paths": {"freezer": str(tmp_path)}}
    (state / "state.json").write_text(json.dumps(known), encoding="utf-8")
    for before, frozen in (("THAWED\n", True), ("FROZEN\n", False)):
        file.write_text(before, encoding="utf-8")
        assert strays.freeze_again(ID) is frozen
        assert file.read_text(encoding="utf-8").strip() == "FROZEN"
