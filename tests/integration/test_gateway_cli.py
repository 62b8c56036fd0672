"""The real CLI on this host, without a container, against the scripted gateway.

Runs as an unprivileged user with an environment of its own, in directories of its own.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentsweep.agents.claude_code import invocation
from agentsweep.host.processes import LineService

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "agents" / "claude-2.1.330" / "claude"
MODEL = "claude-haiku-4-5-20251001"
TOKEN = "canary-token-77aa"
UID = 1000

pytestmark = pytest.mark.skipif(
    not BINARY.is_file() and not os.environ.get("CI"),
    reason=f"NOT RUN, the real CLI is missing ({BINARY}): run `make agent`",
)

SESSION = """\
defaults: {chunk_chars: 20}
turns:
  - thinking: Two things can be looked at together.
    text: I will look around.
    tools:
      - Bash: {command: "echo one; pwd", description: Look}
      - Bash: {command: "echo 'a \\"quoted\\" word'; printf 'x\\\\ny\\\\n'"}
      - Read: {file_path: WORK/given.txt}
  - tools:
      - Write: {file_path: WORK/made.txt, content: "hello world\\n"}
  - tools:
      - Edit: {file_path: WORK/made.txt, old_string: hello, new_string: goodbye}
  - text: Two others shall look as well.
    tools:
      - Agent: {description: look left, prompt: "[[look]] left", subagent_type: general-purpose}
      - Agent: {description: look right, prompt: "[[look]] right", subagent_type: general-purpose}
  - id: build
    tools: [{Bash: {command: "echo building; exit 137"}}]
    next:
      - if: {result_matches: "^Exit code 137", is_error: true}
        goto: killed
      - goto: done
  - id: done
    text: It was not killed.
  - id: killed
    text: The build was killed.
subagents:
  look:
    marker: "[[look]]"
    turns:
      - tools: [{Bash: {command: "echo $PPID >> WORK/lookers.txt"}}]
        latency_s: 0.2
      - text: I have looked.
