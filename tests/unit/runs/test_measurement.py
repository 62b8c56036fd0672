"""Single steps of a measured run, each with a stand-in for the kernel. Real ones: integration."""

import os
from types import SimpleNamespace

import pytest

from agentsweep.errors import InfraError
from agentsweep.runs import measurement
from agentsweep.runs.measurement import Measurement

LIMITS = {"memory_bytes": 2**29, "cpus": "1", "cpu_mode": "quota", "cpuset": None, "pids": 4096}
EFFECTIVE = {
    "memory_bytes": 2**29,
    "swap_bytes": 0,
    "cpus": 1.0,
    "cpuset": "0-1",
    "pids": 4096,
    "memory_level": "/x",
    "cpu_level": "/x",
}
AGENT, INIT, TOOL = 500, 400, 600


class Kernel:
    """A container's cgroup that has these limits, and others from the second look on."""

    level = "/x"
    version = 1

    def __init__(self, folder, first: dict, later: dict | None = None):
        self.paths = {"memory": folder}
        self._answers = [first, first if later is None else later]

    def effective_limits(self) -> dict:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A run whose container has the kernel's answers given; its pid is this process."""

    def make(first: dict, later: dict | None = None) -> Measurement:
        made = object.__new__(Measurement)
        made.job = {
            "cell": "task~t/agent~a/mem~512MiB_cpus~1_rep~0",
            "limits": LIMITS,
            "model": {"mode": "scripted"},
            "timeout_s": 0,
        }
        made.container = SimpleNamespace(pid=os.getpid())
        made.cluster_job = None
        made.said = []
        made.say = made.said.append
        made.attempt = SimpleNamespace(path=tmp_path)
        (tmp_path / "api.jsonl").touch()
        kernel = Kernel(tmp_path, first, later)
        monkeypatch.setattr(measurement, "reader_for_pid", lambda pid: kernel)
        return made

    return make


def test_limits_in_force_are_recorded_beside_those_requested(measured):
    verified = measured(EFFECTIVE)._verify_limits()
    assert verified["requested"] == {
        "memory_bytes": 2**29,
        "swap_bytes": 0,
        "cpus": "1",
        "cpu_mode": "quota",
        "cpuset": None,
        "pids": 4096,
    }
    assert verified["effective"] == EFFECTIVE | {"nproc": len(os.sched_getaffinity(0))}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"memory_bytes": None}, "no limit of memory, but 512 MiB were requested"),
        ({"memory_bytes": 2**30}, "1 GiB of memory, but 512 MiB were requested"),
        ({"cpus": None}, "no limit of CPUs, but 1 were requested"),
        ({"cpus": 2.0}, "2.0 CPUs, but 1 were requested"),
        ({"swap_bytes": 2**29}, "512 MiB of swap, not none"),
    ],
)
def test_a_limit_that_is_not_in_force_ends_the_run(measured, change, says):
    with pytest.raises(InfraError, match=f"does not enforce the limits of task~t.*{says}") as error:
        measured(EFFECTIVE | change)._verify_limits()
    assert "\n" not in str(error.value)
    assert "`agentsweep doctor`" in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"memory_bytes": 2**30}, "memory_bytes was 536870912 and became 1073741824"),
        ({"cpus": None}, "cpus was 1.0 and became None"),
        ({"pids": 10}, "pids was 4096 and became 10"),
    ],
)
def test_a_limit_that_changes_during_the_run_ends_it(measured, change, says):
    made = measured(EFFECTIVE, EFFECTIVE | change)
    made._verify_limits()
    with pytest.raises(InfraError, match=f"does not enforce the limits.*{says} during the run"):
        made._check_limits()


def test_limits_that_stay_and_a_container_that_goes_are_no_change(measured, tmp_path):
    made = measured(EFFECTIVE)
    made._verify_limits()
    assert made._check_limits() is None
    going = measured(EFFECTIVE, dict.fromkeys(EFFECTIVE))
    going._verify_limits()
    going.cgroup.paths = {"memory": tmp_path / "gone"}
    assert going._check_limits() is None


def record(pid: int) -> dict:
    return {"pid": pid, "comm": "x", "uid": 1000, "t_ns": pid, "utc_ns": pid}


