"""Arguments, environment and start script of the agent; its binary's hash."""

import hashlib
import os
import subprocess
import sys
import tarfile
from dataclasses import replace

import pytest

from agentsweep.agents.claude_code import invocation
from agentsweep.agents.claude_code.invocation import AgentSettings
from agentsweep.errors import ConfigError, InfraError

SETTINGS = AgentSettings("2.1.330", "claude-haiku-4-5-20251001", 600, 10, True)


def test_the_prompt_is_never_an_argument():
    argv = invocation.arguments(SETTINGS, "0000")
    assert argv[0] == invocation.CONTAINER_BINARY
    assert "--print" in argv
    assert argv[argv.index("--output-format") + 1] == "stream-json"
    assert "--verbose" in argv  # stream-json needs it
    assert argv[argv.index("--session-id") + 1] == "0000"


def test_tools_come_last_because_they_are_variadic():
    settings = AgentSettings("1", "m", 1, 1, True, tools=("Bash", "Read"), extra_args=("--bare",))
    assert invocation.arguments(settings, "0")[-3:] == ["--bare", "--tools", "Bash,Read"]


def test_a_live_agent_gets_no_tool_that_leaves_the_sandbox_and_one_model():
    settings = replace(
        SETTINGS,
        disallowed_tools=("WebSearch", "WebFetch"),
        aliases_mean_model=True,
        extra_args=("--bare",),
    )
    argv = invocation.arguments(settings, "0")
    assert argv[-2:] == ["--disallowedTools=WebSearch,WebFetch", "--bare"]
    env = invocation.environment(settings, "unix:", "token", marks=True)
    plain = invocation.environment(SETTINGS, "unix:", "token", marks=True)
    assert {env[name] for name in env.keys() - plain.keys()} == {SETTINGS.model_id}
    assert env.keys() - plain.keys() >= {
        "ANTHROPIC_DEFAULT_HAIKU_MODEL",
        "ANTHROPIC_SMALL_FAST_MODEL",
    }
    assert "--disallowedTools" not in " ".join(invocation.arguments(SETTINGS, "0"))


def test_session_ids_differ_by_attempt_and_stay_the_same():
    first = invocation.session_id("a" * 64, 1)
    assert first == invocation.session_id("a" * 64, 1)
    assert first != invocation.session_id("a" * 64, 2)
    assert first != invocation.session_id("b" * 64, 1)