"""


@dataclass
class Ended:
    """A CLI that has ended: its exit code, its output stream, and what the gateway wrote."""

    code: int
    stream: list[dict]
    rows: list[dict]
    stderr: str

    @property
    def result(self) -> dict:
        return self.stream[-1]

    def results(self) -> dict[str, dict]:
        """The result block of each tool call of the main conversation."""
        found = {}
        for event in self.stream:
            if event["type"] == "user" and event.get("parent_tool_use_id") is None:
                for block in event["message"]["content"]:
                    if isinstance(block, dict) and block.get("type") == "tool_result":
                        found[block["tool_use_id"]] = block
        return found

    def calls(self) -> list[dict]:
        """The tool calls of the main conversation, in order."""
        return [
            block
            for event in self.stream
            if event["type"] == "assistant" and event.get("parent_tool_use_id") is None
            for block in event["message"]["content"]
            if block["type"] == "tool_use"
        ]


class Place:
    """Directories that the CLI's user can use, and a way to run it there.

    pytest's own directories are closed to other users.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.chmod(0o755)
        self.work, self.home, self.tmp = (folder / name for name in ("work", "home", "tmp"))
        for path in (self.work, self.home, self.tmp):
            path.mkdir()
            if os.getuid() == 0:
                os.chown(path, UID, UID)
        self.binary = self._reachable_binary()

    def run(
        self,
        scenario: str,
        prompt: str = "Do as you were told.",
        listen: str = "tcp:127.0.0.1:0",
        args: tuple[str, ...] = (),
        **variables: str,
    ) -> Ended:
        number = len(list(self.folder.glob("*.jsonl")))
        log = self.folder / f"api-{number}.jsonl"
        path = self.folder / f"scenario-{number}.yaml"
        path.write_text(scenario.replace("WORK", str(self.work)), encoding="utf-8")
        gateway = LineService("agentsweep.gateway", self.folder / "gateway.txt")
        try:
            address = gateway.ask(
                {
                    "mode": "scripted",
                    "scenario": str(path),
                    "listen": listen,
                    "log": str(log),
                    "token": TOKEN,
                }
            )["address"]
            ended = self.cli(address, prompt, args, variables)
        finally:
            code = gateway.stop()
        assert code == 0, (self.folder / "gateway.txt").read_text(encoding="utf-8")
        assert TOKEN not in log.read_text(encoding="utf-8")
        return Ended(
            ended.returncode,
            [json.loads(line) for line in ended.stdout.splitlines()],
            [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()],
            ended.stderr.decode(),
        )

    def cli(self, address, prompt, args, variables) -> subprocess.CompletedProcess:
        env = {
            "HOME": str(self.home),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "SHELL": "/bin/bash",
            "TMPDIR": str(self.tmp),
            "CLAUDE_CODE_TMPDIR": str(self.tmp),
            "CLAUDE_CONFIG_DIR": str(self.home / "config"),
            "ANTHROPIC_API_KEY": TOKEN,
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "CLAUDE_CODE_TOOL_MEMORY_LIMIT": "none",
            "CLAUDE_CODE_MAX_RETRIES": "2",
        }
        if address.startswith("unix:"):
            env["ANTHROPIC_UNIX_SOCKET"] = address.removeprefix("unix:")
            env["ANTHROPIC_BASE_URL"] = "http://localhost"
        else:
            env["ANTHROPIC_BASE_URL"] = address
        clean = ["env", "-i", *(f"{name}={value}" for name, value in (env | variables).items())]
        command = [str(self.binary), "--print", "--verbose", "--output-format", "stream-json"]
        command += ["--model", MODEL, "--dangerously-skip-permissions", *args]
        return subprocess.run(
            [*_as_user(), *clean, *command],
            input=prompt.encode(),
            capture_output=True,
            cwd=self.work,
            timeout=120,
        )

    def _reachable_binary(self) -> Path:
        """The binary, or a copy of it where its directory is closed to the CLI's user."""
        if subprocess.run([*_as_user(), "test", "-x", str(BINARY)]).returncode == 0:
            return BINARY
        copy = self.folder / "claude"
        shutil.copy(BINARY, copy)
        return copy


def _as_user() -> list[str]:
    if os.getuid() != 0:
        return []
    return ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]


@pytest.fixture
def place():
    # Short, because a socket's path must be.
    folder = Path(tempfile.mkdtemp(prefix="agentsweep-cli-"))
    yield Place(folder)
    shutil.rmtree(folder)


def play_session(place, **more) -> Ended:
    (place.work / "given.txt").write_text("what was given\n", encoding="utf-8")
    ended = place.run(SESSION, **more)
    assert ended.code == 0, ended.stderr
    return ended


