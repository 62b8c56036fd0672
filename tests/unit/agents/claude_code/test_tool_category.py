"""Kinds of tool calls."""

import time

import pytest

from agentsweep.agents.claude_code.tool_category import CATEGORIES, categorise, categorise_command


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("pytest -q", "test"),
        ("cd /testbed && python -m pytest tests/test_x.py -xvs 2>&1 | tail -20", "test"),
        ("PYTHONPATH=. timeout -s KILL 60 python3.11 -m unittest discover", "test"),
        ("./tests/runtests.py admin", "test"),
        ("python manage.py test app", "test"),
        ("python setup.py test", "test"),
        ("make check", "test"),
        ("npm run test", "test"),
        ("uv run pytest", "test"),
        ("pip install -e . && pytest", "test"),
        ("pip install -e .", "install"),
        ("python -m pip install x", "install"),
        ("sudo apt-get install -y gcc", "install"),
        ("npm ci", "install"),
        ("python setup.py build_ext --inplace", "build"),
        ("gcc -O2 a.c && ./a.out", "build"),
        ("npm run build", "build"),
        ("git diff | head", "git"),
        ("python3 - <<'EOF'\nimport pytest\nEOF", "python"),
        ('python -c "import os; print(1)" > out.txt', "python"),
        ("python reproduce.py", "python"),
        ("cat <<'EOF' > a.py\nimport pytest\npytest.main()\nEOF", "edit"),
        ("sed -i 's/a/b/' x.py", "edit"),
        ("echo hello > file", "edit"),
        ("sed -n 1,20p x.py", "explore"),
        ("ls -la 2>/dev/null", "explore"),
        ("grep -rn 'pytest && git' .", "explore"),
        ('find . -name "*.py" | xargs wc -l', "explore"),
        ("bash -c 'git status'", "git"),
        ("cd /tmp", "shell"),
        ("echo hi", "shell"),
        ("sleep 1; true", "shell"),
        ("", "shell"),
        ("'unclosed", "shell"),
    ],
)
def test_commands(command, kind):
    assert categorise_command(command) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Read", "read"),
        ("Grep", "search"),
        ("Write", "edit"),
        ("Task", "agent"),
        ("Agent", "agent"),
        ("TodoWrite", "plan"),
        ("TaskUpdate", "plan"),
        ("TaskOutput", "control"),
        ("WebFetch", "web"),
        ("mcp__server__tool", "mcp"),
        ("SomethingNew", "other"),
    ],
)
def test_tools(name, kind):
    assert categorise(name, None) == kind
    assert kind in CATEGORIES


def test_a_bash_call_without_a_command_is_shell():
    assert categorise("Bash", None) == "shell"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["<<A\n" * 100_000, "'" * 100_000, '"\\' * 100_000, "a && " * 100_000, "sh -c '" * 9]
)
def test_hostile_commands_cost_little(command):
    began = time.process_time()
    categorise_command(command)
    assert time.process_time() - began < 1
