"""What a replay plays: a session, a run or one of many; what is refused, and how that is said."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from recorded_sessions import EXAMPLES, RUNS, main_files, needs_examples, needs_runs
from session_maker import SESSION, Session, small_session

from agentsweep import seal
from agentsweep.errors import ConfigError
from agentsweep.extraction import recorded_runs
from agentsweep.extraction.recorded_runs import find

TASK, INSTANCE = "fix", "a__b-1"


def found(path, task=TASK, instance_id=INSTANCE, replicate=0) -> recorded_runs.ReplaySource:
    """What a process that begins now finds."""
    for name in ("_find", "_runs", "_source"):
        getattr(recorded_runs, name).cache_clear()
    return find(Path(path), task, instance_id, replicate)


def refused(path, **asked) -> str:
    """The one sentence with which a source is refused; it names the place."""
    with pytest.raises(ConfigError) as caught:
        found(path, **asked)
    (sentence,) = caught.value.problems
    assert "\n" not in sentence and str(path) in sentence
    return sentence


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def session(text: str = "Done.") -> bytes:
    """A session that says a text."""
    return small_session().data().replace(b"Done.", text.encode())


def run(folder: Path, task=TASK, instance_id=INSTANCE, replicate=0, mode="scripted", **files):
    """A run of ours; files: other contents by the name before the dot, None for no such file."""
    spec = {"model": {"mode": mode}, "replicate": replicate}
    result = {"names": {"task": task, "instance_id": instance_id}, "spec": spec}
    contents = {
        "result.json": json.dumps(result).encode(),
        "trace.jsonl": session(),
        "session.tar": b"tar",
        "api.jsonl": b"{}\n",
        "patch.diff": b"",
    }
    for name, data in contents.items():
        data = files.get(name.split(".")[0], data)
        if data is not None:
            write(folder / name, data)
    return folder


# A session file


def test_a_session_file_is_played(tmp_path):
    path = write(tmp_path / "a.jsonl", session())
    source = found(path)
    assert source.trace == path
    assert source.run_dir is None
    assert source.files == (path,)
    assert len(source.sha256) == 64


def test_a_recording_that_is_not_what_was_sealed_is_not_played(tmp_path):
    folder = run(tmp_path / "run")
    (folder / seal.SEAL).write_bytes(seal.make(folder))
    assert found(folder).run_dir == folder
    (folder / "api.jsonl").write_bytes(b"")
    recorded_runs._source.cache_clear()
    assert "api.jsonl has 0 bytes and not 3" in refused(folder)


def test_its_sub_agents_belong_to_it(tmp_path):
    """Those of CLI 2.0.77 lie beside it, later ones in a folder; another session's do not count."""
    main = write(tmp_path / f"{SESSION}.jsonl", session())
    alone = found(main).sha256
    agent = Session(agent="a1")
    agent.user("Look", 2)
    other = Session(session="another-session", agent="a3")
    other.user("Look", 2)
    beside = write(tmp_path / "agent-a1.jsonl", agent.data())
    write(tmp_path / "agent-a3.jsonl", other.data())
    below = write(tmp_path / SESSION / "subagents" / "agent-a2.jsonl", agent.data())
    meta = write(below.with_suffix(".meta.json"), b'{"agentType": "Explore"}')
    source = found(main)
    assert set(source.files) == {main, beside, below, meta}
    seen = {alone, source.sha256}
    for changed, data in ((below, agent.data() + b"\n"), (meta, b'{"agentType": "x"}')):
        changed.write_bytes(data)
        seen.add(found(main).sha256)
    for path in (below, meta):
        path.rename(path.with_name(path.name.replace("a2", "a9")))
    seen.add(found(main).sha256)
    assert len(seen) == 5


def test_contents_count_and_places_do_not(tmp_path):
    path = write(tmp_path / "a.jsonl", session())
    before = found(path).sha256
    moved = write(tmp_path / "elsewhere" / "other-name.jsonl", session())
    os.utime(moved, (1, 1))
    assert found(moved).sha256 == before
    moved.write_bytes(session("Finished."))
    assert found(moved).sha256 != before


def test_a_session_may_begin_with_records_that_are_not_of_the_conversation(tmp_path):
    first = b'{"type":"summary","summary":"x","leafUuid":"u"}\n'
    assert found(write(tmp_path / "a.jsonl", first + b"{torn\n\n" + session())).files


