"""Gradings without a container: what is listed, what decides one, what a validation amounts to."""

import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
import threading
import time

import pytest
import row_maker
import small_sweep
import yaml

from agentsweep.cli import plan
from agentsweep.config.load import load as load_config
from agentsweep.containers.engine import Container
from agentsweep.errors import AgentsweepError, InfraError
from agentsweep.grading import evidence, grading, grading_job, grading_plan, patches, verdict
from agentsweep.host.capacity import Machine
from agentsweep.runs import watch
from agentsweep.runs.store import Store
from agentsweep.workflow.sweep import Sweep

EMPTY = hashlib.sha256(b"").hexdigest()
LARGE = Machine(64 * 2**30, 16)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads the small sweep, whose task has a row; settings of `grading` and the row's vary."""
    small_sweep.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fix.yaml").write_text(
        "kind: swe\nimage: oci-archive:images/fix.tar\nscenario: scenario.yaml\n"
        f"row: {{file: rows.jsonl, id: {row_maker.first()['instance_id']}}}\n",
        encoding="utf-8",
    )

    def loaded(grading=None, row=None, digest=None):
        (tmp_path / "rows.jsonl").write_text(
            row_maker.jsonl([row or row_maker.first()]), encoding="utf-8"
        )
        if digest:
            lock = small_sweep.IMAGES_LOCK.replace("a" * 64, digest * 64)
            (tmp_path / "config/images.lock.yaml").write_text(lock, encoding="utf-8")
        return merged(grading)

    def merged(grading):
        content = yaml.safe_load(small_sweep.CONFIG) | {"grading": grading or {}}
        loaded.merged = content
        return load_config(content)

    return loaded


def planned(config):
    return grading_plan.plan(config, "fix")


def test_only_rows_whose_tests_pytest_runs_are_graded(load):
    assert grading_plan.gradable(load(), "fix")
    other = row_maker.changed(row_maker.first(), "install_config", "log_parser", "parse_log_django")
    assert not grading_plan.gradable(load(row=other), "fix")


def test_everything_that_decides_a_grading_is_in_its_spec(load):
    def spec(patch=EMPTY, **changes):
        return planned(load(**changes)).spec(patch)

    usual = spec()
    assert spec() == usual
    # Another statement of the problem makes another row, too: a row is graded as a whole.
    assert spec(row=row_maker.first(problem_statement="Otherwise.")) != usual
    assert (
        spec(grading={"memory": "4096MiB", "cpus": 2.0, "timeout_s": 1800.0, "validations": 5})
        == usual
    )
    others = [{"memory": "2GiB"}, {"cpus": 1}, {"timeout_s": 5}, {"network": True}]
    for changed in (*others, {"install": True}):
        assert spec(grading=changed) != usual, changed
    assert spec(patch="f" * 64) != usual
    assert spec(digest="b") != usual


def test_each_row_that_is_not_graded_has_a_reason(load):
    assert grading_plan.ungradable(load(), "fix") is None
    first = row_maker.first(repo="django/django", install_config=None, log_parser=None)
    first |= {"language": None, "image": small_sweep_image()}
    reason = grading_plan.ungradable(load(row=first), "fix")
    assert "django/django are run by its own tests/runtests.py" in reason
    named = row_maker.first(FAIL_TO_PASS=["test_add (basic.tests.AddTests)"])
    assert "'test_add (basic.tests.AddTests)'" in grading_plan.ungradable(load(row=named), "fix")
    other = row_maker.changed(row_maker.first(), "install_config", "log_parser", "parse_log_jest")
    assert grading_plan.ungradable(load(row=other), "fix").endswith("log_parser is parse_log_jest")


def small_sweep_image():
    return "oci-archive:images/fix.tar"


