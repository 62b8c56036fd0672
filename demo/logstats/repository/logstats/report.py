"""Two ways to the same statistics: all records in memory, or folded chunk by chunk."""

import ctypes
import hashlib
import re
import signal
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

LINE = re.compile(
    r"(?P<client>\S+) \S+ \S+ \[(?P<hour>\d+):(?P<minute>\d+):(?P<second>\d+)\] "
    r'"(?P<method>\S+) (?P<page>[^?" ]+)(?:\?(?P<query>\S*))? (?P<protocol>[^"]+)" '
    r'(?P<status>\d+) (?P<size>\d+) "(?P<browser>[^"]*)" (?P<duration>[\d.]+)'
)
BATCH_LINES = 5_000
_PR_SET_PDEATHSIG = 1


def gather(log: Path, workers: int) -> dict:
    """Keep every parsed record, then count: exact, and as large as the log."""
    records = []
    with _pool(workers) as pool:
        for batch in pool.imap(parse, _batches(log, BATCH_LINES)):
            records.extend(batch)
    return finish(count(records))


def stream(log: Path, workers: int, chunk: int) -> dict:
    """Count chunk by chunk and add the counts up: the same numbers in little memory."""
    total: dict[str, Counter] = {}
    with _pool(workers) as pool:
        for counts in pool.imap(parse_and_count, _batches(log, chunk)):
            for name, counter in counts.items():
                total.setdefault(name, Counter()).update(counter)
    return finish(total)


def parse(lines: list[str]) -> list[dict]:
    """Lines to records. Clients are pseudonymised; a client's name cannot be had back."""
    records = []
    for line in lines:
        found = LINE.match(line)
        if found is None:
            continue
        record = found.groupdict()
        record["client"] = hashlib.sha256(b"logstats" + record["client"].encode()).hexdigest()
        record["status"] = int(record["status"])
        record["size"] = int(record["size"])
        record["duration"] = round(float(record["duration"]) * 1000)
        records.append(record)
    return records


def count(records: list[dict]) -> dict[str, Counter]:
    """The counts that every statistic can be computed from; they add up across chunks."""
    return {
        "requests": Counter({"all": len(records)}),
        "bytes": Counter({"all": sum(record["size"] for record in records)}),
        "status": Counter(str(record["status"]) for record in records),
        "page": Counter(record["page"] for record in records),
        "hour": Counter(record["hour"] for record in records),
        "duration": Counter(record["duration"] for record in records),
    }


def parse_and_count(lines: list[str]) -> dict[str, Counter]:
    return count(parse(lines))


def finish(counts: dict[str, Counter]) -> dict:
    """Counts to the report."""
    durations = counts["duration"]
    return {
        "requests": counts["requests"]["all"],
        "bytes": counts["bytes"]["all"],
        "by_status": dict(counts["status"]),
        "by_page": dict(counts["page"]),
        "by_hour": dict(counts["hour"]),
        "duration_ms": {f"p{share}": percentile(durations, share) for share in (50, 90, 99)},
    }


def percentile(counter: Counter, share: int) -> int:
    """The smallest value that at least `share` percent of the counted values do not exceed."""
    wanted = counter.total() * share
    seen = 0
    for value in sorted(counter):
        seen += counter[value]
        if seen * 100 >= wanted:
            return value
    return 0


def _batches(log: Path, size: int) -> Iterator[list[str]]:
    with log.open() as lines:
        while batch := list(islice(lines, size)):
            yield batch


def _pool(workers: int):
    return get_context("fork").Pool(workers, initializer=_end_with_parent)


def _end_with_parent() -> None:
    # A parent that the kernel kills cannot stop its workers; prctl(2) lets the kernel do that too.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
