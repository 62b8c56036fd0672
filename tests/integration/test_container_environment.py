"""Canaries in each place where engines look for an environment are in no container and no file."""

import json
import os
import tarfile
from pathlib import Path

import bench_task
import engine_in_use
import pytest

from agentsweep.config.load import load as load_config
from agentsweep.containers.client import PROXIES
from agentsweep.containers.engine import LABEL, OWNER_LABEL, ContainerSpec, host_userland
from agentsweep.grading import grading_job, grading_plan
from agentsweep.host.processes import owner_tag
from conftest import DONE, bash

CANARY = "canary-5f1c9e-proxypw"
PROXY = f"http://user:{CANARY}@127.0.0.1:9"
CONTAINERS_CONF = f"""
[containers]
env = ["FROM_CONF={CANARY}", "HTTP_PROXY={PROXY}"]
env_host = true
http_proxy = true
"""


@pytest.fixture
def baited(tmp_path_factory, monkeypatch, images):
    """This process, its home and the engines' configuration are full of canaries."""
    folder = tmp_path_factory.mktemp("baited")
    for name in (*PROXIES, "FROM_HOST"):
        monkeypatch.setenv(name, PROXY)
    home = Path(os.environ.get("DOCKER_CONFIG", folder / "docker"))
    home.mkdir(exist_ok=True)
    keys = ("httpProxy", "httpsProxy", "noProxy", "ftpProxy", "allProxy")
    client = home / "config.json"
    before = client.read_bytes() if client.exists() else None
    client.write_text(
        json.dumps({"proxies": {"default": dict.fromkeys(keys, PROXY)}}), encoding="utf-8"
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(home))
    conf = folder / "containers.conf"
    conf.write_text(CONTAINERS_CONF, encoding="utf-8")
    monkeypatch.setenv("CONTAINERS_CONF", str(conf))
    yield dict(os.environ)
    client.unlink()
    if before is not None:
        client.write_bytes(before)


def environments(engine, container) -> list[str]:
    """What the engine, the kernel and commands say of a container's environment."""
    see = "tr '\\0' '\\n' < /proc/1/environ; cat /proc/self/environ; env; export"
    said = [engine.exec(container.id, "sh", "-c", see, user=user).stdout for user in ("0:0",)]
    own = Path(f"/proc/{container.pid}/environ").read_bytes().decode()
    return [*said, own, json.dumps(engine.inspect(container.id))]


def test_a_container_has_what_was_named_and_nothing_of_this_host(images, baited):
    engine = engine_in_use.find()
    name = f"agentsweep-test-environment-{os.getpid()}"
    labels = {LABEL: name, OWNER_LABEL: owner_tag()}
    spec = ContainerSpec(name, images.tag, labels, user="0:0", env={"NAMED": "a b"})
    try:
        container = engine.start(engine.create(spec), name)
        seen = environments(engine, container)
        assert all(CANARY not in text for text in seen)
        assert "NAMED=a b" in seen[1]
        names = {pair.split("=")[0] for pair in seen[1].split("\0") if pair.partition("=")[2]}
        assert names <= {"PATH", "HOME", "HOSTNAME", "TERM", "container", "NAMED"} | {
            pair.split("=")[0] for pair in engine.image_config(images.tag)["Env"]
        }
        engine.commit(container.id, images.tag, f"localhost/agentsweep/{name}:1")
        config = engine.image_config(f"localhost/agentsweep/{name}:1")
        assert CANARY not in json.dumps(config)
    finally:
        engine.remove(name)
        engine.call("rmi", f"localhost/agentsweep/{name}:1", check=False)


def test_a_container_of_the_hosts_userland_has_nothing_of_it_either(daemon, baited):
    engine = engine_in_use.find()
    name = f"agentsweep-test-bare-{os.getpid()}"
    labels = {LABEL: name, OWNER_LABEL: owner_tag()}
    with engine.bare(ContainerSpec(name, "", labels, mounts=host_userland())) as spec:
        try:
            container = engine.start(engine.create(spec), name)
            assert all(CANARY not in text for text in environments(engine, container))
        finally:
            engine.remove(name)


@pytest.mark.parametrize("user", ["1000:1000", "0:0"])
def test_a_container_makes_no_user_namespace(images, user):
    """In one of its own a process has all capabilities, and more of the kernel to attack."""
    engine = engine_in_use.find()
    name = f"agentsweep-test-namespace-{os.getpid()}"
    labels = {LABEL: name, OWNER_LABEL: owner_tag()}
    try:
        spec = ContainerSpec(name, images.tag, labels, user=user)
        container = engine.start(engine.create(spec), name)
        for options in ("-Ur", "-U", "-Urn"):
            done = engine.exec(container.id, "unshare", options, "true", check=False, user=user)
            assert (done.returncode, "Operation not permitted" in done.stderr) == (1, True), done
        # What needs no namespace goes on: processes, and threads by whatever call.
        run = "import os, threading\nthreading.Thread(target=os.system, args=('true',)).start()"
        assert engine.exec(container.id, "python3", "-c", run, user=user).returncode == 0
    finally:
        engine.remove(name)


def holds(folder: Path) -> list[str]:
    """Files with the canary, in archives too."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        if CANARY.encode() in path.read_bytes():
            found.append(str(path))
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                for member in archive:
                    file = archive.extractfile(member) if member.isfile() else None
                    if file is not None and CANARY.encode() in file.read():
                        found.append(f"{path}: {member.name}")
    return found


def test_no_file_of_a_run_has_it_at_patch_time_either(lab, baited):
    show = (
        "git config filter.x.clean 'env; cat'; echo '*.md filter=x' > .gitattributes; "
        # As text: a patch holds other files coded.
        "env > seen; cat /proc/*/environ 2> /dev/null | tr '\\0' '\\n' >> seen; "
        "echo more >> README.md"
    )
    lab.run({"turns": [bash(show), DONE]}, env=baited)
    assert b"+++ b/seen" in (lab.out / "patch.diff").read_bytes()
    assert holds(lab.folder) == []


TASK = "starlette-1147"
# Where each grading looks: at the environment of its tests, of its first process, of all.
LOOK = """\
diff --git a/tests/conftest.py b/tests/conftest.py
new file mode 100644
--- /dev/null
+++ b/tests/conftest.py
@@ -0,0 +1,4 @@
+import glob, os
+with open("/tmp/agentsweep/seen", "wb") as file:
+    for path in ["/proc/self/environ", *glob.glob("/proc/[0-9]*/environ")]:
+        file.write(open(path, "rb").read() + b"\\n")
"""


def test_no_file_of_a_grading_has_it(tmp_path_factory, baited):
    folder = tmp_path_factory.mktemp("grading")
    loaded = load_config(bench_task.settings(folder, timeout_s=120))
    grading_job.grade(
        grading_plan.plan(loaded, TASK), LOOK.encode(), folder / "out", engine_in_use.find
    )
    assert (folder / "out" / "grade.json").exists()
    assert holds(folder) == []
