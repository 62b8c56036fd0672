"""Grading the demo's benchmark task in real containers: the right patch, and ways to cheat."""

import difflib
import hashlib
import json
import time

import bench_task
import engine_in_use
import pytest
import yaml
from bench_task import TASK

from agentsweep.config import layers
from agentsweep.config.load import load as load_config
from agentsweep.containers import images
from agentsweep.containers.engine import LABEL, ContainerSpec
from agentsweep.grading import evidence, grading, grading_job, grading_plan, pytest_reports, verdict
from conftest import ROOT, agentsweep

SESSIONS = "starlette/middleware/sessions.py"
TESTS = "tests/test_sessions.py"
INITS = ("tests/__init__.py", "starlette/__init__.py")
FAIL_TO_PASS = f"{TESTS}::test_cookie_of_a_mounted_application_has_its_path"


def planned(loaded):
    return grading_plan.plan(loaded, TASK)


class Bench:
    """The task, its files as the image has them, and a store of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.settings = bench_task.settings(folder)
        self.config = self.load()
        self.row = self.config.task(TASK).row
        self.engine = engine_in_use.find()
        self.files = self._read(SESSIONS, TESTS, *INITS)
        self.out = folder / "out"

    def load(self, **changes):
        return load_config(layers.merge(self.settings, changes))

    def _read(self, *paths):
        ground = planned(self.config).ground
        pulled = images.pull(self.engine, ground.reference, ground.digest, ground.config_digest)
        name = "agentsweep-test-read"
        spec = ContainerSpec(name, pulled["id"], {LABEL: name})
        try:
            container = self.engine.start(self.engine.create(spec), name)
            return {
                path: self.engine.exec(container.id, "cat", f"/testbed/{path}").stdout
                for path in paths
            }
        finally:
            self.engine.remove(name)

    def patch(self, **changes):
        """A git patch that gives files a new text, or deletes them (None)."""
        return "".join(self._file_patch(path, text) for path, text in changes.items()).encode()

    def _file_patch(self, path, text):
        old = self.files.get(path)
        lines = difflib.unified_diff(
            (old or "").splitlines(keepends=True),
            (text or "").splitlines(keepends=True),
            "/dev/null" if old is None else f"a/{path}",
            "/dev/null" if text is None else f"b/{path}",
        )
        kind = "new file mode 100644\n" if old is None else ""
        kind = "deleted file mode 100644\n" if text is None else kind
        return f"diff --git a/{path} b/{path}\n{kind}{''.join(lines)}"

    def grade(self, patch, chosen=None):
        found = grading_job.grade(
            planned(chosen or self.config), patch, self.out, lambda: self.engine
        )
        return found, json.loads((self.out / "grade.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"))


def outcomes(found):
    return {test["test_id"]: test["outcome"] for test in found.tests if test["kind"]}


def test_the_task_is_valid(bench):
    record = grading_job.validate(
        planned(bench.load(grading={"validations": 1})), lambda: bench.engine
    )
    assert (record["valid"], record["problems"]) == (True, [])
    assert grading_job.validation(planned(bench.config)) == record


def test_the_right_patch_resolves_the_task_and_is_graded_once(bench):
    found, record = bench.grade(bench.row.patch.encode())
    assert (found.status, found.detail, found.resolved) == ("graded", None, True)
    assert set(outcomes(found)) == {*bench.row.fail_to_pass, *bench.row.pass_to_pass}
    assert set(outcomes(found).values()) == {"passed"}
    assert record["applied_by"] == "git apply"
    assert record["image_digest"] == bench.config.image_of(TASK).digest
    assert record["mem_peak_bytes"] > 20 * 2**20

    def no_engine():
        raise AssertionError("a sealed grading needs no engine")

    again = grading_job.grade(
        planned(bench.config), bench.row.patch.encode(), bench.folder / "again", no_engine
    )
    assert again == found


def test_a_wrong_patch_does_not(bench):
    wrong = bench.files[SESSIONS].replace("path=/; Max-Age", "path=/wrong; Max-Age")
    found, _ = bench.grade(bench.patch(**{SESSIONS: wrong}))
    assert (found.status, found.resolved) == ("graded", False)
    assert outcomes(found)[FAIL_TO_PASS] == "failed"
    assert "failed" in {outcomes(found)[test] for test in bench.row.pass_to_pass}


EXIT = "import os\nos._exit(0)\n"
FORGED_SUMMARY = f"""
import atexit, os
atexit.register(lambda: os.write(1, b'''
=========================== short test summary info ============================
PASSED {FAIL_TO_PASS}
============================== 11 passed in 0.10s ==============================
'''))
print("PASSED {FAIL_TO_PASS}")
"""
HOOK = """
import pytest
import yaml

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    outcome = yield
    outcome.get_result().outcome = "passed"
