"""The mark protocol and the wrapper, on this host: real bash, real FIFOs, no container needed."""

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from agentsweep.sampler.marks import Requests, answer, install_wrapper, make_marks_directory


class Listener(threading.Thread):
    """Answers the wrapper as the sampler does; `heard` is what it was told."""

    def __init__(self, directory: Path):
        super().__init__(daemon=True)
        self.requests = Requests(directory)
        self.heard: list[tuple] = []
        self.commands: list[str] = []
        self.open: dict[int, int] = {}
        self.answers = True
        self._end, self._ender = os.pipe()

    def run(self):
        while True:
            ready, _, _ = select.select([self.requests.descriptor, self._end], [], [])
            if self._end in ready:
                return
            for kind, pid, status in self.requests.read()[0]:
                self.heard.append((kind, pid, status))
                if not self.answers:
                    continue
                if kind == "B":
                    found = self.requests.open_call(pid)
                    if found is None:
                        continue
                    self.open[pid], command = found
                    self.commands.append(command)
                answer(self.open[pid])

    def stop(self):
        os.write(self._ender, b"x")
        self.join()


@pytest.fixture
def control(tmp_path):
    """A directory as a container sees it under /run/agentsweep."""
    install_wrapper(tmp_path / "bash-mark")
    make_marks_directory(tmp_path / "marks")
    return tmp_path


@pytest.fixture
def listener(control):
    thread = Listener(control / "marks")
    thread.start()
    yield thread
    thread.stop()


def run(control: Path, command: str, **how) -> subprocess.CompletedProcess:
    how.setdefault("input", "")
    return subprocess.run(
        [control / "bash-mark", command],
        capture_output=True, text=True, encoding="utf-8", timeout=30, **how,
    )  # fmt: skip


@pytest.mark.parametrize("status", [0, 1, 42, 127, 255])
def test_the_exit_status_is_passed_on_and_told(control, listener, status):
    done = run(control, f"exit {status}")
    assert done.returncode == status
    (begin, end) = listener.heard
    assert begin[0] == "B"
    assert end == ("E", begin[1], status)


@pytest.mark.parametrize(
    "command",
    [
        "printf %s 'single'\"double\"",
        "printf '%s\\n' \"a'b\" 'c\"d' $'e\\tf'",
        "cat <<'X'\nhere $HOME `date`\nX",
        "printf '%s' \"\\\\ \\$ ! * ? [a] {b,c}\"",
        "# only a comment",
        "echo ünïcode ☃; echo done",
        "printf '%s' -n -e",
        'x="$(echo \'nested "quotes"\')"; echo "$x"',
        "",
    ],
)
def test_any_quoting_runs_as_bash_would_run_it(control, listener, command):
    plain = subprocess.run(
        ["/bin/bash", "-c", command], capture_output=True, text=True, input="", encoding="utf-8"
    )
    wrapped = run(control, command)
    assert (wrapped.stdout, wrapped.returncode) == (plain.stdout, plain.returncode)
    assert wrapped.stderr == plain.stderr
    assert listener.commands == [command]


def test_stdin_stdout_and_stderr_are_the_commands_own(control, listener):
    done = run(control, "cat; echo error >&2", input="one\ntwo")
    assert done.stdout == "one\ntwo"
    assert done.stderr == "error\n"