def test_a_grading_that_never_fits_leaves_a_record_that_says_why(load, tmp_path):
    loaded = load({"memory": "900TiB"})

    def no_engine():
        raise AssertionError("nothing is started")

    found = grading_job.grade(planned(loaded), b"patch", tmp_path / "out", no_engine)
    assert (found.status, found.resolved) == ("ungraded", None)
    assert "grading needs 989560465 MB of memory, and this machine" in found.detail
    assert "set grading.memory" in found.detail
    record, commands = evidence.read(tmp_path / "out")
    assert record["patch_sha256"] == hashlib.sha256(b"patch").hexdigest()
    assert verdict.judge(record, commands) == found
    # A larger machine makes it.
    assert not list(planned(loaded).store.root.glob("*/attempt-*"))
    validation = grading_job.validate(planned(loaded), no_engine)
    assert (validation["valid"], validation["problems"]) == (None, [])
    assert "grading needs" in validation["unknown"]
    assert grading_job.validation(planned(loaded)) is None


def test_without_an_engine_a_validation_is_not_known(load):
    def no_engine():
        raise InfraError("no engine works here")

    record = grading_job.validate(planned(load({"memory": "64MiB", "cpus": 1})), no_engine)
    assert record["valid"] is None
    assert record["unknown"] == "no container can be started here: no engine works here"


@pytest.mark.parametrize(
    ("record", "again"),
    [
        ({"applied_by": None}, True),
        ({"tests_applied": False}, True),
        ({}, False),
        ({"applied_by": None, "capabilities": []}, False),
    ],
)
def test_what_an_earlier_version_could_not_apply_is_graded_again(load, record, again):
    loaded = load({"memory": "64MiB", "cpus": 1})
    graded = planned(loaded).store
    key = grading.spec_sha256(planned(loaded).spec(hashlib.sha256(b"patch").hexdigest()))
    with graded.locked(key, "{}"):
        attempt = graded.begin(key)
        write(attempt.path, {"exit-1": "0"}, fail_to_pass=[], pass_to_pass=[], **record)
        graded.finish(attempt, "sealed")
    assert (grading.recalled(graded, key) is None) is again


def test_a_patch_that_lost_its_last_newline_has_it():
    assert grading._ended(b"+a") == b"+a\n"
    assert grading._ended(b"+a\n") == b"+a\n"
    assert grading._ended(b"") == b""


def test_tasks_with_the_same_row_and_image_share_a_validation(load):
    loaded = load()
    usual = planned(loaded).validation_id
    assert usual.startswith(row_maker.first()["instance_id"] + "~")
    assert planned(load(digest="c")).validation_id != usual
    assert planned(load({"memory": "1GiB"})).validation_id != usual


def made_up(tmp_path, resolved):
    """`grading.grade` without a container: the gold patch resolves `resolved` times."""
    left = list(resolved)

    def grade(store, ground, grader, patch, engine, room, repeat=0, place=None):
        folder = tmp_path / f"{hashlib.sha256(patch).hexdigest()[:8]}-{repeat}"
        folder.mkdir(exist_ok=True)
        passed = patch and left.pop(0)
        tests = (*ground.row.fail_to_pass, *ground.row.pass_to_pass)
        cases = "".join(
            f'<testcase file="{test.split("::")[0]}" name="{test.split("::")[-1]}"'
            f' classname="{test.split("::")[0].removesuffix(".py").replace("/", ".")}">'
            f"{'' if passed else '<failure/>'}</testcase>"
            for test in tests
        )
        word = "PASSED" if passed else "FAILED"
        log = "\n".join(["=== short test summary info ===", *(f"{word} {t}" for t in tests)])
        write(
            folder,
            {"report-1.xml": f"<t>{cases}</t>", "log-1": log, "exit-1": str(int(not passed))},
            fail_to_pass=ground.row.fail_to_pass,
            pass_to_pass=ground.row.pass_to_pass,
        )
        return type("Attempt", (), {"path": folder})

    return grade


