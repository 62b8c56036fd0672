"""Facts about the machine, against what other programs say of it."""

import os
import subprocess
from pathlib import Path

from agentsweep.host import machine_facts


def test_facts_are_this_machines():
    facts = machine_facts.facts()
    assert facts["kernel"] == os.uname().release
    assert facts["cpu_count"] >= machine_facts.usable_cpus() >= 1
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert abs(facts["memory_bytes"] - total) < 0.05 * total
    assert facts["memory_bytes"] == machine_facts.memory_bytes()
    assert facts["swap_total_bytes"] == machine_facts.swap_bytes() >= 0
    assert facts["cpu_model"]


def test_noise_is_numbers():
    noise = machine_facts.noise()
    assert noise["load1"] >= 0
    assert all(type(noise[name]) is int for name in ("pswpin", "pswpout"))


def test_free_space_is_known_before_there_is_a_directory(tmp_path):
    free = machine_facts.free_bytes(tmp_path / "not" / "yet")
    done = subprocess.run(
        ["df", "--output=avail", "-B1", tmp_path],
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert abs(free - int(done.stdout.split()[-1])) < 2**30


def test_another_pid_namespace_is_recognised():
    code = "from agentsweep.host import machine_facts; print(machine_facts.sees_kernel_pids())"
    done = subprocess.run(
        ["unshare", "--user", "--pid", "--fork", "python3", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(machine_facts.__file__).parents[2])},
        encoding="utf-8",
    )
    if done.returncode == 0:
        assert done.stdout.strip() == "False"
