"""The work tree before and after the agent, as git trees, and the patch between them.

Both trees are written with an index of their own, so that neither the agent's staging area nor
its commits matter: new files, commits and deletions all show. A directory that is no repository
gets a git directory outside of it, which the agent does not see in its work.
"""

import shlex

from agentsweep.engine import Engine
from agentsweep.errors import InfraError

_PATCH_TIMEOUT_S = 600

OUTSIDE_GIT_DIR = "/var/lib/agentsweep/start.git"

# Files that the CLI itself may leave in the work tree are none of the agent's work.
_EXCLUDE = "':(exclude).claude'"

_WRITE_TREE = f"""
export HOME=/nonexistent XDG_CONFIG_HOME=/nonexistent GIT_CONFIG_GLOBAL=/dev/null
export GIT_CONFIG_NOSYSTEM=1 LC_ALL=C
index=$(mktemp /tmp/agentsweep-index.XXXXXX)
trap 'rm -f "$index"' EXIT
if [ -f "$(git rev-parse --git-path index)" ]; then
  cp -p "$(git rev-parse --git-path index)" "$index"
else
  rm -f "$index"
fi
export GIT_INDEX_FILE="$index"
# Files that are marked as unchanged, or as absent on purpose, would hide their changes.
if git ls-files -v 2>/dev/null | grep -q '^[a-zS]'; then
  git ls-files -s > "$index.entries"
  rm -f "$index"
  git update-index --index-info < "$index.entries"
  rm -f "$index.entries"
fi
# Status 1: all but what cannot be added (an unreadable file, an empty repository) was.
git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.sparseCheckout=false \\
  add --all --ignore-errors -- . {_EXCLUDE} >&2 || [ $? -eq 1 ]
tree=$(git write-tree)
"""

# The agent may have configured git to write patches that do not apply elsewhere.
_DIFF = (
    "git -c core.quotePath=true -c diff.suppressBlankEmpty=false diff "
    "--binary --no-color --no-ext-diff --no-textconv --no-renames --full-index --unified=3 "
    "-O/dev/null --inter-hunk-context=0 --diff-algorithm=myers --no-indent-heuristic "
    "--submodule=short --ignore-submodules=none --src-prefix=a/ --dst-prefix=b/ --no-relative "
)


def prepare(workdir: str, uid: int, gid: int) -> str:
    """The shell script (for root) that hands a work tree, made if missing, to the agent's user."""
    folder = shlex.quote(workdir)
    return (
        f"set -e; mkdir -p {folder}; chown -R {uid}:{gid} {folder}; "
        f"mkdir -p {OUTSIDE_GIT_DIR}; chown {uid}:{gid} {OUTSIDE_GIT_DIR}"
    )


def take_start(engine: Engine, container: str, user: str, workdir: str) -> dict[str, str | None]:
    """Snapshot the untouched work tree: {git_dir, start_commit, start_tree}.

    git_dir is None for a repository of the task's own; all are None where the image has no git.
    """
    if engine.exec(container, "sh", "-c", "command -v git", check=False).returncode != 0:
        return {"git_dir": None, "start_commit": None, "start_tree": None}
    own = engine.exec(
        container, "git", "rev-parse", "--verify", "HEAD",
        user=user, workdir=workdir, check=False,
    )  # fmt: skip
    git_dir, commit = None, own.stdout.strip()
    if own.returncode != 0:
        git_dir, commit = OUTSIDE_GIT_DIR, None
        engine.exec(container, "git", "init", "--quiet", "--bare", git_dir, user=user)
    else:
        # chown changed every file's ctime; without a refreshed index the agent's first
        # `git status` would read the whole tree again, in every run.
        engine.exec(container, "git", "status", "--short", user=user, workdir=workdir)
    tree = _write_tree(engine, container, user, workdir, git_dir)
    return {"git_dir": git_dir, "start_commit": commit, "start_tree": tree}


def write_patch(engine: Engine, container: str, user: str, workdir: str, start: dict, target):
    """Write what changed since the start as a binary git diff.

    Returns what git could not read, one line each, and None where nothing can be said at all.
    `start` is what `take_start` returned. Raises InfraError when the container does not answer.
    """
    if start["start_tree"] is None:
        target.write_bytes(b"")
        return None
    # One call of the engine for both: each costs a good part of what the patch costs.
    script = _script(start["git_dir"], workdir) + f'{_DIFF} {start["start_tree"]} "$tree"\n'
    said = engine.exec_to_file(
        container, target, "sh", "-c", script,
        user=user, workdir=workdir, timeout_s=_PATCH_TIMEOUT_S,
    )  # fmt: skip
    return [line[:200] for line in said.splitlines() if line.startswith("error: ")][:20]


def _write_tree(engine: Engine, container: str, user: str, workdir: str, git_dir: str | None):
    script = _script(git_dir, workdir) + 'echo "$tree"\n'
    done = engine.exec(container, "sh", "-c", script, user=user, workdir=workdir, check=False)
    tree = done.stdout.strip()
    if done.returncode != 0 or len(tree) not in (40, 64):
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InfraError(f"the work tree {workdir} cannot be read with git: {said}")
    return tree


def _script(git_dir: str | None, workdir: str) -> str:
    where = f"export GIT_DIR={git_dir} GIT_WORK_TREE={shlex.quote(workdir)}\n" if git_dir else ""
    return f"set -e\n{where}{_WRITE_TREE}"
