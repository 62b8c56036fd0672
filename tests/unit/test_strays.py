"""Containers that Podman has forgotten, with made-up processes; real ones: test_faults.py."""

import os

from agentsweep import strays
from agentsweep.strays import Monitor


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
