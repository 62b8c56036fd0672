"""Changes of bytes that a reader may meet: damage of any file, and JSON of other shapes.

Everything is chosen by a `random.Random`, so that a seed repeats it.
"""

import json
import re
from collections.abc import Callable, Sequence
from random import Random

# What readers trip over: numbers that fit nowhere, halves of characters, ends of lines.
_TOKENS = (
    *(b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\n\n", b"\x0c"),
    *(b"\\ud800", b"\\u0000", b"\xe2\x80\xa8", b"\xd9\xa3", b"-1", b"0", b"1e999", b"-0.0", b"NaN"),
    *(b"Infinity", b"9" * 20, b"9" * 5000, b"9223372036854775808", b"null", b"true", b'""', b"[]"),
    *(b"{}", b"[[[[", b'{"a":', b"%s%n", b"../", b"/", b" ", b"\t", b"'", b'"', b"\\", b"`", b"$("),
    *(
        b"&a ",
        b"*a",
        b"!!python/object:x ",
        b"<<: ",
        b"---\n",
        b": ",
        b"- ",
        b"<!--",
        b"<a>",
        b"&#0;",
    ),
)
_NESTINGS = (20, 400, 699, 701, 990, 3000, 100_000)
_MOST_NODES = 3000


def _values(random: Random) -> object:
    """A value for the place of another one in JSON."""
    deep: object = 0
    for _ in range(random.choice((2, 30))):
        deep = [deep]
    return random.choice(
        (
            *(None, True, False, 0, 1, -1, 7, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**30),
            *(0.0, -0.0, 0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), float("-inf")),
            *("", "x", "0", "1", "nan", "-", "\0", "\ud800", "\udfff\ud800", "é\u2028", " ", "a/b"),
            *(
                "x" * 300,
                "x" * 70_000,
                "2026-01-01T00:00:00Z",
                "0000-00-00",
                "9999-12-31T23:59:59Z",
            ),
            *([], {}, [[]], [None], {"": None}, {"type": "text"}, [{"type": {}}], [1, "x"], deep),
        )
    )


def mutate(random: Random, data: bytes, corpus: Sequence[bytes], most_bytes: int) -> bytes:
    """One to some changes of an input, cut to `most_bytes`; `corpus` is what is spliced in."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 4, 8))):
        change = random.choice(_CHANGES)
        data = change(random, data, corpus)[:most_bytes]
    return data


def _place(random: Random, data: bytes) -> int:
    return random.randint(0, len(data))


def _part(random: Random, data: bytes) -> tuple[int, int]:
    """Beginning and end of a part, short ones more often than long ones."""
    start = _place(random, data)
    return start, min(len(data), start + int(random.paretovariate(0.6)))


def _flip(random: Random, data: bytes, _) -> bytes:
    if not data:
        return b"\0"
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _set(random: Random, data: bytes, _) -> bytes:
    at = _place(random, data)
    return data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]


def _insert(random: Random, data: bytes, _) -> bytes:
    at = _place(random, data)
    return data[:at] + random.choice(_TOKENS) * random.choice((1, 1, 1, 2, 50)) + data[at:]


def _overwrite(random: Random, data: bytes, _) -> bytes:
    start, end = _part(random, data)
    return data[:start] + random.choice(_TOKENS) + data[end:]


def _remove(random: Random, data: bytes, _) -> bytes:
    start, end = _part(random, data)
    return data[:start] + data[end:]


def _repeat(random: Random, data: bytes, _) -> bytes:
    start, end = _part(random, data)
    return data[:end] + data[start:end] * random.choice((1, 1, 2, 30)) + data[end:]


def _truncate(random: Random, data: bytes, _) -> bytes:
    return data[: _place(random, data)]


def _splice(random: Random, data: bytes, corpus: Sequence[bytes]) -> bytes:
    other = random.choice(corpus) if corpus else data
    start, end = _part(random, other)
    at = _place(random, data)
    return data[:at] + (other[start:end] if random.random() < 0.5 else other[start:])


def _lines(random: Random, data: bytes, _) -> bytes:
    """Lines that are repeated, missing, moved, or run together."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(5):
        case 0:
            lines.insert(other, lines[one])
        case 1:
            del lines[one]
        case 2:
            lines[one], lines[other] = lines[other], lines[one]
        case 3:
            lines[one] = lines[one].rstrip(b"\r\n")
        case 4:
            lines[one:one] = [lines[one]] * random.choice((2, 20))
    return b"".join(lines)


def _double(random: Random, data: bytes, _) -> bytes:
    return data + data


_NUMBER = re.compile(rb"[0-9]+")
_WORD = re.compile(rb"[A-Za-z_]{2,}")


