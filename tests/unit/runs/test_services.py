"""Gateway and sampler at their begin and end. Both are fakes."""

import json

import pytest
from run_parts import FakeService, attempt_run, gateway, sampler, services, started

from agentsweep.errors import InfraError
from agentsweep.host.processes import OVERWHELMED
from agentsweep.runs import services as of_run


@pytest.fixture
def stop(tmp_path):
    def of(of_gateway=None, of_sampler=None, summary=(), lost=None, said=None):
        written = {"samples.arrow": {"bytes": 3}}
        (tmp_path / "sampler.json").write_text(
            json.dumps({"written": written} | dict(summary)), encoding="utf-8"
        )
        (tmp_path / "api.jsonl").write_bytes(b"{}\n")
        (tmp_path / "services.log").write_text("Traceback\nValueError: x\n", encoding="utf-8")
        beside = services(of_sampler, of_gateway)
        beside.gateway_status.lost = lost
        return of_run.stop(attempt_run(tmp_path, said), beside, tmp_path)

    return of


def test_both_say_what_they_wrote(stop):
    stopped = stop(summary={"samples": 7})
    assert stopped.summary == {"samples": 7}
    assert stopped.written == {"samples.arrow": {"bytes": 3}, "api.jsonl": {"bytes": 0}}
    assert stopped.gateway_cut is None


@pytest.mark.parametrize("name", ["gateway", "sampler"])
def test_one_that_failed_is_no_data(stop, name):
    failed = FakeService(f"agentsweep.{name}", code=1)
    with pytest.raises(InfraError, match=f"agentsweep.{name} failed: ValueError: x"):
        stop(**{f"of_{name}": failed})


def test_a_sampler_that_is_overwhelmed_is_no_data(stop):
    with pytest.raises(InfraError, match="sampler failed"):
        stop(of_sampler=FakeService("agentsweep.sampler", code=OVERWHELMED))


def test_a_gateway_that_the_agent_overwhelmed_is_data(stop):
    said: list[str] = []
    killed = FakeService("agentsweep.gateway", code=OVERWHELMED)
    killed.last_said = None
    stopped = stop(of_gateway=killed, said=said)
    assert stopped.gateway_cut == "agentsweep.gateway could not be stopped in time"
    assert stopped.written["api.jsonl"] == {"bytes": 3}
    assert said == ["agentsweep.gateway was overwhelmed by what the agent sent"]
    # The same of one that was lost before, however it then ended.
    ended = FakeService("agentsweep.gateway", code=1)
    assert stop(of_gateway=ended, lost="no answer").gateway_cut is not None


def test_a_gateway_that_says_nothing_of_its_file_is_no_data(stop):
    silent = FakeService("agentsweep.gateway")
    silent.last_said = {}
    with pytest.raises(InfraError, match="ended without saying what it has written"):
        stop(of_gateway=silent)


def test_a_sampler_that_could_not_write_is_no_data(stop):
    with pytest.raises(InfraError, match="the sampler could not write: no space"):
        stop(summary={"write_error": "no space"})


def test_the_sampler_is_told_what_to_read_and_where_to_write(tmp_path):
    of_sampler = sampler()
    one = started(1).container
    of_run.open_sampler(attempt_run(tmp_path), of_sampler, one, tmp_path / "scratch")
    (asked,) = of_sampler.asked
    assert asked == {
        "pid": 1,
        "samples": str(tmp_path / "samples.arrow"),
        "marks": str(tmp_path / "marks.jsonl"),
        "marks_dir": str(tmp_path / "scratch" / "marks"),
        "rate_hz": 50,
        "summary": str(tmp_path / "scratch" / "sampler.json"),
    }
    with pytest.raises(InfraError, match="the sampler cannot start: no cgroup"):
        unready = sampler(open={"ready": False, "error": "no cgroup"})
        of_run.open_sampler(attempt_run(tmp_path), unready, one, tmp_path)
    assert gateway().stop() == 0
