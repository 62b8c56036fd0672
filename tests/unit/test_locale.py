"""Text in any locale: what is read, printed, named and handed on stays what it was."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import locales
import pytest
import run_maker
import small_sweep
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agentsweep import utf8
from agentsweep.cli import records
from agentsweep.config.config import Config
from agentsweep.config.load import load as load_config
from agentsweep.containers import client
from agentsweep.errors import ConfigError
from agentsweep.host import processes
from agentsweep.runs import watch

ROOT = Path(__file__).resolve().parents[2]
AGENTSWEEP = (sys.executable, "-m", "agentsweep.cli")
TEXT = "Größe → 日本 🙂 e\N{COMBINING ACUTE ACCENT}\r\nx\ry\u2028z\x85"
_PR_SET_NAME = 15

characters = st.characters(exclude_categories=["Cs"])
# An argument cannot hold a NUL, so a prompt with one is refused (test_config).
prompt_characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


def agentsweep(locale: str, *arguments, **how) -> subprocess.CompletedProcess:
    """The command in a process of its own; bytes in and out."""
    more = how.pop("env", {})
    return subprocess.run(
        [*AGENTSWEEP, *arguments],
        env=locales.environment(locale) | {"PYTHONPATH": str(ROOT / "src")} | more,
        capture_output=True,
        check=False,
        timeout=60,
        **how,
    )


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    small_sweep.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What holds the rule


@pytest.fixture(scope="module")
def check():
    path = ROOT / "tools" / "check_encodings.py"
    spec = importlib.util.spec_from_file_location("check_encodings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_all_text_of_this_project_has_an_encoding(check, capsys):
    assert check.main([]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    "code",
    [
        "self.path.read_text()",
        "(a / b).write_text(x)",
        "path.write_text(x, errors='replace')",
        "open(x)",
        "path.open()",
        "self.folder.open('a')",
        "path.open(mode='w')",
        "io.open(x, 'w')",
        "gzip.open(x, 'rt')",
        "os.fdopen(descriptor)",
        "os.fdopen(descriptor, 'w')",
        "io.TextIOWrapper(buffer)",
        "tempfile.NamedTemporaryFile('w')",
        "subprocess.run(x, text=True)",
        "subprocess.run(x, text=True, **more)",
        "run(x, universal_newlines=True)",
        "subprocess.getoutput(x)",
        "os.popen(x)",
        "logging.FileHandler(x)",
        "csv.reader(text.splitlines())",
        "csv.reader(path.open(newline=''))",
        "json.dump(value, path.open('w'))",
        "print(x, file=open(y, 'w'))",
        "json.load(sys.stdin)",
        "for line in sys.stdin: pass",
        "sys.stdin.read()",
    ],
)
def test_text_without_an_encoding_is_found(check, code):
    assert list(check.findings(code))


@pytest.mark.parametrize(
    "code",
    [
        "self.path.read_text(encoding='utf-8')",
        "card.read_text('utf-8')",
        "path.open('rb')",
        "path.open(encoding='utf-8', newline='')",
        "gzip.open(x)",
        "tarfile.open(x, 'w')",
        "os.open(x, os.O_RDONLY)",
        "client.open('POST', '/')",
        "os.fdopen(descriptor, 'rb')",
        "tempfile.NamedTemporaryFile()",
        "subprocess.run(x)",
        "subprocess.run(x, text=True, encoding='utf-8')",
        "sys.stdin.buffer.read()",
        "os.read(sys.stdin.fileno(), 1)",
    ],
)
def test_bytes_and_stated_encodings_are_not(check, code):
    ast.parse(code)
    assert not list(check.findings(code))


# The command


@pytest.mark.slow
@pytest.mark.parametrize("locale", locales.NAMES)
def test_a_configuration_on_standard_input_is_utf8(sweep, locale):
    """Paths in it are the same files in every locale, and the run is the same run."""
    content = yaml.safe_load(small_sweep.CONFIG) | {"paths": {"store": "störe →"}}
    content["tasks"] = {
        "fix": yaml.safe_load(small_sweep.TASK) | {"problem_statement": TEXT},
    }
    loaded = load_config(content)
    cell = loaded.cells()[0]
    store = loaded.store()
    with store.locked(loaded.spec_sha256(cell), loaded.spec(cell)):
        attempt = store.begin(loaded.spec_sha256(cell))
        (attempt.path / "result.json").write_text("{}", encoding="utf-8")
        store.finish(attempt, "sealed")
    for ascii_only in (True, False):
        given = json.dumps(content, ensure_ascii=ascii_only).encode()
        done = agentsweep(locale, "plan", "--json", "--config", "-", input=given)
        assert done.returncode == 0, done.stderr
        states = {row["cell"]: row["state"] == "sealed" for row in json.loads(done.stdout)}
        assert [name for name, sealed in states.items() if sealed] == [cell.id]


@pytest.mark.slow
@pytest.mark.parametrize("locale", locales.NAMES)
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("größe→.yaml".encode(), "größe→.yaml"),
        (b"gr\xf6\xdfe.yaml", "gr\\udcf6\\udcdfe.yaml"),
    ],
)
def test_a_name_that_is_not_ascii_ends_in_a_sentence(sweep, locale, name, shown):
    for arguments in (
        (b"plan", b"--config", name),
        (b"trace", name),
        (b"extract", name, b"--run-id", b"x", b"--out", b"y"),
        (b"store", b"--store", name, b"list"),
    ):
        done = agentsweep(locale, *arguments)
        assert done.returncode in (1, 2)
        assert done.stderr.startswith(b"agentsweep")
        assert done.stderr.count(b"\n") == 1 and shown.encode() in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("locale", locales.NAMES)
def test_files_of_any_name_are_read_and_written(tmp_path, locale):
    run, tables = (tmp_path / f"größe→ 🙂 {name}" for name in ("run", "tables"))
    run_maker.make_run(run)
    done = agentsweep(locale, "extract", run, "--run-id", "x", "--out", tables)
    assert done.returncode == 0, done.stderr
    assert (tables / "runs.parquet").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("locale", locales.NAMES)
def test_a_name_that_arrow_cannot_open_is_refused_in_a_sentence(tmp_path, locale):
    run = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xf6\xdfe"))
    run_maker.make_run(run)
    done = agentsweep(locale, "extract", run, "--run-id", "x", "--out", run / "tables")
    assert done.returncode == 1
    assert done.stderr.startswith(b"agentsweep: ") and done.stderr.count(b"\n") == 1, done.stderr
    assert b"the name is not UTF-8: rename it" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_stream_cannot_encode_is_written_as_an_escape(encoding, sweep):
    done = agentsweep(
        "C", "plan", "--config", "größe→", env={"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    )
    assert "größe→" in done.stderr.decode() and done.returncode == 1


@pytest.mark.slow
def test_standard_input_that_is_not_utf8_is_refused(sweep):
    done = agentsweep("ISO-8859-1", "plan", "--config", "-", input=b'{"dataset": "\xe9"}')
    assert done.returncode == 1
    assert done.stderr.startswith(b"agentsweep: --config -: standard input is not UTF-8")


def test_the_program_starts_again_once_and_with_the_same_arguments():
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT / 'src')!r}); "
        "from agentsweep import utf8; print(os.getpid(), flush=True); "
        "utf8.restart_in_utf8(); print(utf8.is_on(), [os.fsencode(a) for a in sys.argv[1:]])"
    )
    done = subprocess.run(
        [sys.executable, "-E", "-c", code, b"\xff", "é → ", ""],
        env=locales.environment("ISO-8859-1"), capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    *pids, said = done.stdout.decode().splitlines()
    assert len(pids) == 2 and len(set(pids)) == 1
    assert said == f"True {[bytes([255]), 'é → '.encode(), b'']}"


def test_lists_of_paths_are_split_at_line_feeds_alone(tmp_path):
    names = ["a\u2028b", "c\x85d", "e\rf", "g\x0bh", os.fsdecode(b"\xff")]
    path = tmp_path / "list"
    path.write_bytes(b"\n".join(os.fsencode(name) for name in names) + b"\n")
    assert records.lines(path) == names


@pytest.mark.slow
@pytest.mark.parametrize("locale", locales.NAMES)
def test_what_reads_and_writes_text_passes_its_tests_in_every_locale(locale, tmp_path):
    """In the locale's own encoding: the tests' process is not in Python's UTF-8 mode."""
    names = (
        *("tasks/test_row_fields", "tasks/test_task_sets", "gateway/test_scenario"),
        *("exports/test_swebench", "agents/claude_code/test_lines", "test_sse"),
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"tests/unit/{name}.py" for name in names),
            f"--basetemp={tmp_path / 'inner'}",
        ],
        cwd=ROOT, env=locales.environment(locale), capture_output=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:].decode()


