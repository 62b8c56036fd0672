"""Which CPUs a run is pinned to, on topologies as the kernel writes them under /sys."""

import json
from pathlib import Path

import pytest

from agentsweep.errors import InfraError
from agentsweep.host.topology import Topology, list_text, parse_list

# The siblings of each CPU and the CPUs of each node, as such machines have them.
DESKTOP = ([f"{n % 4},{n % 4 + 4}" for n in range(8)], ["0-7"])
ADJACENT = ([f"{n - n % 2}-{n - n % 2 + 1}" for n in range(4)], ["0-3"])
SERVER = ([f"{n % 8},{n % 8 + 8}" for n in range(16)], ["0-3,8-11", "4-7,12-15"])
# Two cores with two threads each, four small ones without.
HYBRID = (["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"], ["0-7"])
PLAIN = (["0", "1", "2", "3"], ["0-3"])


@pytest.fixture
def read(tmp_path):
    def made(machine, usable=None, name="thread_siblings_list") -> Topology:
        siblings, nodes = machine
        for cpu, text in enumerate(siblings):
            folder = tmp_path / f"cpu/cpu{cpu}/topology"
            folder.mkdir(parents=True)
            (folder / name).write_text(f"{text}\n", encoding="utf-8")
        for number, text in enumerate(nodes):
            folder = tmp_path / f"node/node{number}"
            folder.mkdir(parents=True)
            (folder / "cpulist").write_text(f"{text}\n", encoding="utf-8")
        return Topology.read(range(len(siblings)) if usable is None else usable, tmp_path)

    return made


def chosen(topology: Topology, *counts: int) -> list[str | None]:
    """What runs that come one after another get, none of them ending."""
    free = {cpu for core in topology.cores for cpu in core}
    found = []
    for count in counts:
        cpus = topology.choose(free, count)
        found.append(None if cpus is None else list_text(cpus))
        free -= set(cpus or ())
    return found


@pytest.mark.parametrize(
    ("machine", "counts", "expected"),
    [
        (DESKTOP, (2, 4, 2), ["0,4", "1-2,5-6", "3,7"]),
        # The odd thread is taken from a core that is in parts already: whole ones stay whole.
        (DESKTOP, (1, 2, 1, 3), ["0", "1,5", "4", "2-3,6"]),
        (ADJACENT, (2, 1, 1), ["0-1", "2", "3"]),
        # There are two free threads in the end, but of two cores: the run waits.
        (ADJACENT, (3, 1, 1), ["0-2", "3", None]),
        (SERVER, (4, 8, 4), ["0-1,8-9", "4-7,12-15", "2-3,10-11"]),
        (SERVER, (12,), ["0-5,8-13"]),
        (HYBRID, (2, 2, 2, 1, 1), ["0-1", "2-3", "4-5", "6", "7"]),
        (PLAIN, (1, 2, 1, 1), ["0", "1-2", "3", None]),
        (PLAIN, (5,), [None]),
    ],
)
def test_threads_of_a_core_stay_together_as_far_as_the_count_goes(read, machine, counts, expected):
    assert chosen(read(machine), *counts) == expected


def test_two_parts_of_two_cores_are_no_core(read):
    topology = read(ADJACENT)
    assert topology.choose({0, 2}, 2) is None
    assert topology.choose({0, 2, 3}, 2) == (2, 3)
    assert topology.choose({0, 2}, 1) == (0,)


def test_only_usable_cpus_count_and_half_a_core_is_a_core_there(read):
    topology = read(DESKTOP, usable={0, 1, 5})
    assert topology.cores == ((0,), (1, 5))
    assert chosen(topology, 2, 1, 1) == ["1,5", "0", None]


def test_newer_kernels_call_the_file_otherwise(read):
    assert read(ADJACENT, name="core_cpus_list").cores == ((0, 1), (2, 3))


def test_a_machine_that_tells_nothing_has_cores_of_one_thread(tmp_path):
    topology = Topology.read({0, 3}, tmp_path)
    assert topology == Topology(((0,), (3,)), ((0, 3),))


@pytest.fixture
def recorded(tmp_path):
    """The topology of a real machine, and its CPUs by core and by node as lscpu had them."""

    def laid_out(name: str) -> tuple[Topology, tuple, tuple]:
        path = Path(__file__).parent / "topology_recordings" / f"{name}.json"
        recording = json.loads(path.read_text(encoding="utf-8"))
        for place, text in recording["files"].items():
            (tmp_path / name / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / place).write_text(text, encoding="utf-8")
        rows = recording["lscpu"]
        cores, nodes = (
            tuple(
                tuple(row["cpu"] for row in rows if row[what] == number)
                for number in sorted({row[what] for row in rows})
            )
            for what in ("core", "node")
        )
        return Topology.read([row["cpu"] for row in rows], tmp_path / name), cores, nodes

    return laid_out


def test_recorded_machines_have_the_cores_and_nodes_that_lscpu_saw(recorded):
    for name, threads in (("smt", 2), ("plain", 1)):
        topology, cores, nodes = recorded(name)
        assert (topology.cores, topology.nodes) == (cores, nodes)
        assert {len(core) for core in topology.cores} == {threads}


def test_runs_on_a_recorded_machine_share_no_core(recorded):
    topology, *_ = recorded("smt")
    assert chosen(topology, 2, 1, 1, 1) == ["0-1", "2", "3", None]
    assert chosen(topology, 1, 2, 2) == ["0", "2-3", None]


def test_this_machine_has_cores():
    import os

    usable = os.sched_getaffinity(0)
    topology = Topology.read(usable)
    assert sorted(cpu for core in topology.cores for cpu in core) == sorted(usable)
    assert set(topology.choose(usable, len(usable))) == usable


def test_lists_as_the_kernel_writes_them():
    assert parse_list("0-1,4\n") == {0, 1, 4}
    assert parse_list("\n") == set()
    assert list_text({4, 1, 0, 7, 6}) == "0-1,4,6-7"
    assert list_text(()) == ""
    with pytest.raises(InfraError, match="'max' is no list of CPUs"):
        parse_list("max")
