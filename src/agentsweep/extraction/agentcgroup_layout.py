"""The directory layout of AgentCgroup's runs (arXiv 2602.09345), read as far as it is readable.

    <data set>/<task>/attempt_<n>/{resources,tool_calls,results}.json, trace.jsonl

`resources.json` is what a loop around `podman stats --no-stream` printed once a second,
`results.json` how the run went (it repeats the samples and the tool calls), `trace.jsonl` the
session file. Time stamps without a zone are local time in a zone that is not named; `epoch`
beside them tells it. Any file, and any key in it, may be missing.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from agentsweep.agents.claude_code.records import parse_time
from agentsweep.agents.claude_code.tool_category import categorise
from agentsweep.errors import AgentsweepError
from agentsweep.extraction.run_directory import Damage, Fields, number, whole, word
from agentsweep.tables.rows import NewRow
from agentsweep.vocabulary import FileStatus, TimeSource

FILES = ("resources.json", "tool_calls.json", "results.json", "trace.jsonl")
ATTEMPT = re.compile(r"attempt[_-]?(\d+)$", re.IGNORECASE)
# Directories further down are not looked into.
_DEPTH = 5
# An attempt that was prepared and never ran may have left this alone.
_MANIFEST = "manifest.json"
# A benchmark's id of a task: `owner__repository-123`.
_INSTANCE = re.compile(r".+__.+-\d+$")
_SIZE = re.compile(r"\s*(\d+(?:[.,]\d+)?)\s*([A-Za-z]+)\s*(?:/.*)?$", re.DOTALL)
# Podman's and Docker's printing, decimal and binary; Kubernetes writes the binary ones without `B`.
# `M` alone is a million to some programs and 2**20 to others, so that it tells nothing.
_UNITS = {
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("kmgtp", 1)},
}
_PERCENT = re.compile(r"\s*(\d+(?:[.,]\d+)?)\s*%?\s*$")
# Time zones are whole quarters of an hour away from UTC, and at most 14 hours.
_ZONE_STEP_NS = 900 * 10**9
_MOST_ZONE_NS = 15 * 3600 * 10**9
# A call may lie this far outside of the samples: one is taken a second.
_NEAR_NS = 60 * 10**9
# What comes later than the year 2255, or is more than a thousand cores, is no reading.
_LAST_S = 9e9
_MOST_PERCENT = 1e5
_TASK = re.compile(r"(?:^|/)sweb\.eval\.x86_64\.(.+?)(?::[^/]*)?$")
_ISSUE = re.compile(r"Fix (?:this|the following) issue:(.*?)(?:\n\s*IMPORTANT:|\Z)", re.DOTALL)


@dataclass(frozen=True)
class AttemptDir:
    """One attempt at a task: where it lies, and its place below the data set, with `/`."""

    path: Path
    place: str

    @property
    def directory_name(self) -> str:
        """The directory above the attempt, or the directory itself where there is no such level."""
        named = self.task_place.rsplit("/", 1)[-1]
        # The data set may be the directory of one task, or one attempt.
        return named or self.path.absolute().parent.name

    @property
    def task_place(self) -> str:
        """The place without the attempt's level."""
        above, _, last = self.place.rpartition("/")
        return above if ATTEMPT.match(last) else self.place

    @property
    def number(self) -> int:
        """The attempt's number, 1 where there is no such level."""
        found = ATTEMPT.match(self.place.rsplit("/", 1)[-1])
        return int(found[1]) if found else 1


@dataclass(frozen=True)
class Sample:
    """One line of `podman stats`; `memory_bytes` and `cpu_percent` are None where unreadable.

    `utc_ns` is None where the sample has no `epoch`; `local_ns` is its naive time taken as UTC.
    A reading that is not there is None, too, and counted as unreadable.
    """

    utc_ns: int | None
    local_ns: int | None
    memory_bytes: int | None
    cpu_percent: float | None

    @property
    def dead(self) -> bool:
        """Whether the container had ended (`0B / 0.00%`)."""
        return self.memory_bytes == 0


def files(attempts: Iterable[AttemptDir]) -> list[Path]:
    """The files that an import of attempts reads, in order.

    Sub-agents of newer versions have session files of their own, below or beside the main one.
    """
    found = []
    for attempt in attempts:
        named = [attempt.path / name for name in FILES]
        found += [path for path in named if path.is_file()]
        found += sorted(attempt.path.rglob("agent-*.jsonl"))
    return found


def attempts_in(directory: Path) -> list[AttemptDir]:
    """Every attempt below a data set; AgentsweepError, in one sentence, where there is none."""
    if not directory.is_dir():
        raise AgentsweepError(
            f"{directory}: there is no such directory: name the one with the data "
            "(AgentCgroup's: docs/agentcgroup.md says how to get them)"
        )
    found = find_attempts(directory)
    if not found:
        raise AgentsweepError(
            f"{directory} holds no run: below it there must be directories with {', '.join(FILES)}"
        )
    return found


