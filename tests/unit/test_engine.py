"""Engine command lines, and what is done with what engines say."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentsweep import engine
from agentsweep.engine import ContainerSpec, Engine, Mount, create_arguments
from agentsweep.errors import InfraError


def options(name: str = "podman", **changes) -> list[str]:
    values = {"name": "c", "image": "i", "memory_bytes": 2**29, "cpus": "0.5", "pids": 100}
    return create_arguments(name, ContainerSpec(**values | changes))


def after(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def test_limits_are_passed_in_bytes_and_swap_is_closed():
    arguments = options()
    assert after(arguments, "--memory") == after(arguments, "--memory-swap") == "536870912"
    assert after(arguments, "--cpus") == "0.5"
    assert after(arguments, "--network") == "none"


def test_no_limit_means_no_option():
    arguments = options(memory_bytes=None, cpus=None, pids=None)
    assert not {"--memory", "--memory-swap", "--cpus", "--pids-limit"} & set(arguments)


def test_agents_have_no_capabilities():
    arguments = options(user="1000:1000")
    assert after(arguments, "--cap-drop") == "all"
    assert "no-new-privileges" in arguments
    assert after(arguments, "--user") == "1000:1000"


def test_cgroups_are_masked_where_the_network_is_the_hosts():
    assert "mask=/sys/fs/cgroup" in options(network="host", mask_cgroups=True)
    assert "mask=/sys/fs/cgroup" not in options()


def test_mounts_are_read_only_unless_said():
    mounts = (Mount(Path("/a"), "/b"), Mount(Path("/c"), "/d", read_only=False))
    arguments = options(mounts=mounts)
    assert "/a:/b:ro" in arguments
    assert "/c:/d:rw" in arguments


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
    assert "canary" not in engine.engine_environment().values()


def test_a_missing_engine_is_one_sentence(tmp_path):
    with pytest.raises(InfraError, match="podmen is not installed: install it with `make system`"):
        Engine("podmen", None, tmp_path).call("info")
    with pytest.raises(InfraError, match="no container engine"):
        engine.find_engine("nonesuch", "auto", tmp_path)


def test_a_failing_call_shows_the_engines_last_line(tmp_path):
    with pytest.raises(InfraError, match=r"`ls --no-such` failed: Try 'ls --help'"):
        Engine("ls", None, tmp_path).call("--no-such")


@pytest.mark.parametrize("finish", [True, False])
def test_a_call_that_changes_a_container_ends_though_its_caller_is_interrupted(tmp_path, finish):
    code = (
        "import sys; from agentsweep.engine import Engine; from pathlib import Path\n"
        "call = Engine('sh', None, Path(sys.argv[1])).call\n"
        f"call('-c', 'touch begun; sleep 1; touch done', finish={finish})\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    caller.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in caller.communicate(timeout=30)[1].decode()
    assert (tmp_path / "done").exists() == finish


def test_last_line_skips_what_says_nothing():
    assert engine.last_line("a\n b \n\n") == "b"
    assert engine.last_line("") == "no message"
