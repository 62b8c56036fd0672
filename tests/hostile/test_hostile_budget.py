"""A client that wants more than its run may spend: the limits hold whatever it does."""

import concurrent.futures as cf
import json
import time

import pytest
from gateway_client import TOKEN

PRICE = {"input": 1, "output": 1, "cache_read": 1, "cache_write": 1}
# One answer of the endpoint costs as much.
ONE_ANSWER_USD = 0.002


def body(tools=True, **more) -> dict:
    asked = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
    return asked | ({"tools": [{"name": "Bash"}]} if tools else {}) | more


def spent(gateway) -> dict:
    return gateway.service.ask({"cmd": "status"})["budget"]


def leave(gateway, asked: dict, after_s: float) -> None:
    """Send a request and hang up."""
    data = json.dumps(asked).encode()
    connection = gateway.socket()
    connection.sendall(
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: %s\r\ncontent-length: %d\r\n\r\n"
        % (TOKEN.encode(), len(data))
        + data
    )
    time.sleep(after_s)
    connection.close()


def test_many_at_once_get_no_more_than_one_after_another(live, endpoint):
    gateway = live(budget={"max_cost_usd": ONE_ANSWER_USD, "price": PRICE})
    endpoint.delay_s = 0.3

    def one(_) -> int:
        try:
            return gateway.call("POST", "/v1/messages", body())[0]
        except OSError:
            return 0

    with cf.ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(one, range(30)))
    assert (answers.count(200), answers.count(403)) == (1, 29)
    assert len(endpoint.bodies) == 1
    # That they waited is not the model's time.
    assert max(row["queued_ns"] for row in gateway.exchanges(30)) > 0.1e9
    assert spent(gateway)["cost_usd"] == pytest.approx(ONE_ANSWER_USD)


def test_what_may_cost_all_that_is_left_is_sent_alone(live, endpoint):
    gateway = live(budget={"max_cost_usd": 3 * ONE_ANSWER_USD, "price": PRICE})
    assert gateway.call("POST", "/v1/messages", body())[0] == 200
    endpoint.delay_s = 0.2
    endpoint.usage = {"input_tokens": 0, "output_tokens": 5000}
    with cf.ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(gateway.call, "POST", "/v1/messages", body(max_tokens=5000))
            for _ in range(8)
        ]
        assert sorted(job.result()[0] for job in jobs) == [200] + [403] * 7
    assert len(endpoint.bodies) == 2


@pytest.mark.parametrize("said", [1e6, "1000000", -1, True, [1], {"a": 1}, float("nan")])
def test_an_answers_length_is_a_number_or_the_request_is_refused(live, endpoint, said):
    """An endpoint may read more in it than was reserved."""
    gateway = live(budget={"max_cost_usd": 1, "price": PRICE})
    assert gateway.call("POST", "/v1/messages", body(max_tokens=said))[0] == 400
    assert endpoint.bodies == []


def test_clients_that_leave_are_counted(live, endpoint):
    gateway = live(budget={"max_cost_usd": ONE_ANSWER_USD, "price": PRICE})
    endpoint.delay_s = 0.3
    for _ in range(5):
        leave(gateway, body(), after_s=0.1)
    rows = gateway.exchanges(5)
    assert {row["error"] for row in rows} <= {"client_disconnected", "over_budget"}
    # The first was read on and used everything up; the others were not sent.
    assert len(endpoint.bodies) == 1
    assert spent(gateway)["cost_usd"] == pytest.approx(ONE_ANSWER_USD)
    # Its record has what it cost.
    (paid,) = [row for row in rows if row["message_id"] is not None]
    assert (paid["input_tokens"], paid["output_tokens"]) == (1000, 1000)


def test_an_answer_that_nobody_waits_for_counts_with_the_most_it_can_cost(live, endpoint):
    gateway = live(budget={"max_cost_usd": 1, "price": PRICE})
    endpoint.delay_s = 60
    leave(gateway, body(max_tokens=500_000), after_s=0.2)
    # While it is read on, and when that ends.
    deadline = time.monotonic() + 12
    while not gateway.exchanges():
        assert time.monotonic() < deadline
        if gateway.service.ask({"cmd": "status"})["active"]:
            assert spent(gateway)["cost_usd"] in (0, pytest.approx(0.5, rel=0.01))
        time.sleep(0.1)
    assert spent(gateway)["cost_usd"] == pytest.approx(0.5, rel=0.01)
    assert spent(gateway)["turns"] == 1


def test_the_gateway_ends_at_once_with_a_client_that_left(live, endpoint):
    gateway = live(budget={"max_cost_usd": 1, "price": PRICE})
    endpoint.delay_s = 60
    leave(gateway, body(), after_s=0.2)
    begin = time.monotonic()
    assert gateway.service.stop() == 0
    assert time.monotonic() - begin < 4
    (row,) = gateway.exchanges()
    assert row["status"] is None and row["error"] in ("client_disconnected", "gateway_stopped")


@pytest.mark.parametrize(
    ("asked", "headers"),
    [
        (body(), {"x-claude-code-agent-id": "a"}),
        (body(tools=False), {}),
        (body(tools=False), {"x-claude-code-agent-id": "b"}),
    ],
)
def test_turns_are_counted_whatever_a_request_says_of_itself(live, endpoint, asked, headers):
    gateway = live(budget={"max_turns": 2})
    answers = [gateway.call("POST", "/v1/messages", asked, headers=headers)[0] for _ in range(6)]
    assert answers == [200, 200, 403, 403, 403, 403]
    assert len(endpoint.bodies) == 2


def test_turns_hold_for_requests_at_once_and_for_clients_that_leave(live, endpoint):
    gateway = live(budget={"max_turns": 3})
    endpoint.delay_s = 0.3
    leave(gateway, body(), after_s=0.1)
    with cf.ThreadPoolExecutor(10) as pool:
        jobs = [pool.submit(gateway.call, "POST", "/v1/messages", body()) for _ in range(10)]
        answers = sorted(job.result()[0] for job in jobs)
    assert answers == [200, 200] + [403] * 8
    assert len(endpoint.bodies) == 3
