"""The script that puts a patch and its tests in place, run by `sh` in a small repository."""

import hashlib
import subprocess
from pathlib import PurePosixPath

import pytest
import row_maker

from agentsweep.grading import grading_script
from agentsweep.tasks import row_fields

GIT = ("git", "-c", "user.name=n", "-c", "user.email=e@example.org")
FILES = {
    "code.py": "old code\n",
    "tests/test_a.py": "old test\n",
    "tests/conftest.py": "of the image\n",
    "untracked.py": "made by the image\n",
}
TEST_PATCH = """\
diff --git a/tests/test_a.py b/tests/test_a.py
--- a/tests/test_a.py
+++ b/tests/test_a.py
@@ -1 +1 @@
-old test
+new test
"""
FIX = TEST_PATCH.replace("tests/test_a.py", "code.py").replace("test", "code")


def repository(tree):
    """A work tree with one file that its repository does not know."""
    for name, content in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content, encoding="utf-8")
    for command in (("init", "-q"), ("add", ".", ":!untracked.py"), ("commit", "-qm", "base")):
        subprocess.run([*GIT, *command], cwd=tree, check=True)
    return tree


@pytest.fixture
def applied(tmp_path, monkeypatch):
    """Applies a patch to a repository; gives its work tree and what the script left."""
    given, left, tree = tmp_path / "given", tmp_path / "left", repository(tmp_path / "tree")
    for name, folder in (("GIVEN", given), ("LEFT", left), ("_KEPT", tmp_path / "kept")):
        monkeypatch.setattr(grading_script, name, str(folder))
        folder.mkdir()

    def apply(patch):
        row = row_fields.row_of(row_maker.first(test_patch=TEST_PATCH), "row")
        (given / "patch.diff").write_text(patch, encoding="utf-8")
        (given / "test.diff").write_text(TEST_PATCH, encoding="utf-8")
        script = grading_script.apply_script(row, str(tree), empty=not patch)
        subprocess.run(["sh", "-c", script], check=True, capture_output=True)
        return tree, {
            path.name: path.read_text(encoding="utf-8").splitlines() for path in left.iterdir()
        }

    return apply


@pytest.fixture
def made(tmp_path):
    """Makes the git patch of what a shell command does to a repository."""
    tree = repository(tmp_path / "copy")
    (tree / "untracked.py").unlink()

    def patch(command):
        subprocess.run(["sh", "-ec", command], cwd=tree, check=True)
        subprocess.run([*GIT, "add", "--all"], cwd=tree, check=True)
        diff = [*GIT, "diff", "--cached", "--binary", "HEAD"]
        return subprocess.run(diff, cwd=tree, check=True, capture_output=True).stdout.decode()

    return patch


def contents(tree):
    """All that is in a work tree but git's own."""
    return {
        str(path.relative_to(tree)): path.read_bytes().decode()
        for path in sorted(tree.rglob("*"))
        if not path.is_dir() and ".git" not in path.relative_to(tree).parts
    }


FIXED = FILES | {"code.py": "new code\n", "tests/test_a.py": "new test\n"}

