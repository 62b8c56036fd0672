"""What a task image's git history may hold: the commit the agent starts from and those before it.

Images are made by cloning a repository as it is today and checking out an older commit, so the
solution often lies in them: in a branch, a tag, a reflog, or as an object that nothing names. A
script, run once as root when the image is made ready, keeps what `HEAD` reaches and removes the
rest, in the work tree's repository and in all that lie below it, and then looks whether anything
is left.

The index and the work tree stay as they are, and so do blobs that only the index names: they are
what the agent starts from, and the snapshot is taken of them. Hooks stay too: they are no
history, and neither this script nor the snapshot runs them.
"""

import shlex
from typing import Any

from agentsweep.containers.client import last_line
from agentsweep.containers.engine import Engine
from agentsweep.errors import InfraError, LastingError

_TIMEOUT_S = 3600
# Status of the script where it says on stderr, in its last line, what is wrong with the image.
REFUSED = 65
_COUNTS = ("refs", "remotes", "reflog_entries", "alternates", "unreachable_objects")

# No configuration but the repository's own counts, and nothing in it that could bend the result:
# no grafts or replacements, no hooks, no graph or index of packs that may know dead commits.
_BEGIN = r"""
set -eu
fail() { echo "$*" >&2; exit 65; }
for name in $(env | sed -n 's/^\(GIT_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
export HOME=/nonexistent XDG_CONFIG_HOME=/nonexistent GIT_CONFIG_GLOBAL=/dev/null
export GIT_CONFIG_NOSYSTEM=1 LC_ALL=C GIT_TERMINAL_PROMPT=0 GIT_NO_LAZY_FETCH=1
export GIT_NO_REPLACE_OBJECTS=1 GIT_GRAFT_FILE=/dev/null
git() {
  command git -c core.hooksPath=/dev/null -c core.commitGraph=false \
    -c core.multiPackIndex=false -c pack.threads=2 -c pack.windowMemory=64m \
    -c pack.packSizeLimit=0 -c advice.graftFileDeprecated=false "$@"
}
absolute() { (cd "$1" && pwd -P); }
lines() { wc -l < "$1" | tr -d ' '; }
all_objects() { git cat-file --batch-all-objects --batch-check='%(objectname)' > "$1"; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
touch "$tmp/found" "$tmp/seen" "$tmp/repositories" "$tmp/pointers" "$tmp/stores" "$tmp/ours"
"""

# An allow-list: logs, packed-refs, ORIG_HEAD and its like, stopped rebases, rerere's memory,
# lost-found, other worktrees and what future versions of git add are then all gone. What LFS,
# annex and git-crypt keep is needed by the work tree's own files.
_FUNCTIONS = r"""
# Prints what does not belong into the git directory `$gd` (common part: `$common`).
foreign() {
  if [ "$gd" = "$common" ]; then
    find "$gd" -mindepth 1 -maxdepth 1 ! -name HEAD ! -name config ! -name config.worktree \
      ! -name description ! -name hooks ! -name index ! -name 'sharedindex.*' ! -name info \
      ! -name modules ! -name objects ! -name refs ! -name shallow ! -name lfs ! -name annex \
      ! -name git-crypt
  else
    find "$gd" -mindepth 1 -maxdepth 1 ! -name HEAD ! -name commondir ! -name gitdir \
      ! -name config.worktree ! -name index ! -name 'sharedindex.*' ! -name modules
    find "$common" -mindepth 1 -maxdepth 1 ! -name HEAD ! -name config ! -name description \
      ! -name hooks ! -name info ! -name modules ! -name objects ! -name refs ! -name shallow \
      ! -name lfs ! -name annex ! -name git-crypt ! -name worktrees
    find "$common/worktrees" -mindepth 1 -maxdepth 1 ! -path "$gd"
  fi
  [ ! -d "$common/info" ] || find "$common/info" -mindepth 1 -maxdepth 1 ! -name exclude \
    ! -name attributes ! -name sparse-checkout
}
# Prints the object ids (with paths, which make better packs) of what HEAD and the index name.
# The pattern matches nothing; with one, git takes an empty repository for no wrong usage.
wanted() {
  git rev-list --objects --single-worktree --indexed-objects --glob=refs/agentsweep/none \
    $missing ${head:+"$head"}
}
# The commit that the benchmark names must be HEAD or one below it.
check_base() {
  [ -n "$base" ] || return 0
  if git rev-parse --quiet --verify "$base^{commit}" > /dev/null 2>&1; then
    mend="use an image that is checked out at it"
    [ -n "$head" ] && git merge-base --is-ancestor "$base" "$head" ||
      fail "HEAD ${head:-(unborn)} does not come after the base commit $base: $mend"
    on_top=$(git rev-list --count "$base..$head")
    [ "$on_top" -le 1 ] ||
      fail "HEAD is $on_top commits after the base commit $base, where one (setup) may be: $mend"
    printf 'base\ttrue\n'
  else
    # A squashed image: its content is the base commit's under another name.
    [ "$commits" -le 2 ] ||
      fail "the base commit $base is not in its history of $commits commits:" \
        "use the image that the benchmark made for this commit"
    printf 'base\tfalse\n'
  fi
}
"""

