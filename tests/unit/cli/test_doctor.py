"""The doctor's checks: each one passes where all is well and fails where something is not.

One host has one engine, one kernel and one state of health, so nearly every failure here comes
from a stand-in: a script in the agent's place, a file in the kernel's, a state that an engine would
report. tests/integration/test_commands.py runs the whole on the real host.
"""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_sweep

from agentsweep.cli import doctor, main
from agentsweep.cli.checks import agents, host, images, limits
from agentsweep.cli.checks.check import Check
from agentsweep.config.load import load as load_config
from agentsweep.containers import engines, slurm_scope
from agentsweep.containers.podman import Podman
from agentsweep.errors import InfraError
from agentsweep.host import machine_facts

VERSION = "2.1.330"
HEALTHY = {
    "name": "podman",
    "version": "5.0",
    "runtime": "crun",
    "storage_driver": "overlay",
    "storage_root": "/var/lib/containers/storage",
    "rootless": False,
    "cgroup_version": 2,
    "cgroup_manager": "systemd",
}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Loads the small sweep, with overrides."""
    small_sweep.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return lambda **overrides: load_config([tmp_path / "config.yaml"], overrides)


@pytest.fixture
def binary(tmp_path):
    """Puts a script in the agent's place."""

    def make(script: str) -> Path:
        path = tmp_path / "claude"
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)
        return path

    return make


def bad(check: Check, *said: str, state: str = "fail") -> None:
    assert check.state == state, check
    assert check.cure
    for part in said:
        assert part in check.detail + check.cure, check


def good(check: Check) -> None:
    assert (check.state, check.cure) == ("ok", ""), check


# Engine and limits


def test_no_engine_on_path(sweep, monkeypatch):
    monkeypatch.setenv("PATH", "")
    found, checks = limits.engine_checks(sweep())
    assert found is None and len(checks) == 1
    bad(checks[0], "podman or docker is not on PATH", "`make system`")


def test_an_engine_that_starts_no_container_does_not_send_to_the_doctor(sweep, monkeypatch):
    """Stand-in: this host's engine works."""

    def refuse(*_):
        raise InfraError("no container can be started here (podman with crun: EPERM): "
                         "run `agentsweep doctor`")  # fmt: skip

    monkeypatch.setattr(engines, "find_engine", refuse)
    _, checks = limits.engine_checks(sweep())
    bad(checks[0], "crun: EPERM", "mend what it says")
    assert "agentsweep doctor" not in checks[0].detail


def host_checks(**state) -> dict[str, Check]:
    checks = limits._host_checks(HEALTHY | state, 1000, pinned=False)
    return {check.name: check for check in checks}


def test_rootless_on_cgroup_v1_ignores_limits():
    """Stand-in: the engine's report of a host that this one is not."""
    check = host_checks(rootless=True, cgroup_version=1)["cgroup"]
    bad(check, "silently ignores --memory and --cpus", "systemd.unified_cgroup_hierarchy=1")
    good(host_checks()["cgroup"])


def test_rootless_agents_have_the_users_own_id(monkeypatch):
    """Stand-in: a user id that the tests do not run under."""
    monkeypatch.setattr(limits.os, "getuid", lambda: 1234)
    bad(host_checks(rootless=True)["cgroup"], "set container.uid to 1234")


def test_the_vfs_driver_is_slow():
    """Stand-in: the engine's report."""
    bad(host_checks(storage_driver="vfs")["storage"], "full copy", state="warn")
    good(host_checks()["storage"])


def test_delegation(tmp_path):
    """Stand-in: a file in the place of systemd's, which only cgroup v2 hosts have."""
    controllers = tmp_path / "cgroup.controllers"
    bad(limits._delegation(controllers, pinned=False), "log in through systemd", state="warn")
    controllers.write_text("memory pids\n", encoding="utf-8")
    bad(
        limits._delegation(controllers, pinned=False),
        "not delegated to you: cpu",
        "Delegate=cpu memory pids",
    )
    controllers.write_text("cpuset cpu io memory pids\n", encoding="utf-8")
    good(limits._delegation(controllers, pinned=True))
    controllers.write_text("cpu io memory pids\n", encoding="utf-8")
    good(limits._delegation(controllers, pinned=False))
    said = "not delegated to you: cpuset"
    bad(limits._delegation(controllers, pinned=True), said, "Delegate=cpu cpuset memory pids")