@pytest.mark.parametrize("listen", ["tcp", "unix"])
def test_a_whole_session(place, listen):
    address = "tcp:127.0.0.1:0" if listen == "tcp" else f"unix:{place.folder}/api.sock"
    session = str(uuid.uuid4())
    ended = play_session(place, listen=address, args=("--session-id", session))

    result = ended.result
    assert result["type"] == "result" and result["result"] == "The build was killed."
    assert (result["is_error"], result["terminal_reason"]) == (False, "completed")

    # What the tools did is real.
    assert (place.work / "made.txt").read_text(encoding="utf-8") == "goodbye world\n"
    assert len((place.work / "lookers.txt").read_text(encoding="utf-8").split()) == 2
    names = [call["name"] for call in ended.calls()]
    assert names == ["Bash", "Bash", "Read", "Write", "Edit", "Agent", "Agent", "Bash"]
    results = ended.results()
    assert set(results) == {call["id"] for call in ended.calls()}
    texts = [str(results[call["id"]]["content"]) for call in ended.calls()]
    assert texts[0] == f"one\n{place.work}"
    assert texts[1] == 'a "quoted" word\nx\ny'
    assert "what was given" in texts[2]
    assert all("I have looked." in text for text in texts[5:7])
    assert texts[7] == "Exit code 137\nbuilding"
    assert results[ended.calls()[7]["id"]]["is_error"] is True

    # What was asked and answered.
    rows = ended.rows
    assert {(row["status"], row["error"], row["retry"]) for row in rows} == {(200, None, 0)}
    assert {(row["method"], row["path"]) for row in rows} == {("POST", "/v1/messages")}
    main = [row for row in rows if row["kind"] == "main"]
    assert [row["turn"] for row in main] == list(range(6))
    assert [row["turn_id"] for row in main[4:]] == ["build", "killed"]
    assert [row["stop_reason"] for row in main] == ["tool_use"] * 5 + ["end_turn"]
    assert {row["agent_id"] for row in main} == {None}
    side = [row for row in rows if row["kind"] == "subagent"]
    agents = {row["agent_id"] for row in side}
    assert len(side) == 4 and len(agents) == 2 and None not in agents
    assert len(main) + len(side) == len(rows)
    assert {row["model"] for row in rows} == {MODEL}
    for row in rows:
        assert row["start_ns"] < row["first_byte_ns"] <= row["end_ns"]
    # The scenario gives sub-agents' first turns 0.2 s, and they run beside each other.
    looks = [row for row in side if row["turn"] == 0]
    assert all(row["first_byte_ns"] - row["start_ns"] >= 2e8 for row in looks)
    assert max(r["start_ns"] for r in looks) < min(r["first_byte_ns"] for r in looks)

    # The CLI understood the usage: its sums are ours.
    used = result["modelUsage"][MODEL]
    assert used["inputTokens"] == sum(row["input_tokens"] for row in rows)
    assert used["outputTokens"] == sum(row["output_tokens"] for row in rows)

    # Its trace holds our message ids, each with its stop reason, and the thinking.
    (trace,) = (place.home / "config").glob(f"projects/*/{session}.jsonl")
    records = [json.loads(line) for line in trace.read_text(encoding="utf-8").splitlines()]
    messages = [r["message"] for r in records if r["type"] == "assistant"]
    assert {m["id"] for m in messages} == {row["message_id"] for row in main}
    thoughts = [b["thinking"] for m in messages for b in m["content"] if b["type"] == "thinking"]
    assert thoughts == ["Two things can be looked at together."]
    assert len(list(trace.with_suffix("").glob("subagents/*.jsonl"))) == 2


def test_two_sessions_get_the_same_ids(place):
    first = play_session(place)
    for name in ("made.txt", "lookers.txt"):
        (place.work / name).unlink()
    second = play_session(place)
    assert {r["message_id"] for r in first.rows} == {r["message_id"] for r in second.rows}
    assert [c["id"] for c in first.calls()] == [c["id"] for c in second.calls()]


def test_a_question_without_tools(place):
    ended = place.run('turns: [{text: "4", latency_s: 0.1}]', prompt="What is 2+2?")
    assert (ended.code, ended.result["result"]) == (0, "4")
    (row,) = ended.rows
    assert (row["kind"], row["turn"], row["stop_reason"]) == ("main", 0, "end_turn")


def test_a_cli_without_tools_is_answered_too(place):
    ended = place.run("turns: [{text: four}]", prompt="What is 2+2?", args=("--tools", ""))
    assert (ended.code, ended.result["result"]) == (0, "four")
    assert [row["kind"] for row in ended.rows] == ["main"]


def faulty(fault: str) -> str:
    return (
        "turns:\n"
        "  - {text: I will write., tools: [{Bash: {command: echo once >> WORK/once.txt}}]}\n"
        f"  - {{text: It is written., fault: {{{fault}}}}}\n"
    )


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("status: 429, times: 2", [(429, "rate_limit_error"), (429, "rate_limit_error")]),
        ("status: 529", [(529, "overloaded_error")]),
        ("status: 500", [(500, "api_error")]),
        ("drop: connect", [(None, "dropped")]),
        ("drop: midstream", [(200, "dropped")]),
        ("hang_s: 1", [(None, "hang")]),
        ("stream_error: overloaded_error", [(200, "overloaded_error")]),
        ("malformed: event", [(200, "malformed")]),
        ("malformed: body", [(200, "malformed")]),
    ],
)
def test_the_cli_gets_over_a_fault(place, fault, seen):
    ended = place.run(faulty(fault))
    assert ended.code == 0, ended.stderr
    assert (ended.result["result"], ended.result["is_error"]) == ("It is written.", False)
    assert (place.work / "once.txt").read_text(encoding="utf-8") == "once\n"
    rows = [(row["turn"], row["status"], row["error"]) for row in ended.rows]
    assert rows == [(0, 200, None), *((1, *each) for each in seen), (1, 200, None)]
    assert [row["retry"] for row in ended.rows] == [0, *range(len(seen) + 1)]


