"""The chain of a session: which record follows which, and what lies on the branch that was kept.

Each record names the one before it (`parentUuid`). Where the user went back and began anew, the
file keeps what was left behind; only the records that the last one descends from are part of the
conversation that the model saw.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

PROMPT = "prompt"

_END = 2**62

# Number, parent, type, time stamp, number of the file, and a little of what the record says.
Link = tuple[int, str | None, str, object, int, object]


@dataclass(slots=True)
class Chain:
    """Links by uuid, in the order of the files.

    links: first of each the number of the record and its parent (None: there is none or none is
    named). spoken: number, uuid, kind and time in ns (its own, else that of the record before) of
    each user and assistant record of the main conversation, in the order of the files.
    """

    links: dict[str, Link] = field(default_factory=dict)
    spoken: list[tuple[int, str, str, int]] = field(default_factory=list)

    def note(self, record: dict[str, Any], number: int, file: int) -> bool:
        """Note a record's place in the chain; False where it was read before, from another file or
        twice from this one. Two records may have one uuid and still be two."""
        uuid = record.get("uuid")
        if type(uuid) is not str:
            return True
        links, kind, stamp = self.links, record["type"], record.get("timestamp")
        parent = record.get("parentUuid")
        if type(parent) is not str:
            parent = record.get("logicalParentUuid")  # over a compaction
            if type(parent) is not str:
                parent = None
        link = (number, parent, kind, stamp, file, _mark(record))
        known = links.get(uuid)
        links[uuid] = link
        if known is None or known[2] != kind:
            return True
        same = known[5] == link[5]
        if known[4] == link[4]:
            repeated = same and known[3] == stamp
        elif type(stamp) is str and type(known[3]) is str:
            repeated = known[3] == stamp
        else:
            repeated = same
        if repeated:
            links[uuid] = known
        return not repeated

    def roots(self) -> dict[str, str | None]:
        """The first record above each one; None where that is not known: its parent is not in the
        files, or it has none and stands alone."""
        found: dict[str, str | None] = {}
        parents = {link[1] for link in self.links.values()}
        for uuid in self.links:
            path, seen, here = [], set(), uuid
            while here not in found:
                path.append(here)
                seen.add(here)
                parent = self.links[here][1]
                if parent is None:
                    found[here] = here if here in parents else None
                elif parent not in self.links or parent in seen:
                    found[here] = None
                else:
                    here = parent
            for step in path:
                found[step] = found[here]
        return found

    def live(self, files: list[int]) -> tuple[list[str], bool, int, int] | None:
        """The records that the last one descends from, from the first to the last; whether links
        alone led there; and the numbers between which the records of its file are.

        files: the number of the record before each main file. Of several files the one that was
        written last counts. Where a link is missing (a damaged line, a version without links) the
        record before in the file is taken. None where there is nothing to follow.
        """
        numbers = [spoken[0] for spoken in self.spoken]
        best = None
        for low, high in pairwise([*files, _END]):
            leaf = self._leaf(bisect_right(numbers, low), bisect_right(numbers, high))
            # A session that goes on in another folder was written there last.
            if leaf is not None and (best is None or self.spoken[leaf][3] >= best[0]):
                best = self.spoken[leaf][3], leaf, low + 1, high + 1
        if best is None:
            return None
        _, leaf, first, end = best
        made, whole = self._upwards(leaf, numbers)
        return made, whole, first, end

    def _leaf(self, low: int, high: int) -> int | None:
        """The last record that is no result: those of parallel calls come in any order."""
        for place in range(high - 1, low - 1, -1):
            if self.spoken[place][2] != "result":
                return place
        return None

    def _upwards(self, leaf: int, numbers: list[int]) -> tuple[list[str], bool]:
        prompts = {spoken[1] for spoken in self.spoken if spoken[2] == PROMPT}
        here, by_link, whole = self.spoken[leaf][1], False, True
        made, seen = [], set()
        while True:
            made.append(here)
            seen.add(here)
            number, parent = self.links[here][:2]
            if parent is not None and parent in self.links and parent not in seen:
                here, by_link = parent, True
                continue
            if by_link and parent is None and here in prompts:
                break  # the user began a conversation
            place = bisect_left(numbers, number) - 1
            while place >= 0 and self.spoken[place][1] in seen:
                place -= 1
            if place < 0:
                break
            here, by_link, whole = self.spoken[place][1], False, False
        return made[::-1], whole


def _mark(record: dict[str, Any]) -> object:
    """A little of what a record says, to see that another one with its uuid says something else."""
    message = record.get("message")
    if type(message) is not dict:
        told = record.get("compactMetadata")
        return told and repr(told)
    content = message.get("content")
    if type(content) is str:
        return len(content)
    if type(content) is list and content and type(content[0]) is dict:
        block = content[0]
        return (message.get("id"), block.get("id"), block.get("tool_use_id"), len(content))
    return None
