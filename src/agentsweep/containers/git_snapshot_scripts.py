"""The shell scripts, for bash, that look at a work tree and make trees and patches of it.

They run in a container that may hold whatever an agent left. So git never works in the agent's
repository: its git directory is the store that was made before the agent ran (`STORE`), new
objects and indexes go into a directory that did not exist while the agent lived, and git reads of
the work tree only what it is told to hash, byte by byte. No `.gitattributes`, no configuration and
no object of the agent's has a say.
"""

# Root's, in the fixed image: what the work tree was before the agent ran. It is where no mount of
# the host hides it.
STORE = "/.agentsweep/start.git"

# Status of a script that says on stderr what is wrong with the tree, in one line.
REFUSED = 65

# In place of the image's own, whose values could name files that the agent wrote.
ENVIRONMENT = dict.fromkeys(("BASH_ENV", "ENV", "LD_PRELOAD", "LD_LIBRARY_PATH"), "")

# $1 is the work tree, $2 the store, $3 the directory of the image's git, which comes last.
_BEGIN = rf"""
set -u
work=$1 store=$2 more=$3
for name in $(compgen -e); do unset "$name"; done
export PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin${{more:+:$more}}"
export LC_ALL=C HOME=/nonexistent XDG_CONFIG_HOME=/nonexistent GIT_TERMINAL_PROMPT=0
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_ATTR_NOSYSTEM=1
export GIT_NO_REPLACE_OBJECTS=1 GIT_NO_LAZY_FETCH=1
export GIT_DIR="$store"
umask 022
fail() {{ printf '%s\n' "$*" | tail -n 1 | cut -c 1-400 >&2; exit {REFUSED}; }}
tmp=$(mktemp -d /tmp/agentsweep-XXXXXXXX) || fail "no temporary directory"
trap 'rm -rf "$tmp"' EXIT
# What a command says goes to a file: nothing bounds what could come.
said() {{ tail -c 400 "$tmp/said" | tr '\n' ' '; }}
"""

# Every list ends its entries with NUL. Nested repositories are looked at as directories.
_LOOK = r"""
cd "$work" 2> /dev/null || fail "the work tree $work is gone"
files() { find . \( -name .git -o -path ./.claude \) -prune -o "$@" -print0 2> /dev/null; }
# Up to 1 GiB each: a sparse file of terabytes would be read for hours.
files -type f -perm -400 -size -2097153 > "$tmp/files"
files -type f -perm -400 -size -2097153 -perm -100 > "$tmp/executable"
files -type f -perm -400 -size +2097152 > "$tmp/large"
files -type l > "$tmp/links"
files \( -type f ! -perm -400 -o -type d ! -perm -500 \) > "$tmp/unreadable"
if [ -s "$tmp/links" ] && ! find . \( -name .git -o -path ./.claude \) -prune -o \
    -type l -printf '%l\0' > "$tmp/targets" 2> /dev/null; then
  find . \( -name .git -o -path ./.claude \) -prune -o -type l \
    -exec readlink -n {} \; -exec printf '\0' \; > "$tmp/targets" 2> /dev/null
fi
# The rules of .gitignore are read from copies, because one in the work tree could be a FIFO.
files -name .gitignore -type f -perm -400 -size -2048 > "$tmp/rule-files"
mkdir "$tmp/rules"
while IFS= read -r -d '' path; do
  mkdir -p "$tmp/rules/${path%/*}" && cat "$path" > "$tmp/rules/$path"
done < "$tmp/rule-files" 2> /dev/null
cat "$tmp/files" "$tmp/links" > "$tmp/all"
: > "$tmp/ignored"
if [ -s "$tmp/all" ]; then
  (cd "$tmp/rules" && GIT_WORK_TREE="$tmp/rules" GIT_INDEX_FILE="$tmp/none" \
    git -c core.bare=false check-ignore --no-index --verbose -z --stdin) \
    < "$tmp/all" > "$tmp/ignored" 2> "$tmp/said"
  [ $? -le 1 ] || fail "its .gitignore cannot be read: $(said)"
fi
# A list of names: what the agent wants in although a rule ignores it (`git add --force`).
if [ -d .git ] && [ ! -L .git ] && [ -f .git/index ] && [ ! -L .git/index ]; then
  GIT_INDEX_FILE="$PWD/.git/index" git ls-files -z > "$tmp/listed" 2> /dev/null
fi
# What a rule ignores (environments of gigabytes) is read only where somebody knows it by name.
if [ -s "$tmp/ignored" ]; then
  declare -A ignored=() known=()
  while IFS= read -r -d '' source && IFS= read -r -d '' line && IFS= read -r -d '' pattern &&
    IFS= read -r -d '' path; do
    case "$pattern" in '!'*) ;; *) ignored["$path"]=1 ;; esac
  done < "$tmp/ignored"
  for list in listed tracked started; do
    [ -e "$tmp/$list" ] || continue
    while IFS= read -r -d '' path; do known["./$path"]=1; done < "$tmp/$list"
  done
  for list in files executable; do
    while IFS= read -r -d '' path; do
      if [ -z "${ignored["$path"]+x}" ] || [ -n "${known["$path"]+x}" ]; then
        printf '%s\0' "$path"
      fi
    done < "$tmp/$list" > "$tmp/some"
    mv "$tmp/some" "$tmp/$list"
  done
fi
: > "$tmp/hashes"
if [ -s "$tmp/files" ]; then
  xargs -0 git hash-object --no-filters -- < "$tmp/files" > "$tmp/hashes" 2> "$tmp/said" ||
    fail "its files cannot be read: $(said)"
fi
"""

