"""The work tree before and after the agent, as git trees, and the patch between them.

Both trees are written with an index of their own, so that neither the agent's staging area nor
its commits matter: new files, commits and deletions all show. A directory that is no repository
gets a git directory outside of it, which the agent does not see in its work.
"""

import shlex

from agentsweep.engine import Engine
from agentsweep.errors import InfraError

OUTSIDE_GIT_DIR = "/var/lib/agentsweep/start.git"

# Files that the CLI itself may leave in the work tree are none of the agent's work.
_EXCLUDE = "':(exclude).claude'"

_WRITE_TREE = f"""
export HOME=/tmp GIT_CONFIG_NOSYSTEM=1 LC_ALL=C
index=$(mktemp /tmp/agentsweep-index.XXXXXX)
if [ -f "$(git rev-parse --git-path index)" ]; then
  cp -p "$(git rev-parse --git-path index)" "$index"
else
  rm -f "$index"
fi
export GIT_INDEX_FILE="$index"
git -c core.hooksPath=/dev/null -c core.fsmonitor=false add --all -- . {_EXCLUDE} >&2
tree=$(git write-tree)
rm -f "$index"
"""

_DIFF = "git diff --binary --no-color --no-ext-diff --no-textconv --no-renames --full-index "


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
    """Write what changed since the start as a binary git diff; False where nothing can be said.

    `start` is what `take_start` returned. Raises InfraError when the container does not answer.
    """
    if start["start_tree"] is None:
        target.write_bytes(b"")
        return False
    # One call of the engine for both: each costs a good part of what the patch costs.
    script = _script(start["git_dir"], workdir) + f'{_DIFF} {start["start_tree"]} "$tree"\n'
    engine.exec_to_file(container, target, "sh", "-c", script, user=user, workdir=workdir)
    return True


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