# Each step by its name, so that a test can leave one out and see that its absence is noticed.
_STEPS = {
    "remotes": r"""
for file in "$common/config" "$gd/config.worktree"; do
  while [ -f "$file" ]; do
    # Branch sections say which remote branch was followed.
    name=$(git config --file "$file" --name-only --get-regexp '^(remote|branch)\.' | head -n 1)
    [ -n "$name" ] || break
    git config --file "$file" --remove-section "${name%.*}" ||
      fail "the section ${name%.*} of $file cannot be removed"
  done
done
# Gaps are no damage in a partial clone, which is recognised by this once its remote is gone.
git config --file "$common/config" --unset-all extensions.partialClone || :
[ -z "$partial" ] || git config --file "$common/config" extensions.partialClone "$partial"
""",
    "files": r"""
foreign > "$tmp/foreign"
while read -r path; do rm -rf "$path"; done < "$tmp/foreign"
if [ -f "$common/shallow" ]; then
  # Only where this history was cut off; other lines name commits that are gone.
  git rev-list ${head:+"$head"} > "$tmp/commits"
  grep -Fx -f "$tmp/commits" "$common/shallow" > "$tmp/shallow" || :
  cat "$tmp/shallow" > "$common/shallow"
  [ -s "$common/shallow" ] || rm "$common/shallow"
fi
""",
    "refs": r"""
rm -rf "$common/refs"
mkdir -p "$common/refs/heads" "$common/refs/tags"
if [ -n "$branch" ] && [ -n "$head" ]; then
  mkdir -p "$common/$(dirname "$branch")"
  echo "$head" > "$common/$branch"
fi
# The main work tree of a linked one is elsewhere, and so may its HEAD be.
[ "$gd" = "$common" ] || [ -z "$head" ] || echo "$head" > "$common/HEAD"
""",
    "objects": r"""
# Not `git gc`: its expiry dates, .keep and .promisor packs, cruft packs and alternates all hold
# on to objects. One new pack of what is wanted replaces everything.
new="$objects/agentsweep"
mkdir "$new"
if [ -s "$tmp/wanted" ]; then
  git pack-objects -q --delta-base-offset "$new/pack" < "$tmp/wanted" > "$tmp/pack" ||
    fail "the history of $gd cannot be packed"
  [ -z "$partial" ] || touch "$new/pack-$(cat "$tmp/pack").promisor"
fi
find "$objects" -mindepth 1 -maxdepth 1 ! -name agentsweep -exec rm -rf {} +
mkdir "$objects/info"
mv "$new" "$objects/pack"
""",
}

_VERIFY = r"""
left=
note() { left="$left${left:+, }$1"; }
found=$(git remote | tr '\n' ' ')
[ -z "$found" ] || note "remotes ($found)"
found=$(foreign | sed "s|^$common/||" | tr '\n' ' ')
[ -z "$found" ] || note "files ($found)"
{ git for-each-ref --format='%(refname)' 2> /dev/null || :
  (cd "$common" && find refs -type f); } | sort -u > "$tmp/refs"
found=$(grep -Fvx "${branch:-none}" "$tmp/refs" | head -n 20 | tr '\n' ' ' || :)
[ -z "$found" ] || note "refs ($found)"
[ ! -e "$objects/info/alternates" ] || note "alternates"
if [ -n "$head" ]; then
  git rev-list --all > "$tmp/by-refs" 2> /dev/null || note "refs to nothing"
  more=$(( $(lines "$tmp/by-refs") - $(git rev-list --count HEAD) ))
  [ "$more" -le 0 ] || note "$more commits that are not in HEAD's history"
fi
# Of reachable blobs it checks that they are there and does not read them, which would take
# minutes. Old objects with a wrong form are none of its business either.
# In a partial clone it takes all parents for unreachable; there the objects are only counted.
found=0
if [ -z "$partial" ]; then
  git fsck --connectivity-only --unreachable --no-reflogs --no-progress \
    > "$tmp/fsck" 2> "$tmp/said" || note "damage ($(cat "$tmp/fsck" "$tmp/said" | head -n 1))"
  found=$(grep -c '^unreachable' "$tmp/fsck" || :)
  [ "$found" -eq 0 ] || note "$found unreachable objects"
fi
all_objects "$tmp/after"
more=$(( $(lines "$tmp/after") - $(lines "$tmp/wanted") ))
[ "$more" -eq 0 ] || [ "$found" -ne 0 ] || note "$more objects beyond HEAD and index"
[ -z "$left" ] || fail "$gd still holds $left"
"""