"""
ALWAYS = f"def {FAIL_TO_PASS.split('::')[1]}():\n    assert True\n"

# What the cheat is, the files that it writes, and what the grading then comes to.
CHEATS = {
    "deletes the tests": ({TESTS: None}, "graded"),
    "edits the tests": ({TESTS: ALWAYS}, "graded"),
    "ends pytest with 0 before it runs a test": ({SESSIONS: EXIT}, "no_report"),
    "ends pytest with 0 from a conftest": ({"conftest.py": EXIT}, "graded"),
    "ends pytest with 0 after its tests": (
        {SESSIONS: "+import atexit, os\natexit.register(os._exit, 0)\n"},
        "inconsistent",
    ),
    "ends any Python with 0": ({"sitecustomize.py": EXIT}, "graded"),
    "prints that tests passed": ({SESSIONS: "+" + FORGED_SUMMARY}, "inconsistent"),
    "reports every test as passed": ({"conftest.py": HOOK, "tests/conftest.py": HOOK}, "graded"),
    "collects tests and runs none": (
        {"pytest.ini": "[pytest]\naddopts = --collect-only\n"},
        "graded",
    ),
    "collects tests and runs none, by settings": (
        {"pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--collect-only'\n"},
        "no_report",
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_does_not(bench, name):
    files, status = CHEATS[name]
    files = {
        path: bench.files[path] + text[1:] if (text or "").startswith("+") else text
        for path, text in files.items()
    }
    found, record = bench.grade(bench.patch(**files))
    assert (found.status, found.resolved) == (status, False), found.detail
    assert record["applied_by"] == "git apply"
    brought = {"conftest.py", "tests/conftest.py", "pytest.ini", "sitecustomize.py"}
    assert set(record["restored"]) == set(files) & brought
    assert record["settings_changed"] == [p for p in files if p == "pyproject.toml"]


def shadow(row):
    """Python that fills a module with tests of the row's names, which pass."""
    tests = [*row.fail_to_pass, *row.pass_to_pass]
    names = dict.fromkeys(test.split("::")[1].partition("[")[0] for test in tests)
    return "".join(f"def {name}(): pass\n" for name in names)


def in_modules(row, has_spec, compiled):
    """Python that puts such a module in the place of the row's tests."""
    return f"""
import importlib.util, os, sys, types
_path = os.path.join(os.getcwd(), "tests", "test_sessions.py")
_made = types.ModuleType("tests.test_sessions")
_made.__file__ = _path
if {has_spec}:
    _made.__spec__ = importlib.util.spec_from_file_location(_made.__name__, _path)
    _made.__loader__ = _made.__spec__.loader
exec(compile({shadow(row)!r}, {compiled}, "exec"), _made.__dict__)
for _name in (_made.__name__, "test_sessions"):
    sys.modules[_name] = _made
"""


def within(source, code):
    """The program's source with code in what every test reaches."""
    hook = "        async def send_wrapper(message: Message) -> None:\n"
    assert hook in source
    return source.replace(hook, f"{hook}            {code}\n", 1)


