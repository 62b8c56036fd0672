"""What a run may spend, in turns and in USD."""

import json

import pytest
from gateway_client import answered, starter, text_of, user

from agentsweep.budget import Budget, Price
from agentsweep.messages_api import MessagesRequest, Usage

PRICE = {"input": 1.0, "output": 5.0, "cache_read": 0.1, "cache_write": 1.25}


def asked(agent=None) -> MessagesRequest:
    body = json.dumps({"model": "m", "messages": [user("x")], "tools": [{"name": "Bash"}]})
    headers = {"x-claude-code-agent-id": agent} if agent else {}
    return MessagesRequest.parse(body.encode(), headers)


def main() -> MessagesRequest:
    return asked()


def sub() -> MessagesRequest:
    return asked("a1")


@pytest.fixture
def start(tmp_path):
    with starter(tmp_path) as start:
        yield start


def test_a_price_counts_every_kind_of_token():
    million = 1_000_000
    assert Price(**PRICE).of(Usage(million, million, million, million)) == pytest.approx(7.35)
    assert Price(**PRICE).of(Usage(input_tokens=3000, output_tokens=200)) == pytest.approx(0.004)


def test_cost_is_refused_once_it_is_reached_and_not_before():
    budget = Budget.of({"max_cost_usd": 0.01, "price": PRICE})
    budget.count(Usage(output_tokens=1999), is_main_turn=True)
    assert budget.refusal(main) is None and budget.refused is None
    budget.count(Usage(output_tokens=1), is_main_turn=False)
    assert budget.refusal(sub) == ("the run has cost 0.0100 USD, and agent.max_cost_usd is 0.01")
    assert budget.refused is not None


def test_turns_are_those_of_the_main_conversation():
    budget = Budget.of({"max_turns": 1})
    budget.count(Usage(), is_main_turn=False)
    assert budget.refusal(main) is None
    budget.count(Usage(), is_main_turn=True)
    assert budget.refusal(sub) is None
    assert budget.refusal(main) == "the run has had its 1 turns (agent.max_turns)"


def test_without_limits_nothing_is_refused():
    budget = Budget.of({})
    budget.count(Usage(10**9, 10**9), is_main_turn=True)
    assert budget.refusal(main) is None
    assert (budget.cost_usd, budget.turns) == (None, 1)


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


def test_a_sub_agents_turns_do_not_count(start):
    gateway = start(budget={"max_turns": 1})
    for _ in range(3):
        gateway.ask([user("[[explore]] look")], agent="a1")
    assert text_of(gateway.ask([user("Go.")])) == "I will look first."


def test_the_gateway_adds_up_what_answers_cost(start):
    scenario = """
turns:
  - {text: a, tools: [{Bash: {command: ls}}], usage: {input_tokens: 1000, output_tokens: 100}}
  - {text: b, usage: {input_tokens: 2000, output_tokens: 100}}
"""
    gateway = start(scenario, budget={"max_cost_usd": 1, "price": PRICE})
    first = gateway.ask([user("Go.")])
    gateway.ask([user("Go."), *answered(first, "x")])
    assert gateway.service.ask({"cmd": "status"})["budget"]["cost_usd"] == pytest.approx(0.004)
