"""Engine command lines, and what is done with what engines say."""

import csv
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsweep.containers import engine, engines, podman
from agentsweep.containers.client import PROXIES, engine_environment, last_line
from agentsweep.containers.docker import Docker
from agentsweep.containers.engine import ContainerSpec, Engine, Mount
from agentsweep.containers.podman import Podman
from agentsweep.errors import InfraError

BOTH = pytest.mark.parametrize("kind", [Podman, Docker])


def options(kind: type[Engine] = Podman, runtime: str | None = None, **changes) -> list[str]:
    values = {"name": "c", "image": "i", "memory_bytes": 2**29, "cpus": "0.5", "pids": 100}
    return kind(runtime, Path("/w")).create_arguments(ContainerSpec(**values | changes))


def after(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


@BOTH
def test_limits_are_passed_in_bytes_and_swap_is_closed(kind):
    arguments = options(kind)
    assert after(arguments, "--memory") == after(arguments, "--memory-swap") == "536870912"
    assert after(arguments, "--cpus") == "0.5"
    assert after(arguments, "--network") == "none"
    assert after(arguments, "--pull") == "never"


@BOTH
def test_no_limit_means_no_option(kind):
    arguments = options(kind, memory_bytes=None, cpus=None, pids=None)
    assert not {"--memory", "--memory-swap", "--cpus", "--pids-limit"} & set(arguments)


@BOTH
def test_agents_have_no_capabilities(kind):
    arguments = options(kind, user="1000:1000")
    assert after(arguments, "--cap-drop") == "all"
    assert "no-new-privileges" in arguments
    assert after(arguments, "--user") == "1000:1000"


@pytest.mark.parametrize(
    ("kind", "mask"), [(Podman, "mask=/sys/fs/cgroup"), (Docker, "/sys/fs/cgroup:ro")]
)
def test_cgroups_are_masked_where_the_network_is_the_hosts(kind, mask):
    assert mask in options(kind, network="host", mask_cgroups=True)
    assert mask not in options(kind)


def test_docker_shows_a_container_its_own_cgroup_alone():
    assert after(options(Docker), "--cgroupns") == "private"
    assert "--cgroupns" not in options(Podman)


def test_the_runtime_is_an_option_of_podman_and_of_dockers_create():
    assert Podman("crun", Path("/w")).command("ps") == ["podman", "--runtime", "crun", "ps"]
    assert Docker("crun", Path("/w")).command("ps") == ["docker", "ps"]
    assert after(options(Docker, "crun"), "--runtime") == "crun"
    assert "--runtime" not in options(Docker)


def test_mounts_are_read_only_unless_said():
    mounts = (Mount(Path("/a"), "/b"), Mount(Path("/c,d"), "/d", read_only=False))
    arguments = options(Podman, mounts=mounts)
    assert "/a:/b:ro" in arguments
    assert "/c,d:/d:rw" in arguments
    arguments = options(Docker, mounts=mounts)
    assert "type=bind,source=/a,target=/b,readonly" in arguments
    assert 'type=bind,"source=/c,d",target=/d' in arguments


def test_dockers_init_is_not_hidden_by_the_hosts_programs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "docker-init"
    program.touch(mode=0o755)
    classic = engine.host_userland()
    assert "--init" in options(Docker) and "--init" in options(Podman, mounts=classic)
    arguments = options(Docker, mounts=classic)
    assert "--init" not in arguments
    assert arguments[-4:] == [str(program), "--", "sleep", "infinity"]
    program.unlink()
    with pytest.raises(InfraError, match="needs docker-init on PATH"):
        options(Docker, mounts=classic)


def test_ulimits_stay_below_the_hosts_hard_limits():
    limits = dict(limit.split("=") for limit in engine.ulimits())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    asked = int(limits["nofile"].split(":")[1])
    assert asked <= (524288 if hard == resource.RLIM_INFINITY else hard)
    assert int(limits["nproc"].split(":")[1]) <= 32768


def test_the_classic_userland_is_the_hosts_read_only():
    mounts = engine.host_userland(("/var",))
    assert {m.target for m in mounts} >= {"/usr", "/lib", "/etc", "/bin", "/sbin", "/var"}
    assert all(m.read_only for m in mounts if m.target != "/var")


def test_engine_calls_see_no_credential(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary")
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", "canary")
    assert "canary" not in engine_environment().values()


PROXY = "http://user:canary@127.0.0.1:9"


def test_only_calls_that_speak_to_a_registry_see_the_hosts_proxies(tmp_path, monkeypatch):
    for name in PROXIES:
        monkeypatch.setenv(name, PROXY)
    assert PROXY not in engine_environment().values()
    program = tmp_path / "engine"
    program.write_text("#!/bin/sh\nenv\n", encoding="utf-8")
    program.chmod(0o755)
    fake = called(str(program), tmp_path)
    for command in ("pull", "push"):
        assert fake.call(command, "x").stdout.count(PROXY) == len(PROXIES)
    for command in ("create", "start", "exec", "commit", "load", "info"):
        assert PROXY not in fake.call(command, "pull").stdout


def test_podmans_containers_get_no_variable_of_the_host():
    arguments = options(Podman, env={"A": "b c"})
    assert {"--http-proxy=false", "--env-host=false", "A=b c"} <= set(arguments)


def test_dockers_containers_get_no_proxy_of_the_clients_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def given():
        arguments = options(Docker, env={"no_proxy": "x"})
        return [b for a, b in itertools.pairwise(arguments) if a == "--env"]

    assert given() == ["no_proxy=x"]
    for text in ('{"proxies": {}}', "torn", "[]"):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        empty = {f"{name}=" for name in PROXIES if name != "no_proxy"}
        # What is named, if only as empty, is not taken from there.
        assert set(given()) == ({"no_proxy=x"} if text == "[]" else empty | {"no_proxy=x"})


@pytest.mark.parametrize(
    ("seen", "refused"),
    [
        (["PATH=/bin", "TERM=xterm", "container=podman", "HOSTNAME=a", "HOME=/", "A=1"], None),
        (["PATH=/bin", "OFIMAGE=1"], None),
        (["PATH=/bin", "SECRET=canary"], "puts SECRET of this host"),
    ],
)
def test_a_variable_that_nobody_named_is_refused(tmp_path, seen, refused):
    record = {"Id": "i", "Image": "m", "Config": {"Env": seen}, "State": {}}
    fake = called("x", tmp_path)
    fake.inspect = lambda name: record | {"State": {"Running": True, "Pid": 1}}
    fake.image_config = lambda image: {"Env": ["OFIMAGE=1"]}
    fake.call = lambda *arguments, **how: subprocess.CompletedProcess(arguments, 0, "i\n", "")
    fake._no_defaults = list
    fake.create(ContainerSpec("c", "m", env={"A": "1"}))
    if refused is None:
        assert fake.start("i", "c").pid == 1
    else:
        with pytest.raises(InfraError, match=refused) as error:
            fake.start("i", "c")
        assert "canary" not in str(error.value)


def called(name: str, workdir: Path) -> Engine:
    """An engine that is another program."""
    made = Podman(None, workdir)
    made.name = name
    return made


def test_a_missing_engine_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, hint in (
        ("auto", "podman or docker .*make system"),
        ("docker", "docker .*docker.io"),
    ):
        with pytest.raises(InfraError, match=f"no container engine: {hint}"):
            engines.find_engine(name, "auto", tmp_path)
    with pytest.raises(InfraError, match="podmen is not installed: install it with `make system`"):
        called("podmen", tmp_path).call("info")


def test_a_failing_call_shows_the_engines_last_line(tmp_path):
    with pytest.raises(InfraError, match=r"`ls --no-such` failed: Try 'ls --help'"):
        called("ls", tmp_path).call("--no-such")


@pytest.mark.slow
@pytest.mark.parametrize("finish", [True, False])
def test_a_call_that_changes_a_container_ends_though_its_caller_is_interrupted(tmp_path, finish):
    code = (
        "import sys; from agentsweep.containers.podman import Podman; from pathlib import Path\n"
        "shell = Podman(None, Path(sys.argv[1])); shell.name = 'sh'\n"
        f"shell.call('-c', 'touch begun; sleep 1; touch done', finish={finish})\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    # Until it waits for what it started.
    time.sleep(0.3)
    caller.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in caller.communicate(timeout=30)[1].decode()
    assert (tmp_path / "done").exists() == finish


def test_last_line_skips_what_says_nothing():
    assert last_line("a\n b \n\n") == "b"
    assert last_line("") == "no message"


# What Docker says. Stand-ins: a program in the place of its client, which says what clients say of
# daemons that this machine has not; tests/integration has a real daemon.

INFO = {
    "ID": "A", "ServerVersion": "20.10.24", "Driver": "overlay2", "CgroupVersion": "2",
    "DriverStatus": [["Backing Filesystem", "extfs"]], "DefaultRuntime": "runc",
    "CgroupDriver": "systemd", "KernelVersion": os.uname().release, "Name": "here",
    "OperatingSystem": "Debian GNU/Linux 12 (bookworm)", "DockerRootDir": "/var/lib/docker",
    "SecurityOptions": ["name=seccomp,profile=default", "name=cgroupns"],
}  # fmt: skip


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Docker whose client prints what it is given."""

    def make(said: str, error: str = "", code: int = 0) -> Docker:
        program = tmp_path / "bin" / "docker"
        program.parent.mkdir(exist_ok=True)
        (tmp_path / "said").write_text(said, encoding="utf-8")
        (tmp_path / "error").write_text(error, encoding="utf-8")
        program.write_text(
            f"#!/bin/sh\n/bin/cat {tmp_path}/said; /bin/cat {tmp_path}/error >&2; exit {code}\n",
            encoding="utf-8",
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))
        return Docker(None, tmp_path)

    return make


def test_what_is_known_of_dockers_daemon(client):
    assert client(json.dumps(INFO)).info() == {
        "name": "docker", "version": "20.10.24", "runtime": "runc", "storage_driver": "overlay2",
        "rootless": False, "cgroup_version": 2, "cgroup_manager": "systemd",
        "storage_root": "/var/lib/docker",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"SecurityOptions": ["name=rootless"]}, "rootless Docker .* use Podman, or"),
        ({"SecurityOptions": ["name=userns"]}, "userns-remap .* use Podman, or"),
        ({"OperatingSystem": "Docker Desktop"}, "on another machine .*here, .*Docker Desktop"),
        ({"KernelVersion": "6.1.0-other"}, "on another machine .*Linux 6.1.0-other"),
        ({"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]},
         "containerd's store.*containerd-snapshotter"),
    ],
)  # fmt: skip
def test_a_daemon_whose_numbers_would_be_wrong_is_refused(client, changes, says):
    with pytest.raises(InfraError, match=says) as refused:
        client(json.dumps(INFO | changes))
        engines.find_engine("docker", "auto", Path(os.environ["PATH"]))
    assert "\n" not in str(refused.value)


_AT = "unix:///run/docker.sock"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (f"Cannot connect to the Docker daemon at {_AT}. Is the docker daemon running?",
         f"no daemon answers at {_AT}: start it"),
        (f"failed to connect to the docker API at {_AT}; check if the path is correct",
         f"no daemon answers at {_AT}: start it"),
        (f"permission denied while trying to connect to the Docker daemon socket at {_AT}: Get "
         '"http://%2Frun%2Fdocker.sock/v1.24/info": dial unix: connect: permission denied',
         f"you may not use {_AT}: let root add you"),
        ("context \"nonesuch\": not found", "its daemon does not answer: context"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_old", [True, False])
def test_a_daemon_that_does_not_answer(client, error, says, is_old):
    """Clients before version 23 end well and have it in their answer, later ones say it."""
    empty = json.dumps({"ID": "", "ServerVersion": ""})
    said = json.dumps({"ServerErrors": [error]}) if is_old else empty
    problem = client(said, "" if is_old else error, code=not is_old).problem()
    assert problem.startswith(says)


def test_a_docker_that_is_podman_by_another_name(client):
    podmans = json.dumps({"host": {}, "store": {}, "version": {}})
    assert "container.engine: podman" in client(podmans).problem()


def test_our_containers_as_docker_lists_them(client):
    """Its labels may have commas, and are empty in containers of an image that has the key."""
    said = "0a\tone,two=3\thost/boot/0-1/2/3\n0b\t\t\n"
    assert client(said).owned() == [
        {"id": "0a", "attempt": "one,two=3", "owner": "host/boot/0-1/2/3"},
        {"id": "0b", "attempt": "", "owner": ""},
    ]


def test_what_docker_complains_of_is_not_its_last_line(client):
    error = "Error response from daemon: no such runtime\nError: failed to start containers: a\n"
    with pytest.raises(InfraError, match=r"`docker start a` failed: no such runtime$"):
        client("", error, 1).call("start", "a")


def test_a_container_of_a_daemon_elsewhere_has_no_counters_here(client):
    """Its process is another one on this machine."""
    state = json.dumps([{"Id": "0" * 64, "State": {"Running": True, "Pid": os.getpid()}}])
    with pytest.raises(InfraError, match=f"is process {os.getpid()}, and here that is another one"):
        client(state).start("0" * 64, "agentsweep-a")


class Made(Podman):
    """A stand-in for an engine of another host: what it says of itself, and whether it works."""

    def __init__(self, problem: str | None = None, **info):
        super().__init__(None, Path("/w"))
        self._problem = problem
        self._info = {"rootless": False, "cgroup_version": 1, "name": "made"} | info

    def problem(self):
        return self._problem

    def info(self):
        return self._info


def test_auto_takes_the_first_that_works_and_enforces_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(engines.shutil, "which", lambda name: name)

    def found(podman: Made, docker: Made, name: str = "auto") -> Engine:
        made = {"podman": podman, "docker": docker}
        of = {key: (Podman, lambda *_, key=key: [made[key]]) for key in made}
        monkeypatch.setattr(engines, "_CANDIDATES", of)
        return engines.find_engine(name, "auto", tmp_path)

    good, dead, unlimited = Made(), Made("it fails"), Made(rootless=True)
    assert found(good, Made()) is good
    assert found(dead, good) is good and good.passed_over == ("podman: it fails",)
    assert found(unlimited, good) is good and "silently ignores" in good.passed_over[0]
    # Named, or alone, it is taken all the same: images can be made with it, and runs refuse it.
    assert found(unlimited, dead) is unlimited
    assert found(unlimited, good, "podman") is unlimited
    with pytest.raises(InfraError, match="podman: it fails; docker: it fails"):
        found(dead, dead)


def test_which_engine_it_is_and_why(client):
    found = client(json.dumps(INFO))
    found.passed_over = ("podman: with runc: it fails",)
    assert engines.chosen(found, "docker") == "docker 20.10.24 with runc"
    assert engines.chosen(found, "auto") == (
        "docker 20.10.24 with runc, the first engine that works here "
        "(not podman: with runc: it fails)"
    )


@given(st.text(alphabet='ab:," =/', min_size=1, max_size=12).filter(lambda t: ".." not in t))
def test_a_path_of_any_spelling_is_one_bind_mount_for_podman(name):
    """A colon in TMPDIR, or in the place of the clone, would end the source of `--volume`."""
    mount = Mount(Path("/tmp") / name.lstrip("/"), "/run/agentsweep", read_only=True)
    option, value = podman._volumes((mount,))
    source = str(mount.source)
    if option == "--volume":
        assert value == f"{source}:/run/agentsweep:ro" and value.count(":") == 2
    else:
        (fields,) = csv.reader([value])
        assert fields == ["type=bind", f"source={source}", "target=/run/agentsweep", "readonly"]
