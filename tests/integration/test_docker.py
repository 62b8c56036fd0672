"""What is Docker's own: which daemons are taken, and what an agent sees in its containers."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import docker_daemon
import pytest

from agentsweep.containers import engines
from agentsweep.containers.docker import Docker
from agentsweep.errors import InfraError
from conftest import DONE, agentsweep, bash

pytestmark = pytest.mark.docker("a daemon of the tests' own")


@pytest.fixture
def broken_podman(tmp_path):
    """An environment in which Podman is there and starts nothing."""
    storage = tmp_path / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "nonesuch"\ngraphroot = "{tmp_path}/g"\nrunroot = "{tmp_path}/r"\n',
        encoding="utf-8",
    )
    # What worked before is remembered there.
    with tempfile.TemporaryDirectory(prefix="auto-") as scratch:
        yield os.environ | {"CONTAINERS_STORAGE_CONF": str(storage), "TMPDIR": scratch}


@pytest.mark.skipif(not shutil.which("podman"), reason="NOT RUN: needs a Podman to pass over")
def test_auto_takes_docker_where_podman_does_not_work_and_says_so(lab, broken_podman):
    auto = {"engine": "auto"}
    config = lab.config({"turns": [DONE]}, container=auto)
    done = agentsweep("doctor", "--json", "--config", config, env=broken_podman, check=False)
    found = {check["name"]: check for check in json.loads(done.stdout)}
    said = found["engine"]["detail"]
    assert found["engine"]["state"] == "ok"
    assert said.startswith("docker ") and "(not podman: " in said and "nonesuch" in said
    assert "was killed" in found["memory limit"]["detail"]
    ran = agentsweep(*lab.arguments(config), env=broken_podman)
    assert lab.result()["engine"]["name"] == "docker"
    assert ran.stdout.count("docker 2") == 1 and "the first engine that works here" in ran.stdout


def test_a_run_knows_its_engine_and_its_cgroup(lab, daemon):
    result = lab.run({"turns": [DONE]})
    engine, effective = result["engine"], result["limits"]["effective"]
    assert (engine["name"], engine["rootless"]) == ("docker", False)
    assert engine["storage_root"] == str(daemon.folder / "data")
    if engine["cgroup_manager"] == "cgroupfs":
        assert effective["memory_level"].startswith("/docker/")
        assert effective["cpu_level"] == effective["memory_level"]


LOOK = r"""
cut -d: -f3 /proc/self/cgroup | sort -u | sed 's/^/cgroup /'
find /sys/fs/cgroup -type d | while read -r folder; do
  mkdir "$folder/mine" 2> /dev/null && echo "made $folder"
done
find /sys/fs/cgroup -type f | while read -r file; do
  [ ! -w "$file" ] || echo "writable $file"
done
cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2> /dev/null
sed -n 's/^\(Cap[A-Z][a-z]*\|Seccomp\|NoNewPrivs\):\t/\1 /p' /proc/self/status
ls /sys/class/net
[ ! -e /run/docker.sock ] || echo a socket of the daemon
"""


def test_an_agent_sees_its_own_cgroup_and_can_change_nothing(lab):
    lab.run({"turns": [bash(LOOK), DONE]})
    (said,) = [
        block["content"]
        for line in lab.lines("trace.jsonl")
        if line.get("type") == "user" and isinstance(line["message"]["content"], list)
        for block in line["message"]["content"]
        if block.get("type") == "tool_result"
    ]
    capabilities = [f"Cap{which} {0:016}" for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
    limit = str(512 * 2**20)
    rest = ["NoNewPrivs 1", "Seccomp 2", "lo"]
    assert said.split("\n") == ["cgroup /", limit, *capabilities, *rest]


def problem_of(daemon: docker_daemon.Daemon, folder: Path, monkeypatch) -> str:
    for name, value in daemon.environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InfraError) as refused:
        engines.find_engine("docker", "auto", folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.skipif(os.getuid() != 0, reason="NOT RUN: a pid namespace needs root")
def test_a_daemon_that_numbers_processes_otherwise_is_refused(tmp_path, monkeypatch):
    """As one in a virtual machine or in a container does: its pids are others here, or none."""
    apart = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    with docker_daemon.running(prefix=apart) as daemon:
        said = problem_of(daemon, tmp_path, monkeypatch)
        assert daemon.docker("ps", "--all", "--quiet") == ""
    assert "its counters cannot be read" in said and "the daemon's own machine" in said


def test_a_daemon_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(InfraError, match=rf"no daemon answers at unix://{tmp_path}/none: start it"):
        engines.find_engine("docker", "auto", tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="NOT RUN: becomes another user")
def test_a_user_whom_the_daemons_socket_refuses_is_told_so(daemon):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setresuid(65534, 65534, 65534)
            os.write(writer, str(Docker(None, Path("/")).problem()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    said = os.read(reader, 10000).decode()
    os.close(reader)
    os.waitpid(child, 0)
    assert said.startswith(f"you may not use {daemon.host}: let root add you to its group")


def test_a_runtime_that_the_daemon_does_not_know_is_named(tmp_path):
    with pytest.raises(InfraError, match=r"docker: .*crun"):
        engines.find_engine("docker", "crun", tmp_path)