def find_attempts(directory: Path) -> list[AttemptDir]:
    """Every attempt directory below a data set, or the data set itself if it is one; by place."""
    found: list[AttemptDir] = []
    _find(directory.resolve(), directory, directory.name or directory.absolute().name, 0, found)
    if any(attempt.path != directory for attempt in found):
        found += _prepared(directory, found)
    # The names of the levels decide, whatever order the file system has.
    return sorted(found, key=lambda attempt: attempt.place.split("/"))


def task_names(attempts: Sequence[AttemptDir], images: Mapping[str, str | None]) -> dict[str, str]:
    """The task of each attempt, by its place; `images` has each place's image, where it is known.

    Of several levels above the attempts one is the task's: that which has the name that the image
    has or looks like a benchmark's id, else the one with the most different names, and of those
    the last. (`<task>/swebench/attempt_1` is no attempt at a task `swebench`.)
    """
    groups: dict[int, list[AttemptDir]] = {}
    for attempt in attempts:
        groups.setdefault(attempt.task_place.count("/"), []).append(attempt)
    names = {}
    for depth, group in groups.items():
        levels = [attempt.task_place.split("/") for attempt in group]
        different = [len({parts[level] for parts in levels}) for level in range(depth + 1)]
        widest = max(range(depth + 1), key=lambda level: (different[level], level))
        for attempt, parts in zip(group, levels, strict=True):
            names[attempt.place] = _task_of(attempt, parts, images.get(attempt.place), widest)
    return names


def _task_of(attempt: AttemptDir, parts: list[str], image: str | None, widest: int) -> str:
    if len(parts) == 1:
        return attempt.directory_name
    named = _image_task(image)
    if named is not None:
        for part in reversed(parts):
            if part.lower() == named.lower():
                return part
    ids = [part for part in parts if _INSTANCE.match(part)]
    return ids[-1] if ids else parts[widest]


def _find(root: Path, directory: Path, place: str, depth: int, found: list[AttemptDir]) -> None:
    if ATTEMPT.match(directory.name):
        found.append(AttemptDir(directory, place))
        return
    own, below = 0, list[AttemptDir]()
    for entry in directory.iterdir():
        own += entry.name in FILES
        # A link into the data set is a second name of a run, not a second run.
        if depth < _DEPTH and entry.is_dir() and not _links_into(root, entry):
            name = entry.name if depth == 0 else f"{place}/{entry.name}"
            _find(root, entry, name, depth + 1, below)
    # One such file above runs is a summary of theirs; a run's own directory has several, and what
    # looks like a run below it may be part of its work tree, unless it is called an attempt.
    if (own > 1 and not any(ATTEMPT.match(attempt.path.name) for attempt in below)) or not below:
        below = [AttemptDir(directory, place)] if own else []
    found += below


def _prepared(directory: Path, found: Sequence[AttemptDir]) -> list[AttemptDir]:
    """Directories beside attempts, on their level, that hold a manifest and nothing of a run."""
    depths = {attempt.place.count("/") for attempt in found}
    inside = {attempt.path for attempt in found}
    places = []
    for beside in sorted({attempt.path.parent.parent for attempt in found} | {directory}):
        for path in sorted({*beside.glob(_MANIFEST), *beside.glob(f"*/{_MANIFEST}"),
                            *beside.glob(f"*/*/{_MANIFEST}")}):  # fmt: skip
            folder = path.parent
            if not folder.is_relative_to(directory) or folder == directory:
                continue
            place = folder.relative_to(directory).as_posix()
            taken = any(folder == own or own in folder.parents or folder in own.parents
                        for own in inside)  # fmt: skip
            if place.count("/") in depths and not taken:
                places.append(place)
    return [AttemptDir(directory / place, place) for place in dict.fromkeys(places)]


def _links_into(root: Path, entry: Path) -> bool:
    target = entry.resolve()
    return entry.is_symlink() and (target.is_relative_to(root) or root.is_relative_to(target))


def select(attempts: Iterable[AttemptDir], which: str) -> set[str]:
    """The places of the attempts that count: `all`, or the `first` or `last` of each task.

    The order of attempts is that of their names as text: `attempt_10` comes before `attempt_2`, as
    the paper's scripts have it.
    """
    ordered = sorted(attempts, key=lambda attempt: attempt.place, reverse=which == "first")
    if which == "all":
        return {attempt.place for attempt in ordered}
    return {
        attempt.place for attempt in {attempt.task_place: attempt for attempt in ordered}.values()
    }


