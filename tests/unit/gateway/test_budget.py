"""What a run may spend, in turns and in USD."""

import asyncio

import pytest
from gateway_client import answered, request, starter, text_of, user, who
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsweep.gateway.budget import AT_ONCE, Budget, OverBudget, Price
from agentsweep.gateway.messages_api import Usage

NOTHING = Usage()
PRICE = {"input": 1.0, "output": 5.0, "cache_read": 0.1, "cache_write": 1.25}


@pytest.fixture
def start(tmp_path):
    with starter(tmp_path) as start:
        yield start


def test_a_price_counts_every_kind_of_token():
    million = 1_000_000
    assert Price(**PRICE).of(Usage(million, million, million, million)) == pytest.approx(7.35)
    assert Price(**PRICE).of(Usage(input_tokens=3000, output_tokens=200)) == pytest.approx(0.004)


def spend(budget: Budget, usage: Usage = NOTHING, **how) -> None:
    """One request that is let through, and what came of it."""

    async def once():
        held = await budget.reserve(1, 1)
        budget.settle(held, usage, **{"is_turn": True, "is_known": True, **how})

    asyncio.run(once())


def refusal(budget: Budget) -> str | None:
    try:
        spend(budget, is_turn=False)
    except OverBudget as error:
        return str(error)
    return None


def test_cost_is_refused_once_it_is_reached_and_not_before():
    budget = Budget.of({"max_cost_usd": 0.01, "price": PRICE})
    spend(budget, Usage(output_tokens=1999))
    assert refusal(budget) is None and budget.refused is None
    spend(budget, Usage(output_tokens=1))
    assert refusal(budget) == "the run has cost 0.0100 USD, and agent.max_cost_usd is 0.01"
    assert budget.refused is not None


def test_turns_are_answers():
    budget = Budget.of({"max_turns": 1})
    spend(budget, is_turn=False)
    assert refusal(budget) is None
    spend(budget)
    assert refusal(budget) == "the run has had its 1 turns (agent.max_turns)"


def test_without_limits_nothing_is_refused():
    budget = Budget.of({})
    spend(budget, Usage(10**9, 10**9))
    assert refusal(budget) is None
    assert (budget.cost_usd, budget.turns) == (None, 1)


def test_an_answer_that_was_not_read_to_its_end_counts_with_what_it_may_have_cost():
    async def leave(usage: Usage) -> Budget:
        budget = Budget.of({"max_cost_usd": 1, "price": PRICE})
        held = await budget.reserve(1000, 2000)
        budget.settle(held, usage, is_turn=True, is_known=False)
        return budget

    # 1000 tokens to write into the cache, 2000 to answer.
    assert asyncio.run(leave(Usage())).cost_usd == pytest.approx(0.01125)
    assert asyncio.run(leave(Usage(output_tokens=4000))).cost_usd == pytest.approx(0.02)


def test_numbers_beyond_all_measure_are_counted_too():
    budget = Budget.of({"max_cost_usd": 1, "price": PRICE})

    async def huge():
        held = await budget.reserve(1, 10**400)
        budget.settle(held, Usage(10**400, -1), is_turn=True, is_known=True)

    asyncio.run(huge())
    assert budget.cost_usd > 1


@pytest.mark.slow
@given(
    limit_usd=st.floats(0.001, 0.1),
    asked=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 5000)), min_size=1, max_size=40),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_only_the_last_answer_passes_the_limit(limit_usd, asked, data):
    """Whatever comes at once and in which order it ends, where no request has more tokens than it
    said: the costs before the last answer are within the limit."""
    budget = Budget.of({"max_cost_usd": limit_usd, "price": PRICE})
    parts = [data.draw(st.floats(0, 1)) for _ in asked]
    most = 0

    async def one(tokens: tuple[int, int], part: float) -> None:
        nonlocal most
        try:
            held = await budget.reserve(*tokens)
        except OverBudget:
            return
        assert budget._counted_usd < limit_usd
        most = max(most, len(budget._under_way))
        # What ends first is not what began first.
        await asyncio.sleep(part / 1000)
        usage = Usage(int(tokens[0] * part), int(tokens[1] * part))
        budget.settle(held, usage, is_turn=True, is_known=part > 0.1)

    async def every():
        await asyncio.gather(*map(one, asked, parts))

    asyncio.run(every())
    dearest = max(Price(**PRICE).at_most(*tokens) for tokens in asked)
    assert budget.cost_usd <= limit_usd + dearest
    assert most <= AT_ONCE


def test_whoever_leaves_while_it_waits_was_not_sent_and_costs_nothing():
    async def wait_and_leave() -> tuple[Budget, bool]:
        budget = Budget.of({"max_turns": 1})
        held = await budget.reserve(1, 1)
        waiting = asyncio.create_task(budget.reserve(1, 1))
        await asyncio.sleep(0.01)
        was_waiting = not waiting.done()
        waiting.cancel()
        await asyncio.wait((waiting,))
        budget.settle(held, Usage(), is_turn=False, is_known=True)
        held = await budget.reserve(1, 1)
        budget.settle(held, Usage(), is_turn=True, is_known=True)
        return budget, was_waiting

    budget, was_waiting = asyncio.run(wait_and_leave())
    assert was_waiting and budget.turns == 1


def test_the_gateway_refuses_past_its_turns(start):
    gateway = start(budget={"max_turns": 1, "max_cost_usd": None, "price": None})
    first = gateway.ask([user("Go.")])
    later = {"model": "m", "messages": [user("Go."), *answered(first, "x", "y")]}
    later["tools"] = [{"name": "Bash"}]
    status, _, body = gateway.call("POST", "/v1/messages", later)
    assert status == 403
    assert b"agentsweep refuses this request: the run has had its 1 turns" in body
    assert gateway.exchanges(2)[1]["error"] == "over_budget"
    said = gateway.service.ask({"cmd": "status"})["budget"]
    assert said["refused"] and said["turns"] == 1


def test_every_answer_is_a_turn_whoever_asks(start):
    gateway = start(budget={"max_turns": 3})
    gateway.ask([user("[[explore]] look")], agent="a1")
    gateway.ask([user("Go.")], tools=False)
    assert text_of(gateway.ask([user("Go.")])) == "I will look first."
    # Once it is in the record, an answer is counted.
    gateway.exchanges(3)
    assert gateway.service.ask({"cmd": "status"})["budget"]["turns"] == 3
    status, _, _ = gateway.call("POST", "/v1/messages", request([user("x")]), **who("a1"))
    assert status == 403


def test_the_gateway_adds_up_what_answers_cost(start):
    scenario = """
turns:
  - {text: a, tools: [{Bash: {command: ls}}], usage: {input_tokens: 1000, output_tokens: 100}}
  - {text: b, usage: {input_tokens: 2000, output_tokens: 100}}
"""
    gateway = start(scenario, budget={"max_cost_usd": 1, "price": PRICE})
    first = gateway.ask([user("Go.")])
    gateway.ask([user("Go."), *answered(first, "x")])
    gateway.exchanges(2)
    assert gateway.service.ask({"cmd": "status"})["budget"]["cost_usd"] == pytest.approx(0.004)
