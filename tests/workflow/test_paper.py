"""Imports, claims and the paper's figures as Snakemake plans and makes them, on made-up runs."""

import csv
import json
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from clone import BIN, Clone, planned
from test_dag import configure

BEGIN = datetime(2026, 2, 5, 20, tzinfo=UTC)
CONFIG = "config/agentcgroup.yaml"
FIGURES = 6


def stamp(second: float) -> str:
    return f"{BEGIN + timedelta(seconds=second):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def sample(second: int) -> dict:
    moment = BEGIN + timedelta(seconds=second)
    return {
        "timestamp": (moment - timedelta(hours=8)).replace(tzinfo=None).isoformat(),
        "epoch": moment.timestamp(),
        "mem_usage": f"{180 + second}MB / 134.5GB",
        "cpu_percent": f"{60 / (second + 1):.2f}%",
    }


def session() -> str:
    common = {"sessionId": "s", "version": "2.0.0", "isSidechain": False}
    use = {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "pytest"}}
    answer = {"id": "m", "role": "assistant", "model": "glm", "content": [use],
              "usage": {"input_tokens": 3, "output_tokens": 5}}  # fmt: skip
    result = {"type": "tool_result", "tool_use_id": "t", "content": "1 passed"}
    records = [
        {"type": "user", "uuid": "1", "message": {"content": "Fix this issue: it is broken."}},
        {"type": "assistant", "uuid": "2", "message": answer},
        {"type": "user", "uuid": "3", "message": {"role": "user", "content": [result]}},
    ]
    times = (1, 5, 30)
    return "".join(
        json.dumps({**record, **common, "parentUuid": None, "timestamp": stamp(second)}) + "\n"
        for record, second in zip(records, times, strict=True)
    )