def test_retry_after_is_honoured(place):
    ended = place.run(faulty("status: 429, retry_after_s: 2"))
    refused, again = ended.rows[1:]
    assert ended.code == 0
    assert 2 <= (again["start_ns"] - refused["end_ns"]) / 1e9 < 4


@pytest.mark.parametrize(("fault", "status"), [("status: 529", 529), ("drop: connect", None)])
def test_the_cli_gives_up_when_a_fault_stays(place, fault, status):
    ended = place.run(faulty(f"{fault}, times: forever"))
    assert ended.code == 1
    assert (ended.result["is_error"], ended.result["terminal_reason"]) == (True, "api_error")
    # Once, and twice more: CLAUDE_CODE_MAX_RETRIES is 2.
    assert [row["retry"] for row in ended.rows[1:]] == [0, 1, 2]
    assert {row["status"] for row in ended.rows[1:]} == {status}


@pytest.mark.parametrize(
    "turn",
    [
        "{text: I will write., chunk_chars: 10, fault: {drop: midstream}, "
        "tools: [{Bash: {command: echo once >> WORK/once.txt; true, description: A long one}}]}",
        "{thinking: Hm., text: I will write after all that I know., chunk_chars: 10, "
        "fault: {drop: midstream}, tools: [{Bash: {command: echo once >> WORK/once.txt}}]}",
    ],
)
def test_a_turn_that_broke_off_with_part_of_it_kept_is_played_again(place, turn):
    ended = place.run(f"turns:\n  - {turn}\n  - {{text: End.}}\n")
    assert (ended.code, ended.result["result"]) == (0, "End.")
    assert (place.work / "once.txt").read_text(encoding="utf-8") == "once\n"
    assert [row["turn"] for row in ended.rows] == [0, 0, 1]


def test_a_wrong_token_ends_the_cli(place):
    ended = place.run("turns: [{text: x}]", ANTHROPIC_API_KEY="not-the-token")
    assert ended.code == 1
    assert ended.result["is_error"] is True
    assert {(row["status"], row["error"]) for row in ended.rows} == {(401, "authentication_error")}


def test_a_resumed_session_goes_on_after_a_summary(place):
    scenario = (
        "turns:\n"
        "  - {text: a, tools: [{Bash: {command: echo one >> WORK/n.txt}}]}\n"
        "  - {text: b, tools: [{Bash: {command: echo two >> WORK/n.txt}}]}\n"
        "  - {text: c, tools: [{Bash: {command: echo three >> WORK/n.txt}}]}\n"
        "  - {text: All counted.}\n"
    )
    session = str(uuid.uuid4())
    path, log = place.folder / "s.yaml", place.folder / "api.jsonl"
    path.write_text(scenario.replace("WORK", str(place.work)), encoding="utf-8")
    gateway = LineService("agentsweep.gateway", place.folder / "gateway.txt")
    settings = {"mode": "scripted", "scenario": str(path), "listen": "tcp:127.0.0.1:0"}
    address = gateway.ask({**settings, "log": str(log), "token": TOKEN})["address"]
    try:
        place.cli(address, "Count.", ("--session-id", session, "--max-turns", "2"), {})
        compacted = place.cli(address, "/compact", ("--resume", session), {})
        ended = place.cli(address, "Go on.", ("--resume", session), {})
    finally:
        gateway.stop()
    assert (compacted.returncode, ended.returncode) == (0, 0)
    assert json.loads(ended.stdout.splitlines()[-1])["result"] == "All counted."
    assert (place.work / "n.txt").read_text(encoding="utf-8") == "one\ntwo\nthree\n"
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [(row["kind"], row["turn"]) for row in rows] == [
        ("main", 0),
        ("main", 1),
        ("side", None),
        ("main", 2),
        ("main", 3),
    ]