def test_a_job_that_has_no_cgroup_takes_no_container(monkeypatch):
    """Stand-in: the environment of a Slurm job, whose cgroup this process is not in."""
    monkeypatch.setenv("SLURM_JOB_ID", "99999999")
    (check,) = limits._probe_limits(None, HEALTHY, in_job=True)
    bad(check, "has no cgroup", "set container.cgroup_parent to `engine`")


def test_a_manager_that_takes_slices_only_takes_no_job(monkeypatch, tmp_path):
    """Stand-ins: a job that has a cgroup, and an engine with the systemd manager."""
    job = slurm_scope.ClusterJob("42", "/slurm/uid_0/job_42", str(tmp_path))
    monkeypatch.setattr(slurm_scope.ClusterJob, "here", lambda: job)
    found = Podman(None, tmp_path)
    monkeypatch.setattr(found, "info", lambda: HEALTHY | {"cgroup_manager": "systemd"})
    (check,) = limits._probe_limits(found, found.info(), in_job=True)
    bad(check, "takes slices only", "set container.cgroup_parent to `engine`")


def test_limits_that_the_kernel_does_not_have():
    """Stand-in: what the kernel says is in force; this host's kernel enforces limits."""
    effective = {"memory_bytes": 2**40, "cpus": None}
    memory = limits._memory_probe(None, HEALTHY, None, None, effective)
    bad(memory, f"kernel says {2**40}", "memory controller")
    cpu = limits._cpu_probe(None, HEALTHY, None, None, effective)
    bad(cpu, "kernel says None", "cpu controller")
    bad(limits._cpu_probe(None, HEALTHY, None, None, {"cpus": 2.0}), "kernel says 2.0")
    # Recorded with real containers: cgroup_recordings/rootless-cgroupfs.json.
    ignored = HEALTHY | {"rootless": True, "cgroup_version": 2, "cgroup_manager": "cgroupfs"}
    unlimited = {"memory_bytes": None, "cpus": None}
    for probe in (limits._memory_probe, limits._cpu_probe):
        bad(probe(None, ignored, None, None, unlimited), "systemd cgroup manager")


def test_limits_that_do_not_act():
    """Stand-in: counters of a kernel that kills and throttles nobody."""
    bad(limits._memory_verdict(0), "twice the limit", "swapon")
    good(limits._memory_verdict(1))
    bad(limits._cpu_verdict(used=0.99, throttled=5), "used 0.99")
    bad(limits._cpu_verdict(used=0.2, throttled=0), "throttled 0x")
    good(limits._cpu_verdict(used=0.2, throttled=9))


def test_swap_and_kernel_log_are_noted():
    """Stand-in: a host with swap, and a kernel log that is closed to users."""
    bad(host.swap(2**30), "1024 MiB of swap", state="note")
    good(host.swap(0))
    bad(host.kernel_log(None), "counters", state="note")
    good(host.kernel_log([]))


# The agent's binary


def agent_check(loaded) -> Check:
    return next(iter(agents.agent_checks(loaded)))


def test_an_agent_that_is_missing_or_another_one(sweep):
    loaded = sweep()
    bad(agent_check(loaded), "is missing", "make agent")
    path = loaded.job(loaded.cells()[0]).agent.binary
    path.parent.mkdir(parents=True)
    path.write_text("changed", encoding="utf-8")
    bad(agent_check(loaded), "not the locked agent binary", "delete it and run `make agent`")


def test_the_right_agent(binary):
    good(agents._version_check("claude", binary(f"#!/bin/sh\necho '{VERSION} (x)'\n"), VERSION))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo '2.1.3300 (x)'", "not 2.1.330"),
        ("echo nonsense", "not 2.1.330"),
        ("exit 0", "not 2.1.330"),
        ("echo 'Illegal instruction' >&2; exit 132", "exit code 132: Illegal instruction"),
        ("echo '--x cannot be used with root/sudo privileges' >&2; exit 1", "refuses to run as"),
    ],
)
def test_an_agent_that_does_not_work(binary, script, said):
    bad(agents._version_check("claude", binary(f"#!/bin/sh\n{script}\n"), VERSION), said)


@pytest.mark.parametrize(
    "loader_says",
    [
        "claude: error while loading shared libraries: libm.so.6: cannot open shared object file",
        "claude: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.26' not found (required by c)",
        "Error relocating /opt/agentsweep/claude: fcntl64: symbol not found",
    ],
)
def test_a_library_is_not_found(binary, loader_says):
    """Stand-in: a script that says what the loaders of glibc and musl say; this host has glibc."""
    script = binary(f'#!/bin/sh\ncat >&2 <<"END"\n{loader_says}\nEND\nexit 127\n')
    check = agents._version_check("claude", script, VERSION)
    bad(check, "a library of the agent is missing", loader_says, "glibc 2.26", "userland: host")