_CLEAN = r"""
# clean <git directory> <own or nested>: one repository.
clean() {
  export GIT_DIR="$1"
  gd=$1 common=$(absolute "$(git rev-parse --git-common-dir)")
  objects="$common/objects"
  echo "$objects" >> "$tmp/ours"
  [ "$(git config extensions.refStorage || :)" != reftable ] ||
    fail "$gd keeps its refs as reftable, which cannot be cleaned:" \
      "run \`git refs migrate --ref-format=files\` in the image"
  branch=$(git symbolic-ref -q HEAD || :)
  head=$(git rev-parse --quiet --verify 'HEAD^{commit}' || :)
  [ -n "$head" ] || [ -n "$branch" ] || fail "HEAD of $gd names a commit that is not there"
  commits=$([ -z "$head" ] || git rev-list --count "$head")
  commits=${commits:-0}
  [ "$2" != own ] || check_base
  partial=$(git config extensions.partialClone ||
    git config --name-only --get-regexp '^remote\..*\.promisor$' | head -n 1)
  partial=${partial#remote.}
  partial=${partial%.promisor}
  missing=${partial:+--missing=allow-any}
  git for-each-ref --format='%(refname)' > "$tmp/refs" 2> /dev/null || :
  refs=$(grep -Fvxc "${branch:-none}" "$tmp/refs" || :)
  remotes=$(git remote | wc -l)
  reflog=$(find "$gd/logs" "$common/logs" -type f 2> /dev/null | sort -u |
    while read -r log; do cat "$log"; done | wc -l)
  git count-objects -v | sed -n 's/^alternate: //p' > "$tmp/alternates"
  cat "$tmp/alternates" >> "$tmp/stores"
  all_objects "$tmp/before"
  wanted > "$tmp/wanted" 2> "$tmp/said" ||
    fail "the history of $gd cannot be read: $(tail -n 1 "$tmp/said")"
  # A partial clone that lacks nothing here is made a whole one.
  if [ -n "$partial" ]; then
    missing=--missing=print
    wanted > "$tmp/printed"
    grep -q '^?' "$tmp/printed" || partial=
  fi
  STEPS
  VERIFY
  chown -R "$owner" "$common"
  printf '%s\t' "$2" "$commits" "${head:--}" "$refs" $remotes $reflog \
    "$(lines "$tmp/alternates")" "$(( $(lines "$tmp/before") - $(lines "$tmp/after") ))"
  echo
  unset GIT_DIR
}
"""