def agent_run(begin=(0, ()), end=(0, ()), **changes) -> SimpleNamespace:
    """What `_run_agent` gives; begin and end: the counter of kills, and the log's victims."""

    def answer(told):
        count, pids = told
        victims = None if pids is None else [record(pid) for pid in pids]
        return {"oom_kill": count, "victims": victims, "t_ns": 10**10, "counters": {}}

    given = {
        "pid": AGENT,
        "container_pids": frozenset({INIT}),
        "exit_code": 0,
        "stopped_by": None,
        "alive": True,
        "begin": answer(begin),
        "end": answer(end),
        "end_ns": 9 * 10**9,
        "result": {"is_error": False, "terminal_reason": "completed"},
        "assistant_messages": 1,
        "gateway": {"budget": {"refused": None}},
    }
    return SimpleNamespace(**given | changes)


KILLED = {"exit_code": 137, "result": None}


@pytest.fixture
def judged(measured, monkeypatch):
    monkeypatch.setattr(measurement.machine_facts, "sees_kernel_pids", lambda: True)

    def judge(run, **summary):
        return measured(EFFECTIVE)._judge(run, summary)

    return judge


def test_the_agent_is_a_victim_only_where_the_log_names_it(judged):
    by_kernel, oom = judged(agent_run(end=(1, [AGENT]), **KILLED))
    assert by_kernel.outcome == "oom_agent"
    assert (oom["agent_victim"], oom["tool_count"], oom["agent_pid"]) == (True, 0, AGENT)
    # A tool was the victim, and somebody else killed the agent.
    other, oom = judged(agent_run(end=(1, [TOOL]), **KILLED), oom_kill_last_ns=9 * 10**9)
    assert other.outcome == "agent_error"
    assert not oom["agent_victim"]


def test_kills_before_the_agents_phase_are_not_its(judged):
    verdict, oom = judged(agent_run(begin=(2, [1, 2]), end=(3, [1, 2, TOOL])))
    assert verdict.outcome == "completed"
    assert (oom["kill_count"], oom["tool_count"]) == (1, 1)
    assert [victim["pid"] for victim in oom["victims"]] == [TOOL]
    _, oom = judged(agent_run(begin=(2, None), end=(2, None)))
    assert (oom["kill_count"], oom["tool_count"], oom["victims"]) == (0, 0, None)


def test_the_logs_larger_number_counts(judged):
    gone = {"alive": False, "exit_code": None, "result": None}
    verdict, oom = judged(agent_run(end=(1, [TOOL, INIT]), **gone))
    assert verdict.outcome == "oom_container"
    assert (oom["kill_count"], oom["tool_count"]) == (2, 1)


def test_a_kill_after_the_agents_own_is_no_kill_that_it_survived(judged):
    _, oom = judged(agent_run(end=(2, [AGENT, TOOL]), **KILLED))
    assert (oom["kill_count"], oom["tool_count"], oom["tool_count_max"]) == (2, 0, 0)
    _, oom = judged(agent_run(end=(2, [TOOL, AGENT]), **KILLED))
    assert (oom["kill_count"], oom["tool_count"], oom["tool_count_max"]) == (2, 1, 1)


def test_without_the_kernels_log_the_number_is_unknown_with_a_bound(judged):
    run = agent_run(begin=(0, None), end=(3, None), **KILLED)
    verdict, oom = judged(run, oom_kill_last_ns=9 * 10**9 - 1)
    assert verdict.outcome == "oom_agent"
    assert (oom["tool_count"], oom["tool_count_max"]) == (None, 2)


@pytest.mark.parametrize(
    ("last_kill_ns", "outcome"),
    [
        (None, "agent_error"),
        (7 * 10**9, "agent_error"),
        (7 * 10**9 + 1, "oom_agent"),
        (10**10 - 1, "oom_agent"),
        (10**10, "agent_error"),
    ],
)
def test_near_the_end_is_two_seconds(judged, last_kill_ns, outcome):
    run = agent_run(begin=(0, None), end=(1, None), **KILLED)
    assert judged(run, oom_kill_last_ns=last_kill_ns)[0].outcome == outcome
