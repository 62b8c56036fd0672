"""Gradings without a container: what is listed, what decides one, what a validation amounts to."""

import hashlib
import io
import json
import tarfile

import pytest
import row_maker
import small_sweep
import yaml

from agentsweep import config, evidence, grading_job, patches, plan
from agentsweep.config import Machine
from agentsweep.errors import AgentsweepError
from agentsweep.store import Store
from agentsweep.sweep import Sweep

EMPTY = hashlib.sha256(b"").hexdigest()
LARGE = Machine(64 * 2**30, 16)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads the small sweep, whose task has a row; settings of `grading` and the row's vary."""
    small_sweep.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fix.yaml").write_text(
        "kind: swe\nimage: oci-archive:images/fix.tar\nscenario: scenario.yaml\n"
        f"row: {{file: rows.jsonl, id: {row_maker.first()['instance_id']}}}\n"
    )

    def loaded(grading=None, row=None, digest=None):
        (tmp_path / "rows.jsonl").write_text(row_maker.jsonl([row or row_maker.first()]))
        if digest:
            lock = small_sweep.IMAGES_LOCK.replace("a" * 64, digest * 64)
            (tmp_path / "config/images.lock.yaml").write_text(lock)
        return merged(grading)

    def merged(grading):
        content = yaml.safe_load(small_sweep.CONFIG) | {"grading": grading or {}}
        loaded.merged = content
        return config.load(content)

    return loaded


def test_only_rows_whose_tests_pytest_runs_are_graded(load):
    assert grading_job.gradable(load(), "fix")
    other = row_maker.changed(row_maker.first(), "install_config", "log_parser", "parse_log_django")
    assert not grading_job.gradable(load(row=other), "fix")


def test_everything_that_decides_a_grading_is_in_its_spec(load):
    def spec(patch=EMPTY, **changes):
        return grading_job.spec(load(**changes), "fix", patch)

    usual = spec()
    assert spec() == usual
    # Another statement of the problem makes another row, too: a row is graded as a whole.
    assert spec(row=row_maker.first(problem_statement="Otherwise.")) != usual
    assert (
        spec(grading={"memory": "4096MiB", "cpus": 2.0, "timeout_s": 1800.0, "validations": 5})
        == usual
    )
    others = [{"memory": "2GiB"}, {"cpus": 1}, {"timeout_s": 5}, {"network": True}]
    for grading in (*others, {"install": True}):
        assert spec(grading=grading) != usual, grading
    assert spec(patch="f" * 64) != usual
    assert spec(digest="b") != usual


def made_up(tmp_path, resolved):
    """`grading.grade` without a container: the gold patch resolves `resolved` times."""
    left = list(resolved)

    def grade(store, ground, grader, patch, engine, repeat=0, place=None):
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
    (folder / evidence.RECORD).write_text(json.dumps(usual | record))
    with tarfile.open(folder / evidence.ARCHIVE, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))


def test_a_task_is_valid_when_its_patch_resolves_it_each_time(load, tmp_path, monkeypatch):
    monkeypatch.setattr(grading_job.grading, "grade", made_up(tmp_path, [True] * 3))
    loaded = load({"validations": 3})
    record = grading_job.validate(loaded, "fix", None)
    assert (record["valid"], record["problems"], record["repeats"]) == (True, [], 3)
    assert grading_job.validation(loaded, "fix") == record
    assert grading_job.invalidity(loaded, "fix") is None


def test_a_task_that_is_not_valid_is_left_out_until_it_is_kept(load, tmp_path, monkeypatch):
    monkeypatch.setattr(grading_job.grading, "grade", made_up(tmp_path, [True, False]))
    loaded = load()
    assert grading_job.invalidity(loaded, "fix") is None
    record = grading_job.validate(loaded, "fix", None)
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

    # A job's process finds whatever cell it was given.
    assert len(Sweep(load.merged, announce=False, machine=LARGE, stream=said).cells) == 8
    kept = load({"keep_invalid": True})
    assert grading_job.invalidity(kept, "fix") is None
    assert len(Sweep(load.merged, announce=True, machine=LARGE, stream=said).cells) == 8
    # Of another image, nothing is known.
    assert grading_job.invalidity(load(digest="c"), "fix") is None


@pytest.fixture
def run(tmp_path):
    """Makes the folder of a run that left a patch."""

    def made(name, patch, status="ok", sha256=None):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "patch.diff").write_bytes(patch)
        actual = hashlib.sha256(patch).hexdigest()
        said = {"status": status, "sha256": sha256 or actual, "bytes": len(patch)}
        (folder / "result.json").write_text(json.dumps({"patch": said}))
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


def test_a_patch_that_is_not_the_runs_own_is_refused(run, tmp_path):
    with pytest.raises(AgentsweepError, match=r"a/patch.diff is not the patch that the run left"):
        patches.collect([("t", run("a", b"one", sha256="0" * 64))], tmp_path / "patches.json")
    assert not (tmp_path / "patches.json").exists()


def test_links_and_broken_ends_of_evidence_are_left_out(tmp_path):
    """The archive is made by whoever wrote the patch."""
    secret = tmp_path / "secret"
    secret.write_text("of this machine")
    path = tmp_path / evidence.ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("./log-1")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        hard = tarfile.TarInfo("./exit-1")
        hard.type, hard.linkname = tarfile.LNKTYPE, str(secret)
        archive.addfile(hard)
        plain = tarfile.TarInfo("./applied_by")
        plain.size = 9
        archive.addfile(plain, io.BytesIO(b"git apply"))
    assert evidence.members(path) == {"applied_by": b"git apply"}
    path.write_bytes(path.read_bytes()[:-30])
    assert set(evidence.members(path)) <= {"applied_by"}
    path.write_bytes(b"no archive")
    assert evidence.members(path) == {}
    path.unlink()
    assert evidence.members(path) == {}


def test_what_a_command_did_not_leave_is_none(tmp_path):
    write(tmp_path, {"exit-1": "not a number\n", "log-2": "said"}, n_commands=2)
    _, commands = evidence.read(tmp_path)
    assert [(c.exit_code, c.report, c.log) for c in commands] == [
        (None, None, ""),
        (None, None, "said"),
    ]


def test_gradings_are_no_attempts_of_runs(load, tmp_path):
    """They lie in the same store, and nothing that looks for runs may find them."""
    loaded = load()
    (grading_job.store(loaded).root / ("a" * 64) / "attempt-1").mkdir(parents=True)
    assert Store(loaded.store().root).keys() == []
