"""What a run's container is asked for, and what it sees of the host. The engine is a fake."""

import contextlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from run_parts import (
    FakeEngine,
    FakeService,
    attempt_run,
    failing,
    gateway,
    job_content,
    prepared,
    services,
    sleeping,
    started,
)

from agentsweep.containers import engine
from agentsweep.containers.slurm_scope import ClusterJob
from agentsweep.runs import container


@pytest.fixture
def scene(tmp_path):
    class Scene:
        engine = FakeEngine(tmp_path)

        def spec(self, **job):
            run = attempt_run(tmp_path / "attempt", **job)
            ready = prepared(self.engine, tmp_path / "scratch")
            control = container.Control(tmp_path / "control", run.job.agent.settings, [])
            return container.container_spec(run, ready, control)

        def control(self, service=None, **job):
            run = attempt_run(tmp_path / "attempt", **job)
            ready = prepared(self.engine, tmp_path / "scratch")
            (ready.scratch / "home").rmdir()
            return container.prepare_control(run, ready, service or gateway())

    return Scene()


def of_container(tmp_path, **changes):
    return job_content(tmp_path)["container"] | changes


def test_a_container_has_the_limits_of_its_cell(scene):
    spec = scene.spec()
    assert (spec.memory_bytes, spec.cpus, spec.cpuset, spec.pids) == (2**29, "1", None, 4096)
    pinned = {"memory_bytes": 2**30, "cpus": "2", "cpu_mode": "cpuset", "cpuset": "0,3"}
    spec = scene.spec(limits=pinned)
    assert (spec.memory_bytes, spec.cpus, spec.cpuset, spec.pids) == (2**30, None, "0,3", None)


def test_it_is_ours_and_of_this_process(scene):
    spec = scene.spec()
    assert spec.name == "agentsweep-555555555555-1-9"
    assert spec.labels[engine.LABEL] == "555555555555-1"
    assert spec.labels[engine.OWNER_LABEL].split()[0]
    assert (spec.image, spec.env) == ("sha256:" + "1" * 64, {"FROM_IMAGE": "1"})
    assert (spec.user, spec.map_user) == ("0:0", False)


def test_what_it_sees_of_the_host(scene, tmp_path):
    mounts = {mount.target: mount for mount in scene.spec().mounts}
    assert mounts.keys() == {
        "/run/agentsweep", "/opt/agentsweep/claude", "/run/agentsweep/session",
        "/run/agentsweep/marks", "/run/agentsweep/home",
    }  # fmt: skip
    assert mounts["/run/agentsweep"].read_only and mounts["/opt/agentsweep/claude"].read_only
    assert mounts["/run/agentsweep/session"].source == tmp_path / "attempt" / "session"
    assert not mounts["/run/agentsweep/session"].read_only
    host = scene.spec(container=of_container(tmp_path, userland="host", host_mounts=["/opt"]))
    assert {"/usr", "/opt"} < {mount.target for mount in host.mounts}


def test_its_network_is_the_gateways_socket_or_the_hosts(scene, tmp_path):
    spec = scene.spec()
    assert (spec.network, spec.mask_cgroups) == ("none", False)
    spec = scene.spec(container=of_container(tmp_path, network="host"))
    assert (spec.network, spec.mask_cgroups) == ("host", True)


