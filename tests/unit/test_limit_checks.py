"""Which hosts and which kernel answers are refused."""

import os

import pytest

from agentsweep import host, limits
from agentsweep.errors import InfraError

WANTED = {"memory_bytes": 2**29, "cpus": "0.5", "cpu_mode": "quota"}
ENFORCED = {"memory_bytes": 2**29, "swap_bytes": 0, "cpus": 0.5}


def test_what_was_asked_is_accepted():
    assert limits.limit_differences(WANTED, ENFORCED) == []
    # The kernel keeps whole pages.
    odd = WANTED | {"memory_bytes": 2**29 + 1}
    assert limits.limit_differences(odd, ENFORCED) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"memory_bytes": None}, "memory limit is None bytes, asked 536870912"),
        ({"memory_bytes": 2**28}, "memory limit is 268435456 bytes, asked 536870912"),
        ({"swap_bytes": 4096}, "swap is open (4096 bytes)"),
        ({"cpus": None}, "CPU limit is None, asked 0.5"),
        ({"cpus": 0.51}, "CPU limit is 0.51, asked 0.5"),
    ],
)
def test_each_difference_is_named(change, says):
    assert limits.limit_differences(WANTED, ENFORCED | change) == [says]


PINNED = {"memory_bytes": 2**29, "cpus": "3", "cpu_mode": "cpuset", "cpuset": "0-1,4"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, []),
        ({"cpuset": "0,1,4"}, []),
        ({"cpuset": "0-4"}, ["CPUs are 0-4, asked 0-1,4"]),
        ({"cpuset": "0"}, ["CPUs are 0, asked 0-1,4"]),
        ({"cpuset": None}, ["CPUs are None, asked 0-1,4"]),
        ({"cpus": 2.5}, ["a quota gives 2.5 of the 3 CPUs asked"]),
    ],
)
def test_pinned_cpus_are_compared_with_the_kernels_list(change, says):
    found = ENFORCED | {"cpus": None, "cpuset": "0-1,4"} | change
    assert limits.limit_differences(PINNED, found) == says


def test_swap_without_a_limit_matters_where_there_is_swap(monkeypatch):
    unknown = ENFORCED | {"swap_bytes": None}
    monkeypatch.setattr(host, "swap_bytes", lambda: 0)
    assert limits.limit_differences(WANTED, unknown) == []
    monkeypatch.setattr(host, "swap_bytes", lambda: 2**30)
    (said,) = limits.limit_differences(WANTED, unknown)
    assert said == "swap is not limited, and this machine has swap"


def test_a_host_that_would_ignore_limits_is_refused():
    info = {"name": "podman", "rootless": True, "cgroup_version": 1}
    with pytest.raises(InfraError, match="silently ignores --memory and --cpus"):
        limits.check_host(info, os.getuid())
    limits.check_host(info | {"cgroup_version": 2}, os.getuid())
    with pytest.raises(InfraError, match=f"set container.uid to {os.getuid()}"):
        limits.check_host(info | {"cgroup_version": 2}, os.getuid() + 1)
    limits.check_host(info | {"rootless": False}, os.getuid() + 1)