def test_binary_output_is_not_touched(control, listener):
    done = subprocess.run(
        [control / "bash-mark", "head -c 300000 /dev/zero; cat"],
        input=bytes(range(256)), capture_output=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == bytes(300000) + bytes(range(256))


def test_the_environment_is_as_without_the_wrapper(control, listener, tmp_path):
    (tmp_path / "rc").write_text("echo sourced; export FROM_RC=1\n", encoding="utf-8")
    env = {
        "PATH": os.environ["PATH"],
        "BASH_ENV": str(tmp_path / "rc"),
        "BASH_FUNC_greet%%": "() { echo hello $1; }",
        "REPLY": "kept", "SHLVL": "3", "ack": "kept too",
    }  # fmt: skip
    command = "greet you; env | grep -v ^_= | sort; ulimit -n; umask; set -o; shopt; trap"
    # The wrapper is started by another bash, as the agent does it.
    plain = subprocess.run(
        ["/bin/bash", "-c", f"/bin/bash -c {command!r}; exit"],
        env=env, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    wrapped = subprocess.run(
        ["/bin/bash", "-c", f"{control / 'bash-mark'} {command!r}; exit"],
        env=env, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert "hello you" in plain.stdout
    assert wrapped.stdout == plain.stdout
    assert wrapped.stderr == plain.stderr == ""


def test_the_command_has_none_of_the_wrappers_descriptors(control, listener):
    command = "ls -l /proc/self/fd | grep -c -e ack -e req"
    assert run(control, command).stdout.strip() == "0"


def test_ignored_signals_stay_as_they_were(control, listener):
    command = "grep SigIgn /proc/self/status"
    plain = subprocess.run(
        ["/bin/bash", "-c", command], capture_output=True, text=True, encoding="utf-8"
    )
    assert run(control, command).stdout == plain.stdout


def test_nothing_is_left_in_the_directory(control, listener):
    run(control, "true")
    assert [path.name for path in (control / "marks").iterdir()] == ["req"]


def test_a_command_that_is_killed_ends_with_137_and_no_word_of_it(control, listener):
    done = run(control, "kill -KILL $$")
    assert done.returncode == 137
    assert done.stderr == done.stdout == ""
    assert listener.heard[1][2] == 137


@pytest.fixture
def launch(control):
    """Starts a command under the wrapper; whatever a test comes to, nothing of it is left."""
    started = []

    def launch(command: str) -> subprocess.Popen:
        started.append(
            subprocess.Popen(
                [control / "bash-mark", command],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            )
        )  # fmt: skip
        return started[-1]

    yield launch
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "QUIT"])
def test_a_signal_to_the_wrapper_reaches_the_command(launch, listener, name):
    process = launch(f"trap 'echo got; exit 9' {name}; echo up; while :; do sleep 0.05; done")
    assert process.stdout.readline() == b"up\n"
    process.send_signal(getattr(signal, f"SIG{name}"))
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == (b"got\n", 9)
    assert listener.heard[1][2] == 9


def test_a_signal_before_the_wrapper_waits_reaches_the_command(control, launch, listener):
    wrapper = control / "bash-mark"
    text = wrapper.read_text(encoding="utf-8")
    started = "__agentsweep_child=$!\n"
    assert text.count(started) == 1
    wrapper.write_text(text.replace(started, f"{started}sleep 0.5\n"), encoding="utf-8")
    process = launch("trap 'echo got; exit 9' INT; echo up; while :; do sleep 0.05; done")
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == (b"got\n", 9)


def test_a_signal_without_a_trap_ends_both(launch, listener):
    process = launch("echo up; exec sleep 30")
    process.stdout.readline()
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.parametrize("_attempt", range(5))
def test_a_signal_to_the_group_ends_both_with_one_status(launch, listener, _attempt):
    process = launch("echo up; while :; do sleep 0.01; done")
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert listener.heard[1][2] == 143


def test_many_signals_do_not_change_the_status(launch, listener):
    process = launch("trap : USR1; echo up; for i in $(seq 20); do sleep 0.02; done; exit 5")
    process.stdout.readline()
    for _ in range(10):
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.01)
    assert process.wait(30) == 5


def test_background_processes_do_not_hold_a_call_open(control, listener):
    begin = time.monotonic()
    done = run(control, "sleep 20 >/dev/null 2>&1 & echo $!")
    # Of 20 s.
    assert time.monotonic() - begin < 18
    os.kill(int(done.stdout), signal.SIGKILL)
    (descriptor,) = listener.open.values()
    poll = select.poll()
    poll.register(descriptor, 0)
    # The wrapper is gone, and the kernel says so, although its command's child lives.
    assert poll.poll(5000)[0][1] & select.POLLERR


def test_a_killed_wrapper_is_seen_by_the_kernel(control, listener):
    process = subprocess.Popen([control / "bash-mark", "echo up; sleep 3"], stdout=subprocess.PIPE)
    process.stdout.readline()
    (descriptor,) = listener.open.values()
    poll = select.poll()
    poll.register(descriptor, 0)
    assert poll.poll(100) == []
    process.kill()
    process.wait()
    assert poll.poll(5000)[0][1] & select.POLLERR
    assert [kind for kind, *_ in listener.heard] == ["B"]


# Without a sampler