def test_what_was_found_is_not_looked_for_again(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", session())
    source = found(path)
    path.unlink()
    assert find(path, TASK, INSTANCE, 0) is source
    monkeypatch.chdir(tmp_path)
    assert find(Path("a.jsonl"), TASK, INSTANCE, 0) is source


# What is no recording


def stream_json() -> bytes:
    records = [
        {"type": "system", "subtype": "init", "session_id": SESSION},
        {"type": "assistant", "session_id": SESSION, "message": {"role": "assistant"}},
        {"type": "result", "session_id": SESSION, "is_error": False},
    ]
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def unanswered() -> bytes:
    """The model never answers: the CLI speaks in its place, and a sub-agent's turn is not it."""
    asked = Session()
    asked.user("Fix it", 1)
    asked.text("m1", "API Error", 2, model="<synthetic>")
    asked.text("m2", "API Error", 3, isApiErrorMessage=True)
    asked.text("m3", "I look.", 4, isSidechain=True)
    return asked.data()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not a Claude Code session file: it is empty; name one that is"),
        (b"\n\n", "it is empty"),
        (b'{"role": "user"}\n{"a": 1}\n', "none of its 2 lines is a record of a session"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is a record of a session"),
        (stream_json(), "its records look like stream-json output; the session file is projects/"),
        (unanswered(), "holds no answer of a model in its main conversation"),
    ],
)
def test_what_is_no_session_is_refused(tmp_path, data, said):
    path = write(tmp_path / "a.jsonl", data)
    assert said in refused(path)
    assert said in refused(run(tmp_path / "run", trace=data))


def test_what_is_not_there_or_cannot_be_read_is_refused(tmp_path, monkeypatch):
    assert "there is no such file or directory: make the recording first" in refused(
        tmp_path / "none.jsonl"
    )
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is no regular file" in refused(tmp_path / "pipe.jsonl")
    assert "trace.jsonl cannot be read (No such file" in refused(run(tmp_path / "run", trace=None))
    secret = write(tmp_path / "secret.jsonl", session())
    secret.chmod(0)
    real = Path.open

    # The tests may run as root, whom no mode keeps out.
    def guarded(self, *arguments, **more):
        if self == secret:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", guarded)
    assert "secret.jsonl cannot be read (Permission denied): mend that" in refused(secret)


# A run


def test_a_run_is_played_with_what_was_recorded_beside_its_session(tmp_path):
    folder = run(tmp_path / "a")
    source = found(folder, task="other", instance_id="other")
    assert (source.trace, source.run_dir) == (folder / "trace.jsonl", folder)
    names = ("trace.jsonl", "session.tar", "api.jsonl")
    assert source.files == tuple(folder / name for name in names)
    shutil.copytree(folder, tmp_path / "b" / "c")
    assert found(tmp_path / "b" / "c").sha256 == source.sha256
    (folder / "patch.diff").write_text("another", encoding="utf-8")
    assert found(folder).sha256 == source.sha256
    seen = {source.sha256}
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
        seen.add(found(folder).sha256)
    (folder / "api.jsonl").unlink()
    assert found(folder).sha256 not in seen
    assert len(seen) == 4


@pytest.mark.parametrize("result", [b"{", b"[]", b"{}", b""])
def test_a_run_that_is_named_needs_no_readable_result(tmp_path, result):
    folder = run(tmp_path / "a", result=result)
    assert found(folder).run_dir == folder


def test_a_directory_with_a_session_alone_is_that_session(tmp_path):
    path = write(tmp_path / "attempt_1" / "trace.jsonl", session())
    source = found(path.parent)
    assert (source.trace, source.run_dir, source.files) == (path, None, (path,))
    assert source.sha256 == found(path).sha256


# A directory of runs


def test_the_only_run_of_a_task_is_played_by_every_replicate(tmp_path):
    folder = run(tmp_path / "task~fix/agent~a/mem~1GiB_cpus~1_rep~0")
    run(tmp_path / "task~other/agent~a/mem~1GiB_cpus~1_rep~0", task="other", instance_id="c__d-2")
    for replicate in (0, 1, 7):
        assert found(tmp_path, replicate=replicate).run_dir == folder
    assert found(tmp_path, task="renamed").run_dir == folder
    assert found(tmp_path, instance_id="other").run_dir == folder


def test_of_several_the_one_with_the_replicates_number_is_played(tmp_path):
    first, second = (run(tmp_path / f"rep~{n}", replicate=n) for n in (0, 1))
    assert found(tmp_path, replicate=0).run_dir == first
    assert found(tmp_path, replicate=1).run_dir == second
    sentence = refused(tmp_path, replicate=2)
    assert "holds 2 runs that could be replicate 2 of task fix, such as rep~0 and rep~1" in sentence
    assert sentence.endswith("name one of them")