def write(folder, members, **record):
    usual = {"n_commands": 1, "applied_by": "git apply", "tests_applied": True}
    usual |= {"timed_out": False, "oom_kill_count": 0, "grader": {"version": 1, "timeout_s": 9}}
    usual |= {"fail_to_pass": [], "pass_to_pass": []}
    with tarfile.open(folder / evidence.ARCHIVE, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    usual |= {"evidence_sha256": evidence.digest(folder)}
    (folder / evidence.RECORD).write_text(json.dumps(usual | record), encoding="utf-8")


def test_a_task_is_valid_when_its_patch_resolves_it_each_time(load, tmp_path, monkeypatch):
    monkeypatch.setattr(grading_job.grading, "grade", made_up(tmp_path, [True] * 3))
    loaded = load({"validations": 3})
    record = grading_job.validate(planned(loaded), None)
    assert (record["valid"], record["problems"], record["repeats"]) == (True, [], 3)
    assert grading_job.validation(planned(loaded)) == record
    assert grading_job.invalidity(planned(loaded)) is None


def test_a_task_that_is_not_valid_is_left_out_until_it_is_kept(load, tmp_path, monkeypatch):
    monkeypatch.setattr(grading_job.grading, "grade", made_up(tmp_path, [True, False]))
    loaded = load()
    assert grading_job.invalidity(planned(loaded)) is None
    record = grading_job.validate(planned(loaded), None)
    test = row_maker.first()["FAIL_TO_PASS"][0]
    problem = f"gold patch, time 2: not resolved: {test} failed"
    assert not record["valid"]
    assert record["problems"][0].startswith(problem)

    said = io.StringIO()
    assert Sweep(load.merged, announce=True, machine=LARGE, stream=said).cells == []
    assert "left out: all runs of fix: its task is not valid: gold patch, time 2" in said.getvalue()
    rows = plan.make(loaded, LARGE)
    assert {row.state for row in rows} == {plan.LEFT_OUT}
    assert "8 are left out: their tasks are not valid." in plan.render(rows)

    # A cell that has its run costs nothing: it stays, and figures leave it out.
    with monkeypatch.context() as patched:
        patched.setattr(Sweep, "has_run", lambda self, cell: cell.id.endswith("rep~1"))
        kept = Sweep(load.merged, announce=True, machine=LARGE, stream=said)
    assert {cell.task for cell in kept.cells} == {"fix"}

    # A job's process finds whatever cell it was given.
    assert len(Sweep(load.merged, announce=False, machine=LARGE, stream=said).cells) == 8
    kept = load({"keep_invalid": True})
    assert grading_job.invalidity(planned(kept)) is None
    assert len(Sweep(load.merged, announce=True, machine=LARGE, stream=said).cells) == 8
    # Of another image, nothing is known.
    assert grading_job.invalidity(planned(load(digest="c"))) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"valid": false, "problems": []}'])
def test_a_damaged_validation_is_none(load, tmp_path, monkeypatch, content):
    monkeypatch.setattr(grading_job.grading, "grade", made_up(tmp_path, [False] * 2))
    loaded = load()
    grading_job.validate(planned(loaded), None)
    (path,) = planned(loaded).store.root.glob("validations/*.json")
    path.write_text(content, encoding="utf-8")
    assert grading_job.validation(planned(loaded)) is None
    assert grading_job.invalidity(planned(loaded)) is None


@pytest.fixture
def run(tmp_path):
    """Makes the folder of a run that left a patch."""

    def made(name, patch, status="ok", sha256=None):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "patch.diff").write_bytes(patch)
        actual = hashlib.sha256(patch).hexdigest()
        said = {"status": status, "sha256": sha256 or actual, "bytes": len(patch)}
        (folder / "result.json").write_text(json.dumps({"patch": said}), encoding="utf-8")
        return folder

    return made


def test_equal_patches_of_a_task_are_listed_once(run, tmp_path):
    runs = [
        ("t", run("a", b"one")),
        ("t", run("b", b"two")),
        ("t", run("c", b"one")),
        ("other", run("d", b"one")),
        ("t", run("e", b"", status="empty")),
        ("t", run("f", b"", status="unavailable")),
    ]
    listed = tmp_path / "patches.json"
    assert patches.collect(runs, listed) == 3
    one, two = (hashlib.sha256(patch).hexdigest() for patch in (b"one", b"two"))
    assert patches.read(listed) == [
        {"task": "t", "patch_sha256": one, "run": str(tmp_path / "a")},
        {"task": "t", "patch_sha256": two, "run": str(tmp_path / "b")},
        {"task": "other", "patch_sha256": one, "run": str(tmp_path / "d")},
    ]
    assert patches.find(listed, "t", two) == tmp_path / "b" / "patch.diff"
    with pytest.raises(AgentsweepError, match=f"lists no patch {two} of other"):
        patches.find(listed, "other", two)


