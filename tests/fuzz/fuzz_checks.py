"""What must hold of a reader, whatever it reads: allowed exceptions alone, linear time, memory."""

import contextlib
import gc
import time
import traceback
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from fuzz_mutations import grown

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
# CPU time that one input may take: far more than any reader needs, for the machine may be slow.
_ONCE_S, _EACH_BYTE_S = 0.5, 2e-5
_TRIES = 3
# Times below this, and below some of those of a small input, are noise. Between a size and its
# fourfold, what is linear takes 4 times as long, what is quadratic 16 times.
_MEASURED_S, _SMALL, _FOURFOLD = 0.02, 3.0, 9.0
# Up to four times the larger one is read: fewer bytes than where limits of readers begin.
_FIRST_BYTES, _MOST_BYTES = 2**13, 2**18
_MEMORY_BYTES, _EACH_BYTE_BYTES = 48 * 2**20, 1000
# The least that memory is counted at: below, what a reader always takes hides what grows.
_COUNTED_BYTES = 2**16


@dataclass(frozen=True)
class Target:
    """A reader of foreign bytes.

    seeds: makes inputs that it takes. allowed: what it may raise, which its documentation names.
    """

    name: str
    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    allowed: tuple[type[Exception], ...] = ()


@dataclass(frozen=True)
class Fault:
    """What an input shows: `kind` is raised, slow, memory, hung or died; `said` is one line."""

    kind: str
    said: str
    data: bytes

    @property
    def place(self) -> tuple[str, str]:
        """Faults of the same place are one."""
        return self.kind, self.said.rpartition(" at ")[2] if self.kind == "raised" else ""


def tried(target: Target, data: bytes) -> Fault | None:
    """Let the reader read an input once, and again where it was slow."""
    least_s = float("inf")
    for _ in range(_TRIES):
        begin = time.process_time()
        fault = _read(target, data)
        if fault is not None:
            return fault
        least_s = min(least_s, time.process_time() - begin)
        if least_s <= _ONCE_S + len(data) * _EACH_BYTE_S:
            return None
    return Fault("slow", f"{len(data)} bytes took {least_s:.2f} s", data)


def _read(target: Target, data: bytes) -> Fault | None:
    try:
        target.read(data)
    except target.allowed:
        return None
    except MemoryError:
        return Fault("memory", f"{len(data)} bytes took all of the memory", data)
    except (Exception, SystemExit) as error:
        return Fault(
            "raised", f"{type(error).__name__}: {str(error)[:200]!r} at {_at(error)}", data
        )
    return None


def _at(error: BaseException) -> str:
    """The innermost line of the project's own that an exception went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename.startswith(SOURCE)] or frames[-1:]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}"


def grows(target: Target, data: bytes, random: Random) -> Fault | None:
    """Whether time or memory grow faster than the size does, where a part of the input repeats."""
    make, size = grown(random, data), _FIRST_BYTES
    least_s = min(_seconds(target, make(1)) for _ in range(2))
    while _seconds(target, make(size)) < _MEASURED_S + (1 + _SMALL) * least_s:
        size *= 2
        if size > _MOST_BYTES:
            return None
    # Twice, for a reader may do more from some size on.
    if all(_is_steep(target, make, of, least_s) for of in (size // 4, size)):
        said = f"fourfold size takes more than {_FOURFOLD:g} times as long, at {size} bytes"
        return Fault("slow", said, make(4 * size))
    return _memory(target, make(max(size, _COUNTED_BYTES)))


def _is_steep(target: Target, make: Callable[[int], bytes], size: int, least_s: float) -> bool:
    """Whether a fourfold size takes far more than the fourfold time, each time it is tried.

    least_s: what any input takes, which does not grow.
    """
    for _ in range(_TRIES):
        once_s = _seconds(target, make(size)) - least_s
        more_s = _seconds(target, make(4 * size)) - least_s
        if more_s < _FOURFOLD * max(once_s, _MEASURED_S / 50):
            return False
    return True


def _memory(target: Target, data: bytes) -> Fault | None:
    tracemalloc.start()
    try:
        fault = _read(target, data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if fault is None and peak_bytes > _MEMORY_BYTES + _EACH_BYTE_BYTES * len(data):
        fault = Fault("memory", f"{len(data)} bytes took {peak_bytes} bytes of memory", data)
    return fault


def _seconds(target: Target, data: bytes) -> float:
    """CPU time of one reading, whatever becomes of it."""
    gc.collect()
    begin = time.process_time()
    with contextlib.suppress(Exception):
        target.read(data)
    return time.process_time() - begin


def smaller(target: Target, fault: Fault, tries: int = 300) -> Fault:
    """The same exception from fewer bytes, as far as leaving parts out gives it."""
    if fault.kind != "raised":
        return fault
    part = len(fault.data) // 2
    while part and tries > 0:
        at = 0
        while at < len(fault.data) and tries > 0:
            tries -= 1
            found = _read(target, fault.data[:at] + fault.data[at + part :])
            if found is not None and found.place == fault.place:
                fault = found
            else:
                at += part
        part //= 2
    return fault
