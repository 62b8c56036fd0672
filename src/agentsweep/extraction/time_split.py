"""Where an agent's time goes: start-up, model, tools, both, and the rest."""

from collections.abc import Iterable, Sequence

from agentsweep.intervals import Interval, length, union
from agentsweep.tables.rows import Row
from agentsweep.vocabulary import AGENT_CATEGORY

# The columns of `runs` that `time_parts` fills.
TIME_COLUMNS = ("startup_s", "model_s", "tool_s", "overlap_s", "other_s")


def leaf_rows(rows: Sequence[Row]) -> list[Row]:
    """The calls in which a tool works: not those whose time is that of a sub-agent."""
    # An id that a server gives to several calls is that of the one that starts agents.
    agents = {row["tool_call_id"] for row in rows if row["category"] == AGENT_CATEGORY}
    parents = {row["parent_id"] for row in rows} - agents
    return [
        row
        for row in rows
        if row["category"] != AGENT_CATEGORY and row["tool_call_id"] not in parents
    ]


def time_parts(
    window: Interval, model: Iterable[Interval], tools: Iterable[Interval]
) -> dict[str, float]:
    """Where the time of a window went, in seconds, from when the model was asked and tools worked.

    `startup_s` ends with the first request to the model. `model_s` is the time in which at least
    one request was open, `tool_s` that in which at least one tool ran, `overlap_s` that of both at
    once, `other_s` the rest, so that startup + model + tool - overlap + other = the window.
    """
    low, high = window
    asked = list(model)
    # An agent that never asked was starting up all the time.
    first = min(max(min((start for start, _ in asked), default=high), low), high)
    model_time, tool_time = union(asked, window), union(tools, (first, high))
    either = length(union([*model_time, *tool_time], window))
    split = (
        first - low,
        length(model_time),
        length(tool_time),
        length(model_time) + length(tool_time) - either,
        high - first - either,
    )
    return {name: ns / 1e9 for name, ns in zip(TIME_COLUMNS, split, strict=True)}
