"""The chain of a session: which record follows which, and what lies on the branch that was kept.

Each record names the one before it (`parentUuid`). Where the user went back and began anew, the
file keeps what was left behind; only the records that the last one descends from are part of the
conversation that the model saw.
"""

from bisect import bisect_left
from dataclasses import dataclass, field

PROMPT = "prompt"


@dataclass(slots=True)
class Chain:
    """Links by uuid, in the order of the files.

    links: number of the record, its parent (None: there is none or none is named). spoken: number,
    uuid and kind of each user and assistant record of the main conversation, in the order of the
    files; files: for each main file, where its part of `spoken` begins and when it was written
    last.
    """

    links: dict[str, tuple] = field(default_factory=dict)
    spoken: list[tuple[int, str, str]] = field(default_factory=list)

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

    def live(self, first_number: int, end_number: int) -> tuple[list[str], bool] | None:
        """The records that the last one descends from, from the first to the last, of the main
        file whose records have these numbers; and whether links alone led there.

        Where a link is missing (a damaged line, a version without links, a compaction) the record
        before in the file is taken. None where there is nothing to follow.
        """
        numbers = [number for number, _, _ in self.spoken]
        low, high = bisect_left(numbers, first_number), bisect_left(numbers, end_number)
        leaf = next(
            (place for place in range(high - 1, low - 1, -1) if self.spoken[place][2] != "result"),
            None,
        )
        if leaf is None:
            return None
        kinds = {uuid: kind for _, uuid, kind in self.spoken[low:high]}
        here, by_link, whole = self.spoken[leaf][1], False, True
        made, seen = [], set()
        while True:
            made.append(here)
            seen.add(here)
            number, parent = self.links[here][:2]
            if parent is not None and parent in self.links and parent not in seen:
                here, by_link = parent, True
                continue
            if by_link and parent is None and kinds.get(here) == PROMPT:
                break  # the user began a conversation
            place = bisect_left(numbers, number) - 1
            while place >= 0 and self.spoken[place][1] in seen:
                place -= 1
            if place < 0:
                break
            here, by_link, whole = self.spoken[place][1], False, False
        return made[::-1], whole
