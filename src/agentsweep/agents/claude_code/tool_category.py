"""What kind of work a tool call is, from its name and, for Bash, from its command.

The kinds of a Bash command, in the order in which they win when a command line does several
things: `test`, `install`, `build`, `git`, `python`, `edit`, `explore`, `shell`. The kinds of the
other tools are their families: `read`, `search`, `edit`, `agent`, `plan`, `web`, `control`, `mcp`
and `other`.
"""

import re

CATEGORIES = (
    "test",
    "install",
    "build",
    "git",
    "python",
    "edit",
    "explore",
    "shell",
    "read",
    "search",
    "agent",
    "plan",
    "web",
    "control",
    "mcp",
    "other",
)
_BASH_ORDER = ("test", "install", "build", "git", "python", "edit", "explore", "shell")

_TOOLS = {
    "Read": "read",
    "NotebookRead": "read",
    "Glob": "search",
    "Grep": "search",
    "LS": "search",
    "ToolSearch": "search",
    "Edit": "edit",
    "MultiEdit": "edit",
    "Write": "edit",
    "NotebookEdit": "edit",
    "Agent": "agent",
    "Task": "agent",
    "Workflow": "agent",
    "TodoRead": "plan",
    "TodoWrite": "plan",
    "TaskCreate": "plan",
    "TaskGet": "plan",
    "TaskList": "plan",
    "TaskUpdate": "plan",
    "EnterPlanMode": "plan",
    "ExitPlanMode": "plan",
    "WebFetch": "web",
    "WebSearch": "web",
    "BashOutput": "control",
    "KillBash": "control",
    "KillShell": "control",
    "TaskOutput": "control",
    "TaskStop": "control",
    "ListAgents": "control",
    "ScheduleWakeup": "control",
}

_PROGRAMS = {
    "test": "pytest py.test tox nox unittest nosetests nose2 runtests.py jest vitest mocha ctest "
    "phpunit rspec",
    "install": "pip pip3 pipx conda mamba micromamba apt apt-get dpkg yum dnf apk brew gem "
    "poetry pipenv uv",
    "build": "make cmake ninja meson gcc g++ cc c++ clang clang++ ld tsc webpack javac mvn gradle "
    "cython maturin rustc",
    "git": "git gh",
    "python": "python python2 python3 ipython pypy pypy3",
    "edit": "patch tee touch mkdir rm mv cp ln chmod chown install rsync unzip tar",
    "explore": "ls cat head tail less more find grep egrep fgrep rg ag fd bfs ugrep wc tree file "
    "stat du df pwd which type whereis diff cmp sort uniq cut awk jq od xxd hexdump strings "
    "readlink realpath basename dirname env printenv ps free uname date id whoami hostname nproc",
}
_PROGRAM_KIND = {name: kind for kind, names in _PROGRAMS.items() for name in names.split()}

# Programs whose arguments do not change what kind they are.
_PLAIN = frozenset({"test", "git", "edit", "explore"})
_PYTHON_3_MINOR = re.compile(r"(?<=[a-z])3\.\d+$")
# Words that only say how the next word is run.
_PREFIXES = frozenset(
    {"sudo", "time", "nice", "nohup", "env", "exec", "command", "builtin", "stdbuf", "xargs"}
    | {"then", "do", "else", "!"}
)
_TIMEOUTS = frozenset({"timeout", "gtimeout"})
_ASSIGNMENT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*=")
_HEREDOC = re.compile(
    r"<<-?\s*(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\1([^\n]*)\n.*?^\s*\2\s*$", re.DOTALL | re.MULTILINE
)
_SHELL_C = re.compile(
    r"\s*(?:/bin/|/usr/bin/)?(?:ba|da|z)?sh\s+-l?c\s+(['\"])(.*)\1\s*$", re.DOTALL
)
_SEPARATORS = re.compile(r"&&|\|\||[;\n|&]")
_QUOTED = re.compile(r"'[^']*'|\"(?:[^\"\\]|\\.)*\"")
_REDIRECT = re.compile(r"(?<![0-9&>])>>?\s*(?!/dev/null|&)\S")
_TEST_MODULES = frozenset({"pytest", "unittest", "tox", "nox", "nose", "nose2", "doctest"})
_TEST_FILE = re.compile(r"(?:^|/)(?:run_?tests?|test_\w+|runtests|setup\.py\s+test)\.py$")
# A command line of a megabyte says what it does in its first words.
_LONGEST = 8_000