LEAVING = """\
turns:
  - tools: [{WebSearch: {query: "a canary"}}]
  - tools: [{Agent: {description: look, prompt: "[[look]]", subagent_type: general-purpose,
                     model: opus}}]
  - text: It goes on.
subagents:
  look:
    marker: "[[look]]"
    turns: [{text: I have looked.}]
"""


def play_live(place, model_id=MODEL, settings=None, **rules):
    """The CLI through a live gateway, behind which a scripted one plays the endpoint."""
    key = "canary-upstream-key"
    scenario = place.folder / "leaving.yaml"
    scenario.write_text(LEAVING, encoding="utf-8")
    start = {"listen": "tcp:127.0.0.1:0", "scenario": str(scenario)}
    logs = [place.folder / "live.jsonl", place.folder / "upstream.jsonl"]
    settings = settings or {}
    with contextlib.ExitStack() as stack:
        services = [LineService("agentsweep.gateway", place.folder / "g.txt") for _ in logs]
        for service in services:
            stack.callback(service.stop)
        upstream = services[1].ask(start | {"mode": "scripted", "log": str(logs[1]), "token": key})[
            "address"
        ]
        live = {"mode": "live", "base_url": upstream, "models": [model_id], **rules}
        live |= {"credential": {"kind": "x-api-key", "secret": key}}
        address = services[0].ask(
            live | {"listen": "tcp:127.0.0.1:0", "log": str(logs[0]), "token": TOKEN}
        )["address"]
        of_cli = invocation.AgentSettings("2.1.330", model_id, 600, 10, True, **settings)
        added = invocation.environment(of_cli, address, TOKEN, marks=False)
        names = {name: added[name] for name in added if name.endswith("_MODEL")}
        arguments = [a for a in invocation.arguments(of_cli, "0") if a.startswith("--disallowed")]
        ended = place.cli(address, "Go.", tuple(arguments), names)
        status = services[0].ask({"cmd": "status"})
    stream = [json.loads(line) for line in ended.stdout.splitlines()]
    rows = [json.loads(line) for line in logs[0].read_text(encoding="utf-8").splitlines()]
    return Ended(ended.returncode, stream, rows, ended.stderr.decode()), status, logs[1]


def test_a_refused_search_is_the_tools_error_and_the_agent_goes_on(place):
    ended, status, upstream = play_live(place)
    assert ended.result["result"] == "It goes on." and ended.result["is_error"] is False
    search, look = (ended.results()[call["id"]] for call in ended.calls())
    assert search["is_error"] is True
    assert "agent.endpoint_tools does not name web_search" in search["content"]
    # So is another model for a sub-agent.
    assert "is not the run's model" in str(look["content"])
    # Each was asked for once, and the endpoint saw neither.
    assert [row["error"] for row in ended.rows] == [None, "not_allowed", None, "not_allowed", None]
    assert status["endpoint"]["refused"] == 2
    assert upstream.read_text(encoding="utf-8").count("/v1/messages") == 3


def test_what_a_live_agent_is_started_with_asks_for_nothing_that_is_refused(place):
    settings = {"disallowed_tools": ("WebSearch", "WebFetch"), "aliases_mean_model": True}
    ended, status, _ = play_live(place, settings=settings)
    assert ended.result["result"] == "It goes on."
    search, look = (ended.results()[call["id"]] for call in ended.calls())
    assert "No such tool available: WebSearch" in search["content"]
    assert "I have looked." in str(look["content"])
    assert {row["model"] for row in ended.rows} == {MODEL}
    assert (status["endpoint"]["refused"], status["budget"]["turns"]) == (0, 4)
