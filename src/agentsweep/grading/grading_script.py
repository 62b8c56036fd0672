"""The shell scripts of a grading: apply the patch, put the tests in place, run them.

After the benchmark's harness (SWE-bench 5, `harness/grading.py` and `test_spec`), with these
differences: nothing is installed unless the configuration says so; pytest writes a report beside
what it prints; files that tell pytest what to do are put back as they were.
"""

import json
import re
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import PurePosixPath

from agentsweep.grading import patch_paths
from agentsweep.tasks.task_row import TaskRow

# Where the grading's files are in its container: what it is given, and what it leaves.
GIVEN, LEFT = "/grading/given", "/grading/left"

# The files there that say how the patch and the tests were put in place.
APPLIED = ("applied_by", "restored", "settings", "tests_applied", "placed")

# Where the grading's plugin of pytest is, a file and its settings for each command.
PLUGINS = f"{GIVEN}/plugins"

# Exit codes of the script that puts the patch in place: why it cannot.
NO_WORKDIR, NO_TOOL, NO_TAR, LOCKED, OTHER_TOOLS = 90, 91, 92, 93, 94
CANNOT = {
    NO_WORKDIR: "the image has no such work tree; set the task's `workdir`",
    NO_TOOL: "the image has not all that gradings need; missing is",
    NO_TAR: "tar could not read the work tree",
    LOCKED: "the work tree cannot be written",
    OTHER_TOOLS: (
        "gradings need GNU tar and GNU find, and those of the image are others (BusyBox has such); "
        "install tar and findutils in the image"
    ),
}

# What the grading itself puts aside in its container.
_KEPT = "/grading/kept"

# In this order, each on a tree as it was; the words are what `applied_by` says.
APPLY_CHAIN = (
    ("git apply", "git apply --verbose"),
    ("git apply --3way", "git apply --verbose --3way"),
    ("git apply --reject", "git apply --verbose --reject"),
    ("patch --fuzz=5", "patch --batch --forward --fuzz=5 -p1 -i"),
)