def categorise(name: str, command: str | None) -> str:
    """One of `CATEGORIES` for a call of the tool `name`; `command` is that of a Bash call."""
    if name == "Bash":
        return categorise_command(command or "")
    if name.startswith("mcp__"):
        return "mcp"
    return _TOOLS.get(name, "other")


def categorise_command(command: str) -> str:
    """What a shell command line does, by the programs that it starts (see the order above)."""
    text = command[:_LONGEST]
    if "<<" in text:
        text = _HEREDOC.sub(r" \3\n", text)
    kinds = set()
    if "'" in text or '"' in text:
        inner = _SHELL_C.match(text)
        if inner:
            return categorise_command(inner.group(2))
        # What is quoted is an argument, not a program.
        text = _QUOTED.sub('""', text)
    if ">" in text and _REDIRECT.search(text):
        kinds.add("edit")
    for part in _SEPARATORS.split(text):
        words = part.strip("(){} \t").split()
        kind = _categorise_simple(words) if words else None
        if kind:
            kinds.add(kind)
    for kind in _BASH_ORDER:
        if kind in kinds:
            return kind
    return "shell"


def _categorise_simple(words: list[str]) -> str | None:
    """The kind of one simple command; None for one that decides nothing (`cd`, an assignment)."""
    kind = _PROGRAM_KIND.get(words[0])
    if kind in _PLAIN:
        return kind
    while words:
        if _ASSIGNMENT.match(words[0]) or words[0] in _PREFIXES:
            words = words[1:]
        elif words[0] in _TIMEOUTS:
            # Its options may have values; the command follows the duration.
            durations = [i for i, word in enumerate(words[1:6], 1) if word[0].isdigit()]
            words = words[durations[0] + 1 :] if durations else words[1:]
        else:
            break
    if not words:
        return None
    program = words[0].rsplit("/", 1)[-1]
    kind = _PROGRAM_KIND.get(program)
    if kind in _PLAIN:
        return kind
    arguments = words[1:]
    first = next((word for word in arguments if not word.startswith("-")), "")
    if program.endswith(".py") and _TEST_FILE.search(words[0]):
        return "test"
    if kind is None:
        kind = _PROGRAM_KIND.get(_PYTHON_3_MINOR.sub("3", program))
    if kind == "python":
        return _categorise_python(arguments, first)
    if program in ("poetry", "pipenv", "uv", "conda", "mamba", "micromamba") and "run" in arguments:
        nested = arguments[arguments.index("run") + 1 :]
        return _categorise_simple(nested) or "install"
    if program in ("npm", "yarn", "pnpm", "cargo", "go", "bundle"):
        if "test" in arguments:
            return "test"
        return "install" if first in ("install", "i", "ci", "add", "get", "fetch", "") else "build"
    if program == "make" and any(word in ("test", "check", "tests") for word in arguments):
        return "test"
    if program == "sed":
        in_place = any(word.startswith(("-i", "--in-place")) for word in arguments)
        return "edit" if in_place else "explore"
    return kind


def _categorise_python(arguments: list[str], first: str) -> str:
    if "-m" in arguments[:-1]:
        module = arguments[arguments.index("-m") + 1]
        if module.split(".")[0] in _TEST_MODULES:
            return "test"
        if module in ("pip", "ensurepip", "venv", "conda"):
            return "install"
        if module in ("build", "compileall", "cython"):
            return "build"
        return "python"
    if first.endswith("setup.py"):
        if "test" in arguments:
            return "test"
        return "build" if any(word.startswith("build") for word in arguments) else "install"
    if _TEST_FILE.search(first) or (first.endswith("manage.py") and "test" in arguments):
        return "test"
    return "python"
