"""Live against an endpoint on this host, recorded, and replayed; and what an agent finds of it.

The endpoint is a second gateway that plays a scenario: it takes its own token for the key, so that
a key is needed, known and looked for. No traffic leaves the machine.
"""

import contextlib
import json
import os
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import engine_in_use
import pyarrow.parquet as pq
import pytest
import yaml

from agentsweep.agents.claude_code import trace
from agentsweep.host.processes import LineService
from conftest import DONE, agentsweep, bash

KEY = "sk-canary-4d7e91-never-to-be-seen"

WORK = {
    "defaults": {"latency_s": 0.5, "chunk_chars": 12, "chunk_s": 0.05},
    "turns": [
        {
            "thinking": "Two things can be looked at together.",
            "text": "I will look around.",
            "tools": [
                {"Bash": {"command": "echo one; pwd", "description": "Look"}},
                {"Read": {"file_path": "/testbed/README.md"}},
                {"Bash": {"command": "ls /nowhere", "description": "Fail"}},
            ],
        },
        {"tools": [{"Write": {"file_path": "/testbed/made.txt", "content": "hello\n"}}]},
        {
            "tools": [
                {"Edit": {"file_path": "/testbed/made.txt", "old_string": "h", "new_string": "H"}}
            ]
        },
        {
            "text": "Two others shall look as well.",
            "tools": [
                {"Agent": {"description": d, "prompt": f"[[look]] {d}", "subagent_type": "Explore"}}
                for d in ("left", "right")
            ],
        },
        bash("sleep 0.5; cat made.txt"),
        {"text": "All done."},
    ],
    "subagents": {
        "look": {
            "marker": "[[look]]",
            "turns": [bash("echo looked; exit 3"), {"text": "I have looked."}],
        }
    },
}


@contextlib.contextmanager
def endpoint(folder: Path, scenario: dict):
    """An endpoint that plays a scenario for whoever has the key: its address, and its record."""
    folder.mkdir()
    (folder / "scenario.yaml").write_text(
        yaml.safe_dump(scenario, sort_keys=False), encoding="utf-8"
    )
    service = LineService("agentsweep.gateway", folder / "errors")
    try:
        ready = service.ask(
            {
                "mode": "scripted",
                "scenario": str(folder / "scenario.yaml"),
                "listen": "tcp:127.0.0.1:0",
                "log": str(folder / "api.jsonl"),
                "token": KEY,
            }
        )
        yield ready["address"]
    finally:
        service.stop()


@pytest.fixture
def key_file(tmp_path) -> Path:
    path = tmp_path / "key"
    path.touch(mode=0o600)
    path.write_text(f"{KEY}\n", encoding="utf-8")
    return path


def live(address: str, credential: str) -> dict:
    return {"model": "live", "base_url": address, "credential": credential}


def tables(lab, out: Path) -> dict[str, list[dict]]:
    folder = lab.folder / f"tables-{out.name}"
    agentsweep("extract", out, "--run-id", f"run-{out.name}", "--out", folder)
    return {
        name: pq.read_table(folder / f"{name}.parquet").to_pylist()
        for name in ("runs", "tool_calls", "api_calls")
    }


def durations_s(rows: list[dict]) -> list[tuple[float, float]]:
    return [
        ((r["first_byte_ns"] - r["start_ns"]) / 1e9, (r["end_ns"] - r["start_ns"]) / 1e9)
        for r in rows
    ]


def test_a_live_run_replays_as_it_was(lab, key_file):
    with endpoint(lab.folder / "upstream", WORK) as address:
        recorded = lab.run(None, model=live(address, f"file:{key_file}"))
    assert recorded["outcome"] == "completed", recorded["outcome_detail"]
    assert recorded["spec"]["model"] == {"mode": "live", "base_url": address}
    assert KEY not in json.dumps(recorded)

    source = lab.out
    replays = []
    for number in range(2):
        # The same cell twice: a store of its own each time, or it would be recalled.
        lab.store, lab.out = lab.folder / f"store-{number}", lab.folder / f"replay-{number}"
        result = lab.run(None, model={"model": {"replay": str(source)}})
        assert result["outcome"] == "completed", result["outcome_detail"]
        assert result["replay"]["source_kind"] == "recording"
        assert result["replay"]["turns"] == result["replay"]["turns_played"] == 10
        replays.append(tables(lab, lab.out))

    first = tables(lab, source)
    for again in replays:
        (run,) = again["runs"]
        calls = again["tool_calls"]
        differing = [(c["name"], c["replay_status"]) for c in calls if c["fidelity"] != 1]
        assert (run["fidelity"], differing) == (1.0, [])
        assert run["n_compared_calls"] == run["n_same_calls"] == run["n_recorded_calls"] == 10
        assert (run["n_limited_calls"], run["diverged_turn"]) == (0, None)
        assert run["model_mode"] == "replay"
        # The same calls, with the same ids; and the same change.
        assert {c["tool_call_id"] for c in calls} == {
            c["tool_call_id"] for c in first["tool_calls"]
        }
        assert run["patch_sha256"] == first["runs"][0]["patch_sha256"]
        # The model's time, of each answer and of all, within 5 %.
        was, now = (
            {(r["agent_id"] is None, r["message_id"]): r for r in t["api_calls"]}
            for t in (first, again)
        )
        assert was.keys() == now.keys() and len(was) == 10
        for key in was:
            (old,), (new,) = durations_s([was[key]]), durations_s([now[key]])
            assert new == pytest.approx(old, rel=0.05), key
        assert run["model_s"] == pytest.approx(first["runs"][0]["model_s"], rel=0.05)
    orders = [
        [(c["agent_id"] is None, c["tool_call_id"]) for c in t["tool_calls"] if not c["agent_id"]]
        for t in (first, *replays)
    ]
    assert orders[0] == orders[1] == orders[2] and len(orders[0]) == 8


