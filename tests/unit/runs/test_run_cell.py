"""Signals, waiting and recall around a measurement that is a stand-in; no container is started."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from run_parts import a_record, job_content
from run_parts import live as a_live_model

from agentsweep.errors import AgentsweepError, InfraError
from agentsweep.hashes import text_sha256
from agentsweep.host.admission import Need, admitted
from agentsweep.host.capacity import MachineSettings
from agentsweep.runs import run_cell, signals
from agentsweep.runs.job import Job
from agentsweep.runs.live_run_count import VARIABLE, Ledger
from agentsweep.runs.record import Record
from agentsweep.runs.store import Store, spec_sha256

SPEC = '{"protocol":1}'
KEY = spec_sha256(SPEC)


@pytest.fixture
def job(tmp_path):
    return job_content(tmp_path, cell="a-cell")


@pytest.fixture
def measured(monkeypatch):
    """What a measurement does, for each one that is made."""
    actions = []

    def measure(attempt, job, spec, image, say, agent_ended):
        for name in run_cell.PUBLISHED[1:]:
            (attempt.path / name).touch()
        return actions.pop(0)(SimpleNamespace(attempt=attempt, job=job, agent_ended=agent_ended))

    monkeypatch.setattr(run_cell, "measure", measure)
    monkeypatch.setattr(run_cell.time, "sleep", lambda _: None)
    return actions


def completed(_=None) -> Record:
    return a_record(outcome="completed", outcome_detail="done")


def gone(_=None) -> Record:
    return a_record(outcome="infra_error", outcome_detail="it went away")


def run(job, tmp_path, said=None):
    say = (said if said is not None else []).append
    result = run_cell.run_cell(Job.from_json(job), SPEC, {}, tmp_path / "out", say)
    return result["outcome"], result["outcome_detail"]


def states(job) -> list[str]:
    return [a.state for a in Store(job["paths"]["store"]).attempts(KEY)]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_run_is_sealed_and_then_recalled(job, tmp_path, measured):
    measured.append(completed)
    assert run(job, tmp_path) == ("completed", "done")
    said = []
    assert run(job | {"on_miss": "fail"}, tmp_path, said) == ("completed", "done")
    assert "recalled sealed attempt" in said[0]
    assert states(job) == ["sealed"]


def test_a_recalled_run_says_that_its_agent_got_a_garbled_prompt(job, tmp_path, measured):
    record = {"type": "user", "message": {"role": "user", "content": "Gr\ufffd\ufffde"}}

    def garbled(measurement):
        trace = measurement.attempt.path / "trace.jsonl"
        trace.write_text(json.dumps(record) + "\n", encoding="utf-8")
        return completed()

    measured.append(garbled)
    spec = json.dumps({"prompt_sha256": text_sha256("Gr\u00f6\u00dfe")})
    run_cell.run_cell(Job.from_json(job), spec, {}, tmp_path / "out", say=print)
    said = []
    run_cell.run_cell(Job.from_json(job), spec, {}, tmp_path / "out", say=said.append)
    (sentence,) = [line for line in said if "garbled prompt" in line]
    assert f"remove {spec_sha256(spec)[:12]}-1 --yes" in sentence


def test_nothing_is_spent_where_that_is_forbidden(job, tmp_path, measured):
    with pytest.raises(AgentsweepError, match=r"agent\.on_miss is `fail`"):
        run(job | {"on_miss": "fail"}, tmp_path)
    assert states(job) == []


def test_no_data_is_never_sealed(job, tmp_path, measured):
    measured.append(gone)
    with pytest.raises(InfraError, match="a-cell: it went away"):
        run(job, tmp_path)
    assert states(job) == ["failed"]
    assert not (tmp_path / "out").exists()


def test_a_signal_stops_a_run_and_a_second_one_lets_it_clean_up(job, tmp_path, measured):
    cleaned = []

    def interrupted(_):
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGTERM)
            send(signal.SIGINT)
            cleaned.append(True)

    measured.append(interrupted)
    with pytest.raises(signals.Interrupted, match="interrupted by SIGINT") as caught:
        run(job, tmp_path)
    assert caught.value.exit_code == 130
    assert cleaned
    # It would end this process.
    send(signal.SIGTERM)
    assert states(job) == ["interrupted"]


@pytest.fixture
def full(job):
    """A machine on which another run holds all that there is."""
    job["machine"] |= {"memory": "1MiB", "cpus": 1}
    need = Need("another", 2**20, 1)
    with admitted(need, MachineSettings(**job["machine"]), print, lambda: None) as granted:
        yield granted


def test_without_room_there_is_no_attempt(job, tmp_path, measured, full):
    with pytest.raises(InfraError, match=r"^a-cell: no room on this machine .* held by another"):
        run(job, tmp_path)
    assert states(job) == []


def test_who_waits_for_room_can_be_interrupted(job, tmp_path, measured, full, monkeypatch):
    job["machine"]["wait_s"] = 60
    monkeypatch.setattr(run_cell.time, "sleep", lambda _: send(signal.SIGTERM))
    with pytest.raises(signals.Interrupted):
        run(job, tmp_path)
    assert states(job) == []
    assert sorted(path.name for path in (tmp_path / "ledger").iterdir()) == ["1.json", "lock"]


def test_a_run_has_its_room_to_its_end_and_knows_its_cpus(job, tmp_path, measured):
    job["limits"]["cpu_mode"] = "cpuset"
    jobs = []

    def look(measurement):
        jobs.append(measurement.job)
        (path,) = (tmp_path / "ledger").glob("*.json")
        assert json.loads(path.read_text(encoding="utf-8"))["cpuset"] == jobs[0].limits.cpuset
        return completed()

    measured.append(look)
    run(job, tmp_path)
    assert jobs[0].granted.cpuset == jobs[0].limits.cpuset
    assert int(jobs[0].limits.cpuset) in os.sched_getaffinity(0)
    assert not list((tmp_path / "ledger").glob("*.json"))


def test_a_run_whose_agent_has_ended_is_sealed_first(job, tmp_path, measured):
    said = []

    def late(measurement):
        measurement.agent_ended()
        send(signal.SIGINT)
        send(signal.SIGTERM)
        return completed()

    measured.append(late)
    run(job, tmp_path, said)
    assert states(job) == ["sealed"]
    assert any("sealed before stopping" in line for line in said)


def test_who_insists_is_obeyed(job, tmp_path, measured, monkeypatch):
    monkeypatch.setattr(signals.Signals, "_INSISTING_S", 0.05)

    def hanging(measurement):
        measurement.agent_ended()
        send(signal.SIGINT)
        begin = time.monotonic()
        while time.monotonic() - begin < 0.1:
            pass
        send(signal.SIGINT)
        return completed()

    measured.append(hanging)
    with pytest.raises(signals.Interrupted):
        run(job, tmp_path)
    assert states(job) == ["interrupted"]


def test_an_ignored_signal_stays_ignored(job, tmp_path, measured):
    """As under nohup."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        measured.append(lambda _: send(signal.SIGHUP) or completed())
        run(job, tmp_path)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)
    assert states(job) == ["sealed"]