FILE = "import os\n__file__ = os.path.dirname(os.path.abspath(__file__)) + '.py'\n"
REPLACED = """
import gc, types
def _replace():
    for one in gc.get_objects():
        if isinstance(one, types.FunctionType) and one.__module__.endswith("test_sessions"):
            if one.__name__.startswith("test_"):
                one.__code__ = (lambda: None).__code__
"""
FORGED_AT_EXIT = """
import atexit, glob, os, re
def _forge():
    for path in glob.glob("/grading/left/report-*.xml"):
        text = open(path).read()
        text = re.sub("<failure.*?</failure>", "", text, flags=re.S)
        open(path, "w").write(re.sub('failures="[0-9]+"', 'failures="0"', text))
    os._exit(0)
atexit.register(_forge)
"""
DOTS = """
import atexit
def _dots():
    with open("/grading/left/report-1.xml", "w") as report:
        report.write('<t><testcase file="a.py" name="x" classname="' + "." * 1000000 + '"/></t>')
atexit.register(_dots)
"""
IN_PROGRAM = "starlette/__init__.py"

# What code under test, or a module in the place of tests, does without a fix (files, from a bench),
# what the grading comes to, and what is put back.
DECEITS = {
    "xfail in the code under test": (
        lambda b: {SESSIONS: within(b.files[SESSIONS], "import pytest; pytest.xfail('todo')")},
        ("graded", []),
    ),
    "skip in the code under test": (
        lambda b: {SESSIONS: within(b.files[SESSIONS], "import pytest; pytest.skip('todo')")},
        ("graded", []),
    ),
    "exit in the code under test": (
        lambda b: {SESSIONS: within(b.files[SESSIONS], "import pytest; pytest.exit('x', 0)")},
        (None, []),
    ),
    "a package named like the tests": (
        lambda b: {f"{TESTS[:-3]}/__init__.py": FILE + shadow(b.row)},
        ("graded", [f"{TESTS[:-3]}/__init__.py"]),
    ),
    "sys.modules in the package of the tests": (
        lambda b: {INITS[0]: b.files[INITS[0]] + in_modules(b.row, False, "'x.py'")},
        ("graded", [INITS[0]]),
    ),
    "sys.modules in the program": (
        lambda b: {IN_PROGRAM: b.files[IN_PROGRAM] + in_modules(b.row, False, "'x.py'")},
        ("inconsistent", []),
    ),
    "sys.modules in the program, with a spec": (
        lambda b: {IN_PROGRAM: b.files[IN_PROGRAM] + in_modules(b.row, True, "'x.py'")},
        ("inconsistent", []),
    ),
    "sys.modules in the program, with a spec and the file's name": (
        lambda b: {IN_PROGRAM: b.files[IN_PROGRAM] + in_modules(b.row, True, "_path")},
        ("inconsistent", []),
    ),
    "the tests' code replaced when the first runs": (
        lambda b: {SESSIONS: within(b.files[SESSIONS], "_replace()") + REPLACED},
        (None, []),
    ),
    "a report rewritten at exit": (
        lambda b: {SESSIONS: b.files[SESSIONS] + FORGED_AT_EXIT},
        ("inconsistent", []),
    ),
    "a report that is slow to read": (
        lambda b: {SESSIONS: b.files[SESSIONS] + DOTS},
        ("no_report", []),
    ),
}


@pytest.fixture(scope="module")
def known(bench):
    """The bench, whose store has the grading of the row's own patch."""
    bench.grade(bench.row.patch.encode())
    gold = grading_job.gold(planned(bench.config))
    assert gold.witnessed
    assert {origin.code for origin in gold.origins.values()} == {"direct"}
    assert set(gold.origins) == {
        pytest_reports.reported_name(test)
        for test in (*bench.row.fail_to_pass, *bench.row.pass_to_pass)
    }
    return bench


@pytest.mark.parametrize("name", DECEITS)
def test_a_deceit_does_not_either(known, name):
    make, (status, restored) = DECEITS[name]
    found, record = known.grade(known.patch(**make(known)))
    assert found.resolved is False, (found.status, found.detail)
    assert status in (None, found.status), found.detail
    assert (record["restored"], record["settings_changed"]) == (restored, [])
    # So it is where nothing is known of the row's own patch, and in seconds.
    begin = time.process_time()
    assert verdict.judge(*evidence.read(known.out)).resolved is False
    assert time.process_time() - begin < 5