_LOOK_END = r"""
for name in files executable links unreadable large hashes targets ignored listed tracked start; do
  [ -e "$tmp/$name" ] || : > "$tmp/$name"
  printf '%s %s\0' "$name" "$(($(wc -c < "$tmp/$name")))"
  cat "$tmp/$name"
done
"""

# $4 is the start tree.
LOOK = f"""{_BEGIN}
git ls-tree -r -z --full-tree "$4" > "$tmp/start" 2> "$tmp/said" &&
  git ls-tree -r -z --full-tree --name-only "$4" > "$tmp/started" ||
  fail "the start of the work tree cannot be read: $(said)"
{_LOOK}{_LOOK_END}"""

# For root, in an image that no agent has been in. What the repository tracks, submodules' files
# too; its own exclude files, which an agent could write to later, count as they are now.
LOOK_FIRST = rf"""{_BEGIN}
cd "$work" 2> /dev/null || fail "there is no work tree $work"
git_dir() {{ [ -e "$1/.git" ] && env -u GIT_DIR git --git-dir="$1/.git" rev-parse --git-dir; }}
own=$(git_dir . 2> /dev/null) || own=
format=$([ -z "$own" ] || git --git-dir="$own" rev-parse --show-object-format 2> /dev/null) || :
case "$format" in sha256) format=--object-format=sha256 ;; *) format= ;; esac
rm -rf "$store"
mkdir -p "$store"
git init -q --bare $format "$store" > "$tmp/said" 2>&1 || fail "git init: $(said)"
rm -rf "$store/hooks" "$store/branches" "$store/description"
for pair in core.looseCompression=1 core.protectNTFS=false core.protectHFS=false \
  gc.auto=0 core.logAllRefUpdates=false core.symlinks=true \
  core.ignoreCase=false core.precomposeUnicode=false core.autocrlf=false core.safecrlf=false; do
  git config "${{pair%%=*}}" "${{pair#*=}}"
done
mkdir -p "$store/info" "$store/attributes"
: > "$store/info/exclude"
tracked() {{
  git --git-dir="$2" ls-files -z | while IFS= read -r -d '' path; do
    printf '%s\0' "$1$path"
  done
  git --git-dir="$2" ls-files -s -z | while IFS= read -r -d '' line; do
    [ "${{line%% *}}" = 160000 ] || continue
    module=$1${{line#*$'\t'}}
    inner=$(git_dir "$module" 2> /dev/null) || continue
    tracked "$module/" "$inner"
  done
}}
if [ -n "$own" ]; then
  tracked "" "$own" > "$tmp/tracked" 2> /dev/null
  common=$(git --git-dir="$own" rev-parse --git-common-dir)
  named=$(git --git-dir="$own" config --path core.excludesFile) || named=
  for file in "$named" "$common/info/exclude"; do
    [ ! -f "$file" ] || {{ cat "$file"; echo; }} >> "$store/info/exclude"
  done
fi
{_LOOK}
files -name .gitattributes -type f -size -2048 > "$tmp/attributes"
while IFS= read -r -d '' path; do
  mkdir -p "$store/attributes/${{path%/*}}" && cat "$path" > "$store/attributes/$path"
done < "$tmp/attributes" 2> /dev/null
{_LOOK_END}"""