@pytest.mark.parametrize(
    ("failures", "age_s", "wait_s"),
    [(1, 0, 5), (2, 0, 10), (3, 0, 20), (40, 0, 60), (1, 100, 0), (2, 4, 6), (1, -86400, 5)],
)
def test_waiting_after_failures(tmp_path, monkeypatch, failures, age_s, wait_s):
    """At most a minute, also when the clock has been set back by a day."""
    waited = []
    monkeypatch.setattr(run_cell.time, "sleep", waited.append)
    store = Store(tmp_path)
    with store.locked(KEY, SPEC):
        for _ in range(failures):
            failed = store.finish(store.begin(KEY), "failed")
    then = time.time() - age_s
    os.utime(failed.path, (then, then))
    run_cell._back_off(store, KEY, lambda _: None)
    assert sum(waited) == pytest.approx(wait_s, abs=0.5)


def test_a_full_disk_is_refused_before_anything_is_spent(job, tmp_path, measured, monkeypatch):
    monkeypatch.setattr(run_cell.machine_facts, "free_bytes", lambda _: 2**20)
    with pytest.raises(InfraError, match="has 1 MiB left: free at least 64 MiB"):
        run(job, tmp_path)
    assert states(job) == []


def test_a_crash_of_ours_is_kept_for_a_look(job, tmp_path, measured):
    measured.append(lambda _: 1 / 0)
    with contextlib.suppress(ZeroDivisionError):
        run(job, tmp_path)
    assert states(job) == ["failed"]
    (attempt,) = Store(job["paths"]["store"]).attempts(KEY)
    assert (attempt.path / "error.txt").read_text(encoding="utf-8").startswith("ZeroDivisionError")


# Live runs


@pytest.fixture
def live(job, monkeypatch):
    monkeypatch.setenv(VARIABLE, "this-one")
    return job | {"model": a_live_model(), "max_live_runs": 2}


def started(job) -> int:
    return Ledger(job["paths"]["store"]).started()


def test_each_live_attempt_counts_whatever_becomes_of_it(live, tmp_path, measured):
    def broken(_):
        assert started(live) == 1  # counted before it begins
        return gone()

    measured += [broken, lambda _: send(signal.SIGINT)]
    with pytest.raises(InfraError):
        run(live, tmp_path)
    with pytest.raises(signals.Interrupted):
        run(live, tmp_path)
    with pytest.raises(AgentsweepError, match=r"a-cell: not started, .* 2 of 2 live runs"):
        run(live, tmp_path)
    assert started(live) == 2
    assert states(live) == ["failed", "interrupted"]
    assert not (tmp_path / "out").exists()


def test_past_the_limit_nothing_is_started(live, tmp_path, measured):
    with pytest.raises(AgentsweepError) as refused:
        run(live | {"max_live_runs": 0}, tmp_path)
    assert "\n" not in str(refused.value)
    assert states(live) == []
    assert started(live) == 0


def test_a_recalled_run_does_not_count(live, tmp_path, measured):
    measured.append(completed)
    run(live, tmp_path)
    for _ in range(3):
        run(live | {"max_live_runs": 1}, tmp_path)
    assert started(live) == 1


def test_runs_that_cost_nothing_do_not_count(live, tmp_path, measured):
    replay = {"mode": "replay", "recording": "r", "latency_scale": 1}
    measured.append(completed)
    run(live | {"model": replay, "max_live_runs": 0}, tmp_path)
    assert started(live) == 0
    assert not (tmp_path / "store" / "live").exists()


def test_a_full_disk_costs_no_count(live, tmp_path, measured, monkeypatch):
    monkeypatch.setattr(run_cell.machine_facts, "free_bytes", lambda _: 2**20)
    with pytest.raises(InfraError):
        run(live, tmp_path)
    assert started(live) == 0


def test_after_a_signal_the_others_stay_ignored_until_the_process_ends():
    """While Python ends, what it handles has its default again: that would be another exit code."""
    code = (
        "import os, signal\n"
        "from agentsweep.runs.signals import Interrupted, Signals\n"
        "try:\n"
        "    with Signals(print): os.kill(os.getpid(), signal.SIGINT)\n"
        "except Interrupted: pass\n"
        "class Last:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid()): kill(pid, 15)\n"
        "import sys; sys.kept_to_the_end = Last()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
