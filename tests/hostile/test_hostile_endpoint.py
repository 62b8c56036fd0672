"""A client that wants the endpoint to be its network: nothing of it is passed on unless the
configuration names it."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsweep.gateway.endpoint_tools import NAMES, NotAllowed, Rules, wishes

URL = "http://203.0.113.1/?q=secret"
BY_URL = {"type": "url", "url": URL}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}


def body(*blocks, **more) -> dict:
    asked = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
    if blocks:
        asked["messages"] = [{"role": "user", "content": list(blocks)}]
    return asked | more


def result(*blocks) -> dict:
    return {"type": "tool_result", "tool_use_id": "t", "content": list(blocks)}


def document(**source) -> dict:
    return {"type": "document", "source": source}


# The name that allows it, and a request that asks for it.
BEYOND = [
    ("web_search", body(tools=[{"type": "web_search_20250305", "name": "web_search"}])),
    ("web_search", body(tools=[{"name": "Bash"}, {"type": "web_search_29991231", "name": "x"}])),
    ("web_search", body({"type": "server_tool_use", "id": "s", "name": "web_search"})),
    ("web_search", body({"type": "web_search_tool_result", "tool_use_id": "s", "content": []})),
    ("web_fetch", body(tools=[{"type": "web_fetch_20250910", "name": "web_fetch"}])),
    ("web_fetch", body(result({"type": "web_fetch_tool_result", "content": {}}))),
    ("code_execution", body(tools=[{"type": "code_execution_20250825", "name": "c"}])),
    ("code_execution", body({"type": "server_tool_use", "name": "bash_code_execution"})),
    ("code_execution", body({"type": "text_editor_code_execution_tool_result"})),
    ("code_execution", body(container="container_1")),
    ("mcp", body(mcp_servers=[{"type": "url", "url": URL, "name": "n"}])),
    ("mcp", body(mcp_servers=[])),
    ("mcp", body(tools=[{"type": "mcp_toolset", "mcp_server_name": "n"}])),
    ("mcp", body({"type": "mcp_tool_use", "id": "x", "name": "n"})),
    ("url_sources", body({"type": "image", "source": BY_URL})),
    ("url_sources", body({"type": "document", "source": BY_URL})),
    ("url_sources", body(result({"type": "image", "source": BY_URL}))),
    ("url_sources", body(result(result(result({"type": "document", "source": BY_URL}))))),
    ("url_sources", body(system=[{"type": "image", "source": BY_URL}])),
    ("url_sources", body(document(type="content", content=[{"type": "image", "source": BY_URL}]))),
    # The kind says one thing, and the rest another.
    ("url_sources", body({"type": "image", "source": PNG | {"url": URL}})),
    ("files", body(document(type="file", file_id="file_1"))),
    ("files", body({"type": "container_upload", "file_id": "file_1"})),
    ("other", body(tools=[{"type": "tool_search_tool_regex_20251119", "name": "t"}])),
    ("other", body(tools=[{"type": ["web_search_20250305"], "name": "t"}])),
    ("other", body(tools={"0": {"type": "web_search_20250305"}})),
    ("other", body({"type": "new_kind"})),
    ("other", body({"type": "image"})),
    ("other", body({"type": "image", "source": {"type": "s3", "bucket": "b"}})),
    ("other", body({"type": "document", "Source": BY_URL, "source": PNG})),
    ("other", body({"type": "text", "text": "x", "Type": "image"})),
    ("other", body(result("not a block"))),
    ("other", body(new_field=1)),
    ("other", body(Tools=[{"type": "web_search_20250305"}])),
    ("web_search", body({"type": "tool_addition", "tool": {
        "type": "tool_definition", "definition": {"type": "web_search_20250305"}}})),
    ("other", body({"type": "tool_addition", "tool": {"type": "new"}})),
    (None, body(service_tier="priority")),
    (None, body(service_tier=["auto"])),
    (None, body(speed="fast")),
    (None, body(inference_geo="us")),
]  # fmt: skip

# What stays between a client and its model.
PLAIN = [
    body(),
    body(tools=[{"name": "Bash", "input_schema": {}}, {"type": "custom", "name": "web_search"}]),
    body(tools=[{"type": "bash_20250124", "name": "bash"}, {"type": None, "name": "x"}]),
    body(tools=[{"type": "text_editor_20250728", "name": "e", "max_characters": 10}]),
    body(system="You are.", temperature=1, stop_sequences=["x"], metadata={"user_id": URL}),
    body(service_tier="auto", speed="standard", thinking={"type": "adaptive"}),
    body({"type": "text", "text": URL}, {"type": "image", "source": PNG}),
    body(document(type="text", media_type="text/plain", data=URL)),
    body(document(type="content", content=[{"type": "text", "text": URL}])),
    body(result({"type": "tool_reference", "tool_name": "WebSearch"})),
    body({"type": "tool_use", "id": "t", "name": "x", "input": {"Type": "url", "source": BY_URL}}),
    body({"type": "thinking", "thinking": "x", "signature": "y"}, result()),
    body({"type": "search_result", "source": URL, "title": "t", "content": []}),
    body({"type": "tool_removal", "tool": {"type": "tool_reference", "name": "x"}}),
]


@pytest.mark.parametrize(("name", "asked"), BEYOND)
def test_what_leaves_the_sandbox_is_refused_unless_it_is_named(name, asked):
    rules = Rules(models=["m"])
    with pytest.raises(NotAllowed, match=name or "another price") as refused:
        rules.check(asked)
    assert rules.progress()["refused"] == 1
    assert rules.progress()["first_refused"] == str(refused.value)
    if name is None:
        with pytest.raises(NotAllowed):
            Rules(NAMES, ["m"]).check(asked)
        return
    Rules([name], ["m"]).check(asked)
    with pytest.raises(NotAllowed):
        Rules(set(NAMES) - {name}, ["m"]).check(asked)


@pytest.mark.parametrize("asked", PLAIN)
def test_what_stays_between_client_and_model_is_allowed(asked):
    rules = Rules(models=["m"])
    rules.check(asked)
    assert rules.progress()["refused"] == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "source", "content", "url", "tool", "definition"])
            | st.text(max_size=5),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(asked=st.dictionaries(st.text(max_size=8), json_values), content=json_values)
@settings(max_examples=200, deadline=None)
def test_nothing_that_a_client_sends_breaks_the_rules(asked, content):
    for holder in (asked, body(tools=content), body(system=content), {"messages": content}):
        for wish in wishes(holder):
            assert wish.name is None or wish.name in NAMES
            assert wish.said.isascii() and len(wish.said) < 400


@given(
    beyond=st.sampled_from([asked for _, asked in BEYOND if "tools" not in asked]),
    depth=st.integers(0, 200),
    before=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_it_does_not_matter_how_deep_it_lies(beyond, depth, before):
    content = beyond["messages"][0]["content"]
    inner = content if isinstance(content, list) else [{"type": "image", "source": BY_URL}]
    for _ in range(depth):
        inner = [*({"type": "text", "text": "x"} for _ in range(before)), result(*inner)]
    with pytest.raises(NotAllowed):
        Rules(models=["m"]).check(body(*inner))


def test_a_request_is_refused_before_the_endpoint_sees_it(live, endpoint):
    gateway = live(models=["m"])
    for name, asked in BEYOND:
        status, _, answer = gateway.call("POST", "/v1/messages", asked)
        said = json.loads(answer)["error"]
        assert (status, said["type"]) == (403, "permission_error"), asked
        assert said["message"].startswith("agentsweep refuses this request: ")
        assert name is None or said["message"].endswith(
            f"agent.endpoint_tools does not name {name}"
        )
        # Counting tokens would fetch as well.
        assert gateway.call("POST", "/v1/messages/count_tokens", asked)[0] == 403
    # A reader that takes the first of two values, or another encoding, sees nothing either.
    twice = json.dumps(body()).replace('"messages"', '"tools": [], "messages"', 1)
    twice = twice.replace('"tools"', '"tools": [{"type": "web_search_1"}], "tools"', 1)
    for raw in (twice.encode(), json.dumps(BEYOND[0][1]).encode("utf-16"), b"\xef\xbb\xbf{}"):
        assert gateway.call("POST", "/v1/messages", raw)[0] == 400
        assert gateway.call("POST", "/v1/messages/count_tokens", raw)[0] == 400
    assert endpoint.bodies == []
    assert gateway.call("POST", "/v1/messages", body())[0] == 200
    # The client has its answer a moment before the gateway has counted it.
    deadline = time.monotonic() + 20
    while not (status := gateway.service.ask({"cmd": "status"}))["budget"]["turns"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert status["endpoint"]["allowed"] == []
    assert status["endpoint"]["refused"] == 2 * len(BEYOND)
    assert "web_search" in status["endpoint"]["first_refused"]
    # Nothing was asked of the model, so that nothing was spent.
    assert status["budget"]["turns"] == 1 and status["budget"]["refused"] is None
    assert {row["error"] for row in gateway.exchanges()} == {
        *("not_allowed", "invalid_request_error", None)
    }


def test_what_is_named_is_passed_on_as_it_is(live, endpoint):
    gateway = live(models=["m"], endpoint_tools=["web_search", "url_sources"])
    asked = [asked for name, asked in BEYOND if name in ("web_search", "url_sources")]
    for one in asked:
        assert gateway.call("POST", "/v1/messages", one)[0] == 200
    assert endpoint.bodies == asked


def test_only_the_runs_models_are_asked_for(live, endpoint):
    gateway = live(models=["m", "helper"])
    for model in ("claude-opus-4-1", "M", "m ", "m:online", "m[1m]", ["m"]):
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            assert gateway.call("POST", path, body(model=model))[0] in (400, 403), model
    fallbacks = body(fallbacks=[{"model": "claude-opus-4-1"}])
    assert gateway.call("POST", "/v1/messages", fallbacks)[0] == 403
    assert endpoint.bodies == []
    for model in ("m", "helper"):
        assert gateway.call("POST", "/v1/messages", body(model=model))[0] == 200


def test_without_a_list_the_first_model_is_the_runs(live, endpoint):
    gateway = live()
    answers = [
        gateway.call("POST", "/v1/messages", body(model=model))[0] for model in ("m", "n", "m")
    ]
    assert answers == [200, 403, 200]