class AttemptFiles:
    """The JSON files of an attempt; what is missing or damaged is noted and empty."""

    def __init__(self, path: Path, damage: Damage):
        self._path, self._damage = path, damage
        self.results = Fields(self._read("results.json", dict))
        resources = self._read("resources.json", dict)
        self._unreadable = resources is None and (path / "resources.json").exists()
        self._resources = Fields(resources)

    def _read(self, name: str, kind: type) -> object:
        """The content of a file, None where it is missing or something else."""
        try:
            value = json.loads((self._path / name).read_bytes())
        except FileNotFoundError:
            self._damage.add(name, "is missing")
            return None
        except OSError as error:
            self._damage.add(name, str(error.strerror))
            return None
        except (ValueError, RecursionError):
            self._damage.add(name, "is not JSON")
            return None
        if not isinstance(value, kind):
            self._damage.add(name, f"is not a JSON {'object' if kind is dict else 'list'}")
            return None
        return value

    def samples(self) -> tuple[list[Sample], str]:
        """The samples in the order of time, and `ok`, `damaged`, `empty` or `missing`.

        results.json repeats them, and is read where resources.json has none. They are damaged
        where an entry has no time or a reading of it cannot be read, which the damage counts.
        """
        listed = self._resources("samples")
        if not isinstance(listed, list):
            listed = self.results("resource_samples", "samples")
        if not isinstance(listed, list):
            return [], FileStatus.DAMAGED if self._unreadable else FileStatus.MISSING
        samples = [sample for entry in listed if (sample := _sample(entry)) is not None]
        bad = len(listed) - len(samples)
        if bad:
            self._damage.lines["samples"] = bad
        unreadable = {
            "memory": sum(sample.memory_bytes is None for sample in samples),
            "CPU": sum(sample.cpu_percent is None for sample in samples),
        }
        said = [f"{count} of {kind}" for kind, count in unreadable.items() if count]
        if said:
            bad += sum(unreadable.values())
            self._damage.add("samples", f"unreadable readings: {', '.join(said)}")
        # Stable: samples of one time stay in their order.
        samples.sort(key=lambda sample: sample.utc_ns or sample.local_ns or 0)
        if bad:
            return samples, FileStatus.DAMAGED
        return samples, FileStatus.OK if samples else FileStatus.EMPTY

    @cached_property
    def tool_calls(self) -> list[Fields]:
        """The entries of tool_calls.json, or of results.json, which repeats them."""
        listed = self._read("tool_calls.json", list)
        if listed is None:
            listed = self.results("traces", "tool_calls")
        entries = listed if isinstance(listed, list) else []
        return [Fields(entry) for entry in entries if isinstance(entry, dict)]


def image_of(path: Path) -> str | None:
    """The image that an attempt's results.json names; None where it names none."""
    return word(AttemptFiles(path, Damage()).results("image"))


def _sample(entry: object) -> Sample | None:
    """A sample; None for an entry without a time."""
    if not isinstance(entry, dict):
        return None
    epoch, local_ns = number(entry.get("epoch")), naive_ns(entry.get("timestamp"))
    # A float holds an epoch of today to a quarter of a microsecond.
    utc_ns = round(epoch * 1e6) * 1000 if epoch is not None and 0 < epoch < _LAST_S else None
    if utc_ns is None and local_ns is None:
        return None
    # Docker's own keys; its CPUPerc is the load since its last reading, not the average since the
    # start that `Sample` has, so that it is none.
    usage = entry.get("mem_usage", entry.get("MemUsage"))
    memory_bytes = parse_printed_size(usage)
    if memory_bytes is None and (usage is None or parse_percent(usage) is not None):
        # Podman 2.0 printed each of the two in the other's place.
        memory_bytes = parse_printed_size(entry.get("mem_percent"))
    return Sample(utc_ns, local_ns, memory_bytes, parse_percent(entry.get("cpu_percent")))


def parse_printed_size(text: object) -> int | None:
    """Bytes of the first size in `186MB / 134.5GB`; None where that is none.

    `kB`, `MB`, `GB`, `TB` are decimal, as Podman prints them; `MiB`, `Mi` and so on binary. A
    number without a unit or with half of one (`1.5G`) is none, because nothing tells its factor.
    """
    match = _SIZE.match(text) if isinstance(text, str) else None
    factor = _UNITS.get(match[2].lower()) if match else None
    value = _printed_number(match[1]) if match else None
    if factor is None or value is None:
        return None
    try:
        return whole(round(value * factor))
    except (ValueError, OverflowError):
        return None


def parse_percent(text: object) -> float | None:
    """A percentage as engines print it (`12.5%`) or as a number; None where that is none."""
    if isinstance(text, str):
        match = _PERCENT.match(text)
        value = _printed_number(match[1]) if match else None
    else:
        value = number(text)
    return value if value is not None and 0 <= value <= _MOST_PERCENT else None


