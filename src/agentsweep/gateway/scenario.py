"""Scenarios: the assistant's side of a conversation, written down in YAML.

`load` gives a validated `Scenario` or raises ConfigError with one line for each thing that is
wrong. The format is described in docs/scenarios.md.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeGuard

from agentsweep import yamlfile
from agentsweep.errors import ConfigError
from agentsweep.gateway.script import Branch, Fault, Pace, Scenario, Script, Tool, Turn

FOREVER = "forever"
STREAM_ERRORS = ("overloaded_error", "api_error")
DROPS = ("connect", "midstream")
MALFORMED = ("event", "body")
USAGE_KEYS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)

_TOP_KEYS = ("description", "defaults", "turns", "subagents")
_PACE_KEYS = ("latency_s", "chunk_chars", "chunk_s")
_TURN_KEYS = ("id", "text", "thinking", "tools", *_PACE_KEYS, "usage", "fault", "next")
_FAULT_KINDS = ("status", "drop", "hang_s", "stream_error", "malformed")
_FAULT_KEYS = (*_FAULT_KINDS, "times", "retry_after_s")
_LONGEST_S = 86_400.0


def load(path: Path | str) -> Scenario:
    """Read and validate a scenario file; ConfigError holds every problem, one line each."""
    path = Path(path)
    content = yamlfile.read(path)
    reader = _Reader()
    try:
        scenario = reader.scenario(content)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply, or an alias that holds itself") from None
    if scenario is None:
        raise ConfigError([f"{path}: {problem}" for problem in reader.problems])
    return scenario


class _Reader:
    """Turns parsed YAML into a Scenario and collects what is wrong with it.

    `where` is the place that a message names, such as `turn 3 (build): fault.`, and always ends so
    that a key can follow.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def wrong(self, where: str, said: str) -> None:
        self.problems.append(f"{where}: {said}" if where else said)

    # The parts of a scenario

    def scenario(self, content: Any) -> Scenario | None:
        if content is None:
            self.wrong("", "the file is empty; write at least `turns:`")
            return None
        if not self.mapping("", content, _TOP_KEYS):
            return None
        pace = self.pace("defaults.", self.optional_mapping(content, "defaults", _PACE_KEYS))
        description = self.text("description", content.get("description")) or ""
        main = self.script("main", None, content.get("turns"), pace, "")
        subagents = self.subagents(content.get("subagents"), pace)
        if self.problems:
            return None
        canonical = [asdict(main), [asdict(script) for script in subagents]]
        digest = hashlib.sha256(
            json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()
        )
        return Scenario(description, main, subagents, digest.hexdigest())

    def subagents(self, content: Any, pace: Pace) -> tuple[Script, ...]:
        if content is None:
            return ()
        if not isinstance(content, dict):
            self.refuse("subagents", content, "a mapping of names")
            return ()
        scripts = []
        for name, body in content.items():
            where = f"subagent {name}"
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
                self.refuse("subagents", name, "names of letters, digits, `_`, `.` and `-`")
                continue
            if not self.mapping(where, body, ("marker", "turns")):
                continue
            marker = body.get("marker")
            if not isinstance(marker, str) or not marker.strip():
                self.refuse(f"{where}: marker", marker, "a text that the sub-agent's prompt holds")
                marker = None
            scripts.append(self.script(name, marker, body.get("turns"), pace, f"{where}, "))
        self.markers(scripts)
        return tuple(scripts)

    def markers(self, scripts: list[Script]) -> None:
        marked = [(script.name, script.marker) for script in scripts if script.marker]
        for index, (name, marker) in enumerate(marked):
            for other_name, other in marked[:index]:
                if marker in other or other in marker:
                    self.wrong(
                        f"subagent {name}: marker",
                        f"{marker!r} cannot be told from {other!r} of {other_name}; "
                        "no marker may hold another",
                    )

    def script(self, name: str, marker: str | None, turns: Any, pace: Pace, where: str) -> Script:
        if not isinstance(turns, list) or not turns:
            self.refuse(f"{where}turns", turns, "a list of one turn or more")
            return Script(name, marker, ())
        before = len(self.problems)
        ids = self.ids(turns, where)
        parsed = [
            self.turn(number, body, pace, ids, where) for number, body in enumerate(turns, start=1)
        ]
        if len(self.problems) == before:
            self.graph(parsed, where)
        return Script(name, marker, tuple(parsed))

    def ids(self, turns: list[Any], where: str) -> dict[str, int]:
        """Index of each turn that has an id."""
        known: dict[str, int] = {}
        for index, body in enumerate(turns):
            given = body.get("id") if isinstance(body, dict) else None
            if given is None:
                continue
            if not isinstance(given, str) or not given:
                self.refuse(f"{where}turn {index + 1}: id", given, "a text")
            elif given in known:
                self.wrong(
                    f"{where}turn {index + 1}: id",
                    f"{given!r} is the id of turn {known[given] + 1} already; each id may stand "
                    "once",
                )
            else:
                known[given] = index
        return known

    def turn(
        self, number: int, body: Any, defaults: Pace, ids: Mapping[str, int], where: str
    ) -> Turn:
        named = body.get("id") if isinstance(body, dict) else None
        where = f"{where}turn {number} ({named})" if named else f"{where}turn {number}"
        if not self.mapping(where, body, _TURN_KEYS):
            body = {}
        where = f"{where}: "
        text = self.text(f"{where}text", body.get("text"))
        thinking = self.text(f"{where}thinking", body.get("thinking"))
        tools = self.tools(f"{where}tools", body.get("tools"))
        fault = self.fault(where, body.get("fault")) if "fault" in body else None
        never_answered = fault is not None and fault.times is None
        if body and not ({"text", "tools", "thinking"} & body.keys() or never_answered):
            self.wrong(
                where.removesuffix(": "),
                "says nothing; write text, thinking or tools (an answer without content is "
                '`text: ""`)',
            )
        if not tools and body.get("next") is not None:
            self.wrong(
                f"{where}next",
                "this turn has no tools, so that it ends the conversation; remove next or give "
                "the turn a tool",
            )
        return Turn(
            number=number,
            id=named if isinstance(named, str) else None,
            text=text,
            thinking=thinking,
            tools=tools,
            pace=self.pace(where, body, defaults),
            usage=self.usage(where, body.get("usage")),
            fault=fault,
            branches=self.branches(f"{where}next", body.get("next"), ids),
        )

    def pace(self, where: str, body: Mapping[str, Any], defaults: Pace | None = None) -> Pace:
        pace = defaults or Pace()
        if "latency_s" in body:
            pace = replace(pace, latency_s=self.seconds(f"{where}latency_s", body["latency_s"]))
        if "chunk_s" in body:
            pace = replace(pace, chunk_s=self.seconds(f"{where}chunk_s", body["chunk_s"]))
        if "chunk_chars" in body:
            chunk_chars = self.whole(f"{where}chunk_chars", body["chunk_chars"], least=1)
            pace = replace(pace, chunk_chars=chunk_chars)
        return pace

    def usage(self, where: str, body: Any) -> dict[str, int]:
        if body is None or not self.mapping(f"{where}usage", body, USAGE_KEYS):
            return {}
        return {key: self.whole(f"{where}usage.{key}", body[key], least=0) for key in body}

    def tools(self, where: str, body: Any) -> tuple[Tool, ...]:
        if body is None:
            return ()
        shape = "a list of `Tool: {argument: value}`"
        if not isinstance(body, list) or not body:
            self.refuse(where, body, shape)
            return ()
        tools = []
        for index, call in enumerate(body):
            here = f"{where}[{index}]"
            if not isinstance(call, dict) or len(call) != 1:
                self.refuse(here, call, "one tool as `Tool: {argument: value}`")
                continue
            (name, arguments), *_ = call.items()
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", name):
                self.refuse(here, name, "a tool's name: letters, digits, `_` and `-`")
            elif not isinstance(arguments, dict):
                self.refuse(f"{here}.{name}", arguments, "a mapping of the tool's arguments")
            else:
                self.json(f"{here}.{name}", arguments)
                tools.append(Tool(name, arguments))
        return tuple(tools)

    def json(self, where: str, value: Any) -> None:
        """The API carries JSON, and YAML can say more than that."""
        if isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(key, str):
                    self.json(f"{where}.{key}", inner)
                else:
                    self.wrong(where, f"the key {key!r} is not a text; put it in quotes")
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                self.json(f"{where}[{index}]", inner)
        elif isinstance(value, float) and not math.isfinite(value):
            self.wrong(where, f"{value!r} is not allowed; write a finite number")
        elif not isinstance(value, str | int | float | bool | None):
            kind = type(value).__name__
            self.wrong(where, f"{value} is a YAML {kind}, which JSON has not; put it in quotes")

    def fault(self, where: str, body: Any) -> Fault | None:
        before = len(self.problems)
        if not self.mapping(f"{where}fault", body, _FAULT_KEYS):
            return None
        where = f"{where}fault"
        kinds = [kind for kind in _FAULT_KINDS if kind in body]
        if len(kinds) != 1:
            given = f"{' and '.join(kinds)} are given" if kinds else "none is given"
            self.wrong(where, f"{given}; write exactly one of {', '.join(_FAULT_KINDS)}")
            return None
        kind = kinds[0]
        value = self.fault_value(f"{where}.{kind}", kind, body[kind])
        times = self.times(f"{where}.times", body.get("times", 1))
        retry_after_s = None
        if "retry_after_s" in body:
            if kind != "status":
                self.wrong(f"{where}.retry_after_s", "only a fault with a status carries it")
            else:
                retry_after_s = self.whole(f"{where}.retry_after_s", body["retry_after_s"], least=0)
        if len(self.problems) > before:
            return None
        return Fault(kind, value, times, retry_after_s)

    def fault_value(self, where: str, kind: str, value: Any) -> Any:
        if kind == "status":
            if not _is_whole(value) or not 400 <= value <= 599:
                self.refuse(where, value, "an HTTP status from 400 to 599")
            return value
        if kind == "hang_s":
            return self.seconds(where, value)
        allowed = {"drop": DROPS, "stream_error": STREAM_ERRORS, "malformed": MALFORMED}[kind]
        if value not in allowed:
            self.refuse(where, value, " or ".join(allowed))
        return value

    def times(self, where: str, value: Any) -> int | None:
        if value == FOREVER:
            return None
        if not _is_whole(value) or value < 1:
            self.refuse(where, value, f"a whole number from 1, or {FOREVER}")
            return 1
        return value

    def branches(self, where: str, body: Any, ids: Mapping[str, int]) -> tuple[Branch, ...]:
        if body is None:
            return ()
        if not isinstance(body, list) or not body:
            self.refuse(where, body, "a list of `goto: <id>`, each with or without `if:`")
            return ()
        branches: list[Branch] = []
        for index, entry in enumerate(body):
            here = f"{where}[{index}]"
            if not self.mapping(here, entry, ("if", "goto")):
                continue
            if branches and branches[-1].always:
                self.wrong(here, "never reached, because an entry before it has no `if`")
            target = entry.get("goto")
            if not isinstance(target, str) or target not in ids:
                self.refuse(f"{here}.goto", target, f"the id of a turn: {_listed(ids)}")
                target = None
            matches, is_error = self.condition(f"{here}.if", entry)
            branches.append(Branch(ids[target] if target else 0, matches, is_error))
        return tuple(branches)

    def condition(self, where: str, entry: Mapping[str, Any]) -> tuple[str | None, bool | None]:
        if "if" not in entry:
            return None, None
        body = entry["if"]
        if not self.mapping(where, body, ("result_matches", "is_error")):
            return None, None
        if not body:
            self.refuse(where, body, "result_matches, is_error or both")
        matches, is_error = body.get("result_matches"), body.get("is_error")
        if "is_error" in body and not isinstance(is_error, bool):
            self.refuse(f"{where}.is_error", is_error, "true or false")
            is_error = None
        if "result_matches" in body:
            try:
                re.compile(matches)
            except TypeError:
                self.refuse(f"{where}.result_matches", matches, "a regular expression as a text")
                matches = None
            except (re.error, OverflowError) as error:
                self.wrong(
                    f"{where}.result_matches",
                    f"{matches!r} is not a regular expression ({error}); escape what is meant "
                    "literally with \\",
                )
                matches = None
        return matches, is_error

    def graph(self, turns: list[Turn], where: str) -> None:
        """Every turn can be reached, and from every turn the end can be."""
        following = [_following(turn) for turn in turns]
        for turn, targets in zip(turns, following, strict=True):
            if len(turns) in targets:
                self.wrong(
                    f"{where}{_called(turn)}",
                    "the last turn has tools, and nothing answers their results; end with a turn "
                    "without tools or give it a next whose last entry has no `if`",
                )
        if any(len(turns) in targets for targets in following):
            return
        reached = _closure({0}, following)
        for index, turn in enumerate(turns):
            if index not in reached:
                self.wrong(f"{where}{_called(turn)}", "no turn leads here; remove it or goto it")
        ends = {index for index, targets in enumerate(following) if not targets}
        for index in sorted(reached):
            if not _closure({index}, following) & ends:
                self.wrong(
                    f"{where}{_called(turns[index])}",
                    "from here the conversation never ends, whatever the tools say; give a turn "
                    "of the loop a way to a turn without tools",
                )
                # One line for each loop, not one for each of its turns.
                break

    # Values

    def mapping(self, where: str, value: Any, allowed: tuple[str, ...]) -> bool:
        """Whether the value is a mapping; keys that are not allowed are problems of their own."""
        if not isinstance(value, dict):
            self.refuse(where, value, f"a mapping with {', '.join(allowed)}")
            return False
        for key in value:
            if key not in allowed:
                self.wrong(where, f"unknown key {key!r}; allowed are {', '.join(allowed)}")
        return True

    def optional_mapping(
        self, content: Mapping[str, Any], key: str, allowed: tuple[str, ...]
    ) -> Mapping[str, Any]:
        value = content.get(key)
        return value if value is not None and self.mapping(key, value, allowed) else {}

    def text(self, where: str, value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            self.refuse(where, value, "a text; put it in quotes")
            return None
        return value

    def seconds(self, where: str, value: Any) -> float:
        if not _is_number(value) or not 0 <= value <= _LONGEST_S:
            self.refuse(where, value, f"seconds from 0 to {_LONGEST_S:.0f}")
            return 0.0
        return float(value)

    def whole(self, where: str, value: Any, least: int) -> int:
        if not _is_whole(value) or value < least:
            self.refuse(where, value, f"a whole number from {least}")
            return least
        return value

    def refuse(self, where: str, value: Any, allowed: str) -> None:
        said = "missing" if value is None else f"{_show(value)} is not allowed"
        self.wrong(where, f"{said}; write {allowed}")


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "(no turn has one)"


def _called(turn: Turn) -> str:
    return f"turn {turn.number} ({turn.id})" if turn.id else f"turn {turn.number}"


def _following(turn: Turn) -> set[int]:
    """Indices of the turns that can come next; empty for a turn that ends the conversation."""
    if not turn.tools or (turn.fault is not None and turn.fault.times is None):
        return set()
    targets = {branch.goto for branch in turn.branches}
    if not any(branch.always for branch in turn.branches):
        targets.add(turn.number)
    return targets


def _closure(start: set[int], following: list[set[int]]) -> set[int]:
    """All that can be reached from `start`, itself included."""
    seen, todo = set(start), list(start)
    while todo:
        for target in following[todo.pop()] - seen:
            seen.add(target)
            todo.append(target)
    return seen