def _number(random: Random, data: bytes, _) -> bytes:
    """Another number in the place of one."""
    found = list(_NUMBER.finditer(data))
    if not found:
        return data
    at = random.choice(found)
    made = (b"0", b"-1", b"1", b"99999999999", b"9" * 30, b"9" * 5000, b"0.1", b"1e400", b"", b"x")
    return data[: at.start()] + random.choice(made) + data[at.end() :]


def _word(random: Random, data: bytes, _) -> bytes:
    """Another word of the input in the place of one."""
    found = list(_WORD.finditer(data))
    if not found:
        return data
    at = random.choice(found)
    return data[: at.start()] + random.choice(found)[0] + data[at.end() :]


def _nest(random: Random, data: bytes, _) -> bytes:
    depth, start = random.choice(_NESTINGS), _place(random, data)
    opened, closed = random.choice(
        ((b"[", b"]"), (b'{"a":', b"}"), (b"<a>", b"</a>"), (b"(", b")"))
    )
    inner = b"" if random.random() < 0.5 else b"0"
    return data[:start] + opened * depth + inner + closed * depth + data[start:]


def _json(random: Random, data: bytes, _) -> bytes:
    """A value, a key or an element changed in one of the JSON texts among the lines."""
    lines = data.split(b"\n")
    starts = [number for number, line in enumerate(lines) if line.lstrip()[:1] in (b"{", b"[")]
    whole = random.random() < 0.5 or not starts
    at = 0 if whole else random.choice(starts)
    try:
        value = json.loads(data if whole else lines[at])
        changed = json.dumps(_changed(random, value), ensure_ascii=random.random() < 0.7)
        made = changed.encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return data
    return made if whole else b"\n".join([*lines[:at], made, *lines[at + 1 :]])


def _changed(random: Random, value: object) -> object:
    """A JSON value with one of its parts changed."""
    places = [(box, key) for box in _boxes(value) for key in _keys(box)]
    if not places:
        return _values(random)
    box, key = random.choice(places)
    match random.randrange(7):
        case 0 | 1 | 2:
            box[key] = _values(random)
        case 3:
            other, name = random.choice(places)
            # A copy, for no JSON holds itself.
            box[key] = json.loads(json.dumps(other[name]))
        case 4:
            del box[key]
        case 5 if isinstance(box, list):
            box[key:key] = [box[key]] * random.choice((1, 2, 40))
        case 5:
            box[random.choice(("type", "", "x", "\ud800", str(key) * 2))] = box.pop(key)
        case 6:
            box[key] = [box[key]] if random.random() < 0.5 else {"type": box[key]}
    return value


def _keys(box: dict | list) -> list:
    return list(box) if isinstance(box, dict) else list(range(len(box)))


def _boxes(value: object) -> list[dict | list]:
    """The objects and lists within a JSON value, as far as the first thousands."""
    found, todo = [], [value]
    while todo and len(found) < _MOST_NODES:
        here = todo.pop()
        if isinstance(here, dict | list):
            found.append(here)
            todo += here.values() if isinstance(here, dict) else here
    return found


Change = Callable[[Random, bytes, Sequence[bytes]], bytes]
_CHANGES: tuple[Change, ...] = (
    *(_flip, _set, _insert, _insert, _overwrite, _remove, _repeat, _truncate, _splice, _lines),
    *(_double, _number, _number, _word, _word, _nest, _json, _json, _json, _json, _json, _json),
)


def grown(random: Random, data: bytes) -> Callable[[int], bytes]:
    """Inputs that are alike and of any size: a part of `data` is repeated in its place.

    The part is a line, an element with its comma, a word, all of it, or any bytes.
    """
    start, end = 0, len(data)
    match random.randrange(5):
        case 0:
            lines = data.splitlines(keepends=True)
            number = random.randrange(len(lines)) if lines else 0
            start = sum(map(len, lines[:number]))
            end = start + len(lines[number]) if lines else 0
        case 1:
            found = [m.start() for m in re.finditer(rb'[\[{"]', data)]
            start, end = _element(data, random.choice(found)) if found else (0, len(data))
        case 2:
            found = [m.span() for m in re.finditer(rb"\S+", data)]
            start, end = random.choice(found) if found else (0, len(data))
        case 3:
            start, end = _part(random, data)
    part = data[start:end] or b"a"
    if part[:1] in (b"[", b"{", b'"') and part[-1:] != b",":
        part += b","

    def made(size: int) -> bytes:
        return data[:start] + part * max(1, size // len(part)) + data[start:]

    return made


def _element(data: bytes, start: int) -> tuple[int, int]:
    """From a bracket or quote to its end, as far as that is near; texts are not looked into."""
    if data[start : start + 1] == b'"':
        end = data.find(b'"', start + 1)
        return (start, end + 1) if end > 0 else (start, start + 1)
    depth = 0
    for at in range(start, min(len(data), start + 4000)):
        depth += (data[at] in b"[{") - (data[at] in b"]}")
        if depth == 0:
            return start, at + 1
    return start, start + 1
