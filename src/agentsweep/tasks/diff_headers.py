"""Which files a patch names: the one reader of the headers that `git diff` writes.

Source of the format: git-diff(1), "Generating patch text with -p", and git's apply.c, which also
takes a header without a `diff --git` line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_QUOTED = re.compile(r'\\([0-7]{3}|[abtnvfr"\\])')
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_ESCAPES = {"a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
# A name in quotes, which a backslash does not end.
_IN_QUOTES = re.compile(r'"(?:[^"\\]|\\.)*"')
_HUNK = re.compile(r"@@ -\d+(?:,([0-9]{1,18}))? \+\d+(?:,([0-9]{1,18}))? @@")
_GIT = "diff --git "
_NOTHING = "/dev/null"


@dataclass(frozen=True)
class FileHeader:
    """One file of a patch: its path before and after, None where there is none.

    names: all paths that the header says, in its order; a header that does not fit together may
    say more than two. moved: the file is no longer at `old`.
    """

    old: str | None
    new: str | None
    moved: bool
    names: tuple[str, ...]


@dataclass
class _Lines:
    """What the lines of one header say."""

    of_git: list[str] = field(default_factory=list)
    changed: dict[str, str | None] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    moved: bool = False
    is_new: bool = False
    is_deleted: bool = False

    def header(self) -> FileHeader:
        old, new = self.of_git[0] if self.of_git else None, self.of_git[-1] if self.of_git else None
        old, new = self.changed.get("---", old), self.changed.get("+++", new)
        old, new = self.renamed.get("from", old), self.renamed.get("to", new)
        # Where these lines say both, blanks in the first line may stand between names or in them.
        of_git = [] if len(self.renamed) == 2 else self.of_git
        names = [*of_git, *self.changed.values(), *self.renamed.values()]
        return FileHeader(
            None if self.is_new else old,
            None if self.is_deleted else new,
            self.moved,
            tuple(dict.fromkeys(name for name in names if name is not None)),
        )

    def read(self, line: str) -> None:
        """Take up one line."""
        word = line[:3]
        if word in ("---", "+++") and line[3:4] == " ":
            # A date or, after a name with a blank, a tab alone.
            name = _name(line[4:].split("\t")[0])
            self.changed[word] = None if name == _NOTHING else _below_root(name)
        elif moved := re.match(r"(rename|copy) (from|to) (.*)", line, re.DOTALL):
            self.renamed[moved[2]] = _name(moved[3])
            self.moved = self.moved or moved[1] == "rename"
        elif line.startswith("new file mode "):
            self.is_new = True
        elif line.startswith("deleted file mode "):
            self.is_deleted = True


def read(patch: str) -> Iterator[FileHeader]:
    """The header of each file of a patch, in its order; hunks are passed over.

    A removed line that begins with `-- ` looks like a header, so that the lines of a hunk are
    counted. Counts may be wrong (SWE-rebench V2 applies with `--recount`): `diff --git` ends a
    hunk, and outside of hunks `---` is a header only where `+++` and a hunk follow.
    """
    # Not splitlines, which also splits at form feeds and the like inside of a line.
    lines = patch.split("\n")
    here: _Lines | None = None
    in_header = False
    old = new = 0
    for index, line in enumerate(lines):
        if line.startswith(_GIT):
            if here is not None:
                yield here.header()
            here, in_header, old, new = _Lines(_of_git(line[len(_GIT) :])), True, 0, 0
        elif old > 0 or new > 0:
            old -= line[:1] in (" ", "-", "")
            new -= line[:1] in (" ", "+", "")
        elif hunk := _HUNK.match(line):
            in_header = False
            old, new = (1 if count is None else int(count) for count in hunk.groups())
        elif line.startswith(("@@ ", "GIT binary patch")):
            in_header = False
        elif not in_header and _begins(lines, index):
            if here is not None:
                yield here.header()
            here, in_header = _Lines(), True
            here.read(line)
        elif in_header and here is not None:
            here.read(line)
    if here is not None:
        yield here.header()


def _begins(lines: list[str], index: int) -> bool:
    """Whether a header without a `diff --git` line begins here."""
    return (
        lines[index].startswith("--- ")
        and lines[index + 1 : index + 2] != []
        and lines[index + 1].startswith("+++ ")
        and lines[index + 2 : index + 3] != []
        and lines[index + 2].startswith("@@ -")
    )


def _of_git(names: str) -> list[str]:
    """The two names after `diff --git`, which is all that there is for a binary or empty file."""
    names = names.rstrip("\r")
    if quoted := _IN_QUOTES.match(names):
        return [_below_root(_name(part)) for part in (quoted[0], names[quoted.end() :].strip())]
    if names.endswith('"') and (quoted := _IN_QUOTES.search(names)):
        return [_below_root(_name(part)) for part in (names[: quoted.start()].strip(), quoted[0])]
    # Blanks are not quoted: the two are the same name, unless other lines say both.
    half = len(names) // 2
    if names[half : half + 1] == " ":
        pair = [_below_root(_name(part)) for part in (names[:half], names[half + 1 :])]
        if pair[0] == pair[1]:
            return pair
    return [_below_root(_name(word)) for word in names.split(" ")]


def _below_root(name: str) -> str:
    """A name without the `a/` or `b/` before it; what leads outside is left as it is."""
    first, slash, rest = name.partition("/")
    return rest if slash and first not in ("", ".", "..") else name


def _name(text: str) -> str:
    """A name as git writes it with `core.quotePath`: in quotes, its bytes as octal escapes."""
    text = text.rstrip("\r")
    if not (text.startswith('"') and text.endswith('"') and len(text) > 1):
        return _HALF.sub("?", text)
    data, after = b"", 1
    for match in _QUOTED.finditer(text):
        data += _bytes(text[after : match.start()])
        said, after = match[1], match.end()
        # What git never writes, a number past a byte, is cut to one.
        data += bytes([int(said, 8) & 255]) if said.isdigit() else _bytes(_ESCAPES.get(said, said))
    data += _bytes(text[after:-1])
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    """As the file had it; half of a surrogate pair, which no file has, as a question mark."""
    return _HALF.sub("?", text).encode("utf-8", "surrogateescape")
