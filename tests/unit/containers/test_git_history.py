"""Each way in which a repository can know its future, and that nothing of it is left.

The script is the one that runs in the image; here it runs on this machine's git. Every leak is
also left in place on purpose, by taking its step out, to see that the check at the end notices.
"""

import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from agentsweep import retries
from agentsweep.containers import git_history
from agentsweep.errors import InfraError

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_DATE": "1700000000 +0000" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
_ALL = ("cat-file", "--batch-all-objects", "--batch-check")
_GUARDS = ("-c", "protocol.file.allow=always", "-c", "init.defaultBranch=main")


class Repository:
    """base, then `SWE-bench` (HEAD) beside the future, which only the object store knows."""

    def __init__(self, path):
        self.path, self.git_dir = path, path / ".git"
        path.mkdir(parents=True)
        self("init", "--quiet")
        self.commit("first")
        self.base = self.commit("base")
        self("checkout", "--quiet", "-b", "later")
        self.commit("next")
        self.future = self.commit("solution")
        self.solution = self("rev-parse", f"{self.future}:file")
        self("checkout", "--quiet", "main")
        self.head = self.commit("SWE-bench")
        self("branch", "--quiet", "-D", "later")
        shutil.rmtree(self.git_dir / "logs")

    def __call__(self, *words, check=True, text=None):
        done = subprocess.run(
            ["git", *_GUARDS, *words], cwd=self.path, env=ENVIRONMENT, input=text,
            capture_output=True, text=True, check=False, encoding="utf-8",
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, text):
        (self.path / "file").write_text(text, encoding="utf-8")
        self("add", "file")
        self("commit", "--quiet", "-m", text)
        return self("rev-parse", "HEAD")

    def write(self, name, text):
        (self.git_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (self.git_dir / name).write_text(text, encoding="utf-8")

    def pack_everything(self):
        self("update-ref", "refs/all", self.future)
        self("repack", "-a", "-d", "-q")
        self("update-ref", "-d", "refs/all")
        (pack,) = (self.git_dir / "objects" / "pack").glob("*.pack")
        return pack

    def knows(self, what):
        return bool(self("cat-file", "-t", what, check=False))

    def assert_clean(self):
        assert not self.knows(self.future) and not self.knows(self.solution)
        assert self("fsck", "--unreachable", "--no-reflogs") == ""
        assert self("rev-list", "--all") == self("rev-list", "HEAD")
        assert self("remote") == self("stash", "list") == self("reflog", "show", "--all") == ""
        assert self("rev-parse", "HEAD", "HEAD~1").split() == [self.head, self.base]
        for path in self.git_dir.rglob("*"):
            assert not path.is_file() or self.future.encode() not in path.read_bytes(), path


def run(path, base=None, **environment):
    return subprocess.run(
        ["sh", "-c", git_history.script(str(path), os.getuid(), os.getgid(), base)],
        env={"PATH": os.environ["PATH"], **environment},
        cwd="/", capture_output=True, text=True, check=False, encoding="utf-8",
    )  # fmt: skip


def scrubbed(path, base=None, **environment):
    done = run(path, base, **environment)
    assert done.returncode == 0, done.stderr
    return git_history.read(done.stdout, base)


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "w")


def _packed(r):
    r("branch", "later", r.future)
    r("pack-refs", "--all")


def _symbolic(r):
    r("update-ref", "refs/remotes/origin/main", r.future)
    r("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")


def _broken(r):
    r.write("refs/heads/broken", f"{r.future[::-1]}\n")
    r.write("refs/heads/later", f"{r.future}\n")


def _stash(r):
    (r.path / "file").write_text("solution", encoding="utf-8")
    r("stash", "--quiet")
    # Its commit is another one, its content is the solution's.
    assert r("rev-parse", "stash:file") == r.solution


def _reflog(r):
    line = f"{r.base} {r.future} a <a@b> 1 +0000\tcommit: solution\n"
    r.write("logs/HEAD", line)
    r("config", "gc.reflogExpire", "never")
    r("config", "gc.reflogExpireUnreachable", "never")


def _worktree(r):
    r("worktree", "add", "--quiet", "--detach", str(r.path.parent / "other"), r.future)


def _alternate(r):
    lender = Repository(r.path.parent / "lender")
    lender("update-ref", "refs/heads/all", lender.future)
    lender("repack", "-a", "-d", "-q")
    r.write("objects/info/alternates", f"{lender.git_dir}/objects\n")
    r("repack", "-a", "-d", "-l", "-q")
    r("prune", "--expire=now")