# Code in these, or code that they name, is run by pytest, or by any Python, before the first test:
# a patch could decide there what the tests say. They are as in the image, unless the test patch
# brings them. A package `conftest` would be imported in place of `conftest.py`, bytecode in place
# of its source, and attributes would change what is put back.
RESTORED = (
    *("conftest", "conftest.*", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml"),
    *("sitecustomize", "sitecustomize.*", "usercustomize", "usercustomize.*"),
    *("entry_points.txt", "*.pth", "__pycache__", ".gitattributes"),
)

# These say more than how tests are run, so they stay as the agent left them, and are named.
SETTINGS = ("pyproject.toml", "setup.cfg", "tox.ini")

# What a test patch may bring that is no file of tests (SWE-bench 5, NON_TEST_EXTS).
_NO_TESTS = {
    *(".json", ".png", ".csv", ".txt", ".md", ".jpg", ".jpeg"),
    *(".pkl", ".yml", ".yaml", ".toml"),
}

# A script that a row brings prints the status of its test command, and ends with another.
_MARKED_STATUS = f"sed -n 's/^>>>>> Test Exit Code: //p' {LEFT}/log-1 | tail -n 1"

_PREAMBLE = """\
export HOME=/tmp LC_ALL=C.UTF-8 LANG=C.UTF-8 GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
export GIT_LITERAL_PATHSPECS=1
export GIT_CONFIG_COUNT=2 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
export GIT_CONFIG_KEY_1=core.hooksPath GIT_CONFIG_VALUE_1=/dev/null
"""


def test_files(row: TaskRow) -> list[str]:
    """The files that a row's test command is given: those the test patch adds or changes."""
    return [
        path
        for path, there in patch_paths.touched(row.test_patch).items()
        if there and PurePosixPath(path).suffix not in _NO_TESTS
    ]


def apply_script(row: TaskRow, workdir: str, empty: bool) -> str:
    """For `sh`: apply the patch, restore what decides how tests are run, bring the tests.

    Long, because a script is read from its first line to its last.

    Leaves in LEFT: `applied_by`, `restored` and `settings` (paths, a line each), and, where the
    test patch applied, `tests_applied` and `placed` (SHA-256 of each of `test_files`, in their
    order, a line each) (APPLIED). Ends with 0 unless something of CANNOT is so, before anything was
    changed.
    """
    placed = " ".join(map(shlex.quote, test_files(row)))
    tests = " ".join(map(shlex.quote, patch_paths.touched(row.test_patch)))
    apply = f"echo nothing > {LEFT}/applied_by" if empty else _chain()
    return f"""\
set -u
{_PREAMBLE}
cd {shlex.quote(workdir)} || exit 90
for tool in bash git tar find xargs sha256sum sed sort uniq head gzip; do
  command -v $tool > /dev/null || {{ echo $tool >> {LEFT}/missing; }}
done
[ ! -e {LEFT}/missing ] || exit 91
mkdir -p {_KEPT}
find {_KEPT} -prune -printf '' && tar --null -T /dev/null -cf {_KEPT}/none.tar || exit 94
find . -path ./.git/objects -prune -o ! -type l -exec sh -c 'for path; do
  [ ! -d "$path" ] || {{ [ -w "$path" ] && [ -x "$path" ]; }} && [ -r "$path" ] || {{
    echo "$path" >> {LEFT}/locked; exit; }}
done' sh {{}} +
[ ! -e {LEFT}/locked ] || exit 93
hooks() {{
  {_find(RESTORED)}
{_shadows(row)}}}
settings() {{ {_find(SETTINGS)}; }}
hashed() {{
  xargs -0 -r sh -c 'for path; do
    find "$path" -type l -printf "%l  %p\\n" -o ! -type d -exec sha256sum {{}} +
  done' sh
}}
hooks > {_KEPT}/hooks.list
tar --null -cf {_KEPT}/hooks.tar -T {_KEPT}/hooks.list || exit 92
hooks | hashed > {_KEPT}/hooks.before
settings | hashed > {_KEPT}/settings.before
{apply}
[ -e {LEFT}/applied_by ] || exit 0
hooks | hashed > {_KEPT}/hooks.after
settings | hashed > {_KEPT}/settings.after
changed() {{ sort "$1.before" "$1.after" | uniq -u | sed 's,^.*  \\./,,' | sort -u; }}
changed {_KEPT}/hooks > {LEFT}/restored
changed {_KEPT}/settings > {LEFT}/settings
# A link, or a file, in place of a directory above a file: what is put back would go elsewhere.
clear_way() {{
  case $1 in */*)
    clear_way "${{1%/*}}"
    if [ -L "${{1%/*}}" ] || [ ! -d "${{1%/*}}" ]; then rm -f -- "${{1%/*}}"; fi
  esac
}}
hooks | xargs -0 -r rm -rf --
tar -tf {_KEPT}/hooks.tar | while IFS= read -r file; do clear_way "$file"; done
tar -xof {_KEPT}/hooks.tar
for file in {tests}; do
  clear_way "$file"
  rm -rf -- "$file"
  for commit in {shlex.quote(row.base_commit)} HEAD; do
    if git cat-file -e "$commit:$file" 2> /dev/null; then
      git checkout -q "$commit" -- "$file"
      break
    fi
  done
done
if git apply --verbose {GIVEN}/test.diff; then
  echo yes > {LEFT}/tests_applied
  for file in {placed}; do sha256sum < "$file" | head -c 64; echo; done > {LEFT}/placed
fi
"""


def _shadows(row: TaskRow) -> str:
    """Shell lines that print what Python may import in place of the row's tests, as `_find` does.

    Beside each of its test files: whatever has the same name up to the suffix. In the directories
    of tests on the way to it: `__init__`, as a file of any suffix, unless the row's own patch
    changes it. Other packages on the way are the program's; what they do is for the plugin to see.
    """
    own = patch_paths.touched(row.patch)
    lines: dict[str, None] = {}
    for file in map(PurePosixPath, test_files(row)):
        if file.suffix == ".py":
            found = f"! -name {_literal(file.name)}"
            lines[_beside(str(file.parent), file.stem, found)] = None
        for folder in _test_folders(file):
            inits = [path for path in own if path.startswith(f"{folder}/__init__.")]
            if not any(PurePosixPath(path).parent == folder for path in inits):
                lines[_beside(str(folder), "__init__", "")] = None
    return "".join(f"{line}\n" for line in lines)


def _test_folders(file: PurePosixPath) -> list[PurePosixPath]:
    """The directories above a file from the first one that is named as those of tests are."""
    folders = list(reversed(file.parents))[1:]
    for index, folder in enumerate(folders):
        if folder.name.lower() in ("test", "tests", "testing") or folder.name.startswith("test_"):
            return folders[index:]
    return []


def _beside(folder: str, stem: str, more: str) -> str:
    """What of a folder, which may be gone or a link, has a name up to its suffix."""
    names = f"-name {_literal(stem)} -o -name {_literal(stem, '.*')}"
    where = shlex.quote(f"./{folder}")
    return (
        f"  [ ! -d {where} ] || [ -L {where} ] || "
        f"find {where} -mindepth 1 -maxdepth 1 \\( {names} \\) {more} -prune -print0"
    )


def _literal(name: str, more: str = "") -> str:
    """A pattern of `find -name` for a name as it is, and what may come after it."""
    return shlex.quote(re.sub(r"([*?\[\\])", r"\\\1", name) + more)


def _find(names: Sequence[str]) -> str:
    """Paths of these names in the work tree, each ended by NUL: a patch may choose any name."""
    tests = " -o ".join(f"-name {shlex.quote(name)}" for name in names)
    return f"find . -path ./.git -prune -o \\( {tests} \\) -prune -print0"


def _chain() -> str:
    """Apply the patch by the first way that works.

    `git apply` alone changes nothing where it fails, so the tree is only kept for what follows it.
    `patch` would also write into `.git`, whose settings name programs that git runs.
    """
    (words, command), *others = APPLY_CHAIN
    rest = "".join(
        f"""\
  if [ ! -e {LEFT}/applied_by ]; then
    if {command} {GIVEN}/patch.diff; then echo {shlex.quote(words)} > {LEFT}/applied_by
    else restore .; fi
  fi
"""
        for words, command in others
    )
    return f"""\
restore() {{
  find "$1" ! -path . -prune -exec rm -rf {{}} +
  tar -xof {_KEPT}/tree.tar "$1"
}}
if {command} {GIVEN}/patch.diff; then echo {shlex.quote(words)} > {LEFT}/applied_by
else
  tar -cf {_KEPT}/tree.tar . || exit 92
{rest}  [ ! -e .git ] || restore ./.git
fi"""


def test_script(
    row: TaskRow, workdir: str, environment: str | None, install: bool, plugin: str
) -> str:
    """For `bash`: run the row's test commands in the task's environment.

    For the command <n>, from 1, leaves in LEFT: `log-<n>` (output and errors), `report-<n>.xml`
    where it ran pytest, `seen-<n>` where that loaded the grading's plugin, and `exit-<n>` once it
    ended. plugin: a name that no patch can know, `plugin_name` without the number.

    A command with a PYTHONPATH of its own does not find the plugin and runs no test: it is run
    again without it. Whether that may be is for the verdict, which knows the row's own patch.
    """
    lines = [
        # 1 GiB for any file: a test that writes without end must not fill the host's disk.
        "ulimit -f 1048576",
        _PREAMBLE,
        f"cd {shlex.quote(workdir)} || exit 90",
        environment or "",
        *(f"export {name}={shlex.quote(value)}" for name, value in row.environment_variables),
    ]
    if install and row.eval_script is None:
        lines += [f"{{ {command}\n}} >> {LEFT}/install 2>&1" for command in row.install]
    lines.append(f"export PYTHONPATH={PLUGINS}${{PYTHONPATH:+:$PYTHONPATH}}")
    for number, command in enumerate(commands(row), 1):
        report = f"--junitxml={LEFT}/report-{number}.xml"
        status = "echo $?" if row.eval_script is None else _MARKED_STATUS
        name, run = plugin_name(plugin, number), f"command_{number}"
        options = f"-rA --color=no -o junit_family=xunit1 {report}"
        lines += [
            f"{run}() {{",
            f"{{ {command}\n}} > {LEFT}/log-{number} 2>&1",
            f"{status} > {LEFT}/exit-{number}",
            "}",
            f"export PYTEST_ADDOPTS='-p {name} {options}'",
            run,
            f"if [ ! -e {LEFT}/seen-{number} ] && grep -q {name} {LEFT}/log-{number}; then",
            f"  export PYTEST_ADDOPTS='{options}'",
            f"  {run}",
            "fi",
        ]
    return "\n".join(lines) + "\n"


def plugin_name(plugin: str, number: int) -> str:
    """The module's name of the plugin of a command, which is in PLUGINS."""
    return f"{plugin}_{number}"


def plugins(row: TaskRow, workdir: str, plugin: str) -> dict[str, str]:
    """The files in PLUGINS: for each command the plugin and what it reads, by name."""
    witness = resources.files("agentsweep") / "data" / "grading_witness.py"
    source = witness.read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for number in range(1, len(commands(row)) + 1):
        name = plugin_name(plugin, number)
        given = {"out": f"{LEFT}/seen-{number}", "tree": workdir, "files": test_files(row)}
        found |= {f"{name}.py": source, f"{name}.json": json.dumps(given)}
    return found


def commands(row: TaskRow) -> list[str]:
    """The shell lines that run a row's tests.

    Rows of the layout `testbed` name a command that is given the test files; the others name the
    whole command, or bring a script that also installs and applies the test patch.
    """
    if row.eval_script is not None:
        return [f"bash {GIVEN}/eval.sh"]
    files = " ".join(map(shlex.quote, test_files(row)))
    if row.layout == "testbed":
        return [f"{command} {files}" for command in row.test_commands]
    return list(row.test_commands)