def test_it_is_put_into_the_cluster_job_where_that_is_asked(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(container.slurm_scope, "parent_for", lambda job, _: job and job.level)
    run = replace(
        attempt_run(tmp_path, container=of_container(tmp_path, cgroup_parent="job")),
        cluster_job=ClusterJob("7", "/slurm/job_7", "/x"),
    )
    ready = prepared(scene.engine, tmp_path / "scratch")
    control = container.Control(tmp_path, run.job.agent.settings, [])
    assert container.container_spec(run, ready, control).cgroup_parent == "/slurm/job_7"
    other = replace(run, job=attempt_run(tmp_path).job)
    assert container.container_spec(other, ready, control).cgroup_parent is None


def test_the_control_directory_starts_the_agent(scene, tmp_path):
    service = gateway()
    control = scene.control(service, task={
        "workdir": "/w", "environment": "export A=1", "python": "/opt/python",
    })  # fmt: skip
    (opened,) = service.asked
    assert opened == {
        "mode": "scripted",
        "listen": f"unix:{control.directory / 'api.sock'}",
        "log": str(tmp_path / "attempt" / "api.jsonl"),
        "token": "the-token",
    }
    script = (control.directory / "start").read_text(encoding="utf-8")
    assert "FROM_IMAGE" in script and "/opt/python" in script and "the-token" in script
    assert os.access(control.directory / "start", os.X_OK)
    environment = (control.directory / "task-environment.sh").read_text(encoding="utf-8")
    assert environment == "export A=1\n"
    assert (control.directory / "env-file.sh").is_file()
    assert os.access(control.directory / "bash-mark", os.X_OK)
    assert stat.S_ISFIFO((tmp_path / "scratch" / "marks" / "req").stat().st_mode)
    assert control.argv[0] == "/opt/agentsweep/claude" and "the-session" in control.argv


def test_what_the_agent_writes_to_is_its_own(scene, tmp_path):
    scene.control()
    for folder in (tmp_path / "attempt" / "session", tmp_path / "scratch" / "home"):
        state = folder.stat()
        assert stat.S_IMODE(state.st_mode) == 0o755
        assert (state.st_uid, state.st_gid) == ((1000, 1000) if os.getuid() == 0 else (
            os.getuid(), os.getgid(),
        ))  # fmt: skip


def test_a_replay_offers_the_tools_of_its_recording(scene):
    opened = {"address": "unix:/x", "replay": {"tools": ["Glob"]}}
    control = scene.control(FakeService(open=opened))
    assert "Glob" in (control.settings.tools or ())
    assert any("Glob" in word for word in control.argv)


def test_on_the_hosts_network_the_gateway_listens_there(scene, tmp_path):
    service = FakeService(open={"address": "http://127.0.0.1:7"})
    control = scene.control(service, container=of_container(tmp_path, network="host"))
    assert service.asked[0]["listen"] == "tcp:127.0.0.1:0"
    assert "http://127.0.0.1:7" in (control.directory / "start").read_text(encoding="utf-8")


def test_it_is_created_started_and_removed_whatever_happens(scene, tmp_path):
    run = attempt_run(tmp_path / "attempt")
    ready = prepared(scene.engine, tmp_path / "scratch")
    (ready.scratch / "home").rmdir()
    with contextlib.ExitStack() as stack:
        made = container.start(run, ready, services(), stack)
        assert (made.container.id, made.is_alive()) == ("the-id", True)
        assert run.phases.seconds.keys() == {"create_s", "start_s"}
        assert [call[0] for call in scene.engine.calls] == ["create", "start"]
    assert scene.engine.calls[-1] == ("remove", "agentsweep-555555555555-1-9")
    with pytest.raises(OSError):
        os.fstat(made.init)


def test_one_that_was_created_and_does_not_start_is_removed(scene, tmp_path):
    scene.engine.failures["start"] = failing("no runtime")
    ready = prepared(scene.engine, tmp_path / "scratch")
    (ready.scratch / "home").rmdir()
    with pytest.raises(Exception, match="no runtime"), contextlib.ExitStack() as stack:
        container.start(attempt_run(tmp_path / "attempt"), ready, services(), stack)
    assert scene.engine.calls[-1][0] == "remove"


def test_a_container_that_cannot_be_removed_loses_no_run(scene, tmp_path):
    said: list[str] = []
    run = attempt_run(tmp_path / "attempt", said)
    scene.engine.failures["remove"] = failing("it is stuck")
    ready = prepared(scene.engine, tmp_path / "scratch")
    container.tear_down(run, ready, started(os.getpid()))
    assert said[-1] == "it is stuck; the next start tries again"
    assert scene.engine.calls == [("remove", "the-id")]
    assert "teardown_s" in run.phases.seconds


def test_whether_it_lives_is_asked_of_its_init_alone():
    init = sleeping()
    made = started(init.pid)
    assert made.is_alive() and made.is_alive(within_s=0.05)
    init.kill()
    init.wait()
    assert not made.is_alive()
    assert isinstance(made.control.directory, Path)
