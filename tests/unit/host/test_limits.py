"""Which hosts and which kernel answers are refused."""

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsweep.errors import InfraError
from agentsweep.host import limits, machine_facts

WANTED = limits.Limits(2**29, cpus="0.5", cpu_mode="quota")
ENFORCED = {"memory_bytes": 2**29, "swap_bytes": 0, "cpus": 0.5}


def test_what_was_asked_is_accepted():
    assert limits.limit_differences(WANTED, ENFORCED) == []
    # The kernel keeps whole pages.
    odd = replace(WANTED, memory_bytes=2**29 + 1)
    assert limits.limit_differences(odd, ENFORCED) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"memory_bytes": None},
            "the kernel enforces no limit of memory, but 512 MiB were requested",
        ),
        (
            {"memory_bytes": 2**28},
            "the kernel enforces 256 MiB of memory, but 512 MiB were requested",
        ),
        (
            {"memory_bytes": 2**30},
            "the kernel enforces 1 GiB of memory, but 512 MiB were requested",
        ),
        (
            {"memory_bytes": 2**29 + 1},
            "the kernel enforces 536870913 B of memory, but 512 MiB were requested",
        ),
        ({"swap_bytes": 4096}, "the kernel allows 4 KiB of swap, not none"),
        ({"cpus": None}, "the kernel enforces no limit of CPUs, but 0.5 were requested"),
        ({"cpus": 0.51}, "the kernel enforces 0.51 CPUs, but 0.5 were requested"),
        ({"cpus": 0.49}, "the kernel enforces 0.49 CPUs, but 0.5 were requested"),
    ],
)
def test_each_difference_is_named(change, says):
    assert limits.limit_differences(WANTED, ENFORCED | change) == [says]


PINNED = limits.Limits(2**29, cpus="3", cpu_mode="cpuset", cpuset="0-1,4")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, []),
        ({"cpuset": "0,1,4"}, []),
        (
            {"cpuset": "0-4"},
            ["the kernel pins the container to CPUs 0-4, but CPUs 0-1,4 were requested"],
        ),
        (
            {"cpuset": "0"},
            ["the kernel pins the container to CPUs 0, but CPUs 0-1,4 were requested"],
        ),
        (
            {"cpuset": None},
            ["the kernel pins the container to no CPUs, but CPUs 0-1,4 were requested"],
        ),
        ({"cpus": 2.5}, ["a quota leaves 2.5 of the 3 CPUs requested"]),
    ],
)
def test_pinned_cpus_are_compared_with_the_kernels_list(change, says):
    found = ENFORCED | {"cpus": None, "cpuset": "0-1,4"} | change
    assert limits.limit_differences(PINNED, found) == says


def test_swap_without_a_limit_matters_where_there_is_swap(monkeypatch):
    unknown = ENFORCED | {"swap_bytes": None}
    monkeypatch.setattr(machine_facts, "swap_bytes", lambda: 0)
    assert limits.limit_differences(WANTED, unknown) == []
    monkeypatch.setattr(machine_facts, "swap_bytes", lambda: 2**30)
    (said,) = limits.limit_differences(WANTED, unknown)
    assert said == "the kernel does not limit swap, and this machine has swap"


def test_a_quota_is_taken_as_the_kernel_rounds_it():
    for cpus in (0.504, 0.496):
        assert limits.limit_differences(WANTED, ENFORCED | {"cpus": cpus}) == []


def test_a_quota_of_all_the_pinned_cpus_takes_nothing_from_them():
    found = ENFORCED | {"cpus": 3.0, "cpuset": "0-1,4"}
    assert limits.limit_differences(PINNED, found) == []


@given(wanted=st.integers(2**20, 2**42), enforced=st.none() | st.integers(2**20, 2**42))
def test_another_memory_limit_is_always_seen(wanted, enforced):
    found = limits.limit_differences(
        replace(WANTED, memory_bytes=wanted), ENFORCED | {"memory_bytes": enforced}
    )
    assert bool(found) == (enforced != wanted // 4096 * 4096)


def test_changes_name_the_limit_and_both_values():
    assert limits.changes(ENFORCED, dict(ENFORCED)) == []
    now = ENFORCED | {"memory_bytes": 2**30, "cpus": None}
    assert limits.changes(ENFORCED, now) == [
        "memory_bytes was 536870912 and became 1073741824",
        "cpus was 0.5 and became None",
    ]


def test_a_host_that_would_ignore_limits_is_refused():
    info = {"name": "podman", "rootless": True, "cgroup_version": 1}
    with pytest.raises(InfraError, match=r"silently ignores --memory and --cpus: .*hierarchy=1"):
        limits.check_host(info, os.getuid())
    limits.check_host(info | {"cgroup_version": 2}, os.getuid())
    with pytest.raises(InfraError, match=f"set container.uid to {os.getuid()}"):
        limits.check_host(info | {"cgroup_version": 2}, os.getuid() + 1)
    limits.check_host(info | {"rootless": False}, os.getuid() + 1)