def _kept(r):
    r.pack_everything().with_suffix(".keep").touch()


def _promisor(r):
    r.pack_everything().with_suffix(".promisor").touch()
    r("config", "core.repositoryFormatVersion", "1")
    r("config", "remote.origin.promisor", "true")


def _cruft(r):
    r("repack", "-a", "-d", "-q", "--cruft")
    assert list((r.git_dir / "objects" / "pack").glob("*.mtimes"))


def _indexes_of_packs(r):
    r("update-ref", "refs/all", r.future)
    r("repack", "-a", "-d", "-q", "--write-bitmap-index")
    r("commit-graph", "write", "--reachable", "--split")
    r("multi-pack-index", "write")
    r("update-ref", "-d", "refs/all")


def _remote(r):
    r("remote", "add", "origin", "https://example.org/a.git")
    r("remote", "add", "my.fork", "https://example.org/b.git")
    r("config", "remote.pushDefault", "my.fork")
    r("config", "branch.main.merge", "refs/heads/later")


def _settings(r):
    r("config", "gc.pruneExpire", "never")
    r("config", "gc.recentObjectsHook", "git rev-list --all --reflog")
    r("config", "core.hooksPath", str(r.path.parent / "hooks"))
    r("config", "pack.packSizeLimit", "1m")


_FILES = (
    *("FETCH_HEAD", "ORIG_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REBASE_HEAD"),
    *("rebase-merge/onto", "lost-found/commit/x", "info/refs", "branches/x", "rr-cache/x/preimage"),
)


def _files(r):
    _worktree(r)
    _reflog(r)
    _packed(r)
    for name in (*_FILES, "info/grafts"):
        r.write(name, f"{r.head} {r.future}\n")


def _refs(r):
    _stash(r)
    _symbolic(r)
    r("tag", "-a", "-m", "x", "v2", r.future)
    r("notes", "add", "-m", r.future)
    r("update-ref", "refs/pull/1/head", r.future)
    _broken(r)
    r("replace", r.head, r.future)