# Children


def test_services_name_files_as_this_process_does(monkeypatch):
    monkeypatch.setenv("LANG", "en_US")
    monkeypatch.setenv("LC_ALL", "en_US")
    environment = processes.service_environment()
    assert environment["PYTHONUTF8"] == "1" and environment["LANG"] == "C.UTF-8"
    assert "LC_ALL" not in environment


def test_engines_get_a_locale_and_nothing_that_a_container_must_not_have(monkeypatch):
    """containers.conf may pass the client's whole environment on (`env_host`)."""
    monkeypatch.setenv("LANG", "en_US")
    monkeypatch.setenv("PYTHONUTF8", "1")
    environment = client.engine_environment()
    assert environment["LANG"] == "C.UTF-8"
    assert not any(name.startswith(("PYTHON", "LC_")) for name in environment)


@pytest.mark.parametrize("name", [b"gr\xc3\xb6\xc3", b"\xff\x0bNSpid:\t1"])
def test_a_process_may_call_itself_anything(name):
    """The kernel cuts names at 15 bytes, also within a character."""
    code = f"import ctypes, time; ctypes.CDLL(None).prctl({_PR_SET_NAME}, {name!r}); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        comm = Path(f"/proc/{child.pid}/comm")
        deadline = time.monotonic() + 20
        while comm.read_bytes() != name + b"\n" and time.monotonic() < deadline:
            time.sleep(0.02)
        inside = int(Path(f"/proc/{child.pid}/status").read_bytes().split(b"NSpid:")[-1].split()[0])

        class Reader:
            def pids(self):
                return [child.pid]

        assert watch.host_pid(Reader(), inside) == child.pid
        assert watch.host_pid(Reader(), inside + 1) is None
        assert processes._start_ticks(child.pid) > 0
    finally:
        child.kill()
        child.wait()


