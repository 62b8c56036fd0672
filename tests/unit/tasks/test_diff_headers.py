"""The reader of diff headers, on patches that git itself writes, and on some that it does not."""

import subprocess
from pathlib import Path

import pytest

from agentsweep.grading import patch_paths
from agentsweep.tasks import diff_headers

LINES = b"".join(b"%d\n" % number for number in range(9))


def git(folder: Path, *arguments: str) -> bytes:
    named = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.autocrlf=false")
    done = subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True)
    return done.stdout


def lay(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def patch_of(folder: Path, before: dict, change, *options: str) -> str:
    """What git writes of a change to some files."""
    git(folder, "init", "--quiet")
    lay(folder, before)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "before")
    change(folder)
    git(folder, "add", "--all")
    diff = git(folder, "diff", "--cached", "--binary", "--find-renames", *options)
    return diff.decode("utf-8", "surrogateescape")


def write(name: str, content: bytes):
    return lambda folder: lay(folder, {name: content})


def move(name: str, to: str):
    def change(folder: Path) -> None:
        (folder / to).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(folder / to)

    return change


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def make_executable(name: str):
    return lambda folder: (folder / name).chmod(0o755)


OTHER = LINES.replace(b"4", b"four")
SQL = b"-- a\n-- b/x\n++ c\n"
CASES = {
    "plain": ({"a.py": LINES}, write("a.py", OTHER), ("a.py", "a.py")),
    "octal": ({"é.py": LINES}, write("é.py", OTHER), ("é.py", "é.py")),
    "tab": ({"a\tb.py": LINES}, write("a\tb.py", OTHER), ("a\tb.py", "a\tb.py")),
    "newline": ({"a\nb": LINES}, write("a\nb", OTHER), ("a\nb", "a\nb")),
    "blank": ({"a b.py": LINES}, write("a b.py", OTHER), ("a b.py", "a b.py")),
    "b/ in a name": ({"a b/c.py": LINES}, write("a b/c.py", OTHER), ("a b/c.py", "a b/c.py")),
    "quotes": ({'a"b\\.py': LINES}, write('a"b\\.py', OTHER), ('a"b\\.py', 'a"b\\.py')),
    "not UTF-8": ({"\udcff": LINES}, write("\udcff", OTHER), ("\udcff", "\udcff")),
    "no newline at the end": ({"a": b"1"}, write("a", b"2"), ("a", "a")),
    "CRLF": ({"a": b"1\r\n"}, write("a", b"2\r\n"), ("a", "a")),
    "form feed": ({"a": b"1\x0cb\n"}, write("a", b"2\x0c+++ b/x\n"), ("a", "a")),
    "lines like headers": ({"a.sql": SQL}, write("a.sql", b"1\n"), ("a.sql", "a.sql")),
    "new lines like headers": ({"a": b"1\n"}, write("a", SQL), ("a", "a")),
    "binary": ({"a b": b"\0" * 9}, write("a b", b"\0\1" * 9), ("a b", "a b")),
    "new binary": ({}, write("é b", b"\0\1" * 9), (None, "é b")),
    "mode": ({"a b": LINES}, make_executable("a b"), ("a b", "a b")),
    "mode of a quoted name": ({"é b": LINES}, make_executable("é b"), ("é b", "é b")),
    "mode of a name like two": ({"a b/a": LINES}, make_executable("a b/a"), ("a b/a", "a b/a")),
    "rename": ({"d/a": LINES}, move("d/a", "e/b"), ("d/a", "e/b")),
    "rename out of quotes": ({"é": LINES}, move("é", "b c"), ("é", "b c")),
    "rename into quotes": ({"b c": LINES}, move("b c", "é"), ("b c", "é")),
    "copy": ({"a": LINES}, write("c d", LINES), ("a", "c d")),
    "new": ({}, write("a b", LINES), (None, "a b")),
    "new and empty": ({}, write("a b", b""), (None, "a b")),
    "removed": ({"a b": LINES}, remove("a b"), ("a b", None)),
    "removed and empty": ({"a b": b""}, remove("a b"), ("a b", None)),
}


