"""Snakemake's command line, put right."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentsweep.workflow.command_line import config_files, put_right, start_again


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("-n --configfile my.yaml runs", "-n --configfile my.yaml -- runs"),
        ("--configfile a.yaml b.yml runs -n all", "--configfile a.yaml b.yml -n all -- runs"),
        ("--configfile a.yaml runs -- b", "--configfile a.yaml -- runs b"),
        ("--configfile=a.yaml runs", "--configfile=a.yaml runs"),
        ("--configfile nosuffix", "--configfile nosuffix"),
        ("--config partial=True runs", "--config partial=True -- runs"),
        ("--config a.b=1", '--config a={"b": "1"}'),
        ("-C a.b.c=x d=e", '-C a={"b": {"c": "x"}} d=e'),
        ("--config=a.b=1", '--config=a={"b": "1"}'),
        ("--config price=1.5", "--config price=1.5"),
        ("runs --cores 2 -- a.b=c", "runs --cores 2 -- a.b=c"),
    ],
)
def test_words(given, meant):
    # A JSON value has spaces.
    assert put_right(given.split(" ")) == meant.replace(": ", ":\0").replace(" ", "\n").replace(
        ":\0", ": "
    ).split("\n")


@given(st.lists(st.sampled_from(["-n", "--configfile", "--config", "--", "a", "b.yaml", "c=1"])))
def test_nothing_is_lost_and_the_second_time_changes_nothing(words):
    once = put_right(words)
    assert sorted(w for w in once if w != "--") == sorted(w for w in words if w != "--")
    assert put_right(once) == once


@given(st.text(alphabet="ab1 ,:{}[]'\"", min_size=1))
def test_any_value_of_a_dotted_key_survives(value):
    (entry,) = put_right(["--config", f"agent.x={value}"])[1:]
    content = json.loads(entry.removeprefix("agent="))["x"]
    try:
        assert content == yaml.load(value, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        assert content == value


@pytest.mark.parametrize(
    ("words", "files"),
    [
        ("--configfile a.yaml B.YML -n c.yaml", ["a.yaml", "B.YML"]),
        ("--configfiles=a.yaml b.yaml -- c.yaml", ["a.yaml", "b.yaml"]),
        ("-n -- --configfile a.yaml", []),
        ("--config x=a.yaml --configfile odd -n", []),
    ],
)
def test_files_of_a_command_line(words, files):
    assert config_files(words.split(" ")) == [Path(name) for name in files]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("dataset: größe\n".encode("latin-1"), "cannot be read: it is not UTF-8 text"),
        ("dataset: x\n".encode("utf-16"), "cannot be read: it is not UTF-8 text"),
        (b"sweep: [\n", "line 2: not YAML: "),
        (None, "there is no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, content, said):
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=f"^agentsweep: {path}: {said}"):
        start_again(["/bin/snakemake", "-n", "--configfile", str(path)])


def test_words_of_another_program_are_left_alone(tmp_path):
    assert start_again(["/bin/pytest", "--configfile", str(tmp_path / "my.yaml")]) is None
