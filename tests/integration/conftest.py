"""Real containers, the real agent, a scripted model: what integration tests share.

`--engine docker` runs them under a dockerd of their own. Where there is no engine, no agent binary
or no demo image they fail in CI, and elsewhere they are skipped with a loud line: `make test`
provides all three.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import docker_daemon
import engine_in_use
import pytest
import yaml

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "images" / "logstats.tar"
BINARY = ROOT / "agents" / "claude-2.1.330" / "claude"
MODEL = "claude-haiku-4-5-20251001"
# How many times as long things may take as on a machine that is not emulated.
PATIENCE = int(os.environ.get("AGENTSWEEP_TEST_PATIENCE", "1"))


def pytest_configure(config):
    engine_in_use.NAME = config.getoption("--engine")


def pytest_collection_modifyitems(config, items):
    here = Path(__file__).parent
    kept = []
    for item in items:
        if item.get_closest_marker("docker") and engine_in_use.NAME != "docker":
            config.hook.pytest_deselected(items=[item])
            continue
        kept.append(item)
        alone = item.get_closest_marker("podman")
        if alone and engine_in_use.NAME != "podman":
            item.add_marker(pytest.mark.skip(reason=f"Podman's alone: {alone.args[0]}"))
    items[:] = kept
    podman = engine_in_use.NAME == "podman"
    engine = shutil.which("podman") if podman else shutil.which("dockerd") and os.getuid() == 0
    missing = [
        what
        for what, there in (
            ("podman" if podman else "root and dockerd", engine),
            (str(BINARY), BINARY.is_file()),
            (str(ARCHIVE), ARCHIVE.is_file()),
        )
        if not there
    ]
    if not missing or os.environ.get("CI"):
        return
    reason = f"NOT RUN, real containers need {' and '.join(missing)}: run `make test`"
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def daemon():
    """A dockerd for `--engine docker`, which all subprocesses find; None with Podman."""
    if engine_in_use.NAME != "docker":
        yield None
        return
    with docker_daemon.running() as started, pytest.MonkeyPatch.context() as patch:
        patch.delenv("DOCKER_CONTEXT", raising=False)
        for name, value in started.environment.items():
            patch.setenv(name, value)
        yield started


@dataclass
class Images:
    """The demo's second image, locked and fixed once for all tests."""

    lock: Path
    record: Path

    @property
    def tag(self) -> str:
        return json.loads(self.record.read_text(encoding="utf-8"))["tag"]


@pytest.fixture(scope="session")
def images(daemon, tmp_path_factory) -> Images:
    folder = tmp_path_factory.mktemp("images")
    lab = Lab(folder, None)
    lab.lock.write_text("images: {}\n", encoding="utf-8")
    agentsweep("lock", "--config", lab.config({"turns": [{"text": "unused"}]}))
    locked = yaml.safe_load(lab.lock.read_text(encoding="utf-8"))["images"][
        f"oci-archive:{ARCHIVE}"
    ]
    pulled, record = folder / "pulled.json", folder / "image.json"
    agentsweep(
        "image-pull", "--reference", f"oci-archive:{ARCHIVE}", "--digest", locked["digest"],
        "--config-digest", locked["config_digest"], "--out", pulled,
    )  # fmt: skip
    agentsweep(
        "image-fix", "--pulled", pulled, "--workdir", "/testbed", "--uid", "1000", "--gid", "1000",
        "--tag", f"localhost/agentsweep/test:{locked['config_digest'][7:19]}", "--out", record,
    )  # fmt: skip
    return Images(lab.lock, record)


@pytest.fixture
def lab(tmp_path, images):
    lab = Lab(tmp_path, images)
    yield lab
    for process in lab.started:
        if process.poll() is None:
            process.kill()
            process.wait()


def agentsweep(*arguments, check: bool = True, **kwargs) -> subprocess.CompletedProcess:
    """The command line, as a user calls it from the project's directory.

    What takes no configuration takes the engine from the line.
    """
    takes_engine = arguments[0] in ("image-pull", "image-fix")
    engine = ["--engine", engine_in_use.NAME] if takes_engine else []
    done = subprocess.run(
        [sys.executable, "-m", "agentsweep.cli", *map(str, arguments), *engine],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300 * PATIENCE,
        check=False,
        **kwargs,
    )
    assert not check or done.returncode == 0, done.stderr + done.stdout
    return done


