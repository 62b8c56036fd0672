"""Whether an agent can work in a fixed image: asked once, as its user, in a fresh container.

What is committed is not always what a container shows: a volume hides it, for example. An agent
that cannot write, or that finds no git where there is a repository, would still end as
`completed`.
"""

import os
import posixpath
from typing import Any

from agentsweep.containers.client import last_line
from agentsweep.containers.engine import LABEL, OWNER_LABEL, ContainerSpec, Engine
from agentsweep.errors import InfraError, LastingError
from agentsweep.host.processes import owner_tag

_TIMEOUT_S = 600
SHELL = "/bin/bash"
# What the programs of an image get while it is fixed and looked at.
PIDS = 4096
_LEAST_BYTES, _MOST_BYTES = 2**30, 8 * 2**30

# For root, whom no mode keeps out.
_REAL_PATH = 'cd "$1" && pwd -P'

# $1 is the work tree, $2 where it leads to. Each line that it prints is a word and what belongs to
# it.
_SCRIPT = r"""
if ! cd "$1" 2> /dev/null; then
  IFS=/ path=
  set -f
  for part in $2; do
    [ -n "$part" ] || continue
    path=$path/$part
    [ -x "$path" ] || { echo "shut $path"; exit 0; }
  done
  echo gone
  exit 0
fi
[ ! -x /bin/bash ] || echo shell
top=$(pwd -P)
folder=$top
while [ ! -e "${folder%/}/.git" ] && [ "$folder" != / ]; do folder=$(dirname "$folder"); done
[ ! -e "${folder%/}/.git" ] || echo "repository $folder"
echo "top $top"
name=.agentsweep-$$
if ! { : > "$name" && rm -f "$name"; } 2> /dev/null; then echo closed .; fi
find . ! -user "$(id -u)" -print 2> /dev/null | head -n 1 | sed 's/^/closed /'
if [ -e .git ]; then
  said=$(git status --short 2>&1 > /dev/null) && echo git ||
    echo "no-git $(printf '%s' "$said" | tail -n 1)"
  found=$(git rev-parse --show-toplevel 2> /dev/null) && echo "found $found"
fi
exit 0
"""


def memory_bytes() -> int:
    """The memory limit of that: half of this machine's, from 1 to 8 GiB."""
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return max(_LEAST_BYTES, min(half, _MOST_BYTES))


def refuse_volumes(config: dict[str, Any], image: str, workdir: str) -> None:
    """LastingError where a volume of the image hides what is committed of the work tree."""
    for volume in config.get("Volumes") or ():
        path = posixpath.normpath(volume)
        if workdir == path or workdir.startswith(f"{path.rstrip('/')}/"):
            raise LastingError(
                f"the work tree {workdir} of image {image} lies in its volume {volume}, where "
                f"nothing is kept: build the image without `VOLUME {volume}`"
            )


def check(
    engine: Engine, name: str, image: str, said: str, workdir: str, user: str
) -> dict[str, Any]:
    """Look at `image` as `user`, in a container `name`: the part `check` of its record.

    `said` is what messages call the image. Raises InfraError with one sentence that names it.
    The shell is not asked for: with `userland: host` it is the host's (`refuse_shell`).
    """
    spec = ContainerSpec(
        name,
        image,
        {LABEL: name, OWNER_LABEL: owner_tag()},
        user="0:0",
        map_user=engine.maps_users,
        memory_bytes=memory_bytes(),
        pids=PIDS,
    )
    try:
        container = engine.start(engine.create(spec), name)
        real = engine.exec(
            container.id, "sh", "-c", _REAL_PATH, "sh", workdir,
            user="0:0", check=False, timeout_s=_TIMEOUT_S,
        )  # fmt: skip
        done = engine.exec(
            container.id, "sh", "-c", _SCRIPT, "sh", workdir, real.stdout.rstrip("\n"),
            user=user, check=False, timeout_s=_TIMEOUT_S,
        )  # fmt: skip
        if done.returncode != 0:
            raise InfraError(
                f"image {said} cannot be checked as user {user}: {last_line(done.stderr)}"
            )
    finally:
        engine.remove(name)
    return judge(done.stdout, said, workdir, user)


def judge(printed: str, said: str, workdir: str, user: str) -> dict[str, Any]:
    """{shell, git}: whether there is a shell, and what `git status` says that does not work.

    LastingError for what no agent can work with.
    """
    lines = [line.partition(" ")[::2] for line in printed.splitlines()]
    seen = dict(reversed(lines))
    if "shut" in seen:
        raise LastingError(
            f"user {user} cannot enter {seen['shut']} in image {said}, above the work tree "
            f"{workdir}: build the image with `chmod o+x {seen['shut']}`, or with the work tree "
            "elsewhere"
        )
    if "gone" in seen or "top" not in seen:
        raise LastingError(f"image {said} has no work tree {workdir}: set the task's `workdir`")
    if "closed" in seen:
        what = seen["closed"]
        where = workdir if what == "." else f"{workdir}/{what.removeprefix('./')}"
        raise LastingError(
            f"user {user} cannot write to {where} in image {said}: see whether a volume or a "
            "mount of the image hides it (`VOLUME`), and build the image without"
        )
    top, repository = seen["top"], seen.get("repository")
    if repository is not None and repository != top:
        raise LastingError(
            f"the work tree {workdir} of image {said} lies below the root of its repository: set "
            f"the task's `workdir` to {repository}"
        )
    # A filter that is not installed: the agent's own git says the same, and its work tree is whole.
    if "no-git" in seen and "filter" not in seen["no-git"]:
        raise LastingError(
            f"`git status` fails for user {user} in {workdir} of image {said}: {seen['no-git']}"
        )
    if seen.get("found", top) != top:
        raise LastingError(
            f"git takes {seen['found']} for the work tree of image {said}, not {workdir}: unset "
            "core.worktree, or set the task's `workdir`"
        )
    return {"shell": "shell" in seen, "git": seen.get("no-git")}


def refuse_shell(record: dict[str, Any], userland: str) -> None:
    """LastingError where the agent would find no shell; old records do not say it."""
    if userland != "host" and not record.get("check", {}).get("shell", True):
        raise LastingError(
            f"image {record['reference']} has no {SHELL}, which the agent needs: install bash in it"
        )