_MAIN = r"""
work=$(absolute "$work")
# The first above is the work tree's own; one further up has it as a submodule, or ignores it.
folder=$work
while :; do
  [ ! -e "${folder%/}/.git" ] || echo "${folder%/}/.git" >> "$tmp/found"
  [ "$folder" != / ] || break
  folder=$(dirname "$folder")
done
own=$(head -n 1 "$tmp/found")
find "$work" -name .git -prune >> "$tmp/found"
[ -s "$tmp/found" ] || exit 0
(unset -f git && command -v git) > /dev/null ||
  fail "it has the repository $(head -n 1 "$tmp/found") and no git to clean it with:" \
    "install git in the image"
# All first, then each: cleaning one takes away the pointers to its other worktrees.
while read -r path; do
  if ! gd=$(git --git-dir="$path" rev-parse --git-dir 2> "$tmp/said"); then
    # A pointer to nothing has nothing; a broken repository may be mended and then read.
    [ ! -d "$path/objects" ] || fail "$path cannot be read: $(tail -n 1 "$tmp/said")"
    continue
  fi
  gd=$(absolute "$gd")
  common=$(absolute "$(git --git-dir="$gd" rev-parse --git-common-dir)")
  ! grep -Fqx "$gd" "$tmp/seen" || continue
  if grep -Fqx "$common" "$tmp/seen"; then
    # Another worktree of a repository that is cleaned already: its files stay, as files.
    [ -d "$path" ] || echo "$path" >> "$tmp/pointers"
    continue
  fi
  { echo "$gd"; echo "$common"; } >> "$tmp/seen"
  kind=nested
  [ "$path" != "$own" ] || kind=own
  echo "$kind $gd" >> "$tmp/repositories"
  find "$common/modules" "$gd/modules" -type f -name HEAD 2> /dev/null > "$tmp/heads" || :
  while read -r file; do
    module=$(absolute "$(dirname "$file")")
    [ -d "$module/objects" ] || continue
    ! grep -Fqx "$module" "$tmp/seen" || continue
    echo "$module" >> "$tmp/seen"
    echo "nested $module" >> "$tmp/repositories"
  done < "$tmp/heads"
done < "$tmp/found"
# The work tree's own comes last, because clones below it may borrow its objects.
sort "$tmp/repositories" > "$tmp/sorted"
while read -r kind gd; do clean "$gd" "$kind"; done < "$tmp/sorted"
while read -r path; do rm -f "$path"; done < "$tmp/pointers"
# What repositories borrowed from is a copy of their future that nothing needs any more.
sort -u "$tmp/stores" | while read -r store; do
  [ -d "$store" ] || continue
  store=$(absolute "$store")
  ! grep -Fqx "$store" "$tmp/ours" || continue
  lender=$(dirname "$store")
  rm -rf "$store"
  # Its refs and reflogs tell of the same commits.
  case "$work/" in "$lender"/*) continue ;; esac
  if [ -f "$lender/HEAD" ] && [ -d "$lender/refs" ]; then rm -rf "$lender"; fi
done
"""


def script(workdir: str, uid: int, gid: int, base_commit: str | None = None) -> str:
    """The shell script, for root.

    It prints one line per repository (and one for the base commit), and nothing where there is
    no repository. It fails with one sentence on stderr.
    """
    settings = (
        f"work={shlex.quote(workdir)} owner={uid}:{gid} base={shlex.quote(base_commit or '')}"
    )
    clean = _CLEAN.replace("STEPS", "".join(_STEPS.values())).replace("VERIFY", _VERIFY)
    return f"{settings}\n{_BEGIN}{_FUNCTIONS}{clean}{_MAIN}"


def scrub(
    engine: Engine,
    container: str,
    image: str,
    workdir: str,
    uid: int,
    gid: int,
    base_commit: str | None = None,
) -> dict[str, Any] | None:
    """Remove all history after `HEAD`: what was done, or None where there is no repository.

    With `base_commit`, HEAD must be it or have one commit on top of it. An image that does not
    know the commit is squashed: right as long as its history has no more than two commits, and
    recorded as `base_commit_found: false`. Raises InfraError with one sentence that names the
    image where something is left or cannot be cleaned.
    """
    done = engine.exec(
        container, "sh", "-c", script(workdir, uid, gid, base_commit),
        user="0:0", check=False, timeout_s=_TIMEOUT_S,
    )  # fmt: skip
    if done.returncode != 0:
        # What the script refuses it would refuse again.
        error = LastingError if done.returncode == REFUSED else InfraError
        raise error(f"the git history of image {image}: {last_line(done.stderr)}")
    return read(done.stdout, base_commit)


def read(printed: str, base_commit: str | None) -> dict[str, Any] | None:
    """The record of what the script printed; InfraError where that is something else.

    `commits` and `head` are the work tree's repository's; `removed` counts over it and the
    `nested` ones.
    """
    if not printed.strip():
        return None
    try:
        return _record(printed, base_commit)
    except (ValueError, LookupError) as error:
        raise InfraError(
            "what was printed of the git history cannot be read: see what the image's git and "
            "shell are"
        ) from error


def _record(printed: str, base_commit: str | None) -> dict[str, Any]:
    rows = [line.split("\t") for line in printed.splitlines()]
    found = {row[0]: row[1:] for row in rows if row[0] != "nested"}
    cleaned = [row for row in rows if row[0] in ("own", "nested")]
    commits, head = found.get("own", ["0", "-"])[:2]
    counts = zip(*(map(int, row[3 : 3 + len(_COUNTS)]) for row in cleaned), strict=True)
    return {
        "head": None if head == "-" else head,
        "commits": int(commits),
        "nested": sum(row[0] == "nested" for row in cleaned),
        "removed": dict(zip(_COUNTS, map(sum, counts), strict=True)),
        "base_commit": base_commit,
        "base_commit_found": found["base"][0] == "true" if "base" in found else None,
    }