def test_the_loader_itself_is_missing(binary):
    """Stand-in: an interpreter that is not there, for which the kernel says the same."""
    check = agents._version_check("claude", binary("#!/nowhere/ld-linux.so.2\n"), VERSION)
    bad(check, "a library of the agent is missing", "glibc 2.26")


def test_a_file_that_is_no_program(binary):
    bad(agents._version_check("claude", binary("\x7fELF nonsense"), VERSION), "make agent")


def test_no_output_and_no_end(binary, monkeypatch):
    """Stand-in: a script that hangs; the real binary cannot be made to."""
    monkeypatch.setattr(agents, "START_TIMEOUT_S", 0.2)
    script = binary("#!/bin/sh\nexec sleep 30\n")
    bad(agents._version_check("claude", script, VERSION), "no output and no end")


def test_a_stall_limit_above_the_wall_limit_notices_no_hang(sweep):
    (check,) = agents.stall_checks(sweep(agent={"stall_s": 60, "timeout_s": 60}))
    bad(check, "noticed at the wall limit only", state="warn")
    (check,) = agents.stall_checks(sweep(agent={"stall_s": 60, "timeout_s": 61}))
    good(check)


# The keys of live agents


def credential_check(loaded) -> Check:
    (check,) = agents.credential_checks(loaded)
    return check


def live(**keys) -> dict:
    return {"agents": {"claude": {"model": "live", **keys}}}


def test_the_key_of_a_live_agent(sweep, monkeypatch):
    loaded = sweep(**live(credential="env:DOCTOR_KEY"))
    monkeypatch.delenv("DOCTOR_KEY", raising=False)
    bad(credential_check(loaded), "DOCTOR_KEY is not set", "export it")
    monkeypatch.setenv("DOCTOR_KEY", "sk-canary")
    check = credential_check(loaded)
    good(check)
    assert check.detail == "its key is readable, and goes in x-api-key"
    assert "canary" not in repr(check)


def test_the_key_that_is_looked_for_by_itself(sweep, monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    check = credential_check(sweep(**live()))
    bad(check, "set ANTHROPIC_API_KEY")
    assert check.detail == "no key for the live model"
    check = credential_check(sweep(**live(base_url="http://127.0.0.1:9")))
    good(check)
    assert check.detail == "it sends no key"


def test_agents_that_are_not_live_need_no_key(sweep):
    assert list(agents.credential_checks(sweep())) == []


# What the agent needs around it


def test_the_agent_as_root():
    """Stand-in: the configuration refuses uid 0 before the doctor can see it."""
    bad(host._user(0), "root", "container.uid")
    good(host._user(1000))


def test_certificates(tmp_path):
    """Stand-in: other places than this host's, which has certificates."""
    places = (tmp_path / "a.crt", tmp_path / "b.crt")
    bad(host._certificates(places, needed=True), "a.crt", "ca-certificates")
    assert host._certificates(places, needed=False).state == "note"
    places[0].touch()
    bad(host._certificates(places, needed=True))
    places[1].write_text("-----BEGIN CERTIFICATE-----", encoding="utf-8")
    good(host._certificates(places, needed=True))


@pytest.mark.parametrize(
    ("reference", "network", "state"),
    [
        ("docker://registry.example/x", "gateway", "fail"),
        ("docker://localhost:5000/x", "gateway", "note"),
        ("oci-archive:images/fix.tar", "gateway", "note"),
        ("oci-archive:images/fix.tar", "host", "fail"),
    ],
)
def test_who_needs_certificates(sweep, monkeypatch, reference, network, state):
    """Stand-in: no certificates on this host."""
    monkeypatch.setattr(host, "_CERTIFICATES", (Path("/nowhere/ca.crt"),))
    loaded = sweep(
        tasks={"fix": {"kind": "swe", "image": reference, "problem_statement": "x",
                       "scenario": "scenario.yaml"}},
        container={"network": network},
    )  # fmt: skip
    checks = {check.name: check.state for check in host.mode_checks(loaded)}
    assert checks["certificates"] == state


def test_the_configuration_directory(tmp_path):
    store = tmp_path / "not" / "yet" / "there"
    good(host._configuration_directory(store, os.getuid(), os.getgid()))
    assert not any(tmp_path.iterdir())
    (tmp_path / "file").write_text("in the way\n", encoding="utf-8")
    check = host._configuration_directory(tmp_path / "file", os.getuid(), os.getgid())
    bad(check, "cannot be made in", "paths.store")


def test_a_configuration_directory_that_the_agents_user_cannot_get(tmp_path, monkeypatch):
    """Stand-in: a file system that refuses to change owners, as NFS does to root."""

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(host.os, "getuid", lambda: 0)
    monkeypatch.setattr(host.os, "chown", refuse)
    check = host._configuration_directory(tmp_path, 1000, 1000)
    bad(check, "Operation not permitted", "paths.store")


# Images


def verdict(code=0, said="", seen="1000\nwritable\nmarks\nopen\n") -> Check:
    done = SimpleNamespace(returncode=code, stdout="", stderr=said)
    return images._image_verdict("image x", done, seen)


def test_what_an_image_can_lack():
    """Stand-in: what commands in a container would have said; the demo's images are sound."""
    good(verdict())
    bad(verdict(127, "crun: open executable: No such file or directory"), "does not start")
    bad(verdict(1, "version `GLIBC_2.26' not found (required by claude)"), "a library", "glibc")
    bad(verdict(seen="0\nwritable\nmarks\n"), "root")
    bad(verdict(seen="1000\nread-only\nmarks\n"), "configuration directory is not writable")
    bad(verdict(seen="1000\nwritable\nunmarked\nopen\n"), "no exact peaks", state="warn")
    bad(verdict(seen="1000\nwritable\nmarks\nclosed\n"), "cannot run what is mounted", "TMPDIR")
    bad(verdict(seen=""), "not writable")


def test_the_look_into_an_image_sees_what_is_writable(tmp_path):
    """Stand-in: this host's shell and directories in the place of a container's."""
    for folder, answer in ((tmp_path, "writable"), (tmp_path / "none", "read-only")):
        script = images._LOOK.replace(images.invocation.CONFIG_DIR, str(folder))
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=True, encoding="utf-8"
        )
        assert done.stdout.split() == [str(os.getuid()), answer, "marks", "closed"]
    script = f"PATH=/nowhere; {images._LOOK}"
    done = subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout.split()[-2:] == ["unmarked", "closed"]