def test_without_the_directory_it_just_runs(tmp_path):
    install_wrapper(tmp_path / "bash-mark")
    done = run(tmp_path, "echo ran; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("ran\n", "", 3)


def test_without_mkfifo_it_just_runs(control):
    done = run(control, "echo ran; exit 3", env={"PATH": "/nonexistent"})
    assert (done.stdout, done.stderr, done.returncode) == ("ran\n", "", 3)


@pytest.mark.slow
def test_a_sampler_that_does_not_answer_costs_five_seconds_once(control, listener):
    listener.answers = False
    begin = time.monotonic()
    done = run(control, "echo ran; exit 3")
    took_s = time.monotonic() - begin
    assert (done.stdout, done.stderr, done.returncode) == ("ran\n", "", 3)
    # Once: twice would be ten seconds.
    assert 4.5 < took_s < 9.5
    assert [path.name for path in (control / "marks").iterdir()] == ["req"]


def test_a_sampler_that_dies_during_a_call_does_not_delay_its_end(control, listener):
    process = subprocess.Popen(
        [control / "bash-mark", "echo up; read x; exit 3"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.readline()
    listener.answers = False
    os.close(listener.open.popitem()[1])
    begin = time.monotonic()
    process.communicate(b"\n", timeout=20)
    assert process.returncode == 3
    # An end that waits for an answer takes five seconds.
    assert time.monotonic() - begin < 4.5


# What comes from the container is untrusted


@pytest.fixture
def requests(control):
    found = Requests(control / "marks")
    yield found
    found.close()


def send(control: Path, data: bytes) -> None:
    descriptor = os.open(control / "marks" / "req", os.O_WRONLY | os.O_NONBLOCK)
    os.write(descriptor, data)
    os.close(descriptor)


def test_lines_are_understood_in_pieces(control, requests):
    send(control, b"B 12\nE 1")
    assert requests.read() == ([("B", 12, None)], 0)
    send(control, b"2 137\n")
    assert requests.read() == ([("E", 12, 137)], 0)
    assert requests.read() == ([], 0)


@pytest.mark.parametrize(
    "line",
    [b"x", b"B", b"B -1", b"B 1 2", b"E 1", b"E 1 1000", b"B ../../etc", b"B 99999999999",
     b" B 1", b"B 1 ", b"B \xd9\xa1", b"\xff\x00", b"b 1", b"B 1\r"],
)  # fmt: skip
def test_garbage_is_counted_and_does_no_harm(control, requests, line):
    send(control, line + b"\nB 7\n")
    assert requests.read() == ([("B", 7, None)], 1)


def test_a_huge_line_is_bounded_and_the_next_is_heard(control, requests):
    send(control, b"A" * 60000)
    bad = 0
    while True:
        lines, more = requests.read()
        assert lines == []
        if not more:
            break
        bad += more
        assert len(requests._rest) < 100
    assert bad > 0
    # As the wrapper writes it, with a newline first.
    send(control, b"\nB 7\n")
    assert requests.read()[0] == [("B", 7, None)]


def make_call(control: Path, pid: int) -> int:
    os.mkfifo(control / "marks" / f"ack.{pid}")
    (control / "marks" / f"call.{pid}").write_text("echo hi", encoding="utf-8")
    return os.open(control / "marks" / f"ack.{pid}", os.O_RDWR)


def test_a_call_is_opened_and_its_names_removed(control, requests):
    holder = make_call(control, 5)
    descriptor, command = requests.open_call(5)
    assert command == "echo hi"
    assert answer(descriptor)
    assert os.read(holder, 100) == b"ok\n"
    assert [path.name for path in (control / "marks").iterdir()] == ["req"]
    os.close(holder)
    assert not answer(descriptor)
    os.close(descriptor)


def test_a_fifo_that_nobody_reads_does_not_block(control, requests):
    os.mkfifo(control / "marks" / "ack.5")
    assert requests.open_call(5) is None


def test_a_full_fifo_does_not_block(control, requests):
    holder = make_call(control, 5)
    descriptor, _ = requests.open_call(5)
    for _ in range(100_000):
        if not answer(descriptor):
            break
    else:
        pytest.fail("an answer never failed")
    os.close(holder)
    os.close(descriptor)


@pytest.mark.parametrize("kind", ["link", "file", "directory", "device", "socket", "missing"])
def test_an_answer_fifo_that_is_none_is_refused(control, requests, tmp_path, kind):
    path = control / "marks" / "ack.5"
    target = tmp_path / "target"
    if kind == "link":
        os.mkfifo(target)
        path.symlink_to(target)
    elif kind == "file":
        path.write_text("", encoding="utf-8")
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("device nodes need root")
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o666)
    assert requests.open_call(5) is None


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "missing"])
def test_a_command_file_that_is_none_is_not_read(control, requests, tmp_path, kind):
    holder = make_call(control, 5)
    path = control / "marks" / "call.5"
    path.unlink()
    secret = tmp_path / "secret"
    secret.write_text("canary", encoding="utf-8")
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    descriptor, command = requests.open_call(5)
    assert command == ""
    assert secret.read_text(encoding="utf-8") == "canary"
    os.close(descriptor)
    os.close(holder)


def test_a_huge_command_is_cut(control, requests):
    holder = make_call(control, 5)
    with (control / "marks" / "call.5").open("w", encoding="utf-8") as file:
        file.truncate(10**9)
    descriptor, command = requests.open_call(5)
    assert len(command) == 131072
    os.close(descriptor)
    os.close(holder)


def test_bytes_that_are_no_text_still_make_a_line_of_json(control, requests):
    holder = make_call(control, 5)
    (control / "marks" / "call.5").write_bytes(b"echo \xff\xfe\x00\n\xe2\x98\x83")
    descriptor, command = requests.open_call(5)
    assert json.loads(json.dumps(command)) == "echo \ufffd\ufffd\x00\n☃"
    os.close(descriptor)
    os.close(holder)


def test_a_request_file_that_is_no_fifo_is_refused(tmp_path):
    (tmp_path / "req").write_text("", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="is not a FIFO"):
        Requests(tmp_path)


def test_the_wrapper_is_executable_and_needs_bash_and_mkfifo_only(control):
    text = (control / "bash-mark").read_text(encoding="utf-8")
    assert os.access(control / "bash-mark", os.X_OK)
    assert text.startswith("#!/bin/bash -p\n")
    env = {"PATH": str(control / "bin")}
    (control / "bin").mkdir()
    (control / "bin" / "mkfifo").symlink_to("/usr/bin/mkfifo")
    thread = Listener(control / "marks")
    thread.start()
    done = run(control, "echo $((6 * 7))", env=env)
    thread.stop()
    assert (done.stdout, done.stderr) == ("42\n", "")
    assert len(thread.heard) == 2