def make_data(path) -> None:
    for name in ("all_images_haiku", "all_images_local"):
        for task in ("a__b-1", "c__d-2"):
            attempt = path / name / task / "attempt_1"
            attempt.mkdir(parents=True)
            samples = [sample(second) for second in range(70)]
            (attempt / "resources.json").write_text(
                json.dumps({"samples": samples}), encoding="utf-8"
            )
            (attempt / "results.json").write_text(
                json.dumps({"claude_time": 80.0, "pull_time": 1.0, "permission_fix_time": 2.0,
                            "start_time": samples[0]["timestamp"], "total_time": 83.0}),
                encoding="utf-8",
            )  # fmt: skip
            (attempt / "trace.jsonl").write_text(session(), encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clone beside made-up data, with claims and figures made by the command of the docs."""
    path = tmp_path_factory.mktemp("paper")
    make_data(path / "shared" / "data" / "agentcgroup")
    clone = Clone.make(path / "clone")
    clone.snakemake("--cores", "2", "paper", "--configfile", CONFIG)
    return clone


@pytest.fixture
def clone(made, tmp_path):
    made.copy(tmp_path / "clone")
    subprocess.run(["cp", "-a", made.path.parent / "shared", tmp_path / "shared"], check=True)
    return Clone(tmp_path / "clone")


def plan(clone: Clone, *arguments: str) -> dict[str, int]:
    return clone.planned("paper", "--configfile", CONFIG, *arguments)


def test_everything_is_there_and_nothing_else_is_run(made):
    with made.file("results/paper/claims.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    named = ["claim", "dataset", "mode", "value", "unit", "n", "definition"]
    assert list(lines[0]) == [*named, "runs", "completed", "left_out"]
    assert {line["dataset"] for line in lines} == {"H", "L", "H+L"}
    duration = {
        (line["dataset"], line["mode"]): float(line["value"])
        for line in lines
        if line["claim"] == "task_duration_mean"
    }
    assert duration["H", "paper"] == 80.0
    assert duration["H", "corrected"] == 30.0
    # What each number is of: both runs of a data set ended well.
    assert {tuple(line[name] for name in ("runs", "completed", "left_out"))
            for line in lines if line["claim"] == "task_duration_mean"} == {
        ("2", "2", "0"), ("4", "4", "0")
    }  # fmt: skip
    pdfs = sorted(path.name for path in made.file("results/paper").glob("*.pdf"))
    assert len(pdfs) == 2 * FIGURES
    assert not made.file("results/dataset").exists()
    assert plan(made) == {}


def test_the_command_with_its_target_behind_the_configuration_works_too(made):
    """Snakemake takes `paper` for a configuration file: there is one, and it changes nothing."""
    done = made.snakemake("-n", "--cores", "2", "--configfile", CONFIG, "paper")
    assert planned(done.stdout) == {}


def test_the_default_target_of_imports_alone_is_the_paper(made):
    assert made.planned("--configfile", CONFIG) == {}


def test_only_what_a_change_concerns_is_made_again(clone):
    every = {"claims": 1, "paper": FIGURES}

    def figures(counts):
        """The rules of the figures as one kind."""
        total: dict[str, int] = {}
        for rule, count in counts.items():
            kind = "paper" if rule.startswith("paper_") else rule
            total[kind] = total.get(kind, 0) + count
        return total

    data = clone.path.parent / "shared/data/agentcgroup"
    attempt = data / "all_images_haiku/a__b-1/attempt_1"
    kept = (attempt / "results.json").read_text(encoding="utf-8")
    (attempt / "results.json").write_text(kept.replace("80.0", "81.0"), encoding="utf-8")
    assert figures(plan(clone)) == {"import_run": 1, **every}
    (data / "all_images_local/e__f-3").mkdir()
    (data / "all_images_local/e__f-3/results.json").write_text(kept, encoding="utf-8")
    assert figures(plan(clone)) == {"import_run": 2, **every}
    (attempt / "results.json").write_text(kept, encoding="utf-8")
    assert figures(plan(clone)) == {"import_run": 1, **every}
    # An attempt without a file is a row of `runs`, too.
    (data / "all_images_haiku/a__b-1/attempt_2").mkdir()
    clone.snakemake("--cores", "2", "paper", "--configfile", CONFIG)
    assert plan(clone) == {}
    (data / "all_images_haiku/a__b-1/attempt_2").rmdir()
    assert figures(plan(clone)) == {"import_run": 1, **every}
    (data / "all_images_haiku/a__b-1/attempt_2").mkdir()

    clone.replace(CONFIG, "attempts: last}", "attempts: all}")
    assert figures(plan(clone)) == {"import_run": 2, **every}
    clone.replace(CONFIG, "attempts: all}", "attempts: last}")
    assert plan(clone) == {}

    published = clone.file("config/agentcgroup-published.csv")
    published.write_text(
        published.read_text(encoding="utf-8").replace("5.8 min,5.8", "5.9 min,5.9"),
        encoding="utf-8",
    )
    assert figures(plan(clone)) == {"claims": 1}
    clone.snakemake("--cores", "2", "paper", "--configfile", CONFIG)
    assert "| 5.9 min |" in clone.file("results/paper/claims.md").read_text(encoding="utf-8")

    script = clone.file("workflow/scripts/paper/timeseries.py")
    script.write_text(script.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    assert plan(clone) == {"paper_timeseries": 1}
    # The importer's code makes all of it again, the claims' own only the claims.
    clone.replace("src/agentsweep/analysis/claims.py", "_PUBLISHED_COLUMNS", "_PRINTED_COLUMNS")
    assert figures(plan(clone)) == {"claims": 1, "paper": 1}
    code = clone.file("src/agentsweep/extraction/agentcgroup_layout.py")
    code.write_text(code.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
    assert figures(plan(clone)) == {"import_run": 2, **every}


def test_two_makings_give_the_same_bytes(made, clone):
    clone.snakemake(
        *("--cores", "1", "--forceall", "results/paper/claims.csv", "--configfile", CONFIG)
    )
    first, second = (
        {
            str(path.relative_to(root.path)): path.read_bytes()
            for pattern in ("results/imported/*/*.parquet", "results/paper/claims.*")
            for path in root.path.glob(pattern)
        }
        for root in (made, clone)
    )
    assert len(first) == 12
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_data_that_are_not_there_are_a_sentence_each(tmp_path):
    clone = Clone.make(tmp_path / "clone")
    done = clone.snakemake("-n", "paper", "--configfile", CONFIG, check=False)
    assert done.returncode != 0
    for name, folder in (("H", "haiku"), ("L", "local")):
        assert (
            f"imports.{name}.directory: '../shared/data/agentcgroup/all_images_{folder}' is no "
            "directory; set imports_directory" in done.stdout
        )


def test_data_that_are_gone_are_no_old_result(clone):
    data = clone.path.parent / "shared/data/agentcgroup"
    for task in (data / "all_images_haiku").iterdir():
        task.rename(data / task.name)
    done = clone.snakemake("-n", "paper", "--configfile", CONFIG, check=False)
    assert done.returncode != 0
    assert "imports.H: ../shared/data/agentcgroup/all_images_haiku holds no run" in done.stdout


def test_a_path_that_snakemake_cannot_take_is_named(clone):
    data = clone.path.parent / "shared/data/agentcgroup"
    (data / "all_images_haiku/a__b-1").rename(data / "all_images_haiku/a__{b}-1")
    done = clone.snakemake("-n", "paper", "--configfile", CONFIG, check=False)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "imports.H: " in said
    assert "a__{b}-1/attempt_1: Snakemake takes braces" in said


def test_a_sweep_of_ones_own_gets_the_paper_without_another_line(tmp_path):
    clone = Clone.make(tmp_path / "clone")
    configure(clone)
    counts = clone.planned("paper")
    assert counts["dataset"] == 1
    assert counts["agent_run"] == 4
    assert counts["claims"] == 1
    assert sum(rule.startswith("paper_") for rule in counts) == FIGURES
    # Runs of others come beside it where the configuration names some, and no run changes.
    make_data(tmp_path / "data")
    settings = yaml.safe_load(clone.file("config/config.yaml").read_text(encoding="utf-8"))
    settings["imports"] = {"H": {"directory": "../data/all_images_haiku"}}
    clone.file("config/config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert clone.planned("paper") == counts | {"import_run": 1}
    assert "paper_timeseries" in clone.planned()


def test_reports_show_the_corrected_figures(made):
    report = made.path / "report.html"
    done = subprocess.run(
        [str(BIN / "snakemake"), "--report", str(report), "paper", "--configfile", CONFIG],
        cwd=made.path, capture_output=True, text=True, timeout=120, check=False, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    page = report.read_text(encoding="utf-8")
    report.unlink()
    assert page.count("corrected.svg") >= FIGURES