def test_images_that_are_not_locked_or_not_fixed(sweep):
    (check,) = [c for c in images.image_checks(sweep(), None) if c.name == "image fix"]
    bad(check, "not yet fixed", state="note")
    Path("config/images.lock.yaml").write_text("images: {}\n", encoding="utf-8")
    (check,) = [c for c in images.image_checks(sweep(), None) if c.name == "image fix"]
    bad(check, "not locked", "`snakemake --cores 1 lock`")


def test_skopeo_is_missing(sweep, monkeypatch):
    monkeypatch.setenv("PATH", "")
    first = next(iter(images.image_checks(sweep(), None)))
    assert first.name == "skopeo"
    bad(first, "make system")


# The rest


@pytest.mark.parametrize(("free", "state"), [(2**20, "fail"), (2**30, "warn"), (2**40, "ok")])
def test_disk_space(sweep, monkeypatch, free, state):
    """Stand-in: the file system's answer; a full disk has a test of its own (fault tests)."""
    monkeypatch.setattr(machine_facts, "free_bytes", lambda _: free)
    assert {check.state for check in host.disk_checks(sweep(), None)} == {state}


def test_the_platform():
    """Stand-in: the machine's name."""
    assert list(host.platform("x86_64")) == []
    (check,) = host.platform("aarch64")
    bad(check, "arm64", "x86-64")


def test_a_check_that_breaks_off_hides_no_other():
    """Stand-in: a check that meets an error nobody thought of."""

    def broken():
        yield Check("one", "ok", "fine")
        raise PermissionError(13, "Permission denied", "agents/claude")

    first, second = doctor._all("agent", broken())
    good(first)
    bad(second, "agents/claude", "Permission denied")


def test_the_report_and_the_exit_code(sweep, monkeypatch, capsys):
    """Stand-in: no engine on PATH, so that checks fail on any host."""
    sweep()
    monkeypatch.setenv("PATH", "")
    assert main.main(["doctor", "--config", "config.yaml"]) == 1
    text = capsys.readouterr().out
    assert text.startswith("fail  engine ") and "mend: run `make system`" in text
    assert main.main(["doctor", "--config", "config.yaml", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)
    assert {"name", "state", "detail", "cure"} == set(checks[0])
    failed = sum(check["state"] == "fail" for check in checks)
    assert text.splitlines()[-1].startswith(f"{len(checks)} checks: {failed} failed")
    monkeypatch.setattr(doctor, "examine", lambda _: [Check("swap", "note", "some", "swapoff")])
    assert main.main(["doctor", "--config", "config.yaml"]) == 0