class Lab:
    """One directory with a configuration, a store and results, for runs of one cell."""

    def __init__(self, folder: Path, images: Images | None):
        self.folder = folder
        self.images = images
        self.lock = images.lock if images else folder / "images.lock.yaml"
        self.store = folder / "store"
        self.out = folder / "out"
        self.started: list[subprocess.Popen] = []

    def config(
        self,
        scenario: dict | None,
        memory="512MiB",
        cpus="1",
        task=None,
        agent=None,
        container=None,
        model=None,
    ) -> Path:
        """Write a configuration of one cell; returns its path.

        model: keys of the agent that say where its turns come from, the scenario unless given.
        """
        play = None
        if scenario is not None:
            play = self.folder / "scenario.yaml"
            play.write_text(yaml.safe_dump(scenario, sort_keys=False), encoding="utf-8")
        task = {
            "kind": "prompt",
            "image": f"oci-archive:{ARCHIVE}",
            "workdir": "/testbed",
            # So that no run of Docker's tests has the hash of one of Podman's, whose tests may be
            # going on and look for what theirs left behind.
            "prompt": f"Do in {engine_in_use.NAME} what the scenario says.",
            "scenario": play and str(play),
        } | (task or {})
        path = self.folder / "config.yaml"
        path.write_text(
            yaml.safe_dump(
                {
                    "dataset": "test",
                    "sweep": {"memory": [memory], "cpus": [cpus]},
                    "tasks": {"task": task},
                    "agents": {"claude": {"model_id": MODEL, "version": "2.1.330"} | (model or {})},
                    "agent": {
                        "timeout_s": 60 * PATIENCE,
                        "stall_s": 30 * PATIENCE,
                        "max_retries": 1,
                    }
                    | (agent or {}),
                    "container": {"engine": engine_in_use.NAME} | (container or {}),
                    "images": {"lock": str(self.lock)},
                    # Else it would wait in line for what other tests run, which may be long.
                    "machine": {"ledger": str(self.folder / "ledger")},
                    "paths": {"store": str(self.store), "results": str(self.folder / "results")},
                }
            ),
            encoding="utf-8",
        )
        return path

    def arguments(self, config: Path) -> list[str]:
        loaded = yaml.safe_load(config.read_text(encoding="utf-8"))["sweep"]
        cell = f"task~task/agent~claude/mem~{loaded['memory'][0]}_cpus~{loaded['cpus'][0]}_rep~0"
        record = str(self.images.record)
        return ["run", cell, "--config", str(config), "--image", record, "--out", str(self.out)]

    def run(self, scenario: dict | None, check: bool = True, env: dict | None = None, **settings):
        """Run the cell to its end: its `result.json`, or the process with check=False."""
        done = agentsweep(*self.arguments(self.config(scenario, **settings)), check=check, env=env)
        return self.result() if check else done

    def start(self, scenario: dict, **settings) -> subprocess.Popen:
        """Start the cell and return at once."""
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "agentsweep.cli",
                *self.arguments(self.config(scenario, **settings)),
            ],
            cwd=ROOT,
            stdout=(self.folder / "log").open("a", encoding="utf-8"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def result(self) -> dict:
        return json.loads((self.out / "result.json").read_text(encoding="utf-8"))

    def lines(self, name: str) -> list[dict]:
        # Of bytes: text would also be split at U+2028, which is plain text within a line.
        return [json.loads(line) for line in (self.out / name).read_bytes().splitlines()]

    def key(self) -> str:
        """The beginning of the only spec's hash in the store."""
        (folder,) = self.store.glob("*")
        return folder.name[:12]

    def wait_for(self, pattern: str, timeout_s: float = 30, exists: bool = False) -> Path:
        """A file below the store that matches, once it is there (and not empty)."""
        deadline = time.monotonic() + timeout_s * PATIENCE
        while time.monotonic() < deadline:
            found = [
                p for p in self.store.glob(pattern) if exists or p.is_dir() or p.stat().st_size
            ]
            if found:
                return found[0]
            time.sleep(0.05)
        log = self.folder / "log"
        said = log.read_text(encoding="utf-8") if log.exists() else ""
        raise AssertionError(f"no {pattern}: {said}")

    def wait_for_tool(self) -> None:
        """Until the agent has asked for its first answer and got it: a tool is at work."""
        self.wait_for("*/attempt-*.partial/api.jsonl")
        time.sleep(0.5)

    def attempts(self) -> list[str]:
        return sorted(p.name for p in self.store.glob("*/attempt-*"))

    def leftovers(self) -> dict[str, list[str]]:
        """Containers, processes and scratch directories that belong to this lab's attempts."""
        keys = [path.name[:12] for path in self.store.glob("*")]
        names = engine_in_use.ask("ps", "--all", "--format", "{{.Names}}").split()
        processes = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if any(str(self.folder) in word for word in words):
                processes.append(" ".join(words)[:200])
        scratch = Path(os.environ.get("TMPDIR", "/tmp")) / f"agentsweep-{os.getuid()}" / "runs"
        return {
            "containers": [n for n in names if any(key in n for key in keys)],
            "processes": processes,
            "scratch": [p.name for p in scratch.glob("*") if any(k in p.name for k in keys)],
            "services": services_of(keys),
        }

    def nothing_left(self, timeout_s: float = 10) -> bool:
        """Whether all is gone within a moment: killed children need one to be reaped."""
        deadline = time.monotonic() + timeout_s * PATIENCE
        while any(self.leftovers().values()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True


def services_of(keys: list[str]) -> list[str]:
    """Our samplers and gateways that hold a file of these attempts open."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if not any(w in ("agentsweep.sampler", "agentsweep.gateway") for w in words):
                continue
            links = [str(fd.readlink()) for fd in (path / "fd").iterdir()]
        except OSError:
            continue
        if any(key in link for link in links for key in keys):
            found.append(path.name)
    return found


def stop(process: subprocess.Popen, number: int = signal.SIGKILL) -> int:
    process.send_signal(number)
    return process.wait(30 * PATIENCE)


def bash(command: str, **more) -> dict:
    """A scenario turn with one Bash call."""
    return {"tools": [{"Bash": {"command": command, "description": "Run it"}}]} | more


DONE = {"text": "Finished."}
SLEEP = {"turns": [bash("sleep 20"), DONE]}


@dataclass
class Registry:
    """A registry of one repository with one tag."""

    port: int
    folder: Path

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}/agentsweep-test/image"

    @property
    def reference(self) -> str:
        return f"docker://{self.name}:latest"

    def push(self, archive: Path) -> None:
        copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false"]
        subprocess.run([*copy, f"oci-archive:{archive}", self.reference], check=True, timeout=120)


@pytest.fixture
def registry(tmp_path):
    program = shutil.which("docker-registry")
    if program is None:
        missing = "NOT RUN: needs docker-registry: run `make test`"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "version": 0.1,
                "log": {"level": "error"},
                "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
                "http": {"addr": f"127.0.0.1:{port}"},
            }
        ),
        encoding="utf-8",
    )
    with (tmp_path / "registry.log").open("wb") as log:
        server = subprocess.Popen(
            [program, "serve", str(config)], stdout=log, stderr=log, cwd=tmp_path
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "registry.log").read_text(
                    encoding="utf-8"
                )
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield Registry(port, tmp_path)
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def two_images(tmp_path):
    """Two small images of one repository, in archives: one file differs."""
    made, ids = [], []
    for word in ("first", "second"):
        root = tmp_path / word
        root.mkdir()
        (root / "said").write_text(word, encoding="utf-8")
        archive = tmp_path / f"{word}.tar"
        tar = subprocess.run(["tar", "-c", "-C", str(root), "."], capture_output=True, check=True)
        done = subprocess.run(
            ["podman", "import", "--quiet", "-"], input=tar.stdout, capture_output=True, check=True
        )
        ids.append(done.stdout.decode().strip())
        subprocess.run(
            ["podman", "save", "--quiet", "--format", "oci-archive", "-o", str(archive), ids[-1]],
            check=True,
        )
        subprocess.run(["podman", "rmi", "--force", ids[-1]], check=True, capture_output=True)
        made.append(archive)
    yield made
    for image in ids:
        engine_in_use.ask("rmi", "--force", image)
