"""The demo's tasks, their scenarios and the builder of their images.

The builder's engine is a fake here: what is tested is when it builds and what it leaves behind.
Real builds are part of every set-up.
"""

import ast
import importlib.util
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from agentsweep.errors import InfraError
from agentsweep.gateway import scenario
from agentsweep.gateway.messages_api import ToolResult
from agentsweep.tasks.task_file import load_task

ROOT = Path(__file__).resolve().parents[3]
TASKS = sorted((ROOT / "config/tasks").glob("*.yaml"))


@pytest.fixture
def builder():
    spec = importlib.util.spec_from_file_location("demo_build", ROOT / "demo/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_builder_needs_no_package():
    """`make` builds the first image beside the virtual environment that would have them."""
    subprocess.run(
        [sys.executable, "-S", ROOT / "demo/build.py", "--help"],
        env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, check=True,
    )  # fmt: skip


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_task_and_its_scenario_are_valid(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    task = load_task(path.stem, str(path.relative_to(ROOT)), "")
    script = scenario.load(task.scenario).main
    assert script.turns[-1].tools == ()
    assert task.prompt


def test_every_kind_of_task_is_there():
    kinds = {yaml.safe_load(path.read_text(encoding="utf-8"))["kind"] for path in TASKS}
    assert kinds == {"prompt", "code", "swe"}


def calls(name: str) -> list[tuple[str, dict]]:
    """The tool calls of a scenario, in order."""
    turns = yaml.safe_load((ROOT / f"config/scenarios/{name}.yaml").read_text(encoding="utf-8"))[
        "turns"
    ]
    return [call for turn in turns for tool in turn.get("tools", ()) for call in tool.items()]


@pytest.mark.slow
def test_starlette_edits_fit_the_source_and_limit_the_cookie():
    archive = ROOT / "images/starlette-1147.tar"
    if not archive.exists():
        pytest.skip(f"NOT CHECKED: {archive} is missing; `make images` builds it")
    source = from_image(archive, "testbed/starlette/middleware/sessions.py")
    assert source.count("path=/;") == 2
    for name, arguments in calls("starlette-1147"):
        if name == "Edit":
            assert arguments["file_path"] == "/testbed/starlette/middleware/sessions.py"
            assert source.count(arguments["old_string"]) == 1
            source = source.replace(arguments["old_string"], arguments["new_string"])
    assert "path=/;" not in source
    ast.parse(source)


def from_image(archive: Path, member: str) -> str:
    """A file of an OCI archive's last layer that has it (OCI image specification, layout)."""

    def blob(tar, descriptor):
        return tar.extractfile(f"blobs/{descriptor['digest'].replace(':', '/')}")

    with tarfile.open(archive) as tar:
        manifest = json.load(blob(tar, json.load(tar.extractfile("index.json"))["manifests"][0]))
        with tarfile.open(fileobj=io.BytesIO(blob(tar, manifest["layers"][-1]).read())) as layer:
            return layer.extractfile(member).read().decode()


def test_starlette_tests_come_after_the_reproduction():
    commands = [arguments.get("command", "") for name, arguments in calls("starlette-1147")]
    edits = [name for name, _ in calls("starlette-1147")].index("Edit")
    assert any("pytest" in command for command in commands[:edits])
    assert any("pytest" in command for command in commands[edits:])


def test_logstats_goes_on_in_little_memory_when_the_report_was_killed():
    script = scenario.load(ROOT / "config/scenarios/logstats.yaml").main
    report = next(turn for turn in script.turns if turn.id == "report")
    names = [turn.id for turn in script.turns]

    def after(text):
        result = ToolResult(text=text, is_error="137" in text)
        return names[report.next_index([result])]

    assert after("Exit code 137\nKilled") == "killed"
    assert after("logstats: 500000 requests, report in reports/access.json") == "check"
    assert "--chunk" in script.turns[names.index("killed") + 1].tools[0].input["command"]


def test_logstats_own_tests_pass():
    done = subprocess.run(
        [sys.executable, "-B", "-m", "unittest"],
        cwd=ROOT / "demo/logstats/repository", capture_output=True, text=True, check=False,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"Ran [1-9]", done.stderr)


def test_logstats_log_is_the_same_for_the_same_seed(tmp_path):
    logs = []
    for name in ("one", "two"):
        subprocess.run(
            [
                *(sys.executable, "-B", "-m", "logstats", "build", tmp_path / name),
                *("--lines", "50"),
            ],
            cwd=ROOT / "demo/logstats/repository", capture_output=True, check=True,
        )  # fmt: skip
        logs.append((tmp_path / name).read_bytes())
    assert logs[0] == logs[1]
    assert logs[0].count(b"\n") == 50


@pytest.fixture
def demo(builder, tmp_path, monkeypatch):
    """A builder with recipes of its own and an engine that writes archives without images."""
    folder = tmp_path / "demo"
    for part in ("base", "logstats", "starlette-1147"):
        (folder / part).mkdir(parents=True)
        (folder / part / "Containerfile").write_text("FROM x\n", encoding="utf-8")
    monkeypatch.setattr(builder, "DEMO", folder)
    monkeypatch.setattr(builder, "find_engine", lambda *_: FakeEngine())
    return builder


class FakeEngine:
    """Only its calls count, and that `save` writes a minimal OCI archive."""

    def __init__(self):
        self.calls = []
        FakeEngine.last = self
        self.fail = FakeEngine.fail

    fail = None

    def call(self, *arguments, **_):
        self.calls.append(arguments)
        if arguments[0] == "save":
            path = Path(arguments[arguments.index("--output") + 1])
            index = json.dumps({"manifests": [{"digest": "sha256:" + "0" * 64}]}).encode()
            with tarfile.open(path, "w") as tar:
                member = tarfile.TarInfo("index.json")
                member.size = len(index)
                tar.addfile(member, io.BytesIO(index))
            if self.fail == "save":
                raise InfraError("no space left on device")
        return subprocess.CompletedProcess(arguments, 0, "sha256:id\n", "")

    def count(self, name):
        return sum(call[0] == name for call in self.calls)


def run(builder, tmp_path, names=("logstats", "starlette-1147")):
    FakeEngine.last = None
    builder.build_all(list(names), tmp_path / "images", tmp_path / "cache", "registry/base")
    return FakeEngine.last


def test_images_are_built_once(demo, tmp_path):
    engine = run(demo, tmp_path)
    assert engine.count("build") == 3  # the base and two images
    assert engine.count("rmi") == 3
    record = json.loads((tmp_path / "images/logstats.json").read_text(encoding="utf-8"))
    assert record == {"recipe": demo.recipe("logstats"), "digest": "sha256:" + "0" * 64}
    assert run(demo, tmp_path) is None


@pytest.mark.parametrize("change", ["content", "name", "mode", "missing archive"])
def test_a_changed_image_is_built_again_and_no_other(demo, tmp_path, change):
    run(demo, tmp_path)
    recipe = demo.DEMO / "logstats/Containerfile"
    match change:
        case "content":
            recipe.write_text("FROM y\n", encoding="utf-8")
        case "name":
            recipe.rename(recipe.with_name("Dockerfile"))
        case "mode":
            recipe.chmod(0o755)
        case _:
            (tmp_path / "images/logstats.tar").unlink()
    engine = run(demo, tmp_path)
    assert engine.count("build") == 1
    assert [call[-1] for call in engine.calls if call[0] == "save"] == [
        f"localhost/agentsweep-demo/logstats:{demo.recipe('logstats')[:12]}"
    ]


def test_images_of_source_releases_share_a_recipe_and_are_different_images(builder):
    shared = [name for name in builder.NAMES if builder.folders(name) == ("swe", name)]
    assert shared == [name for name in builder.NAMES if name != "logstats"]
    assert builder.folders("logstats") == ("logstats",)
    recipes = {builder.recipe(*builder.folders(name)) for name in builder.NAMES}
    assert len(recipes) == len(builder.NAMES)


def test_a_changed_base_changes_every_image(demo, tmp_path):
    run(demo, tmp_path)
    (demo.DEMO / "base/Containerfile").write_text("FROM y\n", encoding="utf-8")
    assert run(demo, tmp_path).count("build") == 3


def test_a_failed_build_leaves_no_archive_and_cleans_up(demo, tmp_path, monkeypatch):
    run(demo, tmp_path, ["starlette-1147"])
    monkeypatch.setattr(FakeEngine, "fail", "save")
    with pytest.raises(InfraError, match="no space left"):
        run(demo, tmp_path, ["logstats"])
    left = {path.name for path in (tmp_path / "images").iterdir()}
    assert left == {"starlette-1147.tar", "starlette-1147.json"}
    assert FakeEngine.last.count("rmi") == 2  # the image's and the base's
    assert not list((tmp_path / "cache").glob("logstats-*"))


def test_errors_are_one_line(builder, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise InfraError("no container engine: podman is not on PATH")

    monkeypatch.setattr(builder, "find_engine", refuse)
    arguments = ["--images", str(tmp_path / "images"), "--cache", str(tmp_path / "cache")]
    assert builder.main(arguments) == 1
    assert capsys.readouterr().err == ("demo images: no container engine: podman is not on PATH\n")
