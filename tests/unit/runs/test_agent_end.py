"""Whether an end is the agent's own; what an agent can bring about: hostile."""

import pytest
from run_parts import EFFECTIVE, FakeEngine, FakeReader, attempt_run, verified

from agentsweep.errors import InfraError, LastingError
from agentsweep.runs import agent_end
from agentsweep.runs.agent_watch import Watched

PYTHON = {"workdir": "/testbed", "environment": None, "python": "/opt/python"}


@pytest.fixture
def check(tmp_path):
    def of(code, has_run=True, stopped_by=None, client_first=False, exchanges=1, later=None, **job):
        run = attempt_run(tmp_path, **job)
        (tmp_path / "stderr.txt").write_text("first\nlast words\n", encoding="utf-8")
        reader = FakeReader(tmp_path, EFFECTIVE if later is None else later)
        watched = Watched(1, stopped_by, client_first)
        engine = FakeEngine(tmp_path)
        return agent_end.check(run, engine, verified(reader), has_run, watched, code, exchanges)

    return of


def test_an_agent_that_never_wrote_its_process_id_did_not_start(check):
    with pytest.raises(InfraError, match=r"did not start \(exit code 1\): last words") as error:
        check(1, has_run=False)
    assert not isinstance(error.value, LastingError)
    with pytest.raises(LastingError, match=r"task t is not the one it states \(last words, wanted"):
        check(97, has_run=False, task=PYTHON)
    # The agent's own program may end with that number, too.
    assert check(97) is None


def test_the_engines_own_end_is_not_the_agents(check):
    with pytest.raises(InfraError, match="`podman exec` ended before the agent did"):
        check(0, client_first=True)
    with pytest.raises(InfraError, match="ended before the agent did"):
        check(None)
    with pytest.raises(InfraError, match=r"could not be run \(exit code 125\): last words"):
        check(125)
    with pytest.raises(InfraError, match=r"could not be run \(exit code 127\)"):
        check(127, exchanges=0)
    assert check(127) is None


def test_who_was_ended_at_a_limit_may_end_as_it_likes(check):
    for code in (None, -9, 125, 127):
        assert check(code, stopped_by="timed_out", exchanges=0) is None


def test_limits_are_compared_once_more_at_the_end(check):
    with pytest.raises(InfraError, match="memory_bytes was 536870912 and became None"):
        check(0, later=EFFECTIVE | {"memory_bytes": None})
    with pytest.raises(InfraError, match="became None"):
        check(0, stopped_by="stalled", later=EFFECTIVE | {"memory_bytes": None})


def test_a_full_disk_goes_before_all_that_it_may_have_caused(check, monkeypatch):
    monkeypatch.setattr(agent_end.disk_use.machine_facts, "free_bytes", lambda _: 2**20 - 1)
    with pytest.raises(LastingError, match="filled up during the run"):
        check(1, has_run=False)