@pytest.mark.parametrize(("before", "change", "names"), CASES.values(), ids=CASES)
def test_a_file_has_the_names_that_git_gave_it(tmp_path, request, before, change, names):
    options = ("-C", "-C") if "copy" in request.node.callspec.id else ()
    patch = patch_of(tmp_path, before, change, *options)
    (header,) = diff_headers.read(patch)
    assert (header.old, header.new) == names
    assert set(header.names) == set(names) - {None}
    assert header.moved == request.node.callspec.id.startswith("rename")
    status = git(tmp_path, "diff", "--cached", "--name-only", "-z", "--no-renames")
    gone = {name: (tmp_path / name).is_file() for name in names if name is not None}
    assert patch_paths.touched(patch) == gone
    if "copy" not in request.node.callspec.id:
        listed = status.decode("utf-8", "surrogateescape").split("\0")[:-1]
        assert sorted(gone) == sorted(listed)


def test_without_quoting_a_name_is_the_same(tmp_path):
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "core.quotePath", "false")
    (header,) = diff_headers.read(patch_of(tmp_path, {"日 é": LINES}, write("日 é", OTHER)))
    assert header.names == ("日 é",)


def test_every_file_of_a_patch_is_named_once_and_in_order(tmp_path):
    before = {"a": LINES, "b": b"\0" * 9, "c": SQL, "d": LINES[:8], "e": b""}

    def change(folder: Path) -> None:
        lay(folder, {"a": OTHER, "b": b"\1" * 9, "c": b"1\n", "f": SQL})
        (folder / "d").rename(folder / "g")
        (folder / "e").unlink()

    patch = patch_of(tmp_path, before, change)
    assert patch_paths.touched(patch) == {
        "a": True, "b": True, "c": True, "e": False, "f": True, "d": False, "g": True,
    }  # fmt: skip
    # As one that moved it from another system has it.
    assert patch_paths.touched(patch.replace("\n", "\r\n")) == patch_paths.touched(patch)


HUNK = "@@ -1 +1 @@\n-a\n+b\n"


@pytest.mark.parametrize(
    ("patch", "names"),
    [
        # A header as `diff -u` writes it, also after one of git's.
        (f"--- a/x\t2020-01-01 00:00:00\n+++ b/x\t2020-01-01 00:00:01\n{HUNK}", [("x",)]),
        (f"diff --git a/x b/x\n--- a/x\n+++ b/x\n{HUNK}--- a/y\n+++ b/y\n{HUNK}", [("x",), ("y",)]),
        # Counts that are too large or too small.
        ("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,9 +1,9 @@\n-a\n+b\ndiff --git a/y b/y\n",
         [("x",), ("y",)]),
        ("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n--- c\n+++ d\n e\n", [("x",)]),
        # What leads out of the repository stays as it is.
        (f"diff --git a/x b/x\n--- a/x\n+++ /etc/passwd\n{HUNK}", [("x", "/etc/passwd")]),
        (f"diff --git a/../x b/../x\n--- a/../x\n+++ b/../x\n{HUNK}", [("../x",)]),
        (f"diff --git a/x b/x\n--- ../x\n+++ ../x\n{HUNK}", [("x", "../x")]),
        ("diff --git a/x b/x\nrename from x\nrename to ../y\n", [("x", "../y")]),
        ('diff --git "a/\\056\\056/x" "b/\\056\\056/x"\nnew file mode 100644\n', [("../x",)]),
        (f"--- ../x\n+++ ../x\n{HUNK}", [("../x",)]),
        # Nothing that git writes.
        ("", []),
        ("diff --git ", [("",)]),
        ("--- a/x\n+++ b/x\n", []),
    ],
)  # fmt: skip
def test_other_headers(patch, names):
    assert [header.names for header in diff_headers.read(patch)] == names