# What is planted: how, the step that removes it, and what the check says without that step.
LEAKS = {
    "unreachable": (lambda r: None, "objects", ["unreachable objects"]),
    "settings": (_settings, "objects", ["unreachable objects"]),
    "alternate": (_alternate, "objects", ["alternates", "unreachable objects"]),
    "kept pack": (_kept, "objects", ["unreachable objects"]),
    "promisor pack": (_promisor, "objects", ["objects"]),
    "cruft pack": (_cruft, "objects", ["unreachable objects"]),
    "graph": (_indexes_of_packs, "objects", ["unreachable objects"]),
    "refs": (
        _refs,
        "refs",
        [
            *("refs/heads/later", "refs/tags/v2", "refs/notes/commits", "refs/pull/1/head"),
            *("refs/remotes/origin/HEAD", "refs/remotes/origin/main", "refs/heads/broken"),
            *("refs/stash", "refs/replace"),
        ],
    ),
    "files": (
        _files,
        "files",
        [
            *("logs", "packed-refs", "worktrees", "info/grafts", "info/refs"),
            *(name.split("/")[0] for name in _FILES if name != "info/refs"),
        ],
    ),
    "remote": (_remote, "remotes", ["remotes (my.fork origin )"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_is_gone_and_would_be_noticed(repository, leak, monkeypatch):
    plant, step, said = LEAKS[leak]
    plant(repository)
    copy = repository.path.parent / "copy"
    shutil.copytree(repository.path, copy, symlinks=True)
    scrubbed(repository.path)
    repository.assert_clean()
    assert repository("symbolic-ref", "HEAD") == "refs/heads/main"
    assert repository("config", "--get-regexp", "^(branch|remote)", check=False) == ""
    monkeypatch.setitem(git_history._STEPS, step, "")
    if leak == "alternate":
        _alternate_again(repository, copy)
    done = run(copy)
    assert done.returncode == git_history.REFUSED
    assert f"{copy}/.git still holds" in done.stderr
    assert [what for what in said if what not in done.stderr] == [], done.stderr


def _alternate_again(repository, copy):
    # The lender went with the first run.
    assert not (repository.path.parent / "lender" / ".git").exists()
    again = Repository(repository.path.parent / "again")
    (copy / ".git/objects/info/alternates").write_text(
        f"{again.git_dir}/objects\n", encoding="utf-8"
    )


@pytest.mark.slow
def test_what_was_removed_is_counted_and_a_second_time_finds_nothing(repository):
    _remote(repository)
    _reflog(repository)
    repository("branch", "later", repository.future)
    record = scrubbed(repository.path, repository.base)
    assert record == {
        "head": repository.head,
        "commits": 3,
        "nested": 0,
        "removed": {
            "refs": 1, "remotes": 2, "reflog_entries": 2, "alternates": 0,
            "unreachable_objects": 6,
        },
        "base_commit": repository.base,
        "base_commit_found": True,
    }  # fmt: skip
    again = scrubbed(repository.path)
    assert set(again["removed"].values()) == {0}
    assert again | {"removed": 0} == record | {
        "removed": 0, "base_commit": None, "base_commit_found": None,
    }  # fmt: skip


@pytest.mark.slow
def test_a_detached_head_stays_one_and_the_environment_does_not_matter(repository):
    repository("checkout", "--quiet", "--detach")
    other = Repository(repository.path.parent / "other")
    bent = {
        "GIT_DIR": str(other.git_dir),
        "GIT_OBJECT_DIRECTORY": "/x",
        "GIT_CEILING_DIRECTORIES": "/",
    }
    scrubbed(repository.path, **bent)
    repository.assert_clean()
    assert (repository.git_dir / "HEAD").read_text(encoding="utf-8").strip() == repository.head
    assert repository("for-each-ref") == ""
    assert other.knows(other.future)


def test_index_and_work_tree_stay_as_they_are(repository):
    (repository.path / "staged").write_text("staged", encoding="utf-8")
    repository("add", "staged")
    (repository.path / "new").write_text("new", encoding="utf-8")
    (repository.path / "file").write_text("changed", encoding="utf-8")
    before = repository("status", "--short")
    scrubbed(repository.path)
    repository.assert_clean()
    assert repository("status", "--short") == before
    assert repository("show", ":staged") == "staged"


def test_a_shallow_history_stays_shallow(repository, tmp_path):
    source = f"file://{repository.path}"
    repository("branch", "later", repository.future)
    repository("clone", "--quiet", "--depth", "2", "--no-single-branch", source, "../shallow")
    clone = tmp_path / "shallow"
    assert scrubbed(clone, repository.base)["commits"] == 2
    assert (clone / ".git/shallow").read_text(encoding="utf-8").split() == [repository.base]
    repository("-C", str(clone), "fsck", "--unreachable", "--no-reflogs")


@pytest.mark.slow
def test_a_partial_clone_may_have_gaps_and_no_future(repository, tmp_path, monkeypatch):
    repository("config", "uploadpack.allowFilter", "true")
    repository("branch", "later", repository.future)
    source = f"file://{repository.path}"
    repository("clone", "--quiet", "--filter=blob:none", source, "../partial")
    clone, copy = tmp_path / "partial", tmp_path / "copy"
    shutil.copytree(clone, copy)
    scrubbed(clone)
    inside = ("-C", str(clone))
    assert repository(*inside, "remote") == repository(*inside, "status", "--short") == ""
    # fsck knows no reachability in a partial clone.
    present = {line.split()[0] for line in repository(*inside, *_ALL).splitlines()}
    assert repository.head in present and repository.base in present
    assert repository.future not in present
    assert repository(*inside, "rev-list", "--all", "--count") == "3"
    with monkeypatch.context() as patch:
        patch.setitem(git_history._STEPS, "objects", "")
        assert "objects beyond HEAD and index" in run(copy).stderr


def test_a_linked_worktree_keeps_its_own_history_alone(repository, tmp_path):
    work = tmp_path / "linked"
    repository("worktree", "add", "--quiet", "-b", "work", str(work), repository.head)
    repository("checkout", "--quiet", "-B", "later", repository.future)
    assert scrubbed(work)["head"] == repository.head
    assert not repository.knows(repository.future)
    inside = ("-C", str(work))
    assert repository(*inside, "rev-list", "--all") == repository(*inside, "rev-list", "HEAD")
    assert repository(*inside, "symbolic-ref", "HEAD") == "refs/heads/work"
    assert repository(*inside, "status", "--short") == ""
    assert repository(*inside, "fsck", "--unreachable", "--no-reflogs") == ""


def test_worktrees_below_the_work_tree_become_plain_directories(repository):
    repository("worktree", "add", "--quiet", "--detach", "below", repository.future)
    scrubbed(repository.path)
    repository.assert_clean()
    assert [path.name for path in (repository.path / "below").iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["objects", None])
def test_submodules_and_nested_repositories_are_cleaned_too(
    repository, tmp_path, step, monkeypatch
):
    library = Repository(tmp_path / "library")
    library("branch", "later", library.future)
    repository("submodule", "--quiet", "add", str(library.path), "lib")
    repository("commit", "--quiet", "-m", "lib")
    nested = Repository(repository.path / "nested")
    # It borrows from the repository that has it.
    shutil.rmtree(nested.git_dir / "objects")
    repository("clone", "--quiet", "--shared", str(repository.path), "shared")
    shutil.rmtree(nested.path)
    nested = Repository(repository.path / "deep" / "nested")
    if step:
        monkeypatch.setitem(git_history._STEPS, step, "")
        assert "still holds" in run(repository.path).stderr
        return
    assert scrubbed(repository.path)["nested"] == 3
    nested.assert_clean()
    for work in ("lib", "shared"):
        inside = ("-C", str(repository.path / work))
        assert repository(*inside, "fsck", "--unreachable", "--no-reflogs") == ""
        assert repository(*inside, "remote") == ""
        assert repository(*inside, "cat-file", "-t", library.future, check=False) == ""
    assert library.knows(library.future)


def test_where_there_is_no_repository_there_is_nothing_to_do(tmp_path):
    (tmp_path / "file").touch()
    assert scrubbed(tmp_path) is None
    (tmp_path / ".git").write_text("gitdir: /nonexistent\n", encoding="utf-8")
    assert scrubbed(tmp_path) is None


def test_a_repository_without_commits_holds_nothing(repository):
    repository("checkout", "--quiet", "--orphan", "empty")
    repository("rm", "-r", "-f", "-q", ".")
    assert scrubbed(repository.path) | {"removed": 0} == {
        "head": None, "commits": 0, "nested": 0, "removed": 0, "base_commit": None,
        "base_commit_found": None,
    }  # fmt: skip
    assert not repository.knows(repository.future) and not repository.knows(repository.head)


def test_a_broken_repository_is_refused_because_an_agent_could_mend_it(repository):
    (repository.git_dir / "HEAD").unlink()
    done = run(repository.path)
    assert done.returncode == git_history.REFUSED
    assert f"{repository.git_dir} cannot be read: fatal: not a git repository" in done.stderr


def test_git_is_needed_where_a_repository_is(repository, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "env", "sed", "mktemp", "touch", "rm", "dirname", "head", "find", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    done = run(repository.path, PATH=str(tools))
    assert done.returncode == git_history.REFUSED
    assert "and no git to clean it with: install git in the image" in done.stderr
    assert scrubbed(tools, PATH=str(tools)) is None


# The base commit


@pytest.mark.slow
def test_head_may_be_the_base_commit_or_one_after_it(repository):
    assert scrubbed(repository.path, repository.head)["base_commit_found"] is True
    assert scrubbed(repository.path, repository.base)["base_commit_found"] is True
    first = repository("rev-parse", "HEAD~2")
    done = run(repository.path, first)
    assert done.returncode == git_history.REFUSED
    assert f"HEAD is 2 commits after the base commit {first}" in done.stderr


def test_a_head_elsewhere_than_at_the_base_commit_is_refused(repository):
    done = run(repository.path, repository.future)
    assert f"HEAD {repository.head} does not come after the base commit" in done.stderr
    repository("checkout", "--quiet", "--detach", "HEAD~2")
    assert "does not come after" in run(repository.path, repository.base).stderr


def test_a_squashed_image_need_not_know_the_base_commit(repository):
    absent = "0123456789" * 4
    done = run(repository.path, absent)
    assert f"the base commit {absent} is not in its history of 3 commits" in done.stderr
    repository("checkout", "--quiet", "--orphan", "squashed")
    repository("commit", "--quiet", "-m", "all")
    record = scrubbed(repository.path, absent)
    assert (record["commits"], record["base_commit_found"]) == (1, False)
    assert record["base_commit"] == absent


@pytest.mark.parametrize(
    ("status", "lasting"), [(git_history.REFUSED, True), (1, False), (137, False)]
)
def test_a_failure_names_the_image_and_is_tried_again_unless_it_is_a_refusal(status, lasting):
    engine = SimpleNamespace(
        exec=lambda *_, **__: SimpleNamespace(
            returncode=status, stderr="hint: x\n/w/.git still holds y\n"
        )
    )
    said = r"^the git history of image docker://a: /w/.git still"
    with pytest.raises(InfraError, match=said) as raised:
        git_history.scrub(engine, "id", "docker://a", "/w", 1, 1)
    assert retries.may_pass(raised.value) is not lasting