def test_environment_over_the_socket_and_over_loopback():
    unix = invocation.environment(SETTINGS, "unix:", "token", marks=True)
    assert unix["ANTHROPIC_UNIX_SOCKET"] == invocation.SOCKET
    assert unix["ANTHROPIC_BASE_URL"] == "http://localhost"
    assert unix["CLAUDE_CODE_SHELL_PREFIX"] == invocation.WRAPPER
    tcp = invocation.environment(SETTINGS, "http://127.0.0.1:8080", "token", marks=False)
    assert "ANTHROPIC_UNIX_SOCKET" not in tcp
    assert "CLAUDE_CODE_SHELL_PREFIX" not in tcp
    assert tcp["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8080"
    assert tcp["BASH_MAX_TIMEOUT_MS"] == "600000"
    assert tcp["CLAUDE_CODE_TOOL_MEMORY_LIMIT"] == "none"


def run_start(tmp_path, monkeypatch, lines, python=None):
    """The start script as bash runs it, with `env` in the CLI's place."""
    environment, pid = tmp_path / "env.sh", tmp_path / "pid"
    monkeypatch.setattr(invocation, "TASK_ENVIRONMENT", str(environment))
    monkeypatch.setattr(invocation, "AGENT_PID", str(pid))
    environment.write_text(invocation.task_environment(lines), encoding="utf-8")
    script = tmp_path / "start"
    script.write_text(
        invocation.start_script(["env"], {"ODD": "a 'b' $c `d`"}, python), encoding="utf-8"
    )
    return subprocess.run(
        ["bash", script],
        env={"PATH": "/usr/bin:/bin", "ANTHROPIC_AUTH_TOKEN": "from outside"},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )


def test_the_start_script_cleans_the_environment(tmp_path, monkeypatch):
    done = run_start(tmp_path, monkeypatch, "export TASK=1")
    lines = done.stdout.splitlines()
    assert "ODD=a 'b' $c `d`" in lines
    assert "TASK=1" in lines
    assert "from outside" not in done.stdout
    assert int((tmp_path / "pid").read_text(encoding="utf-8")) > 0


def test_a_wrong_python_stops_before_the_agent(tmp_path, monkeypatch):
    done = run_start(tmp_path, monkeypatch, None, python="/no/such/python")
    assert done.returncode == invocation.WRONG_PYTHON
    assert done.stderr.startswith("python is ")
    assert not (tmp_path / "pid").exists()


def test_shadowed_search_tools_are_put_back(tmp_path, monkeypatch):
    monkeypatch.setattr(invocation, "TASK_ENVIRONMENT", str(tmp_path / "environment"))
    (tmp_path / "environment").write_text("export TASK=1\n", encoding="utf-8")
    script = (
        f"grep() {{ echo shadow; }}\n{invocation.env_file(system_search=True)}\necho $TASK | grep 1"
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout == "1\n"
    assert "unset" not in invocation.env_file(system_search=False)


def test_an_environment_that_bash_cannot_parse_is_refused():
    with pytest.raises(ConfigError, match="is no shell code"):
        invocation.task_environment("if [ 1 = 1 ]; then")
    assert invocation.task_environment(None) == ":\n"


def test_the_locked_binary_passes_and_another_does_not(tmp_path):
    binary = tmp_path / "claude"
    with pytest.raises(InfraError, match="missing"):
        invocation.check_binary(binary, "0")
    binary.write_bytes(b"#!/bin/sh\n")
    digest = hashlib.sha256(b"#!/bin/sh\n").hexdigest()
    with pytest.raises(InfraError, match="cannot be run by every user"):
        invocation.check_binary(binary, digest)
    binary.chmod(0o755)
    invocation.check_binary(binary, digest)
    binary.write_bytes(b"#!/bin/sh\nevil\n")
    with pytest.raises(InfraError, match="not the locked agent binary"):
        invocation.check_binary(binary, digest)


def test_versions_come_from_the_lock_file(tmp_path):
    lock = tmp_path / "agents.lock.yaml"
    lock.write_text("claude:\n  2.1.330: {binary_sha256: abc}\n", encoding="utf-8")
    assert invocation.binary_sha256(lock, "2.1.330") == "abc"
    assert invocation.locked_binary(lock, tmp_path, "2.1.330") == tmp_path / "claude-2.1.330/claude"
    with pytest.raises(ConfigError, match=r"'9\.9\.9' is not locked; locked are 2\.1\.330"):
        invocation.binary_sha256(lock, "9.9.9")
    lock.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigError, match="not a lock file"):
        invocation.binary_sha256(lock, "2.1.330")


def test_the_trace_is_found_by_session_id_in_any_project(tmp_path):
    wanted = tmp_path / "projects/-testbed/id.jsonl"
    for path in (wanted, tmp_path / "projects/-testbed/other.jsonl"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n", encoding="utf-8")
    second = tmp_path / "projects/-tmp/id.jsonl"
    second.parent.mkdir()
    second.write_text("", encoding="utf-8")
    assert invocation.find_trace(tmp_path, "id") == wanted
    assert invocation.find_trace(tmp_path, "none") is None


def test_only_regular_files_of_the_session_are_archived(tmp_path):
    """The agent writes this tree, and whoever archives it may be root."""
    secret = tmp_path / "secret"
    (secret / "-testbed").mkdir(parents=True)
    (secret / "-testbed" / "id.jsonl").write_text("secret" * 100, encoding="utf-8")
    session = tmp_path / "session"
    project = session / "projects" / "-testbed"
    (project / "id" / "subagents").mkdir(parents=True)
    (project / "id.jsonl").write_text("{}\n", encoding="utf-8")
    (project / "id" / "subagents" / "agent-1.jsonl").write_text("{}\n", encoding="utf-8")
    (project / "link.jsonl").symlink_to(secret / "-testbed" / "id.jsonl")
    (project / "dangling").symlink_to("nowhere")
    (session / "projects" / "evil").symlink_to(secret / "-testbed")
    os.mkfifo(project / "fifo.jsonl")
    with (project / "huge.jsonl").open("wb") as huge:
        huge.truncate(2**41)
    kept = invocation.archive_session(session, "id", tmp_path / "trace", tmp_path / "tar")
    assert kept == {"files": 2, "bytes": 6, "skipped": 1}
    assert (tmp_path / "trace").read_text(encoding="utf-8") == "{}\n"
    with tarfile.open(tmp_path / "tar") as archive:
        assert archive.getnames() == [
            "projects/-testbed/id.jsonl",
            "projects/-testbed/id/subagents/agent-1.jsonl",
        ]
    subprocess.run(["rm", "-rf", str(session / "projects")], check=True)
    (session / "projects").symlink_to(secret)
    empty = {"files": 0, "bytes": 0, "skipped": 0}
    assert invocation.archive_session(session, "id", tmp_path / "trace", tmp_path / "tar") == empty
    assert (tmp_path / "trace").read_text(encoding="utf-8") == ""


def test_a_session_tree_of_any_depth_and_size_ends(tmp_path, monkeypatch):
    projects = tmp_path / "projects"
    projects.mkdir()
    code = "import os\nfor _ in range(1200): os.mkdir('d'); os.chdir('d')\nopen('x', 'w')"
    subprocess.run([sys.executable, "-c", code], cwd=projects, check=True)
    for number in range(5):
        (projects / f"{number}.jsonl").write_text("x", encoding="utf-8")
    (projects / "a").mkdir()
    (projects / "a" / "id.jsonl").write_text("main", encoding="utf-8")
    monkeypatch.setattr(invocation, "_SESSION_FILES", 3)
    kept = invocation.archive_session(tmp_path, "id", tmp_path / "trace", tmp_path / "tar")
    assert kept == {"files": 3, "bytes": 6, "skipped": 3}
    assert (tmp_path / "trace").read_text(encoding="utf-8") == "main"
    subprocess.run(["rm", "-rf", str(projects)], check=True)