def test_paths_of_the_kernel_are_read_as_paths(tmp_path):
    (tmp_path / "mounts").write_bytes(b"cgroup /g\xff\xc3\xb6/\xc2\x85 cgroup rw,memory 0 0\n")
    found = utf8.kernel_text(tmp_path / "mounts").split(" ")[1]
    assert os.fsencode(found) == b"/g\xff\xc3\xb6/\xc2\x85"


# From the task to the agent


def job_of(content: dict, folder: Path) -> tuple[Config, dict, dict]:
    """A configuration of one task, its job, and its spec."""
    merged = yaml.safe_load(small_sweep.CONFIG) | {"tasks": {"fix": content}}
    merged["images"] = {"lock": str(folder / "config" / "images.lock.yaml")}
    merged["agent"] = {"lock": str(folder / "config" / "agents.lock.yaml")}
    loaded = load_config(merged)
    cell = loaded.cells()[0]
    return loaded, loaded.job(cell).to_json(), json.loads(loaded.spec(cell))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sweep")
    small_sweep.write(made)
    return made


@pytest.mark.slow
@settings(deadline=None)
@given(text=st.text(prompt_characters, min_size=1).filter(str.strip), escaped=st.booleans())
def test_any_text_reaches_the_agent_as_it_was_written(folder, text, escaped):
    """Through a task file, and through the configuration that the job of a cell reads."""
    # What a prompt has the issue's text for; this task has none.
    assume("{problem_statement}" not in text)
    # To YAML 1.1 they are ends of lines, which it folds where they are not escaped.
    assume(escaped or not set(text) & set("\x85\u2028\u2029"))
    content = {
        "kind": "prompt",
        "image": small_sweep.REFERENCE,
        "prompt": text,
        "scenario": str(folder / "scenario.yaml"),
    }
    path = folder / "task.yaml"
    written = yaml.safe_dump(content, allow_unicode=not escaped)
    path.write_text(written, encoding="utf-8", newline="")
    loaded, job, spec = job_of(str(path), folder)
    assert job["prompt"].encode() == text.encode()
    handed_on = json.loads(json.dumps(loaded.for_cell(loaded.cells()[0])))
    again = load_config(handed_on)
    assert again.job(again.cells()[0]).prompt == text
    assert json.loads(again.spec(again.cells()[0])) == spec


@pytest.mark.slow
@settings(deadline=None)
@given(text=st.text(prompt_characters).filter(str.strip))
def test_any_issue_is_in_the_prompt_as_it_was_written(folder, text):
    content = {
        "kind": "swe",
        "image": small_sweep.REFERENCE,
        "problem_statement": text,
        "scenario": str(folder / "scenario.yaml"),
    }
    _, job, _ = job_of(content, folder)
    assert f"<issue>\n{text.strip()}\n</issue>".encode() in job["prompt"].encode()


@settings(deadline=None)
@given(
    before=st.text(characters),
    half=st.characters(categories=["Cs"]),
    key=st.sampled_from(["problem_statement", "prompt", "workdir", "environment"]),
)
def test_half_a_surrogate_pair_is_refused_in_one_sentence(folder, before, half, key):
    content = yaml.safe_load(small_sweep.TASK) | {"scenario": str(folder / "scenario.yaml")}
    content |= {"prompt": "{problem_statement}", key: f"{before}{half}"}
    with pytest.raises(ConfigError) as refused:
        job_of(content, folder)
    assert refused.value.problems == [
        f"--config: tasks.fix.{key}: half of a surrogate pair is not Unicode text; write the whole "
        "character"
    ]


def test_half_a_surrogate_pair_in_a_task_file_is_refused(sweep):
    (sweep / "fix.yaml").write_text(
        small_sweep.TASK + 'prompt: "{problem_statement} \\ud800"\n', encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"^fix.yaml: line 5: not YAML: .*Unicode"):
        load_config([sweep / "config.yaml"])
