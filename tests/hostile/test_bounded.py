"""Programs that say too much, nothing, or for ever; no containers."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsweep import bounded
from agentsweep.containers.client import EngineTimeout
from agentsweep.containers.engine import ExecFailed, OutputTooLarge
from agentsweep.containers.podman import Podman
from agentsweep.errors import InfraError


def python(code: str, **how) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], **pipes | how)


def fake(tmp_path: Path, body: str) -> Podman:
    """An engine that is a script."""
    program = tmp_path / "engine"
    program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    program.chmod(0o755)
    made = Podman(None, tmp_path)
    made.name = str(program)
    return made


ECHO = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"


@settings(max_examples=8, deadline=None)
@given(st.binary(max_size=50).map(lambda part: part * 20_000))
def test_what_is_given_comes_back(data):
    with python(ECHO) as process:
        talk = bounded.Talk(process, 2**24, data)
        assert talk.run(60) == 0
    assert bytes(talk.said) == data


def test_a_program_that_does_not_read_is_no_obstacle():
    with python("import os; os.close(0); print('done')") as process:
        talk = bounded.Talk(process, 2**20, b"x" * 2**22)
        assert talk.run(60) == 0
    assert talk.said == b"done\n"


def test_too_much_is_an_end_and_of_errors_both_ends_are_kept():
    with python("print('x' * 2**21)") as process:
        with pytest.raises(bounded.TooMuch):
            bounded.Talk(process, 2**20).run(60)
        process.kill()
    code = "import sys; sys.stderr.write('first' + 'x' * 2**22 + 'last')"
    with python(code) as process:
        talk = bounded.Talk(process, 2**20)
        talk.run(60)
    said = talk.errors.bytes()
    assert said.startswith(b"first") and said.endswith(b"last")
    assert len(said) <= 2**17


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_short_errors_are_kept_whole(parts):
    ends = bounded.Ends(2**10)
    for part in parts:
        ends.write(part)
    assert ends.bytes() == b"".join(parts)


def test_engine_answers_are_bounded_in_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr("agentsweep.containers.client._SAID_BYTES", 2**20)
    with pytest.raises(InfraError, match="said more than 1 MiB"):
        fake(tmp_path, "exec cat /dev/zero").call("ps")
    with pytest.raises(EngineTimeout):
        fake(tmp_path, "exec sleep 60").call("ps", timeout_s=0.2)
    done = fake(tmp_path, "printf 'a\\303b\\r\\n'; head -c 10000000 /dev/zero >&2; exit 3").call(
        "ps", check=False
    )
    assert (done.returncode, done.stdout) == (3, "a\ufffdb\n")
    assert len(done.stderr) <= 2**17


def test_files_that_a_container_makes_are_bounded(tmp_path):
    target = tmp_path / "target"
    with pytest.raises(OutputTooLarge, match="wrote more than 1 MiB"):
        fake(tmp_path, "exec cat /dev/zero").exec_to_file("c", target, "git", limit_bytes=2**20)
    assert target.stat().st_size <= 2**20
    loud = fake(tmp_path, "cat; head -c 100000000 /dev/zero >&2; echo >&2; echo last >&2; exit 4")
    with pytest.raises(ExecFailed, match="last") as error:
        loud.exec_to_file("c", target, "git", given=b"given")
    assert error.value.status == 4
    assert len(str(error.value)) < 1000
    assert target.read_bytes() == b"given"


def test_an_output_is_kept_up_to_its_limit_and_nobody_waits(tmp_path):
    with python("print('x' * 10**7)", stdin=None, stderr=None) as process:
        drain = bounded.Drain(process.stdout, tmp_path / "out", 1000)
        assert process.wait(60) == 0
        drain.finish()
    assert (tmp_path / "out").read_bytes() == b"x" * 1000
    assert drain.cut


def test_all_that_a_process_wrote_is_there_when_it_has_ended(tmp_path):
    # A child goes on with the same output.
    code = (
        "import subprocess, sys; subprocess.Popen(['sleep', '30']); sys.stdout.write('y' * 60000)"
    )
    begin = time.monotonic()
    process = python(code, stdin=None, stderr=None)
    drain = bounded.Drain(process.stdout, tmp_path / "out", 10**6)
    process.wait(60)
    drain.finish()
    drain.finish()
    assert time.monotonic() - begin < 25
    assert (tmp_path / "out").read_bytes() == b"y" * 60000
    assert not drain.cut


def test_a_file_that_is_full_stops_no_process():
    with python("print('x' * 10**6)", stdin=None, stderr=None) as process:
        drain = bounded.Drain(process.stdout, Path("/dev/full"), 10**7)
        assert process.wait(60) == 0
        drain.finish()
    assert drain.cut
