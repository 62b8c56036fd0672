"""The fuzzer finds what it is for, in readers with a fault that is put there."""

import gc
import os
import random
import signal

import fuzz_checks
import pytest
from fuzz_checks import Fault, Target, grows, smaller, tried
from fuzz_driver import fuzz, run, save
from fuzz_mutations import mutate

pytestmark = pytest.mark.slow

SEED = b'{"type": "user", "ids": [1, 22, 333]}\n{"type": "x"}\n'


def target(read, name="planted", allowed=()):
    return Target(name, read, lambda: [SEED], allowed)


def indexes(data):
    """A reader that takes the third word of a line for granted."""
    return [line.split()[2] for line in data.splitlines()]


def waits(data):
    while b"333" not in data:
        pass


def compares(data):
    """Each word with all before it."""
    words = data.split(b",")
    return [words[:place].count(word) for place, word in enumerate(words)]


def hoards(data):
    return [bytes(3000) for byte in data if byte == 0]


def dies(data):
    if b"333" not in data:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("read", "kind", "said"),
    [(indexes, "raised", "IndexError"), (waits, "hung", "more than 1 s"), (dies, "died", "status")],
)
def test_a_fault_is_found_and_its_input_saved(tmp_path, read, kind, said):
    found = fuzz(target(read), 20.0, 1, tmp_path, hung_s=1.0) if kind != "raised" else None
    found = found or fuzz(target(read), 1.0, 1, tmp_path)
    ((path, fault),) = found.faults.items()
    assert (fault.kind, said in fault.said) == (kind, True), fault
    assert path.parent == tmp_path / "planted"
    assert path.read_bytes() == fault.data
    if kind == "raised":
        with pytest.raises(IndexError):
            indexes(fault.data)
        # As small as leaving parts out makes it.
        assert len(fault.data) < 8


@pytest.fixture
def small(monkeypatch):
    """Sizes that are told apart in a fraction of a second, where nothing is read but by Python."""
    # What other tests left is not to be walked by each collection.
    gc.collect()
    gc.freeze()
    monkeypatch.setattr(fuzz_checks, "_FIRST_BYTES", 2**8)
    monkeypatch.setattr(fuzz_checks, "_MOST_BYTES", 2**16)
    monkeypatch.setattr(fuzz_checks, "_MEASURED_S", 0.001)
    monkeypatch.setattr(fuzz_checks, "_MEMORY_BYTES", 2**20)
    monkeypatch.setattr(fuzz_checks, "_COUNTED_BYTES", 2**12)


def test_what_takes_quadratic_time_is_found_and_what_is_linear_is_not(small):
    found = (grows(target(compares), SEED, random.Random(n)) for n in range(20))
    assert next(fault for fault in found if fault is not None).kind == "slow"
    linear = target(lambda data: [line.split() for line in data.split(b",")])
    assert [grows(linear, SEED, random.Random(n)) for n in range(5)] == [None] * 5


def test_memory_out_of_proportion_is_found(small):
    found = (grows(target(hoards), b"\0" * 2000, random.Random(n)) for n in range(3))
    assert next(fault for fault in found if fault is not None).kind == "memory"


def test_what_a_reader_may_raise_is_no_fault(tmp_path):
    assert tried(target(indexes, allowed=(IndexError,)), b"a") is None
    found = fuzz(target(indexes, allowed=(IndexError,)), 0.5, 1, tmp_path)
    assert (found.faults, found.inputs > 50) == ({}, True)


def test_one_fault_is_saved_once_however_many_inputs_show_it(tmp_path):
    said = []
    found = run(
        [target(indexes), target(bytes.split, "sound")], 2.0, 1, tmp_path, False, said.append
    )
    assert len(found) == 1
    assert [line.split(":")[0] for line in said if not line.startswith(" ")] == ["planted", "sound"]
    assert str(next(iter(found))) in said[2]


def test_a_seed_repeats_the_inputs():
    def inputs(seed):
        chosen = random.Random(seed)
        return [mutate(chosen, SEED, [SEED], 500) for _ in range(300)]

    assert inputs(1) == inputs(1) != inputs(2)
    assert len(set(inputs(1))) > 250
    assert max(map(len, inputs(1))) <= 500


def test_a_smaller_input_shows_the_same_fault(tmp_path):
    fault = tried(target(indexes), SEED * 20 + b"a b\n" + SEED * 20)
    less = smaller(target(indexes), fault)
    assert less.place == fault.place
    assert len(less.data) <= 3
    path = save(tmp_path, less)
    assert path.read_bytes() == less.data
    assert smaller(target(indexes), Fault("slow", "x", SEED)).data == SEED