def test_several_that_could_be_meant_are_refused_by_two_of_them(tmp_path):
    for name in ("b", "a", "c"):
        run(tmp_path / name / "x")
    assert "holds 3 runs that could be replicate 0 of task fix, such as a/x and b/x" in refused(
        tmp_path
    )


def test_no_run_of_the_task_is_refused(tmp_path):
    run(tmp_path / "a", task="other", instance_id="c__d-2")
    sentence = refused(tmp_path)
    assert "holds no run of task fix (instance a__b-1), but 1 of others" in sentence


def test_attempts_that_are_not_sealed_and_replays_are_passed_over(tmp_path):
    """So that the results of a sweep, or its store, can be what it replays."""
    for state in (".partial", ".failed", ".interrupted"):
        run(tmp_path / "0a" / f"attempt-1{state}")
    run(tmp_path / "0b" / "attempt-1", mode="replay")
    assert "holds no run that can be replayed" in refused(tmp_path)
    sealed = run(tmp_path / "0c" / "attempt-2")
    assert found(tmp_path).run_dir == sealed


@pytest.mark.parametrize("result", [b"{", b"[]", b'{"names": {}}'])
def test_a_damaged_run_hides_no_other(tmp_path, result):
    run(tmp_path / "a", result=result)
    whole = run(tmp_path / "b")
    assert found(tmp_path).run_dir == whole


def test_neither_links_nor_what_is_six_levels_down_is_looked_at(tmp_path):
    runs = tmp_path / "runs"
    run(runs / "1/2/3/4/5/6")
    outside = run(tmp_path / "outside" / "run")
    (runs / "link").symlink_to(outside.parent)
    assert "at most 5 levels down" in refused(runs)
    deep = run(runs / "1/2/3/4/5a")
    assert found(runs).run_dir == deep
    # The directory that is named may itself be a link.
    assert found(runs / "link").run_dir == runs / "link" / "run"


def test_a_run_ends_the_search_below_it(tmp_path):
    """Its work tree may hold what looks like a run."""
    folder = run(tmp_path / "a")
    run(folder / "tests" / "data")
    assert found(tmp_path).run_dir == folder


@pytest.mark.parametrize("level", [TASK, INSTANCE])
def test_without_a_result_the_directories_name_the_task_and_the_last_attempt_counts(
    tmp_path, level
):
    data = tmp_path / "data"
    for name in ("attempt_1", "attempt_2", "attempt_10"):
        last = write(data / level / name / "trace.jsonl", session(name))
    write(data / "c__d-2" / "attempt_1" / "trace.jsonl", session())
    # The order is that of the names as text.
    assert found(data, replicate=4).trace == last.parent.with_name("attempt_2") / "trace.jsonl"
    assert found(data / level).trace == found(data).trace
    write(data / "zz" / level / "trace.jsonl", session())
    assert f"such as {level}/attempt_2 and zz/{level}: name" in refused(data)


def test_an_empty_directory_is_refused(tmp_path):
    assert "holds no run that can be replayed: name a session file, or" in refused(tmp_path)


# Recordings of others


@needs_examples
def test_recorded_sessions_of_all_versions_are_accepted():
    with_subagents = set()
    for path in main_files():
        source = found(path)
        assert source.files[0] == path
        if len(source.files) > 1:
            with_subagents.add(path.parent.name)
    assert with_subagents >= {"2.0.77_subagent", "2.1.16_subagent", "2.1.330_subagents_foreground"}
    for path in EXAMPLES.glob("*/stdout.txt"):
        if b'"type"' in path.read_bytes()[:100]:
            assert "is not a Claude Code session file" in refused(path)


@needs_runs
def test_all_of_agentcgroups_runs_are_found_in_little_time():
    """Each time a Snakefile is read, and in each of its jobs."""
    tasks = {
        folder.name: [path.name for path in folder.iterdir() if path.is_dir()]
        for folder in sorted(RUNS.glob("all_images_*"))
    }
    begin = time.process_time()
    sources = {
        (name, task): find(RUNS / name, "task", task, 0)
        for name, names in tasks.items()
        for task in names
        if any((RUNS / name / task).rglob("trace.jsonl"))
    }
    spent_s = time.process_time() - begin
    assert len(sources) > 150
    assert len({source.sha256 for source in sources.values()}) == len(sources)
    assert spent_s < 5
    first = next(iter(tasks["all_images_haiku"]))
    assert "all_images_haiku" in refused(RUNS, task="task", instance_id=first)