@pytest.mark.parametrize("content", ["[{", "{}}", "7", "[7]", '[{"task": "t"}]'])
def test_a_list_of_patches_that_somebody_else_wrote_is_refused(tmp_path, content):
    listed = tmp_path / "patches.json"
    listed.write_text(content, encoding="utf-8")
    with pytest.raises(AgentsweepError, match=f"{listed} is no list of patches: remove it"):
        patches.read(listed)


def test_a_patch_that_is_not_the_runs_own_is_refused(run, tmp_path):
    with pytest.raises(AgentsweepError, match=r"a/patch.diff is not the patch that the run left"):
        patches.collect([("t", run("a", b"one", sha256="0" * 64))], tmp_path / "patches.json")
    assert not (tmp_path / "patches.json").exists()


def test_links_and_broken_ends_of_evidence_are_left_out(tmp_path):
    """The archive is made by whoever wrote the patch."""
    secret = tmp_path / "secret"
    secret.write_text("of this machine", encoding="utf-8")
    path = tmp_path / evidence.ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("./log-1")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        hard = tarfile.TarInfo("./log-2")
        hard.type, hard.linkname = tarfile.LNKTYPE, str(secret)
        archive.addfile(hard)
        for name in ("exit-1", "more"):
            plain = tarfile.TarInfo(f"./{name}")
            plain.size = 2
            archive.addfile(plain, io.BytesIO(b"0\n"))
    assert evidence.members(path) == {"exit-1": b"0\n"}
    path.write_bytes(b"no archive")
    assert evidence.members(path) == {}
    path.unlink()
    assert evidence.members(path) == {}


@pytest.mark.parametrize("left", [0.9, 0.6])
def test_a_broken_end_of_evidence_is_left_out_and_what_came_before_is_not(tmp_path, left):
    # What hardly can be compressed, so that a part of the file is a part of the content.
    write(tmp_path, {"exit-1": "0\n", "log-1": os.urandom(100_000).hex(), "log-2": "x"})
    path = tmp_path / evidence.ARCHIVE
    assert set(evidence.members(path)) == {"exit-1", "log-1", "log-2"}
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * left)])
    assert evidence.members(path) == {"exit-1": b"0\n"}


def test_an_archive_is_read_no_further_than_it_may_unpack(tmp_path, monkeypatch):
    write(tmp_path, {"log-1": "a" * 100_000, "exit-1": "0"})
    monkeypatch.setattr(evidence, "_ARCHIVE_BYTES", 50_000)
    assert "exit-1" not in evidence.members(tmp_path / evidence.ARCHIVE)


def cut_record(folder):
    record = folder / evidence.RECORD
    record.write_text(record.read_text(encoding="utf-8")[:20], encoding="utf-8")


def cut_archive(folder):
    archive = folder / evidence.ARCHIVE
    archive.write_bytes(archive.read_bytes()[:40])


def empty_record(folder):
    (folder / evidence.RECORD).write_text("[]", encoding="utf-8")


def remove_archive(folder):
    (folder / evidence.ARCHIVE).unlink()


@pytest.mark.parametrize("damage", [cut_record, empty_record, cut_archive, remove_archive])
def test_a_damaged_grading_says_how_to_mend_it(tmp_path, damage):
    """It is no grading without a report, which would be a verdict."""
    write(tmp_path, {"exit-1": "0"})
    evidence.read(tmp_path)
    damage(tmp_path)
    with pytest.raises(AgentsweepError, match=f"{tmp_path} is damaged .*remove that folder and"):
        evidence.read(tmp_path)