def test_a_limit_that_kills_a_tool_is_the_finding(lab, key_file):
    grow = bash("head -c 700000000 /dev/zero | tail | wc -c; echo survived")
    with endpoint(lab.folder / "upstream", {"turns": [grow, bash("echo after"), DONE]}) as address:
        lab.run(None, memory="1GiB", model=live(address, f"file:{key_file}"))
    source = lab.out
    lab.out = lab.folder / "replay"
    result = lab.run(None, memory="512MiB", model={"model": {"replay": str(source)}})
    assert result["outcome"] == "completed", result["outcome_detail"]
    assert result["oom"]["tool_count"] == 1
    again = tables(lab, lab.out)
    assert [c["replay_status"] for c in again["tool_calls"]] == ["killed", "same"]
    assert [c["fidelity"] for c in again["tool_calls"]] == [0.0, 1.0]
    (run,) = again["runs"]
    assert (run["fidelity"], run["n_limited_calls"], run["n_same_calls"]) == (0.5, 1, 1)


def test_a_recording_that_was_cut_off_ends_in_diverged(lab, key_file):
    with endpoint(lab.folder / "upstream", {"turns": [bash("echo 1"), DONE]}) as address:
        lab.run(None, model=live(address, f"file:{key_file}"))
    source = lab.folder / "cut.jsonl"
    lines = (lab.out / "trace.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    source.write_text("".join(line for line in lines if "Finished." not in line), encoding="utf-8")
    lab.out = lab.folder / "replay"
    result = lab.run(None, model={"model": {"replay": str(source)}})
    assert result["outcome"] == "diverged"
    assert "turn 2 of main: the recording ends after turn 1" in result["outcome_detail"]
    (run,) = tables(lab, lab.out)["runs"]
    assert (run["outcome"], run["diverged_turn"], run["replay_turns"]) == ("diverged", 2, 1)


LOOK = r"""
import glob, json, os, socket, stat
found = {"key": [], "tcp": [], "dns": [], "sockets": [], "abstract": []}
def look(path):
    try:
        with open(path, "rb") as file:
            if b"sk-" b"canary-4d7e91" in file.read(4 << 20):
                found["key"].append(path)
    except OSError:
        pass
SKIP = ("pagemap", "mem", "clear_refs")
for path in glob.glob("/proc/[0-9]*/*") + glob.glob("/proc/[0-9]*/fd/*"):
    if os.path.isfile(path) and os.path.basename(path) not in SKIP:
        look(path)
for folder, folders, files in os.walk("/"):
    folders[:] = [f for f in folders if os.path.join(folder, f) not in ("/proc", "/sys", "/dev")]
    for name in files:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.path.getsize(path) < 4 << 20:
            look(path)
        elif os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode):
            found["sockets"].append(path)
if any("sk-" "canary-4d7e91" in value for value in os.environ.values()):
    found["key"].append("environment")
for place in json.loads('PLACES'):
    try:
        socket.create_connection(place, timeout=2).close()
        found["tcp"].append(place)
    except OSError:
        pass
for name in ("api.anthropic.com", "localhost.localdomain.example"):
    try:
        found["dns"].append(socket.getaddrinfo(name, 443)[0][4])
    except OSError:
        pass
found["abstract"] = [line.split()[-1] for line in open("/proc/net/unix") if "@" in line]
found["interfaces"] = sorted(os.listdir("/sys/class/net"))
print("FOUND " + json.dumps(found))
"""


def test_an_agent_that_looks_for_the_key_finds_none_and_reaches_nothing(lab, key_file):
    """The scenario looks everywhere that an agent can look; meanwhile this host is looked through
    from outside."""
    seen: list[str] = []
    over = threading.Event()

    def watch():
        """Argument lists of all processes, and what the engine says of our containers."""
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    if KEY.encode() in path.read_bytes():
                        seen.append(path.read_bytes().decode())
            for name in engine_in_use.ask("ps", "--format", "{{.Names}}").split():
                if KEY in engine_in_use.ask("inspect", name):
                    seen.append(name)
            time.sleep(0.2)

    scenario = {"turns": [bash("python3 /testbed/look.py"), DONE]}
    # The machine's own services, a place outside (of those kept for documents), the address of a
    # host as a slirp network shows it, and a cloud's metadata.
    places = [["127.0.0.1", 22], ["192.0.2.1", 443], ["10.0.2.2", 22], ["169.254.169.254", 80]]
    script = LOOK.replace("PLACES", json.dumps(places))
    scenario["turns"].insert(
        0, {"tools": [{"Write": {"file_path": "/testbed/look.py", "content": script}}]}
    )
    watcher = threading.Thread(target=watch)
    environment = os.environ | {"ANTHROPIC_API_KEY": KEY, "CLAUDE_CODE_OAUTH_TOKEN": KEY}
    with endpoint(lab.folder / "upstream", scenario) as address:
        watcher.start()
        try:
            # From the environment, since there it has the most ways to leak.
            done = lab.run(
                None, model=live(address, "env:ANTHROPIC_API_KEY"), env=environment, check=False
            )
        finally:
            over.set()
            watcher.join()
    assert done.returncode == 0, done.stderr
    assert lab.result()["outcome"] == "completed", lab.result()["outcome_detail"]
    session = trace.parse_sources(trace.file_sources(lab.out / "trace.jsonl"), keep_content=True)
    said = json.loads(session.tool_calls[1].result_text.partition("FOUND ")[2])
    own = "/run/agentsweep/api.sock"
    agents_own = [path for path in said["sockets"] if not path.startswith("/tmp/cc-socks")]
    assert (said["key"], said["tcp"], said["dns"]) == ([], [], [])
    assert agents_own == [own]
    assert (said["abstract"], said["interfaces"]) == ([], ["lo"])

    assert not seen
    assert KEY not in done.stdout + done.stderr
    files = [p for p in lab.folder.rglob("*") if p.is_file() and p != key_file]
    assert len(files) > 8
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
    with tarfile.open(lab.out / "session.tar") as archive:
        for member in archive.getmembers():
            assert KEY.encode() not in archive.extractfile(member).read(), member.name


def test_a_wrong_key_is_no_data(lab, tmp_path):
    path = tmp_path / "wrong"
    path.touch(mode=0o600)
    path.write_text("sk-wrong", encoding="utf-8")
    with endpoint(lab.folder / "upstream", {"turns": [DONE]}) as address:
        done = lab.run(None, model=live(address, f"file:{path}"), check=False)
    assert done.returncode == 1
    assert "refused every request with 401 before the first turn" in done.stderr
    assert lab.attempts() == ["attempt-1.failed"]


@pytest.mark.parametrize(
    ("credential", "said"),
    [("env:NO_SUCH_KEY", "NO_SUCH_KEY"), ("file:/nowhere/key", "/nowhere/key")],
)
def test_a_missing_key_starts_nothing(lab, credential, said):
    done = lab.run(None, model=live("http://127.0.0.1:9", credential), check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line
    assert "creating the container" not in done.stdout


def test_an_endpoint_that_is_not_there_starts_no_container(lab):
    done = lab.run(None, model=live("http://127.0.0.1:9", "none"), check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "http://127.0.0.1:9" in line
    assert "creating the container" not in done.stdout


def test_gateways_leave_nothing_behind(tmp_path):
    """Many one after another, then twenty at once. Whole runs: benchmarks/many_runs.py."""
    import socket

    (tmp_path / "scenario.yaml").write_text("turns: [{text: x}]", encoding="utf-8")

    def descriptors() -> set[str]:
        return {str(p.name) for p in Path("/proc/self/fd").iterdir()}

    def begin(number: int) -> tuple[LineService, str]:
        path = f"{tmp_path}/{number}.sock"
        service = LineService("agentsweep.gateway", tmp_path / "errors")
        service.ask(
            {
                "mode": "scripted",
                "scenario": str(tmp_path / "scenario.yaml"),
                "listen": f"unix:{path}",
                "log": str(tmp_path / f"{number}.jsonl"),
                "token": "t",
            }
        )
        return service, path

    def serve(service: LineService, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            assert service.stop() == 0

    before = descriptors()
    for number in range(40):
        serve(*begin(number))
    together = [begin(number) for number in range(40, 60)]
    threads = [threading.Thread(target=serve, args=pair) for pair in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert descriptors() == before
    assert not list(tmp_path.glob("*.sock"))
    assert len(list(tmp_path.glob("*.jsonl"))) == 60
    left = subprocess.run(
        ["pgrep", "--full", str(tmp_path)], capture_output=True, text=True, encoding="utf-8"
    )
    assert left.stdout == ""
