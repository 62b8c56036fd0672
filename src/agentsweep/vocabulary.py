"""The closed sets of words that are in files and tables, each word once.

A member is the word itself, also as JSON, in Parquet and in a message: files that were written
before these names are read the same.
"""

from enum import StrEnum


class Outcome(StrEnum):
    """How a run ended (docs/measurement.md says when it is which), in the order of legends."""

    COMPLETED = "completed"
    NO_WORK = "no_work"
    AGENT_ERROR = "agent_error"
    API_ERROR = "api_error"
    TIMED_OUT = "timed_out"
    STALLED = "stalled"
    OOM_AGENT = "oom_agent"
    OOM_CONTAINER = "oom_container"
    OVER_BUDGET = "over_budget"
    DIVERGED = "diverged"
    DISK_FULL = "disk_full"


# The limits have nothing to do with these: the provider failed, or the money was spent.
UNRELATED_OUTCOMES = (Outcome.API_ERROR, Outcome.OVER_BUDGET)


class ModelMode(StrEnum):
    """Where a run's answers come from."""

    SCRIPTED = "scripted"
    REPLAY = "replay"
    LIVE = "live"


class RunSource(StrEnum):
    """Whether a run was made here or read from what others recorded."""

    MEASURED = "measured"
    IMPORTED = "imported"


class PeakSource(StrEnum):
    """What a peak of memory is from.

    `counter`: the kernel's maximum over the whole time. `watermark`: the same, set back at the
    beginning. `sampled`: the highest sample, a lower bound.
    """

    COUNTER = "counter"
    WATERMARK = "watermark"
    SAMPLED = "sampled"


class CpuSource(StrEnum):
    """What CPU times are from: the kernel's counter, or averages since the start."""

    COUNTER = "counter"
    RECONSTRUCTED = "reconstructed"


class TimeSource(StrEnum):
    """What a tool call's start and end are from: marks in the container, or the session's file."""

    EXACT = "exact"
    TRACE = "trace"


class FileStatus(StrEnum):
    """How much of a run's session, or of its samples, could be read."""

    OK = "ok"
    DAMAGED = "damaged"
    EMPTY = "empty"
    MISSING = "missing"


class PatchStatus(StrEnum):
    """Whether a run left a patch; an empty one changed nothing."""

    OK = "ok"
    EMPTY = "empty"
    UNAVAILABLE = "unavailable"


class ReplayStatus(StrEnum):
    """What a tool call of a replay came to against the recorded one (`extraction.fidelity`)."""

    SAME = "same"
    TEXT_DIFFERS = "text_differs"
    STATE_DIFFERS = "state_differs"
    KILLED = "killed"
    TIMED_OUT = "timed_out"
    UNFINISHED = "unfinished"
    UNAVAILABLE = "unavailable"
    UNRECORDED = "unrecorded"


class GradeStatus(StrEnum):
    """What a grading came to. Only `graded` ones can have resolved anything.

    `ungraded`: nothing is known (no patch to be had, tests that are not pytest's, a grading that
    could not be made); `invalid_task`: the task's own fix does not resolve it. None of them is an
    error of the sweep.
    """

    GRADED = "graded"
    NO_PATCH = "no_patch"
    PATCH_FAILED = "patch_failed"
    TESTS_NOT_APPLIED = "tests_not_applied"
    TIMED_OUT = "timed_out"
    NO_REPORT = "no_report"
    INCONSISTENT = "inconsistent"
    UNGRADED = "ungraded"
    INVALID_TASK = "invalid_task"


# The category of tool calls whose time is that of a sub-agent's model and tools, not of a tool.
AGENT_CATEGORY = "agent"
