"""Data sets of the Hugging Face hub: what is downloaded, what is read, and what is never sent.

The hub here is a fake on loopback, for the real client library: the tests must need no network, and
nobody's data set is ours to copy. It answers the requests that the client makes as the hub's API
has them (https://huggingface.co/docs/hub/api), and keeps what it was asked. The client reads its
settings when it is imported, so that each command is a process of its own.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import small_sweep
import yaml
from row_maker import first, jsonl, many

from agentsweep.errors import ConfigError
from agentsweep.tasks.hub import HubSplit, split_files

COMMIT = "89abcdef" * 5
NAME = "till/till-bench"
CARD = """\
---
license: mit
configs:
- config_name: default
  data_files:
  - {split: test, path: data/test-*}
  - {split: dev, path: [data/dev-*]}
- config_name: small
  data_files: small/*.jsonl
---
A data set for a test.
"""


class FakeHub(ThreadingHTTPServer):
    """Serves one data set at one commit."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.asked = files, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.command, self.path, dict(self.headers)))
        path = self.path.split("?")[0]
        info = re.fullmatch(rf"/api/datasets/{NAME}(/revision/(?P<commit>[^/]+))?", path)
        file = re.fullmatch(rf"/datasets/{NAME}/resolve/(?P<commit>[^/]+)/(?P<name>.+)", path)
        if not (info or file):
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif (info or file)["commit"] != COMMIT:
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif info:
            siblings = [{"rfilename": name} for name in self.server.files]
            said = {"id": NAME, "sha": COMMIT, "siblings": siblings}
            self._answer(200, json.dumps(said).encode(), {"Content-Type": "application/json"})
        elif file["name"] not in self.server.files:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            content = self.server.files[file["name"]]
            etag = hashlib.sha1(content).hexdigest()
            self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def _answer(self, status: int, content: bytes, headers: dict) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path):
    """A data set in two Parquet files (and others), on loopback."""
    import pyarrow
    from pyarrow import parquet

    files = {"README.md": CARD.encode(), ".gitattributes": b"x",
             "small/rows.jsonl": jsonl(many(2)).encode(),
             "data/dev-00000-of-00001.parquet": b"not asked for"}  # fmt: skip
    for part, rows in enumerate((many(9)[:5], many(9)[5:])):
        path = tmp_path / "part.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        files[f"data/test-{part:05}-of-00002.parquet"] = path.read_bytes()
    server = FakeHub(files)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A configuration whose tasks are a set on the hub, in the current directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    small_sweep.write(folder)
    monkeypatch.chdir(folder)
    write()
    return folder


def write(**source) -> None:
    """The configuration, with another source of its set."""
    rows = {"hub": NAME, "split": "test", "revision": COMMIT} | source
    rows = {key: value for key, value in rows.items() if value is not None}
    live = {"model": "live", "model_id": "claude-haiku-4-5-20251001", "version": "2.1.330"}
    content = {
        "sweep": {"memory": ["1GiB"], "cpus": [1]},
        "tasks": {"mine": {"rows": rows}},
        "agents": {"claude": live},
    }
    Path("config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def agentsweep(hub, *arguments: str, **environment) -> subprocess.CompletedProcess:
    """One command, with a cache in the current directory and a token that must not be sent."""
    return subprocess.run(
        [sys.executable, "-m", "agentsweep.cli", *arguments, "--config", "config.yaml"],
        capture_output=True, text=True, check=False,
        env=os.environ | {
            "HF_ENDPOINT": hub.address, "HF_HOME": f"{Path.cwd()}/hf", "HF_TOKEN": "hf_secret",
        } | environment, encoding="utf-8",
    )  # fmt: skip


MISSING = (
    f"agentsweep: {NAME}, split test, at 89abcdef89ab is not in the local cache: run "
    "`agentsweep fetch-tasks` with the same --config\n"
)


@pytest.mark.slow
def test_a_set_is_fetched_once_and_then_read_without_the_hub(hub, project):
    done = agentsweep(hub, "plan")
    assert (done.returncode, done.stderr) == (1, MISSING)
    assert hub.asked == []

    done = agentsweep(hub, "fetch-tasks")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"fetching {NAME}, split test, at 89abcdef89ab\n")
    got = {path.rpartition("/")[2] for method, path, _ in hub.asked if method == "GET"}
    assert got >= {"README.md", "test-00000-of-00002.parquet", "test-00001-of-00002.parquet"}
    assert not got & {"dev-00000-of-00001.parquet", "rows.jsonl", ".gitattributes"}

    hub.asked.clear()
    done = agentsweep(hub, "tasks", "--out", "tasks.json")
    assert done.returncode == 0, done.stderr
    assert hub.asked == []
    said = json.loads(Path("tasks.json").read_text(encoding="utf-8"))
    assert [task["name"] for task in said["tasks"]] == [f"shop__till-{n}" for n in range(9)]
    assert said["sets"]["mine"]["source"] == {
        "hub": NAME, "config": None, "split": "test", "revision": COMMIT,
    }  # fmt: skip

    # What was fetched is not asked for again.
    done = agentsweep(hub, "fetch-tasks")
    assert done.returncode == 0, done.stderr
    assert not [path for method, path, _ in hub.asked if method == "GET" and "resolve" in path]


@pytest.mark.slow
def test_no_token_is_ever_sent(hub, project):
    assert agentsweep(hub, "fetch-tasks").returncode == 0
    assert hub.asked
    for _, _, headers in hub.asked:
        assert "authorization" not in {name.lower() for name in headers}
        assert "hf_secret" not in json.dumps(headers)


@pytest.mark.slow
def test_a_part_that_is_missing_is_not_overlooked(hub, project):
    assert agentsweep(hub, "fetch-tasks").returncode == 0
    [part] = (project / "hf").rglob("test-00001-of-00002.parquet")
    part.unlink()
    done = agentsweep(hub, "plan")
    assert (done.returncode, done.stderr) == (1, MISSING)


@pytest.mark.slow
def test_another_configuration_of_the_data_set(hub, project):
    write(config="small", split="train")
    assert agentsweep(hub, "fetch-tasks").returncode == 0
    done = agentsweep(hub, "plan")
    assert done.returncode == 0, done.stderr
    assert "shop__till-1" in done.stdout
    assert "shop__till-2" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "line"),
    [
        ({"hub": "till/none"},
         "till/none is not on the hub, or not for everyone (no token is sent)"),
        ({"revision": "f" * 40}, f"{NAME} has no commit {'f' * 40}"),
        ({"revision": "main"},
         "tasks.mine.rows.revision: 'main' is not allowed; write a commit of 40 hex digits (in "
         "quotes)"),
        ({"revision": None}, "tasks.mine.rows.revision: missing; a data set of the hub needs it"),
        ({"split": "later"},
         f"{NAME}, split later, at 89abcdef89ab has no .parquet, .jsonl, .json file"),
        ({"config": "large"}, f"{NAME} has no configuration 'large'; it has default, small"),
        ({"hub": "a/b/c"}, "'a/b/c' is no name on the hub; write owner/name"),
    ],
)  # fmt: skip
def test_what_cannot_be_fetched_is_one_line(hub, project, source, line):
    write(**source)
    done = agentsweep(hub, "fetch-tasks")
    assert (done.returncode, done.stderr) == (1, f"agentsweep: {line}\n")


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_one_line(hub, project):
    hub.server_close()
    done = agentsweep(hub, "fetch-tasks", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be fetched from http://127.0.0.1:9: " in done.stderr
    done = agentsweep(hub, "fetch-tasks", HF_HUB_OFFLINE="1")
    assert len(done.stderr.splitlines()) == 1
    assert "HF_HUB_OFFLINE" in done.stderr


@pytest.mark.slow
def test_a_configuration_without_the_hub_has_nothing_to_fetch(hub, project):
    small_sweep.write(project)
    done = agentsweep(hub, "fetch-tasks")
    assert done.stdout == (
        "the configuration names no task set of the hub: there is nothing to fetch\n"
    )
    assert (done.returncode, hub.asked) == (0, [])


@pytest.mark.slow
def test_a_single_task_may_be_a_row_on_the_hub(hub, project):
    content = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))
    row = content["tasks"].pop("mine")["rows"] | {"id": "shop__till-7"}
    content["tasks"]["seven"] = {"row": row}
    Path("config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert agentsweep(hub, "fetch-tasks").returncode == 0
    assert agentsweep(hub, "tasks", "--out", "tasks.json").returncode == 0
    [task] = json.loads(Path("tasks.json").read_text(encoding="utf-8"))["tasks"]
    assert (task["name"], task["instance_id"]) == ("seven", first()["instance_id"])


@pytest.mark.parametrize(
    ("card", "names", "config", "chosen"),
    [
        ("", ["test.jsonl", "train.jsonl", "a.txt"], None, ["test.jsonl"]),
        ("", ["data/test-0.parquet", "data/contest-0.parquet"], None, ["data/test-0.parquet"]),
        ("", ["a/test.jsonl", "b/test.jsonl"], "b", ["b/test.jsonl"]),
        ("---\nlicense: mit\n---\n", ["x/test/0.parquet"], None, ["x/test/0.parquet"]),
        ("---\n: [\n---\n", ["test.json"], None, ["test.json"]),
        ("---\nconfigs: [{config_name: a, data_files: [{split: test, path: '**/r*.jsonl'}]}]\n---",
         ["rows.jsonl", "x/rows.jsonl", "x/more.jsonl"], None, ["rows.jsonl", "x/rows.jsonl"]),
        ("---\nconfigs:\n- {config_name: a, data_files: [{split: test, path: a/*}]}\n"
         "- {config_name: b, default: true, data_files: [{split: test, path: b/*}]}\n---\n",
         ["a/0.jsonl", "b/0.jsonl", "b/c/0.jsonl"], None, ["b/0.jsonl"]),
    ],
)  # fmt: skip
def test_the_files_of_a_split(card, names, config, chosen):
    assert split_files(names, card, HubSplit("a/b", "test", COMMIT, config)) == chosen


def test_several_configurations_without_a_default_need_a_name():
    entry = "- {{config_name: {}, data_files: x}}\n"
    card = f"---\nconfigs:\n{entry.format('a')}{entry.format('b')}---\n"
    with pytest.raises(ConfigError, match="a/b needs `config`; it has a, b"):
        split_files(["x"], card, HubSplit("a/b", "test", COMMIT))