def _printed_number(text: str) -> float | None:
    """A number with a decimal point, or with a comma in its place, as some locales print it.

    None where three digits follow the comma: it may as well divide thousands.
    """
    whole_part, comma, decimals = text.partition(",")
    if comma and len(decimals) == 3:
        return None
    return number(f"{whole_part}.{decimals}" if comma else text)


def naive_ns(text: object) -> int | None:
    """A local time stamp without a zone, taken as UTC; None for anything else."""
    moment = _moment(text)
    if moment is None or moment.tzinfo is not None:
        return None
    delta = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = delta.days * 86_400 + delta.seconds
    return seconds * 10**9 + delta.microseconds * 1000 if 0 < seconds < _LAST_S else None


def _moment(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def zone_ns(samples: Iterable[Sample], trace_first_utc_ns: int | None) -> int | None:
    """How far the recorder's local time is ahead of UTC; None where nothing tells it.

    From a sample that has both times, else from the first sample and the session's first record,
    which come within seconds of each other.
    """
    first_ns = None
    for sample in samples:
        if sample.local_ns is not None and sample.utc_ns is not None:
            zone = _whole_step(sample.local_ns - sample.utc_ns)
            if zone is not None:
                return zone
        first_ns = sample.local_ns if first_ns is None else first_ns
    if first_ns is None or trace_first_utc_ns is None:
        return None
    return _whole_step(first_ns - trace_first_utc_ns)


def _whole_step(difference_ns: int) -> int | None:
    """The zone with about this difference; None where no zone has it."""
    if abs(difference_ns) > _MOST_ZONE_NS:
        return None
    return round(difference_ns / _ZONE_STEP_NS) * _ZONE_STEP_NS


def utc_of(text: object, zone: int | None) -> int | None:
    """UTC nanoseconds of a time stamp of results.json, which has a zone or is local time."""
    moment = _moment(text)
    if moment is not None and moment.tzinfo is not None:
        return parse_time(text)
    local = naive_ns(text)
    return None if local is None or zone is None else local - zone


def instance_id(task: str, image: str | None) -> str | None:
    """The benchmark's id of the task, from the image's name; None where that says nothing.

    Image names are lower case and have `_1776_` for `__`; the task's directory keeps the case.
    """
    named = _image_task(image)
    return task if named is not None and task.lower() == named.lower() else named


def _image_task(image: str | None) -> str | None:
    found = _TASK.search(image or "")
    return found[1].replace("_1776_", "__") if found else None


def issue_text(prompt: str | None) -> str | None:
    """The issue in a prompt of AgentCgroup's form; the whole prompt where it has another form."""
    if prompt is None:
        return None
    found = _ISSUE.search(prompt)
    return (found[1] if found else prompt).strip()


def listed_zone_ns(
    entries: Iterable[Fields], span_utc_ns: tuple[int, int] | None, zone: int | None
) -> int | None:
    """How far the times without a zone in a list of calls are ahead of UTC; None if not certain.

    They are either UTC or the recorder's local time: what puts all calls into the time that was
    sampled, alone of the two, is certain.
    """
    times = [
        moment
        for entry in entries
        for name in ("timestamp", "end_timestamp")
        if (moment := naive_ns(entry(name))) is not None
    ]
    if not times or span_utc_ns is None or zone is None:
        return None
    first, last = span_utc_ns
    fitting = [
        candidate
        for candidate in {0, zone}
        if min(times) - candidate >= first - _NEAR_NS and max(times) - candidate <= last + _NEAR_NS
    ]
    return fitting[0] if len(fitting) == 1 else None


def listed_call(run_id: str, place: int, entry: Fields, zone: int | None) -> NewRow:
    """A row of `tool_calls` for an entry of tool_calls.json, for runs that have no trace.

    zone: how far its times without a zone are ahead of UTC. Where nobody knows it, when the call
    was is not known, but how long it took is.
    """
    name = word(entry("tool")) or "unknown"
    command = word(entry("input", "command")) if name == "Bash" else None
    texts = entry("timestamp"), entry("end_timestamp")
    start, end = (utc_of(text, zone) for text in texts)
    if start is not None and end is not None:
        start = min(start, end)
    seconds = None if start is None or end is None else (end - start) / 1e9
    began, ended = (naive_ns(text) for text in texts)
    if seconds is None and began is not None and ended is not None:
        seconds = max(ended - began, 0) / 1e9
    return {
        "run_id": run_id,
        "tool_call_id": word(entry("id")) or f"call-{place}",
        "name": name,
        "category": categorise(name, command),
        "parent_id": None,
        "requested_utc_ns": start,
        "start_ns": start,
        "end_ns": end,
        "start_utc_ns": start,
        "end_utc_ns": end,
        "duration_s": seconds,
        "duration_lower_s": None,
        "time_source": TimeSource.TRACE,
        "finished": _moment(texts[1]) is not None,
        "is_error": None,
        "command": command,
    }
