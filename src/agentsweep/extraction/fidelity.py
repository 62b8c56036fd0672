"""How closely a replayed run repeats its recording: each tool call against its recorded result.

A call is compared by how it ended (error or not, exit code) and by its text. Of the text only what
the tool said counts: what the CLI puts around it differs between versions (see `normalised`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

from agentsweep.agents.claude_code.records import AGENT_TOOLS
from agentsweep.vocabulary import ReplayStatus

# What a limit does to a call that the recording has without.
LIMITED = (ReplayStatus.KILLED, ReplayStatus.TIMED_OUT)

# Some 100 kB of text; two texts of this length take half a second.
MOST_TOKENS = 30_000

_SIGKILL_EXIT = 137
_EDIT_TOOLS = ("Edit", "MultiEdit", "Write")
_SEARCH_TOOLS = ("Glob", "Grep")

_UUID = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE)
_REMINDER = re.compile(
    r"<system-reminder>(?:(?!<system-reminder>).)*?</system-reminder>", re.DOTALL
)
_ENVELOPE = re.compile(r"\A\s*<tool_use_error>(.*)</tool_use_error>\s*\Z", re.DOTALL)
_ERROR = re.compile(r"\A\s*Error(?:: |\s*\Z)")
_EXIT_LINE = re.compile(r"\A\s*Exit code \d{1,3}(?:\n|\Z)")
_NO_OUTPUT = re.compile(r"\A\(\S+ completed with no output\)\Z")
_CWD_NOTE = re.compile(
    r"(File does not exist\.) Note: your current working directory is .*?\.(?= Did you mean |\n|\Z)"
)
_GUTTER = re.compile(r"^ *\d+(?:→|\t)", re.MULTILINE)
_SNIPPET = re.compile(
    r"\A(The file .*? has been updated)\. Here's the result of running `cat -n`.*\Z", re.DOTALL
)
_ALL_REPLACED = re.compile(
    r"(All occurrences) of '.*' were (successfully replaced) with '.*'\.", re.DOTALL
)
_FILE_STATE = " (file state is current in your context — no need to Read it back)"
_HAND_BACK = re.compile(
    r"\A.*?^\[Subagent hand-back\][^\n]*The report follows:\n((?:  [^\n]*\n?)*)",
    re.DOTALL | re.MULTILINE,
)
_USAGE = re.compile(r"\n?<usage>(?:(?!<usage>).)*?</usage>\s*\Z", re.DOTALL)
_AGENT_ID = re.compile(r"^agentId: ([0-9a-f]{7,})\b", re.MULTILINE)
_AGENT_LINE = re.compile(r"(?:\A|\n)agentId: <agent>[^\n]*\s*\Z")
_PERSISTED = re.compile(
    r"\A<persisted-output>\n(Output [^\n]*?)[.;][^.;\n]* saved to: [^\n]*\n\n"
    r"Preview \(first [^)\n]*\):\n(.*?)(?:\n\.\.\.)?\n</persisted-output>",
    re.DOTALL,
)
_CUT = re.compile(
    r"\n\n\.\.\. \[(?:(?P<lines>\d+ lines truncated)|(?P<file>Output [^]\n]*))\] \.\.\."
)
_UNKNOWN_TOOL = re.compile(r"\A\s*(?:<tool_use_error>)?(?:Error: )?No such tool available")
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Comparison:
    """One replayed call against its recording.

    status: what became of the call. fidelity: 1 for the same result, the similarity where only the
    text differs, 0 for another end, None where there is nothing to compare. similarity: that of the
    two texts, None unless there are two.
    """

    status: ReplayStatus
    fidelity: float | None
    similarity: float | None


@dataclass(frozen=True)
class Summary:
    """A run's score: the mean fidelity of the calls that have one (None without any), and of how
    many calls; `same` and `limited` count those with that status, and with one of LIMITED."""

    fidelity: float | None
    compared: int
    same: int
    limited: int


def recorded_calls(exchanges: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the recording says of each call, by its id, from the gateway's exchanges.

    Empty for a run that is no replay. Where a call comes twice, the first one wins.
    """
    found: dict[str, dict[str, Any]] = {}
    for exchange in exchanges:
        recorded = exchange.get("recorded")
        for entry in recorded if isinstance(recorded, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                found.setdefault(entry["id"], entry)
    return found


def compare(
    recorded: Mapping[str, Any] | None,
    call: Mapping[str, Any],
    text: str | None,
    directory: str | None = None,
) -> Comparison:
    """A replayed call (its row of `tool_calls`, and its result's text) against its recording.

    `directory`: the agent's working directory, where it is known.
    The first that holds: UNAVAILABLE (the CLI did not offer the tool, and said that there is none
    or nothing at all), UNRECORDED (no recorded result), KILLED or TIMED_OUT (in the replay, not in
    the recording), UNFINISHED (no result in the replay), STATE_DIFFERS (error or not, or the exit
    codes where both are known), TEXT_DIFFERS, SAME. An OOM kill during the call makes it KILLED
    even where its command lived on; the CLI's own kill for time is TIMED_OUT.
    """
    recorded = recorded or {}
    was = recorded.get("text")
    was = was if isinstance(was, str) else ""
    unknown = text is None or _is_unknown_tool(text)
    if recorded.get("offered") is False and unknown and not _is_unknown_tool(was):
        return Comparison(ReplayStatus.UNAVAILABLE, None, None)
    if recorded.get("has_result") is not True:
        return Comparison(ReplayStatus.UNRECORDED, None, None)
    limited = _limited(recorded, call)
    if text is None:
        return Comparison(limited or ReplayStatus.UNFINISHED, 0.0, None)
    old, new = (normalised(one, call["name"], directory) for one in (was, text))
    old, new = _as_far_as_shown(old, new)
    alike = similarity(old, new)
    if limited:
        return Comparison(limited, 0.0, alike)
    if _state_differs(recorded, call):
        return Comparison(ReplayStatus.STATE_DIFFERS, 0.0, alike)
    if old == new:
        return Comparison(ReplayStatus.SAME, 1.0, 1.0)
    return Comparison(ReplayStatus.TEXT_DIFFERS, alike, alike)


def summarise(comparisons: Iterable[Comparison]) -> Summary:
    """What the comparisons of a run's calls add up to."""
    made = list(comparisons)
    known = [one.fidelity for one in made if one.fidelity is not None]
    return Summary(
        fidelity=fmean(known) if known else None,
        compared=len(known),
        same=sum(one.status == ReplayStatus.SAME for one in made),
        limited=sum(one.status in LIMITED for one in made),
    )


def similarity(a: str, b: str) -> float:
    """How alike two texts are, 0 to 1: 2 x LCS / (n + m) over their words and punctuation marks.

    LCS is the length of the longest common subsequence of the two sequences of tokens, n and m are
    their lengths; white space does not count. 1 for two texts without a token. Only the first
    MOST_TOKENS of each are looked at, which bounds the time to a fraction of a second: what comes
    after them is as if it were not there.
    """
    # Takes some time to import, and most runs are no replays.
    from rapidfuzz.distance import Indel

    return Indel.normalized_similarity(_tokens(a), _tokens(b))


def normalised(text: str, name: str, directory: str | None = None) -> str:
    """A result's text without what says nothing of the tool; this, and nothing else, is left out.

    Of any tool (what the CLI adds):
    - `<system-reminder>` blocks;
    - the `<tool_use_error>` envelope, a leading `Error: ` or lone `Error`, a leading line
      `Exit code N`: how the call ended is compared by itself;
    - `(Bash completed with no output)`, which newer CLIs write for an empty result;
    - the note on the working directory after `File does not exist.`;
    - the path and the frame of an output that was too long and went into a file (its size stays);
    - UUIDs, which become `<uuid>`;
    - white space at the ends of lines, and empty lines at both ends.

    Read: the number before each line (`  12→`, or `12` and a tab) and a byte order mark.
    Edit, MultiEdit, Write: the confirmation keeps what was done to which file, in one wording;
    older CLIs add the file's new lines, newer ones a remark on the file's state.
    Glob, Grep: the working directory `directory` at the beginning of a line; newer CLIs give paths
    relative to it.
    Agent, Task: the frame around the report and its indent, the closing `agentId:` line and
    `<usage>`; in other places the agent's id becomes `<agent>`.
    """
    text = _REMINDER.sub("", text)
    envelope = _ENVELOPE.match(text)
    text = envelope[1] if envelope else text
    text = _EXIT_LINE.sub("", _ERROR.sub("", text))
    text = _NO_OUTPUT.sub("", text)
    text = _CWD_NOTE.sub(r"\1", text)
    text = _PERSISTED.sub(r"\2\n\n... [\1] ...", text)
    if name == "Read":
        text = _GUTTER.sub("", text).removeprefix("\ufeff")
    elif name in _EDIT_TOOLS:
        text = _SNIPPET.sub(r"\1.", text).replace(_FILE_STATE, "")
        text = text.replace(" has been updated successfully", " has been updated")
        text = _ALL_REPLACED.sub(r"\1 were \2.", text)
    elif name in _SEARCH_TOOLS and directory:
        text = re.sub(rf"^{re.escape(directory.rstrip('/'))}/", "", text, flags=re.MULTILINE)
    elif name in AGENT_TOOLS:
        text = _report(text)
    text = _UUID.sub("<uuid>", text)
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def _report(text: str) -> str:
    """What a sub-agent reported, without what the CLI says around it."""
    text = _USAGE.sub("", text)
    ids = _AGENT_ID.findall(text)
    if ids:
        text = _AGENT_LINE.sub("", text.replace(ids[-1], "<agent>"))
    framed = _HAND_BACK.match(text)
    if framed is None:
        return text
    return "\n".join(line.removeprefix("  ") for line in framed[1].split("\n"))


def _as_far_as_shown(old: str, new: str) -> tuple[str, str]:
    """Both texts, cut to what both show where two CLIs left out the end of a long output, each in
    its own way. A cut that both made in the same way, or only one made, is compared like any text:
    all CLIs begin to cut at the same length."""
    cuts = [cut for text in (old, new) if (cut := _CUT.search(text))]
    if len({cut.lastgroup for cut in cuts}) < 2:
        return old, new
    # The last line may be cut off.
    room = min(_whole_lines(cut.string, cut.start()) for cut in cuts)
    return old[:room], new[:room]


def _whole_lines(text: str, end: int) -> int:
    last = text.rfind("\n", 0, end)
    return end if last < 0 else last


def _limited(recorded: Mapping[str, Any], call: Mapping[str, Any]) -> ReplayStatus | None:
    """KILLED or TIMED_OUT, where the replay was and the recording was not."""
    killed, timed_out = _killed(call), call.get("timed_out") is True
    out_of_memory = (call.get("oom_kill_count") or 0) > 0
    if (out_of_memory or (killed and not timed_out)) and not _killed(recorded):
        return ReplayStatus.KILLED
    return ReplayStatus.TIMED_OUT if timed_out and recorded.get("timed_out") is not True else None


def _killed(call: Mapping[str, Any]) -> bool:
    return call.get("killed") is True or call.get("exit_code") == _SIGKILL_EXIT


def _state_differs(recorded: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
    if (call.get("is_error") is True) != (recorded.get("is_error") is True):
        return True
    code, was = call.get("exit_code"), recorded.get("exit_code")
    # The code of a command that the CLI ended for its time says nothing of the command.
    known = type(code) is int and type(was) is int and call.get("timed_out") is not True
    return known and code != was


def _is_unknown_tool(text: str) -> bool:
    return _UNKNOWN_TOOL.match(text) is not None


def _tokens(text: str) -> list[str]:
    found = islice(_TOKEN.finditer(text), MOST_TOKENS)
    return [match[0] for match in found]
