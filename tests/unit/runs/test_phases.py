"""The seconds of phases, and what people see."""

import time

import pytest

from agentsweep.runs.phases import Phases


def test_a_phase_is_said_first_and_has_its_own_seconds():
    said: list[str] = []
    phases = Phases(said.append)
    with phases.timed("create"):
        assert said == ["creating the container"]
        time.sleep(0.02)
    with phases.timed("start"):
        pass
    assert phases.seconds.keys() == {"create_s", "start_s"}
    assert 0.02 <= phases.seconds["create_s"] < 5
    assert phases.seconds["start_s"] < phases.seconds["create_s"]


def test_a_phase_that_fails_has_its_seconds_too():
    phases = Phases(lambda _: None)
    with pytest.raises(ZeroDivisionError), phases.timed("verify"):
        _ = 1 / 0
    assert phases.seconds.keys() == {"verify_s"}
