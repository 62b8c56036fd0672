"""Files that an agent, an image or anybody may have written: what the shared reader takes."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import LIMIT, growth

from agentsweep import untrusted
from agentsweep.agents.claude_code import trace
from agentsweep.errors import ConfigError
from agentsweep.extraction import recorded_runs
from agentsweep.extraction.run_directory import Damage, read_lines, read_result
from agentsweep.runs.store import Attempt
from agentsweep.sampler import marks

DEEP = [*range(untrusted.MAX_DEPTH + 1, 1010, 101), *range(960, 1000)]


def nested(depth: int, key: str = "x") -> str:
    return f'{{"{key}":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


def make(path, kind):
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "zero":
            path.symlink_to("/dev/zero")
        case "link":
            path.with_name("target").write_bytes(b"1\n")
            path.symlink_to("target")
        case "directory":
            path.mkdir()
        case "device":
            if os.getuid() != 0:
                pytest.skip("only root makes devices")
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    return path


@pytest.mark.parametrize("kind", ["fifo", "zero", "link", "directory", "device"])
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path, kind):
    path = make(tmp_path / "agent.pid", kind)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(untrusted.WrongKind):
        untrusted.read(path, 100)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_fifo_is_opened_where_one_is_expected_and_waits_for_nobody(tmp_path):
    descriptor = untrusted.open_untrusted(make(tmp_path / "f", "fifo"), stat.S_ISFIFO)
    assert os.read(descriptor, 10) == b""
    os.close(descriptor)
    (tmp_path / "plain").touch()
    with pytest.raises(untrusted.WrongKind):
        untrusted.open_untrusted(tmp_path / "plain", stat.S_ISFIFO)


def test_what_a_user_names_may_be_a_link_to_a_file_and_to_nothing_else(tmp_path):
    assert untrusted.read(make(tmp_path / "a", "link"), 10, follow=True) == b"1\n"
    with pytest.raises(untrusted.WrongKind):
        untrusted.read(make(tmp_path / "b", "zero"), 10, follow=True)


def test_a_file_that_is_larger_than_allowed_is_refused(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 10)
    assert untrusted.read(path, 10) == b"x" * 10
    with pytest.raises(OSError, match="more than 9 bytes"):
        untrusted.read(path, 9)
    with pytest.raises(FileNotFoundError):
        untrusted.read(tmp_path / "none", 9)


def depth_of(value) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


TEXTS = st.text(st.sampled_from('[]{}"\\,:aä\u2028\U0001f600'), max_size=12)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=30,
)


@settings(deadline=None)
@given(VALUES, st.booleans(), st.integers(1, 6))
def test_brackets_in_texts_are_not_depth(value, ascii_only, limit):
    text = json.dumps(value, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(untrusted, "MAX_DEPTH", limit)
        if depth_of(value) > limit:
            with pytest.raises(ValueError, match="nested deeper"):
                untrusted.loads(text)
        else:
            assert untrusted.loads(text) == value
            assert untrusted.loads(text.encode()) == value


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=200), TEXTS.map(str.encode)))
def test_any_bytes_are_a_value_or_a_value_error(data):
    try:
        expected = json.loads(data.decode())
    except ValueError:
        with pytest.raises(ValueError):
            untrusted.loads(data)
        return
    # `NaN` is not equal to itself.
    assert repr(untrusted.loads(data)) == repr(expected)


def test_very_many_values_are_refused_before_they_are_made():
    wide = "[" + "[]," * untrusted.MAX_VALUES + "0]"
    with pytest.raises(ValueError, match="values"):
        untrusted.loads(wide)
    commas = json.dumps(["," * untrusted.MAX_VALUES])
    assert untrusted.loads(commas) == ["," * untrusted.MAX_VALUES]


def test_the_time_to_check_grows_with_the_size():
    def reading(size: int):
        texts = [("[" * size) + ("]" * size), '"\\"' * size, '{"a":' * size]

        def read():
            for text in texts:
                with pytest.raises(ValueError):
                    untrusted.loads(text)

        return read

    assert growth(reading, 800_000) < LIMIT


def test_lines_are_whole_or_cut_off(tmp_path):
    path = tmp_path / "lines"
    long = b'{"b":"' + b"x" * 500 + b'"}\n'
    path.write_bytes(b'{"a":1}\n' + long + b'{"c":3}')
    with path.open("rb") as file:
        found = list(untrusted.lines(file, 64))
    assert [found[0], found[2]] == [b'{"a":1}\n', b'{"c":3}']
    assert len(found) == 3 and len(found[1]) < 300 and found[1].endswith(b"\n")
    assert list(untrusted.objects(path, 64)) == [{"a": 1}, {"c": 3}]


# Each reader of its own


@pytest.mark.parametrize("depth", DEEP)
def test_a_result_that_is_nested_deep_is_damaged_for_each_reader(tmp_path, depth):
    folder = tmp_path / "run"
    folder.mkdir()
    names = '"names": {"task": "t", "instance_id": "t"}'
    spec = '"spec": {"model": {"mode": "scripted"}, "replicate": 0}'
    deep = nested(depth)
    (folder / "result.json").write_text(
        f'{{{names}, {spec}, "stream": {{"result": {deep}}}}}', encoding="utf-8"
    )
    assert Attempt("k" * 64, 1, "sealed", folder).result() is None
    damage = Damage()
    assert read_result(folder, damage)("names") is None
    assert "not JSON" in damage.sentence()
    with pytest.raises(ConfigError, match="no run that can be replayed"):
        recorded_runs.find(tmp_path, "t", "t", 0)


@pytest.mark.parametrize("kind", ["fifo", "zero", "directory"])
def test_a_result_that_is_not_a_file_ends_no_reader(tmp_path, kind):
    folder = tmp_path / "run"
    folder.mkdir()
    make(folder / "result.json", kind)
    (folder / "trace.jsonl").mkdir()
    assert Attempt("k" * 64, 1, "sealed", folder).result() is None
    assert read_result(folder, Damage())("names") is None
    with pytest.raises(ConfigError):
        recorded_runs.find(folder, "t", "t", 0)
    with pytest.raises(ConfigError):
        recorded_runs.find(tmp_path, "t", "t", 0)


@pytest.mark.parametrize("kind", ["fifo", "zero"])
def test_lines_of_what_is_not_a_file_are_damage(tmp_path, kind):
    damage = Damage()
    assert list(read_lines(make(tmp_path / "marks.jsonl", kind), damage)) == []
    assert damage.notes


@pytest.mark.parametrize("depth", DEEP)
def test_a_session_line_that_is_nested_deep_costs_only_itself(tmp_path, depth):
    whole = {"type": "user", "uuid": "u", "sessionId": "s", "timestamp": "2026-01-01T00:00:00Z",
             "message": {"role": "user", "content": "x"}}  # fmt: skip
    path = tmp_path / "s.jsonl"
    deep = json.dumps(whole | {"uuid": "v"})[:-1] + f',"more":{nested(depth)}}}'
    path.write_text(f"{json.dumps(whole)}\n{deep}\n", encoding="utf-8")
    found = trace.parse_file(path)
    assert len(found.messages) == 1
    assert found.lines.unusable == 1


def test_marks_take_no_link_and_no_other_kind(tmp_path):
    marks.make_marks_directory(tmp_path)
    requests = marks.Requests(tmp_path)
    make(tmp_path / "ack.7", "zero")
    assert requests.open_call(7) is None
    os.mkfifo(tmp_path / "ack.8")
    make(tmp_path / "call.8", "zero")
    reader = os.open(tmp_path / "ack.8", os.O_RDONLY | os.O_NONBLOCK)
    descriptor, command = requests.open_call(8)
    assert command == ""
    for handle in (descriptor, reader):
        os.close(handle)
    requests.close()