# Standard input: the files to keep, an empty entry, the targets of links, an empty entry, and what
# `git update-index --index-info` takes, each entry ended with NUL.
_ADD = r"""
cd "$work" 2> /dev/null || fail "the work tree $work is gone"
while IFS= read -r -d '' path && [ -n "$path" ]; do printf '%s\0' "$path"; done > "$tmp/changed"
if [ -s "$tmp/changed" ]; then
  xargs -0 git hash-object -w --no-filters -- < "$tmp/changed" > /dev/null 2> "$tmp/said" ||
    fail "its files cannot be kept: $(said)"
fi
while IFS= read -r -d '' target && [ -n "$target" ]; do
  printf '%s' "$target" | git hash-object -w --stdin > /dev/null 2> "$tmp/said" ||
    fail "its links cannot be kept: $(said)"
done
git update-index -z --index-info 2> "$tmp/said" || fail "no index can be made: $(said)"
tree=$(git write-tree 2> "$tmp/said") || fail "no tree can be made: $(said)"
"""

MAKE_START = f"""{_BEGIN}
export GIT_INDEX_FILE="$tmp/index"
{_ADD}
mkdir -p "$store/objects/pack"
printf '%s\\n' "$tree" | git pack-objects -q --revs --window=0 --threads=2 \\
  "$store/objects/pack/pack" > /dev/null 2> "$tmp/said" || fail "no pack can be made: $(said)"
git prune-packed -q 2> "$tmp/said" || fail "the pack is not whole: $(said)"
chmod -R a+rX,go-w "$store"
printf '%s\\n' "$tree"
"""

# The agent's image may have attributes that decide how a change is shown; those of the start do.
DIFF_OPTIONS = (
    "--binary --no-color --no-ext-diff --no-textconv --no-renames --full-index --unified=3 "
    "-O/dev/null --inter-hunk-context=0 --diff-algorithm=myers --no-indent-heuristic "
    "--submodule=short --ignore-submodules=none --src-prefix=a/ --dst-prefix=b/ --no-relative"
)

# $4 is the start tree. The patch is printed once it was seen to make the end out of the start.
MAKE_PATCH = rf"""{_BEGIN}
mkdir -p "$tmp/objects/pack" "$tmp/objects/info"
export GIT_OBJECT_DIRECTORY="$tmp/objects" GIT_ALTERNATE_OBJECT_DIRECTORIES="$store/objects"
export GIT_INDEX_FILE="$tmp/index"
git read-tree "$4" 2> "$tmp/said" || fail "the start of the work tree cannot be read: $(said)"
{_ADD}
cd "$store/attributes" || fail "the store of the start is not whole"
export GIT_WORK_TREE="$PWD" GIT_INDEX_FILE="$tmp/none"
git -c core.bare=false -c core.quotePath=true -c diff.suppressBlankEmpty=false diff \
  {DIFF_OPTIONS} "$4" "$tree" > "$tmp/patch" 2> "$tmp/said"
status=$?
[ $status -ne 137 ] || fail "git diff was killed (status 137): there was no memory for the patch"
[ $status -eq 0 ] || fail "git diff ended with status $status: $(said)"
if [ -s "$tmp/patch" ]; then
  export GIT_INDEX_FILE="$tmp/check"
  git read-tree "$4"
  {{ git -c core.bare=false apply --cached --whitespace=nowarn "$tmp/patch"; }} 2> "$tmp/said"
  status=$?
  # One that the kernel killed for memory has not said that the patch is wrong.
  if [ $status -gt 128 ]; then
    echo "the patch was not applied to the start to see that it makes the end: no memory" >&2
  elif [ $status -ne 0 ] || [ "$(git write-tree)" != "$tree" ]; then
    fail "the patch does not make the end out of the start: $(said)"
  fi
fi
cat "$tmp/patch"
"""
