"""Patches between two states of a work tree, with the real git and no container around it."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from work_trees import Local, git, patch, put_store_into, start

from agentsweep.containers import caches, git_snapshot, git_snapshot_scripts
from agentsweep.containers.engine import ExecFailed
from agentsweep.errors import InfraError


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    return put_store_into(tmp_path, monkeypatch)


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "work tree"
    tree.mkdir()
    (tree / "a.txt").write_text("one\n", encoding="utf-8")
    (tree / "b.txt").write_text("two\n", encoding="utf-8")
    (tree / ".gitignore").write_text("*.log\n", encoding="utf-8")
    (tree / "kept.log").write_text("in git although it is ignored\n", encoding="utf-8")
    git("init", "-q", cwd=tree)
    git("add", "--all", "--force", cwd=tree)
    git("commit", "-qm", "start", cwd=tree)
    return tree


def names(text: str) -> set[str]:
    lines = (line for line in text.splitlines() if line.startswith("diff --git "))
    return {line.split()[2].removeprefix("a/") for line in lines}


def test_nothing_changed_is_an_empty_patch(tree, tmp_path):
    assert patch(tree, start(tree), tmp_path) == ([], "")


def test_new_changed_deleted_and_committed_files_are_in_it(tree, tmp_path):
    begin = start(tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    git("commit", "-qam", "hidden in a commit", cwd=tree)
    (tree / "b.txt").unlink()
    (tree / "c.txt").write_text("new\n", encoding="utf-8")
    (tree / "staged.txt").write_text("new\n", encoding="utf-8")
    git("add", "staged.txt", cwd=tree)
    (tree / "ignored.log").write_text("x", encoding="utf-8")
    (tree / ".claude").mkdir()
    (tree / ".claude" / "settings.json").write_text("{}", encoding="utf-8")
    unread, text = patch(tree, begin, tmp_path)
    assert unread == []
    assert names(text) == {"a.txt", "b.txt", "c.txt", "staged.txt"}
    # The agent's own staging area is as it was.
    assert "A  staged.txt" in git("status", "--short", cwd=tree)


def test_the_patch_makes_the_end_out_of_the_start(tree, tmp_path):
    begin = start(tree)
    copy = tmp_path / "copy"
    git("clone", "-q", str(tree), str(copy), cwd=tmp_path)
    (tree / "a.txt").write_bytes(bytes(range(256)))
    (tree / "b.txt").rename(tree / "moved.txt")
    (tree / "moved.txt").chmod(0o755)
    target = tmp_path / "patch.diff"
    git_snapshot.write_patch(Local(), "c", "0:0", str(tree), begin, target)
    git("apply", str(target), cwd=copy)
    assert (copy / "a.txt").read_bytes() == bytes(range(256))
    assert (copy / "moved.txt").stat().st_mode & 0o100
    assert not (copy / "b.txt").exists()


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_flags_of_the_index_hide_nothing(tree, tmp_path, flag):
    begin = start(tree)
    git("update-index", flag, "a.txt", cwd=tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    _, text = patch(tree, begin, tmp_path)
    assert names(text) == {"a.txt"}


@pytest.mark.slow
def test_configuration_does_not_change_the_patch(tree, tmp_path):
    begin = start(tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    (tree / "z ü.txt").write_text("new\n", encoding="utf-8")
    _, before = patch(tree, begin, tmp_path)
    order = tmp_path / "order"
    order.write_text("z*\n", encoding="utf-8")
    for name, value in (
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("diff.orderFile", str(order)),
        ("core.quotePath", "false"),
        ("diff.context", "0"),
        ("diff.algorithm", "patience"),
        ("color.ui", "always"),
        ("diff.external", "false"),
        ("core.hooksPath", "/nonexistent"),
        ("core.fsmonitor", "false; exit 1"),
    ):
        git("config", name, value, cwd=tree)
    assert patch(tree, begin, tmp_path) == ([], before)


def test_an_empty_repository_inside_is_no_loss(tree, tmp_path):
    begin = start(tree)
    git("init", "-q", "inner", cwd=tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    unread, text = patch(tree, begin, tmp_path)
    assert (unread, names(text)) == ([], {"a.txt"})


def test_a_directory_without_git_stays_one(tmp_path):
    tree = tmp_path / "plain"
    tree.mkdir()
    (tree / "old.txt").write_text("old\n", encoding="utf-8")
    begin = start(tree)
    assert begin["start_commit"] is None
    assert not (tree / ".git").exists()
    (tree / "new.txt").write_text("new\n", encoding="utf-8")
    assert names(patch(tree, begin, tmp_path)[1]) == {"new.txt"}


def test_without_git_nothing_is_said(tmp_path):
    none = {"git_dir": None, "start_commit": None, "start_tree": None}
    assert patch(tmp_path, none, tmp_path) == (None, "")


# Caches


CACHES = (
    *(
        "pkg/__pycache__/a.cpython-311.pyc",
        "a.pyc",
        ".pytest_cache/v/nodeids",
        "x.egg-info/PKG-INFO",
    ),
    *(
        ".mypy_cache/3.11/a.json",
        ".ruff_cache/CACHEDIR.TAG",
        ".tox/py/log",
        ".hypothesis/examples/1",
    ),
    *("node_modules/.cache/babel/1.json", ".coverage", ".coverage.host.1", "sub/.DS_Store"),
)


def write(tree, path: str, text: str) -> None:
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_untracked_caches_are_not_in_the_patch(tree, tmp_path):
    for path in CACHES[:3]:
        write(tree, path, "there before the agent")
    begin = start(tree)
    (tree / "a.txt").write_text("fixed\n", encoding="utf-8")
    _, before = patch(tree, begin, tmp_path)
    for path in CACHES:
        write(tree, path, "left by a tool")
    git("add", "--all", "--force", cwd=tree)
    assert patch(tree, begin, tmp_path) == ([], before)


def test_tracked_files_that_look_like_caches_are_in_the_patch(tree, tmp_path):
    for path in CACHES:
        write(tree, path, "in git\n")
    git("add", "--all", "--force", cwd=tree)
    git("commit", "-qm", "caches", cwd=tree)
    begin = start(tree)
    for path in CACHES:
        write(tree, path, "changed\n")
    assert names(patch(tree, begin, tmp_path)[1]) == set(CACHES)


@pytest.mark.parametrize(
    "path",
    ["pycache/a.py", "__pycache__", "a.pyc.py", "coverage", ".coveragerc", "egg-info/x", "x.py"],
)
def test_other_files_are_no_caches(path):
    assert not caches.is_cache(path.encode())


def test_the_documentation_names_every_cache():
    text = (Path(__file__).parents[3] / "docs/measurement.md").read_text(encoding="utf-8")
    for pattern in caches.PATTERNS:
        assert f"`{pattern.rstrip('/')}`" in text, pattern


# Repositories below the work tree


@pytest.mark.slow
def test_changes_of_submodules_and_nested_repositories_are_files(tree, tmp_path):
    module = tree / "module"
    module.mkdir()
    write(module, "m.txt", "one\n")
    git("init", "-q", cwd=module)
    git("add", "--all", cwd=module)
    git("commit", "-qm", "module", cwd=module)
    git("add", "module", cwd=tree)
    git("commit", "-qm", "module", cwd=tree)
    begin = start(tree)
    write(module, "m.txt", "two\n")
    git("commit", "-qam", "inside", cwd=module)
    git("init", "-q", "lib", cwd=tree)
    write(tree / "lib", "f.py", "value\n")
    git("add", "f.py", cwd=tree / "lib")
    git("commit", "-qm", "lib", cwd=tree / "lib")
    unread, text = patch(tree, begin, tmp_path)
    assert (unread, names(text)) == ([], {"module/m.txt", "lib/f.py"})
    assert "Subproject" not in text


# What an agent may do to its own repository: the patch is that of the files


def replaced(tree):
    old, new = (git("rev-parse", name, cwd=tree).strip() for name in ("HEAD^{tree}", "HEAD:a.txt"))
    other = git("rev-parse", "HEAD:b.txt", cwd=tree).strip()
    git("replace", new, other, cwd=tree)
    git("commit", "-qam", "x", cwd=tree)
    git("replace", "-f", old, git("rev-parse", "HEAD^{tree}", cwd=tree).strip(), cwd=tree)


def filtered(tree):
    git("config", "filter.f.clean", "echo FORGED", cwd=tree)
    git("config", "filter.f.required", "true", cwd=tree)
    (tree / ".git/info/attributes").write_text("* filter=f text eol=crlf ident\n", encoding="utf-8")


HOSTILE = {
    "replace": replaced,
    "filter": filtered,
    "missing filter": lambda tree: (
        git("config", "filter.g.clean", "no-such-program", cwd=tree),
        git("config", "filter.g.required", "true", cwd=tree),
        (tree / ".git/info/attributes").write_text("* filter=g\n", encoding="utf-8"),
    ),
    "work tree": lambda tree: git("config", "core.worktree", "/tmp", cwd=tree),
    "bare": lambda tree: git("config", "core.bare", "true", cwd=tree),
    "exclude": lambda tree: (tree / ".git/info/exclude").write_text("*\n", encoding="utf-8"),
    "excludes file": lambda tree: (
        (tree / ".git/all").write_text("*\n", encoding="utf-8"),
        git("config", "core.excludesFile", str(tree / ".git/all"), cwd=tree),
    ),
    "no objects": lambda tree: shutil.rmtree(tree / ".git/objects"),
    "no repository": lambda tree: shutil.rmtree(tree / ".git"),
    "a file": lambda tree: (
        shutil.rmtree(tree / ".git"),
        (tree / ".git").write_text("gitdir: /nowhere\n", encoding="utf-8"),
    ),
    "a pipe": lambda tree: (shutil.rmtree(tree / ".git"), os.mkfifo(tree / ".git")),
    "index pipe": lambda tree: ((tree / ".git/index").unlink(), os.mkfifo(tree / ".git/index")),
    "bad index": lambda tree: (tree / ".git/index").write_bytes(b"DIRC" + bytes(90)),
    "another": lambda tree: (shutil.rmtree(tree / ".git"), git("init", "-q", cwd=tree)),
    "attributes pipe": lambda tree: os.mkfifo(tree / ".gitattributes"),
    "ignore pipe": lambda tree: ((tree / "d").mkdir(), os.mkfifo(tree / "d/.gitignore")),
    "ignore link": lambda tree: ((tree / "e").mkdir(), os.mkfifo(tree / "e/pipe"),
                                 (tree / "e/.gitignore").symlink_to("pipe")),
    "hidden": lambda tree: git("update-index", "--skip-worktree", "a.txt", cwd=tree),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("attack", HOSTILE)
def test_nothing_in_the_agents_repository_changes_the_patch(tree, tmp_path, attack):
    begin = start(tree)
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    (tree / "b.txt").unlink()
    (tree / "c.txt").write_text("new\n", encoding="utf-8")
    _, before = patch(tree, begin, tmp_path)
    HOSTILE[attack](tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    unread, text = patch(tree, begin, tmp_path)
    assert unread == []
    kept = names(text) - {"e/.gitignore"}
    assert kept == names(before) == {"a.txt", "b.txt", "c.txt"}
    if attack != "ignore link":
        assert text == before


@pytest.mark.slow
def test_the_attributes_of_the_start_decide_how_a_change_is_shown(tree, tmp_path):
    write(tree, ".gitattributes", "*.dat -diff\n*.py diff=python\n")
    write(tree, "x.dat", "text\n")
    write(tree, "m.py", "class A:\n" + "".join(f"    x{i} = 1\n" for i in range(9)))
    git("add", "--all", cwd=tree)
    git("commit", "-qm", "attributes", cwd=tree)
    begin = start(tree)
    write(tree, "x.dat", "more\n")
    write(tree, "m.py", (tree / "m.py").read_text(encoding="utf-8").replace("x8 = 1", "x8 = 2"))
    expected = git("diff", "--binary", "--full-index", "HEAD", cwd=tree)
    write(tree, ".gitattributes", "* -diff filter=x working-tree-encoding=utf-16\n")
    text = patch(tree, begin, tmp_path)[1]
    assert names(text) == {".gitattributes", "m.py", "x.dat"}
    assert expected == text[text.index("diff --git a/m.py") :]


@pytest.mark.slow
def test_the_patch_is_bytes_of_files_and_not_what_filters_would_store(tree, tmp_path):
    write(tree, ".gitattributes", "*.txt text eol=crlf\n")
    git("add", "--all", cwd=tree)
    git("commit", "-qm", "x", cwd=tree)
    (tree / "a.txt").write_bytes(b"one\r\n")
    begin = start(tree)
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    (tree / "a.txt").write_bytes(b"one\r\ntwo\r\n")
    target = tmp_path / "patch.diff"
    git_snapshot.write_patch(Local(), "c", "0:0", str(tree), begin, target)
    git("apply", str(target), cwd=copy)
    assert (copy / "a.txt").read_bytes() == (tree / "a.txt").read_bytes()


# Which new files count


def test_rules_of_the_work_tree_count_and_a_forced_file_does_too(tree, tmp_path):
    begin = start(tree)
    write(tree, "ignored.log", "x")
    write(tree, "wanted.log", "x")
    git("add", "--force", "wanted.log", cwd=tree)
    write(tree, "venv/.gitignore", "*\n")
    write(tree, "venv/lib/a.py", "x")
    write(tree, "out/.gitignore", "*\n!keep\n")
    write(tree, "out/keep", "x")
    assert names(patch(tree, begin, tmp_path)[1]) == {"wanted.log", "out/keep"}


def test_ignored_files_that_nobody_knows_are_not_even_read(tree):
    begin = start(tree)
    for name in ("x.log", "f $(touch pwned)]\"'.log", "w.log"):
        write(tree, name, "n\n")
    git("add", "--force", "w.log", cwd=tree)
    (tree / "kept.log").write_text("changed\n", encoding="utf-8")
    where = (str(tree), begin["git_dir"], "/usr/bin", begin["start_tree"])
    looked = git_snapshot._look(Local(), "c", git_snapshot_scripts.LOOK, where)
    assert set(looked.entries) == {b".gitignore", b"a.txt", b"b.txt", b"kept.log", b"w.log"}
    assert not (tree / "pwned").exists()


@pytest.mark.slow
def test_what_cannot_be_read_is_named_and_stays_as_it_was(tree, tmp_path):
    write(tree, "closed/old.txt", "old\n")
    write(tree, "old.txt", "old\n")
    begin = start(tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    write(tree, "new.txt", "x")
    for path in ("old.txt", "new.txt", "closed"):
        (tree / path).chmod(0)
    (tree / ".GIT").mkdir()
    write(tree, ".GIT/x", "x")
    unread, text = patch(tree, begin, tmp_path)
    (tree / "closed").chmod(0o755)
    # Root can look into the directory, whose file is there as it was.
    assert names(text) == {"a.txt"}
    assert sorted(line.split()[0] for line in unread) == [".GIT/x", "closed", "new.txt", "old.txt"]


@pytest.mark.slow
def test_a_sparse_file_of_terabytes_is_named_and_not_read(tree, tmp_path):
    begin = start(tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    with (tree / "huge").open("wb") as file:
        file.truncate(2**42)
    unread, text = patch(tree, begin, tmp_path)
    assert unread == ["huge is larger than 1 GiB"]
    assert names(text) == {"a.txt"}


def test_a_tree_that_is_gone_has_no_patch(tree, tmp_path):
    begin = start(tree)
    shutil.rmtree(tree)
    with pytest.raises(git_snapshot.Unreadable, match="is gone"):
        patch(tree, begin, tmp_path)


# An engine that fails is no work tree that fails


class Failing(Local):
    """Ends the first calls as a client does that is killed."""

    def __init__(self, times, answers=True):
        self.times, self.answers = times, answers

    def exec_to_file(self, _, target, *argv, **how):
        self.times -= 1
        if self.times >= 0:
            target.write_bytes(b"half")
            raise ExecFailed("no message", -9)
        return super().exec_to_file(_, target, *argv, **how)

    def exec(self, *arguments, **how):
        if not self.answers:
            raise InfraError("no engine")
        return super().exec(*arguments, **how)


@pytest.mark.slow
def test_a_client_that_is_killed_loses_no_patch(tree, tmp_path):
    begin = start(tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    target = tmp_path / "patch.diff"
    for times in (1, 2):
        assert git_snapshot.write_patch(Failing(times), "c", "0:0", str(tree), begin, target) == []
        assert names(target.read_text(encoding="utf-8")) == {"a.txt"}


@pytest.mark.parametrize(
    ("answers", "error"), [(True, git_snapshot.Unreadable), (False, InfraError)]
)
def test_only_an_engine_that_answers_blames_the_work_tree(tree, tmp_path, answers, error):
    begin = start(tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    target = tmp_path / "patch.diff"
    with pytest.raises(InfraError) as raised:
        git_snapshot.write_patch(Failing(9, answers), "c", "0:0", str(tree), begin, target)
    assert type(raised.value) is error
    assert target.read_bytes() == b""


# Any names and contents

PART = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12
)
RAW = st.binary(min_size=1, max_size=8).map(
    lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"\n")
)
NAME = st.one_of(PART.map(str.encode), RAW, st.sampled_from(
    [b"new\nline", b'"q"', b"-rf", b"\\", b"\xff", b" ", b"*", b":(glob)x", b"!x", b"#x", b"a\tb"]
)).filter(lambda name: name not in (b".", b"..") and name.lower() not in (b".git", b".claude",
                                                                       b".gitignore"))  # fmt: skip
PATH = (
    st.lists(NAME, min_size=1, max_size=3)
    .map(b"/".join)
    .filter(lambda path: len(path) < 200 and not caches.is_cache(path))
)
CONTENT = st.one_of(
    st.binary(max_size=60), st.sampled_from([b"", b"\n", b"a\r\nb\r\n", b"a\n" * 40, b"no end"]),
    st.tuples(st.just("link"), NAME), st.tuples(st.just("run"), st.binary(max_size=9)),
)  # fmt: skip
TREE = st.dictionaries(PATH, CONTENT, max_size=5)


def put(root, files) -> None:
    """Make `files` below an empty directory; what does not go beside another is left out."""
    for path, content in files.items():
        place = root / os.fsdecode(path)
        kind, content = content if isinstance(content, tuple) else ("file", content)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(place):
                continue
            if kind == "link":
                place.symlink_to(os.fsdecode(content))
            else:
                place.write_bytes(content)
                place.chmod(0o755 if kind == "run" else 0o644)
        except OSError:
            continue


def seen(root) -> dict:
    return {
        str(path.relative_to(root)): path.readlink()
        if path.is_symlink()
        else (path.stat().st_mode & 0o100, path.read_bytes())
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("AGENTSWEEP_EXAMPLES", "12")), deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(before=TREE, after=TREE, keep=st.booleans())
def test_a_patch_makes_the_end_out_of_the_start_whatever_the_names(
    tmp_path_factory, before, after, keep
):
    folder = tmp_path_factory.mktemp("any")
    git_snapshot_scripts.STORE, kept = str(folder / "store"), git_snapshot_scripts.STORE
    try:
        tree, copy = folder / "tree", folder / "copy"
        for path in (tree, copy):
            path.mkdir()
            put(path, before)
        begin = start(tree)
        shutil.rmtree(tree)
        tree.mkdir()
        put(tree, after | before if keep else after)
        target = folder / "patch.diff"
        assert git_snapshot.write_patch(Local(), "c", "0:0", str(tree), begin, target) == []
        if target.read_bytes():
            git("init", "-q", cwd=copy)
            git("-c", "core.protectNTFS=false", "-c", "core.protectHFS=false", "apply",
                "--whitespace=nowarn", str(target), cwd=copy)  # fmt: skip
            shutil.rmtree(copy / ".git")
        assert seen(copy) == seen(tree)
    finally:
        git_snapshot_scripts.STORE = kept