@pytest.mark.parametrize("exit_code", ["not a number\n", "9" * 5000, "-1", ""])
def test_what_a_command_did_not_leave_is_none(tmp_path, exit_code):
    write(tmp_path, {"exit-1": exit_code, "log-2": "said"}, n_commands=2)
    _, commands = evidence.read(tmp_path)
    assert [(c.exit_code, c.report, c.log) for c in commands] == [
        (None, None, ""),
        (None, None, "said"),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_an_interrupted_grading_and_no_partial_one(load, monkeypatch, number):
    def graded(*_):
        os.kill(os.getpid(), number)
        # Snakemake sends another one to a job that the terminal has stopped already.
        try:
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(grading, "_graded", graded)
    loaded = load()
    with pytest.raises(AgentsweepError, match=f"interrupted by {number.name}; nothing was sealed"):
        grading_job.grade(planned(loaded), b"patch", None, lambda: None)
    (key,) = planned(loaded).store.keys()
    assert [a.state for a in planned(loaded).store.attempts(key)] == ["interrupted"]


def test_what_was_put_in_place_is_read_whatever_the_names():
    class Applying:
        def exec(self, *_, check):
            said = "applied_by git apply\nrestored a b/conftest.py\nrestored a\nb/conftest.py\n"
            return subprocess.CompletedProcess((), 0, said, "")

    assert grading._apply(Applying(), Container("id", "name", 1)) == {
        "applied_by": ["git apply"],
        "restored": ["a b/conftest.py", "a"],
        "settings": [],
        "tests_applied": [],
        "placed": [],
    }


class Packing:
    """An engine whose container packs nothing until it is started again, or never."""

    def __init__(self, fails, gone=False):
        self.fails, self.gone, self.called = fails, gone, []

    def exec_to_file(self, name, target, *argv, timeout_s):
        self.script = argv[-1]
        target.write_bytes(b"half")
        self.fails -= 1
        if self.fails >= 0:
            raise InfraError("no `sh`")
        target.write_bytes(b"whole")

    def call(self, *arguments, check):
        self.called.append(arguments[0])

    def inspect(self, name):
        if self.gone:
            raise InfraError("no engine")


@pytest.mark.parametrize(("fails", "left"), [(0, b"whole"), (1, b"whole"), (2, b"")])
def test_a_patch_that_destroys_its_container_is_graded_all_the_same(tmp_path, fails, left):
    """It would else stop the sweep, as a failure of the engine does."""
    engine, target = Packing(fails), tmp_path / evidence.ARCHIVE
    grading._collect(engine, Container("id", "name", 1), target, 2**20)
    assert target.read_bytes() == left
    assert engine.called == ["restart"] * fails
    with pytest.raises(InfraError, match="no engine"):
        grading._collect(Packing(2, gone=True), Container("id", "name", 1), target, 2**20)


class Counters:
    """A container whose one process this one is."""

    def pids(self):
        return [os.getpid()]


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(("written_bytes", "ended"), [(2**21, True), (2**19, False)])
def test_tests_that_write_more_than_the_layer_may_have_are_ended(
    tmp_path, monkeypatch, written_bytes, ended, named
):
    (layer := tmp_path / "layer").mkdir()
    killed = threading.Event()
    monkeypatch.setattr(watch, "kill_all_but_init", lambda counters, pid: killed.set())
    container = Container("id", "name", 1, layer=layer)
    path = layer / "file"
    budget = grading._on_budget(Counters(), container, (tmp_path,), layer_bytes=2**20)
    with budget, path.open("wb") as file:
        file.write(bytes(written_bytes))
        file.flush()
        if not named:
            path.unlink()
        # It looks once a second.
        assert killed.wait(20 if ended else 3) is ended


def test_what_a_grading_leaves_is_packed_up_to_its_limit(tmp_path):
    engine = Packing(0)
    grading._collect(engine, Container("id", "name", 1), tmp_path / evidence.ARCHIVE, 12345)
    assert engine.script.endswith("| head -c 12345")


def test_gradings_are_no_attempts_of_runs(load):
    """They lie in the same store, and nothing that looks for runs may find them."""
    loaded = load()
    (planned(loaded).store.root / ("a" * 64) / "attempt-1").mkdir(parents=True)
    assert Store(loaded.store().root).keys() == []