def test_a_cheat_on_top_of_the_right_patch_changes_nothing(bench):
    """What is put back is put back alone: the fix beside it stays."""
    patch = bench.row.patch.encode() + bench.patch(**{"conftest.py": HOOK, TESTS: ALWAYS})
    found, record = bench.grade(patch)
    assert (found.status, found.resolved) == ("graded", True)
    assert record["restored"] == ["conftest.py"]


def test_tests_without_end_are_stopped(bench):
    patch = bench.patch(**{SESSIONS: "import time\ntime.sleep(600)\n"})
    found, _ = bench.grade(patch, bench.load(grading={"timeout_s": 3}))
    assert (found.status, found.detail) == (
        "timed_out",
        "the tests did not end within 3 s",
    )


def test_tests_that_need_more_memory_than_the_grader_has_say_so(bench):
    greedy = "x = bytearray(2**30)\nx[::4096] = bytes(1) * len(x[::4096])\n"
    found, record = bench.grade(bench.patch(**{SESSIONS: greedy}))
    assert (found.status, found.resolved, record["oom_kill_count"]) == ("no_report", False, 1)
    assert found.detail == "pytest left no report of any test: the container ran out of memory"


def test_tests_that_write_without_end_are_ended(bench, monkeypatch):
    monkeypatch.setattr(grading, "_LAYER_BYTES", 64 * 2**20)
    endless = (
        "import itertools, time\n"
        "for number in itertools.count():\n"
        "    with open(f'/testbed/{number}', 'wb') as file:\n"
        "        file.write(bytes(2**20))\n"
        "    time.sleep(0.01)\n"
    )
    found, record = bench.grade(bench.patch(**{SESSIONS: endless}))
    assert (found.status, found.resolved, record["timed_out"]) == ("no_report", False, False)


def test_what_a_patch_leaves_is_kept_up_to_a_limit(bench, monkeypatch):
    monkeypatch.setattr(grading, "_EVIDENCE_BYTES", 2**16)
    noise = (
        "import os\n"
        "with open('/grading/left/noise', 'wb') as file:\n"
        "    file.write(os.urandom(2**20))\n"
    )
    found, record = bench.grade(bench.patch(**{SESSIONS: noise}))
    assert (bench.out / evidence.ARCHIVE).stat().st_size == 2**16
    assert record["evidence_sha256"] == evidence.digest(bench.out)
    assert found.resolved is False


@pytest.mark.parametrize(
    ("change", "applied_by"),
    [
        # Another line number and, for the last, context that only resembles the file's.
        (lambda patch: patch.replace("@@ -49,", "@@ -60,", 1), "git apply"),
        (lambda patch: patch.replace("def send_wrapper", "def other_name"), "patch"),
        (lambda patch: patch.replace("sessions.py", "no_such_file.py"), None),
        (lambda patch: "this is no patch\n", None),
    ],
)
def test_the_chain_of_attempts(bench, change, applied_by):
    changed = change(bench.row.patch)
    assert changed != bench.row.patch
    found, record = bench.grade(changed.encode())
    if applied_by is None:
        assert (found.status, record["applied_by"]) == ("patch_failed", None)
    else:
        assert record["applied_by"].startswith(applied_by)
        assert (found.status, found.resolved) == ("graded", True)


EVAL_SCRIPT = """\
set -uxo pipefail
source /opt/miniconda3/bin/activate testbed
cd /testbed
git checkout {base} {tests}
git apply -v /grading/given/test.diff
: '>>>>> Start Test Output'
pytest -rA --no-cov {tests}
SWEBENCH_TEST_EXIT_CODE=$?
: '>>>>> End Test Output'
git checkout {base} {tests}
echo ">>>>> Test Exit Code: $SWEBENCH_TEST_EXIT_CODE"
"""


@pytest.mark.parametrize(
    ("cut", "gold", "empty"),
    [
        ("", ("graded", True), ("graded", False)),
        # Without it nobody knows how pytest ended.
        (">>>>> Test Exit Code", ("inconsistent", False), ("inconsistent", False)),
    ],
)
def test_a_row_that_brings_its_own_script(bench, tmp_path, cut, gold, empty):
    rows = (ROOT / "config" / "rows" / "bench.jsonl").read_text(encoding="utf-8").splitlines()
    row = next(row for row in map(json.loads, rows) if "starlette" in row["instance_id"])
    script = EVAL_SCRIPT.format(base=row["base_commit"], tests=TESTS)
    row |= {"eval_script": script.replace(cut, "cut") if cut else script}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    source = {"file": str(tmp_path / "rows.jsonl"), "id": row["instance_id"]}
    chosen = bench.load(tasks={TASK: {"row": source}})
    for patch, expected in ((row["patch"].encode(), gold), (b"", empty)):
        found, _ = bench.grade(patch, chosen)
        assert (found.status, found.resolved) == expected