# What a patch does beside the fix, and what is named as put back. Nothing of it may be left.
HOOKS = {
    "a hook": ("echo x > conftest.py", ["conftest.py"]),
    "a changed hook": ("echo x > tests/conftest.py", ["tests/conftest.py"]),
    "no hook": ("rm tests/conftest.py", ["tests/conftest.py"]),
    "odd names": (
        r"""for d in 'a b' '"' é '\' '
n' '-d'; do mkdir "./$d"; echo x > "./$d/conftest.py"; done""",
        [
            *('"/conftest.py', "-d/conftest.py", r"\\/conftest.py", r"\nn/conftest.py"),
            *("a b/conftest.py", "é/conftest.py"),
        ],
    ),
    "a package in place of a hook": (
        "mkdir tests/conftest; echo x > tests/conftest/__init__.py",
        ["tests/conftest/__init__.py"],
    ),
    "a plugin of an installed package": (
        "mkdir a.egg-info; echo x > a.egg-info/entry_points.txt",
        ["a.egg-info/entry_points.txt"],
    ),
    "bytecode": (
        "mkdir tests/__pycache__; echo x > tests/__pycache__/conftest.cpython-311-pytest-8.0.pyc",
        ["tests/__pycache__/conftest.cpython-311-pytest-8.0.pyc"],
    ),
    "a package in place of the tests": (
        "mkdir tests/test_a; echo x > tests/test_a/__init__.py",
        ["tests/test_a/__init__.py"],
    ),
    "an extension in place of the tests": (
        "echo x > tests/test_a.cpython-311-x86_64-linux-gnu.so",
        ["tests/test_a.cpython-311-x86_64-linux-gnu.so"],
    ),
    "a package on the way to the tests": ("echo x > tests/__init__.py", ["tests/__init__.py"]),
    "an extension on the way to the tests": ("echo x > tests/__init__.so", ["tests/__init__.so"]),
    "a link to nowhere": ("ln -s /nowhere conftest.py", ["conftest.py"]),
    "attributes": (
        "echo 'tests/*.py text eol=crlf' > .gitattributes",
        [".gitattributes"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOOKS)
def test_what_decides_how_tests_are_run_is_put_back(applied, made, name):
    command, restored = HOOKS[name]
    tree, said = applied(made(command) + FIX)
    assert contents(tree) == FIXED
    assert sorted(said["restored"]) == sorted(restored)
    assert said["applied_by"] == ["git apply"]
    assert said["tests_applied"] == ["yes"]


@pytest.mark.parametrize(
    "command",
    [
        "mv tests other; ln -s other tests",
        "rm -r tests; echo x > tests",
        "rm -r tests; ln -s /nowhere tests",
        "rm tests/test_a.py; mkdir tests/test_a.py; echo x > tests/test_a.py/x",
    ],
)
def test_whatever_is_in_the_place_of_the_tests_makes_way(applied, made, command):
    tree, said = applied(made(command) + FIX)
    found = contents(tree)
    assert {name: found.get(name) for name in FIXED} == FIXED
    assert said["tests_applied"] == ["yes"]
    assert not (tree / "tests").is_symlink()


def test_packages_of_the_program_stay_as_the_patch_has_them(applied, made):
    """A fix may be in them, even where its tests are in a folder below."""
    tree, said = applied(made("echo x > __init__.py; mkdir a; echo x > a/__init__.py") + FIX)
    added = {"__init__.py": "x\n", "a/__init__.py": "x\n"}
    assert (contents(tree), said["restored"]) == (FIXED | added, [])


@pytest.mark.parametrize(
    ("file", "folders"),
    [
        ("tests/test_a.py", ["tests"]),
        ("program/io/tests/deep/test_a.py", ["program/io/tests", "program/io/tests/deep"]),
        ("test_all/test_a.py", ["test_all"]),
        ("program/test_a.py", []),
        ("test_a.py", []),
    ],
)
def test_the_directories_of_tests_begin_with_their_name(file, folders):
    found = grading_script._test_folders(PurePosixPath(file))
    assert [str(folder) for folder in found] == folders


def test_the_hashes_of_the_tests_are_those_of_what_was_put_in_place(applied):
    tree, said = applied(FIX)
    content = (tree / "tests/test_a.py").read_bytes()
    assert said["placed"] == [hashlib.sha256(content).hexdigest()]


def test_settings_below_the_root_are_named(applied, made):
    _, said = applied(made("echo x > tests/tox.ini; echo x > setup.cfg"))
    assert said["settings"] == ["setup.cfg", "tests/tox.ini"]
    assert said["restored"] == []


def test_each_way_of_applying_begins_with_the_tree_of_the_image(applied):
    """What the image has, and its repository does not know, is no leftover of the last way."""
    tree, said = applied(FIX.replace("-old code", "-old  code").replace("@@ -1", "@@ -1,1"))
    assert said.get("applied_by") is None
    assert contents(tree) == FILES


def test_a_patch_does_not_reach_the_settings_of_git(applied, tmp_path):
    """`git apply` refuses to; `patch` does not, and git runs programs that its settings name."""
    hook = f"""\
--- a/.git/config
+++ b/.git/config
@@ -1,1 +1,3 @@
 [core]
+\tfsmonitor = "touch {tmp_path}/ran; false"
+
"""
    tree, said = applied(hook + FIX)
    assert said["applied_by"] == ["patch --fuzz=5"]
    assert contents(tree)["code.py"] == "new code\n"
    assert "fsmonitor" not in (tree / ".git/config").read_text(encoding="utf-8")
    assert not (tmp_path / "ran").exists()
