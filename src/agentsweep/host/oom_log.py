"""OOM kills as the kernel's log tells them: who was killed in which memory cgroup, and when.

A second source beside the counters. It names the victim, and it outlives the container. Record
format: Documentation/ABI/testing/dev-kmsg in Linux; the line comes from mm/oom_kill.c.
"""

import contextlib
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

# Records are at most 8 KiB each (CONSOLE_EXT_LOG_MAX), and a read returns exactly one.
_RECORD_BYTES = 8192
_HEADER = re.compile(r"([0-9]{1,20}),[0-9]+,([0-9]{1,20}),[^;]*;")
_GROUP, _TASK = ",task_memcg=/", ",task="
# A process chooses its own name, so the name is what lies between the fixed parts.
_PROCESS = re.compile(r",pid=([0-9]{1,10}),uid=([0-9]{1,10})(?![0-9])")


@dataclass(frozen=True)
class Victim:
    """A process that the kernel killed: host pid, name, uid, times in ns (monotonic and UTC).

    The kernel log's clock and CLOCK_MONOTONIC differ by milliseconds after days of uptime.
    """

    pid: int
    comm: str
    uid: int
    t_ns: int
    utc_ns: int

    def as_dict(self) -> dict[str, int | str]:
        """Field name to value."""
        return asdict(self)


class OomLog:
    """The OOM kills in one memory cgroup, and below it, from now on.

    `cgroup` is its path as in /proc/<pid>/cgroup. Never blocks.
    """

    def __init__(self, cgroup: str, path: str | Path = "/dev/kmsg"):
        self._cgroup = cgroup
        self._victims: list[Victim] = []
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._file, 0, os.SEEK_END)

    def victims(self) -> list[Victim] | None:
        """All kills so far; None where the kernel log cannot be read."""
        if self._file is None:
            return None
        while True:
            try:
                record = os.read(self._file, _RECORD_BYTES)
            except BrokenPipeError:
                # Records were overwritten before they were read; the next read goes on after them.
                continue
            except OSError:
                break
            if not record:
                break
            victim = parse_kill(record.decode(errors="replace"), self._cgroup)
            if victim is not None:
                self._victims.append(victim)
        return list(self._victims)

    def close(self) -> None:
        """Close the log."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def parse_kill(record: str, cgroup: str) -> Victim | None:
    """The victim in one log record, if it is a kill in that cgroup or below it."""
    header = _HEADER.match(record)
    # The facility is in the upper bits; only the kernel's own messages have 0.
    if not header or int(header[1]) >> 3:
        return None
    line = record.splitlines()[0][header.end() :]
    # By their fixed parts and not by one expression, which would try each with each.
    _, _, rest = line.partition(_GROUP)
    group, _, rest = rest.partition(_TASK)
    *_, process = (None, *_PROCESS.finditer(rest))
    if not line.startswith("oom-kill:") or process is None:
        return None
    if not f"/{group}/".startswith(f"{cgroup.rstrip('/')}/"):
        return None
    t_ns = int(header[2]) * 1000
    return Victim(
        pid=int(process[1]),
        comm=rest[: process.start()],
        uid=int(process[2]),
        t_ns=t_ns,
        utc_ns=t_ns + time.time_ns() - time.monotonic_ns(),
    )