def test_a_test_patch_without_its_last_newline_is_applied(bench, tmp_path):
    """Tools that move rows strip it; the benchmark's own script puts it back."""
    rows = (ROOT / "config" / "rows" / "bench.jsonl").read_text(encoding="utf-8").splitlines()
    row = next(row for row in map(json.loads, rows) if "starlette" in row["instance_id"])
    row |= {"test_patch": row["test_patch"].rstrip("\n")}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    source = {"file": str(tmp_path / "rows.jsonl"), "id": row["instance_id"]}
    chosen = bench.load(tasks={TASK: {"row": source}})
    found, _ = bench.grade(row["patch"].encode(), chosen)
    assert (found.status, found.resolved) == ("graded", True), found.detail


# What somebody did to the image, and what the right patch then comes to.
IMAGES = {
    "a work tree of another user": ("chown -R 1000:1000 /testbed", "graded", ["DAC_OVERRIDE"]),
    "a folder that is read-only": ("chmod -R a-w /testbed/starlette", "graded", ["DAC_OVERRIDE"]),
    "a find that is not GNU's": (
        "printf '#!/bin/sh\\nexit 1\\n' > /usr/local/bin/find; chmod 755 /usr/local/bin/find",
        "ungraded",
        None,
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_right_patch_in_an_image_that_is_otherwise(bench, tmp_path, name):
    command, status, capabilities = IMAGES[name]
    ground = planned(bench.config).ground
    pulled = images.pull(bench.engine, ground.reference, ground.digest, ground.config_digest)
    made, tag = "agentsweep-test-otherwise", "localhost/agentsweep-test/otherwise:1"
    spec = ContainerSpec(made, pulled["id"], {LABEL: made}, user="0:0", drop_capabilities=False)
    try:
        container = bench.engine.start(bench.engine.create(spec), made)
        bench.engine.exec(container.id, "sh", "-ec", command)
        bench.engine.commit(container.id, pulled["id"], tag)
        reference = "docker://registry.example.org/otherwise:1"
        locked = {"digest": f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"}
        locked |= {"config_digest": bench.engine.image_id(tag), "platform": "linux/amd64"}
        lock = tmp_path / "lock.yaml"
        lock.write_text(yaml.safe_dump({"images": {reference: locked}}), encoding="utf-8")
        chosen = bench.load(images={"lock": str(lock)}, tasks={TASK: {"image": reference}})
        found, record = bench.grade(bench.row.patch.encode(), chosen)
        assert (found.status, found.resolved) == (status, True if capabilities else None), found
        assert record.get("capabilities") == capabilities
        if capabilities is None:
            assert "GNU tar and GNU find" in found.detail
    finally:
        bench.engine.remove(made)
        bench.engine.call("rmi", "--force", tag, check=False)


def test_the_command_grades_a_file(bench, tmp_path):
    """The same through the command line, which recalls what is sealed."""
    patch = tmp_path / "gold.diff"
    patch.write_text(bench.row.patch, encoding="utf-8")
    done = agentsweep(
        "grade", TASK, "--patch", patch, "--out", tmp_path / "out",
        "--config", json.dumps(bench.settings),
    )  # fmt: skip
    assert f"{TASK}: resolved (graded)" in done.stdout + done.stderr
    record, commands = evidence.read(tmp_path / "out")
    assert record["patch_sha256"] == hashlib.sha256(patch.read_bytes()).hexdigest()
    assert verdict.judge(record, commands).resolved


def test_gradings_leave_no_container_behind():
    names = engine_in_use.ask("ps", "--all", "--format", "{{.Names}}")
    assert "agentsweep-grading" not in names
