"""Owner tags: whose a container or a scratch directory is, and whether its owner lives."""

import os
import subprocess
import sys

import pytest

from agentsweep.errors import InfraError
from agentsweep.host.processes import LineService, owner_is_dead, owner_tag


def test_this_process_lives():
    assert not owner_is_dead(owner_tag())


def test_an_ended_process_is_dead():
    code = "from agentsweep.host.processes import owner_tag; print(owner_tag())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert owner_is_dead(done.stdout.strip())


def test_a_reused_pid_is_another_process():
    host, boot, view, pid, start = owner_tag().split("/")
    assert owner_is_dead(f"{host}/{boot}/{view}/{pid}/{int(start) + 1}")


def test_another_boot_is_dead_and_another_host_is_not():
    host, boot, view, pid, start = owner_tag().split("/")
    assert owner_is_dead(f"{host}/another/{view}/{pid}/{start}")
    assert not owner_is_dead(f"elsewhere/{boot}/{view}/{pid}/{start}")
    assert not owner_is_dead("no tag of ours")
    assert not owner_is_dead("")


def test_whom_we_may_not_see_is_not_dead():
    """Another user's processes may be hidden (hidepid), another namespace's are."""
    host, boot, view, pid, start = owner_tag().split("/")
    uid, namespace = view.split("-")
    never = int(start) + 1
    assert owner_is_dead(f"{host}/{boot}/{view}/{pid}/{never}")
    assert not owner_is_dead(f"{host}/{boot}/{int(uid) + 1}-{namespace}/{pid}/{never}")
    assert not owner_is_dead(f"{host}/{boot}/{uid}-1/{pid}/{never}")


def test_a_service_that_was_stopped_is_not_waited_for(tmp_path, monkeypatch):
    (tmp_path / "silent_service.py").write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    service = LineService("silent_service", tmp_path / "log")
    with pytest.raises(InfraError, match=r"silent_service gave no answer within 0\.3 s"):
        service.ask({}, timeout_s=0.3)
    service.stop(timeout_s=0.1)
    assert not service.alive


def test_a_service_that_cannot_start_says_why(tmp_path):
    service = LineService("agentsweep.nonesuch", tmp_path / "log")
    with pytest.raises(InfraError, match=r"agentsweep\.nonesuch ended unexpectedly: .*No module"):
        service.ask({})
    assert service.stop() != 0
    assert not service.alive


def test_services_get_a_clean_environment(monkeypatch):
    from agentsweep.host.processes import service_environment

    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary")
    assert "canary" not in service_environment().values()
    assert service_environment()["PATH"] == os.environ["PATH"]
