"""The shell scripts of a grading: apply the patch, put the tests in place, run them.

After the benchmark's harness (SWE-bench 5, `harness/grading.py` and `test_spec`), with these
differences: nothing is installed unless the configuration says so; pytest writes a report beside
what it prints; files that tell pytest what to do are put back as they were.
"""

import shlex
from pathlib import PurePosixPath

from agentsweep import patch_paths
from agentsweep.task_row import TaskRow

# Where the grading's files are in its container: what it is given, and what it leaves.
GIVEN, LEFT = "/grading/given", "/grading/left"

# In this order, each on a tree as it was; the words are what `applied_by` says.
APPLY_CHAIN = (
    ("git apply", "git apply --verbose"),
    ("git apply --3way", "git apply --verbose --3way"),
    ("git apply --reject", "git apply --verbose --reject"),
    ("patch --fuzz=5", "patch --batch --forward --fuzz=5 -p1 -i"),
)

# Code in these is run by pytest, or by any Python, before the first test: a patch could decide
# there what the tests say. They are as in the image, unless the test patch brings them.
RESTORED = ("conftest.py", "pytest.ini", ".pytest.ini", "sitecustomize.py", "usercustomize.py")

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

    Leaves in LEFT: `applied_by`, `restored` and `settings` (paths, a line each), and
    `tests_applied` where the test patch applied. Ends with 0 unless a tool is missing.
    """
    names = " -o ".join(f"-name {shlex.quote(name)}" for name in RESTORED)
    settings = " ".join(SETTINGS)
    tests = " ".join(map(shlex.quote, patch_paths.touched(row.test_patch)))
    attempts = "\n".join(
        f"if [ ! -e {LEFT}/applied_by ]; then\n"
        f"  if {command} {GIVEN}/patch.diff; then echo {shlex.quote(words)} > {LEFT}/applied_by\n"
        f"  else git checkout -q HEAD -- . ; git clean -qfd; fi\nfi"
        for words, command in APPLY_CHAIN
    )
    apply = f"echo nothing > {LEFT}/applied_by" if empty else attempts
    return f"""\
set -u
{_PREAMBLE}
cd {shlex.quote(workdir)} || exit 90
command -v git > /dev/null || exit 91
listed() {{ find . -path ./.git -prune -o \\( {names} \\) -print | cut -c 3- | sort; }}
hashed() {{ listed | while IFS= read -r file; do sha256sum "$file" 2> /dev/null; done; }}
settings() {{ for file in {settings}; do [ ! -f "$file" ] || sha256sum "$file"; done; }}
hashed > /tmp/hooks.before; settings > /tmp/settings.before
listed > /tmp/hooks.list
tar -cf /tmp/hooks.tar -T /tmp/hooks.list || exit 92
{apply}
[ -e {LEFT}/applied_by ] || exit 0
hashed > /tmp/hooks.after; settings > /tmp/settings.after
changed() {{ sort "$1.before" "$1.after" | uniq -u | cut -c 67- | sort -u; }}
changed /tmp/hooks > {LEFT}/restored
changed /tmp/settings > {LEFT}/settings
if [ -s {LEFT}/restored ]; then
  listed | while IFS= read -r file; do rm -rf -- "$file"; done
  tar -xf /tmp/hooks.tar
fi
for file in {tests}; do
  rm -rf -- "$file"
  for commit in {shlex.quote(row.base_commit)} HEAD; do
    if git cat-file -e "$commit:$file" 2> /dev/null; then
      git checkout -q "$commit" -- "$file"
      break
    fi
  done
done
if git apply --verbose {GIVEN}/test.diff; then touch {LEFT}/tests_applied; fi
"""


def test_script(row: TaskRow, workdir: str, environment: str | None, install: bool) -> str:
    """For `bash`: run the row's test commands in the task's environment.

    For the command <n>, from 1, leaves in LEFT: `log-<n>` (output and errors), `report-<n>.xml`
    where it ran pytest, and `exit-<n>` once it ended.
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
    for number, command in enumerate(commands(row), 1):
        report = f"--junitxml={LEFT}/report-{number}.xml"
        status = "echo $?" if row.eval_script is None else _MARKED_STATUS
        lines += [
            f"export PYTEST_ADDOPTS='-rA --color=no -o junit_family=xunit1 {report}'",
            f"{{ {command}\n}} > {LEFT}/log-{number} 2>&1",
            f"{status} > {LEFT}/exit-{number}",
        ]
    return "\n".join(lines) + "\n"


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
