"""Which files a git patch touches."""

import re

_HEADER = re.compile(r"^diff --git (?P<names>.+)$")
_FILE = re.compile(r"^(?:---|\+\+\+) (?P<name>.+?)\t?$")
_MOVED = re.compile(r"^(?:rename|copy) (?:from|to) (?P<name>.+)$")
_DELETED = re.compile(r"^deleted file mode ")
_QUOTED = re.compile(r'\\([0-7]{3}|[abtnvfr"\\])')
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_ESCAPES = {"a": "\a", "b": "\b", "t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}


def touched(patch: str) -> dict[str, bool]:
    """The paths that a patch touches, in its order, and whether each is there afterwards.

    Both names of a moved file count. Source of the format: git-diff(1), "Generating patch text
    with -p".
    """
    found: dict[str, bool] = {}
    for names, lines in _sections(patch):
        paths = _named(lines) or _from_header(names)
        deleted = any(map(_DELETED.match, lines))
        moved = any(line.startswith("rename from ") for line in lines)
        for index, path in enumerate(dict.fromkeys(paths)):
            found[path] = not deleted and not (moved and index == 0)
    return found


def _sections(patch: str):
    """The header lines of each file of a patch, without its hunks."""
    names, lines, in_header = None, [], False
    for line in patch.split("\n"):
        if match := _HEADER.match(line):
            if names is not None:
                yield names, lines
            names, lines, in_header = match["names"], [], True
        elif in_header and (line.startswith("@@ ") or line == "GIT binary patch"):
            in_header = False
        elif in_header:
            lines.append(line)
    if names is not None:
        yield names, lines


def _named(lines: list[str]) -> list[str]:
    moved = [_unquote(match["name"]) for line in lines if (match := _MOVED.match(line))]
    if moved:
        return moved
    names = [_unquote(match["name"]) for line in lines if (match := _FILE.match(line))]
    return [name.split("/", 1)[-1] for name in names if name != "/dev/null"]


def _from_header(names: str) -> list[str]:
    """The name in `a/x b/x`, for files without hunks: binary, empty, or a changed mode."""
    if names.startswith('"'):
        name = names[1 : names.index('" ')] if '" ' in names else names.strip('"')
        return [_unquote(f'"{name}"').split("/", 1)[-1]]
    # Both halves are the same name, whose blanks are not quoted.
    half = names[: (len(names) - 1) // 2]
    return [half.split("/", 1)[-1]]


def _unquote(name: str) -> str:
    """A name as git writes it with `core.quotePath`: bytes as octal escapes."""
    if not (name.startswith('"') and name.endswith('"') and len(name) > 1):
        return name
    data, after = b"", 0
    for match in _QUOTED.finditer(name):
        data += _bytes(name[max(after, 1) : match.start()])
        said, after = match[1], match.end()
        # What git never writes, a number past a byte, is cut to one.
        data += bytes([int(said, 8) & 255]) if said.isdigit() else _bytes(_ESCAPES.get(said, said))
    data += _bytes(name[max(after, 1) : -1])
    return data.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    """As the file had it; half of a surrogate pair, which no file has, as a question mark."""
    return _HALF.sub("?", text).encode("utf-8", "surrogateescape")
