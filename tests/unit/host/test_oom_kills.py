"""Which kills the agent survived: what is said is true, whatever the two sources leave out."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsweep.host.oom_kills import Kills, before_agent, in_phase

AGENT, INIT = 500, 400


def record(pid: int, comm: str = "python3") -> dict:
    return {"pid": pid, "comm": comm, "uid": 1000, "t_ns": pid, "utc_ns": pid}


def answer(count: int, *pids: int) -> dict:
    return {"oom_kill": count, "victims": [record(pid) for pid in pids]}


def test_kills_before_the_phase_are_in_neither_number():
    begin, end = answer(2, 1, 2), answer(5, 1, 2, 3, 4, 5)
    kills, victims = in_phase(begin, end, True)
    assert kills == Kills(3, (3, 4, 5))
    assert [victim["pid"] for victim in victims] == [3, 4, 5]


def test_the_larger_number_counts():
    # The counter went with the container before the last kill was read.
    assert in_phase(answer(0), answer(1, 1, 2), True)[0] == Kills(2, (1, 2))
    # The log was overwritten.
    kills, _ = in_phase(answer(0), answer(3, 1), True)
    assert kills == Kills(3, (1,))
    assert not kills.all_named
    # Kills before the sampler began to read the log are in the counter alone.
    assert in_phase(answer(4), answer(4, 7), True)[0] == Kills(1, (7,))


def test_a_log_that_cannot_be_read_or_compared_names_nobody():
    unread = {"oom_kill": 3, "victims": None}
    assert in_phase({"oom_kill": 1, "victims": None}, unread, True) == (Kills(2, None), None)
    kills, victims = in_phase(answer(0), answer(1, 7), comparable=False)
    assert (kills, len(victims)) == (Kills(1, None), 1)
    assert kills.hit({7}) is None


def test_whether_somebody_was_hit_is_true_false_or_unknown():
    assert Kills(2, (1, 2)).hit({2, 3}) is True
    assert Kills(2, (1, 2)).hit({3}) is False
    assert Kills(3, (1, 2)).hit({3}) is None
    assert Kills(3, (1, 2)).hit({2}) is True
    assert Kills(1, None).hit({1}) is None
    assert Kills(0, ()).hit({1}) is False


@given(
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    unread=st.sets(st.integers(0, 8)),
    readable=st.booleans(),
)
def test_what_is_said_of_the_kills_before_the_agents_is_never_false(
    before, after, unread, readable
):
    """`unread`: the places of records that were lost."""
    pids = [*range(1, before + 1), AGENT, *range(before + 1, before + after + 1)]
    kept = tuple(pid for place, pid in enumerate(pids) if place not in unread)
    kills = Kills(len(pids), kept if readable else None)
    said = kills.before({AGENT, INIT})
    assert said.count in (before, None)
    assert before <= said.at_most < len(pids)
    if readable and len(kept) == len(pids):
        assert said.count == said.at_most == before


@pytest.mark.parametrize("place", range(3))
def test_an_old_results_victims_have_an_order_where_one_is_called_like_the_agent(place):
    names = ["python3", "cc1plus"]
    names.insert(place, "claude")
    victims = [record(n, name) for n, name in enumerate(names)]
    said = before_agent(3, victims)
    assert said.count == said.at_most == place


@pytest.mark.parametrize(
    "victims",
    [
        [],
        [record(1, "claude")],
        [record(1, "claude"), record(2), record(3, "claude")],
        [record(1), record(2), record(3)],
        ["not a record"] * 3,
    ],
)
def test_an_old_results_victims_say_nothing_where_their_names_do_not(victims):
    said = before_agent(3, victims)
    assert (said.count, said.at_most) == (None, 2)


def test_two_kills_have_an_order():
    assert before_agent(2, [record(1), record(2, "claude")]).count == 1


def test_a_log_that_can_be_read_at_one_end_alone_says_nothing():
    unread = {"oom_kill": 1, "victims": None}
    assert in_phase(answer(0), unread, True) == (Kills(1, None), None)
    assert in_phase({"oom_kill": 0, "victims": None}, answer(1, 5), True) == (Kills(1, None), None)


def test_one_kill_is_the_agents_own():
    for victims in ([], [record(1)], [record(1, "claude")]):
        assert before_agent(1, victims).count == before_agent(1, victims).at_most == 0


def test_the_order_decides_and_not_the_number():
    for pids in itertools.permutations((1, 2, AGENT)):
        assert Kills(3, pids).before({AGENT}).count == pids.index(AGENT)
