"""Figures: every script on sweeps of every shape, and what must hold of each file."""

import functools
import json
import math
import os
import runpy
import shutil
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import pytest
import synthetic
from figure_checks import check_layout, check_vector_files, load_script, shown_texts
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from agentsweep.analysis import captions, figure_style, sweep_metrics
from agentsweep.tables import parquet
from agentsweep.tables.dataset import Dataset
from agentsweep.vocabulary import Outcome, ReplayStatus

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "workflow" / "scripts" / "figures"
REPORT = ROOT / "workflow" / "report"
FIGURES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
EXPECTED = [
    "fidelity",
    "outcome_map",
    "peak_memory",
    "resolved_share",
    "throttling",
    "time_split",
    "timelines",
    "tool_calls",
    "wall_time",
]


def load(name):
    return load_script(SCRIPTS / f"{name}.py")


def mixed():
    """Every outcome, several replicates, gaps, and values that nobody knows."""
    runs = synthetic.sweep(
        tasks=["logstats", "starlette-1147", "a-task-with-a-name-of-some-length__repo-12345"],
        replicates=2,
    )
    outcomes = [*figure_style.OUTCOME_LOOK, "completed", "completed"]
    for number, run in enumerate(runs):
        outcome = outcomes[number % len(outcomes)]
        run.row["outcome"] = None if outcome == "unknown" else outcome
        if number % 5 == 1:
            for column in ("mem_peak_bytes", "cpu_nr_periods", "model_s", "tool_oom_count"):
                run.row[column] = None
        if number % 7 == 2:
            run.samples = []
        if number % 7 == 3:
            del run.samples[20:50]
        if number % 7 == 4:
            run.tool_calls = []
        if number % 7 == 5:
            for sample in run.samples:
                sample["memory_inactive_file_bytes"] = None
    return runs


def partly_replays():
    """Replays of which some know nothing, beside runs that are none; every fate of a call."""
    runs = synthetic.replays(
        tasks=["logstats", "a-task-with-a-name-of-some-length__repo-12345"], replicates=2
    )
    statuses = [*ReplayStatus, None]
    for number, call in enumerate(call for run in runs for call in run.tool_calls):
        call["replay_status"] = statuses[number % len(statuses)]
    for number, run in enumerate(runs):
        if number % 5 == 1:
            run.row |= {"fidelity": None, "patch_sha256": None, "n_recorded_calls": None}
        if number % 5 == 2:
            run.tool_calls = []
        if number % 5 == 3:
            run.row |= {"model_mode": "scripted", "mem_limit_bytes": 3 * synthetic.GIB}
    return runs


def both_cpu_modes():
    """Each point twice: with a quota, and pinned, where nothing is throttled."""
    runs = synthetic.sweep(tasks=["logstats"], memory=[synthetic.GIB], cpus=[1.0], replicates=2)
    for run in runs:
        if run.row["replicate"]:
            run.row |= {"cpu_mode": "cpuset", "cpu_nr_periods": 0, "cpu_nr_throttled": 0}
    return runs


SHAPES = {
    "sweep": synthetic.sweep,
    "v2": lambda: synthetic.sweep(cpus=[1.0], cgroup_version=2),
    "one": lambda: synthetic.sweep(["logstats"], [synthetic.GIB], [1.0]),
    "four": lambda: synthetic.sweep(memory=[synthetic.GIB], cpus=[0.5, 1.0]),
    "both_cpu_modes": both_cpu_modes,
    "one_memory": lambda: synthetic.sweep(memory=[synthetic.GIB], replicates=3),
    "no_limits": lambda: synthetic.sweep(memory=[None], cpus=[None]),
    "mixed": mixed,
    "replays": lambda: synthetic.replays(replicates=2),
    "one_replay": lambda: synthetic.replays(
        tasks=["logstats"], memory=[synthetic.GIB // 2], cpus=[1.0]
    ),
    "partly_replays": partly_replays,
    "wide_replays": lambda: synthetic.replays(
        memory=[synthetic.MIB * 2**k for k in range(8, 14)], cpus=[0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
    ),
    "many_replays": lambda: synthetic.replays(
        tasks=[f"owner__repository-{n}" for n in range(6)],
        memory=[None, *range(2**29, 3 * 2**30, 2**29)],
        rate_hz=2,
    ),
    "wide": lambda: synthetic.sweep(
        memory=[synthetic.MIB * 2**k for k in range(8, 14)], cpus=[0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
    ),
    "many": lambda: synthetic.sweep(tasks=[f"owner__repository-{n}" for n in range(28)], rate_hz=2),
}
# Those of which all files are written.
WRITTEN = {"sweep", "mixed"}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    made = {}

    def get(shape):
        if shape not in made:
            made[shape] = synthetic.write_dataset(SHAPES[shape](), root / shape)
        return made[shape]

    return get


def bare(path):
    """Runs of which nothing is known but their names."""
    synthetic.write_dataset([], path)
    parquet.write(
        "runs", [{"run_id": f"r{n}", "task": "t"} for n in range(3)], path / "runs.parquet"
    )
    return path


def test_every_figure_has_a_script_and_a_caption():
    assert FIGURES == EXPECTED
    for name in FIGURES:
        text = (REPORT / f"{name}.rst").read_text(encoding="utf-8")
        assert text.rstrip().endswith(".. include:: {{ snakemake.output.caption }}")


@pytest.mark.slow
@pytest.mark.parametrize("shape", sorted(SHAPES.keys() - WRITTEN - {"four"}))
@pytest.mark.parametrize("name", EXPECTED)
def test_no_text_overlaps_another_or_leaves_the_figure(datasets, name, shape):
    figure_style.apply()
    module = load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = module.draw(Dataset(datasets(shape)))
    check_layout(figure)
    plt.close(figure)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("shape", sorted(WRITTEN))
def test_files(datasets, tmp_path, name, shape):
    """What is drawn is looked at here too, for drawing takes the time."""
    module = load(name)
    out = tmp_path / "figures" / name
    pages = {"pages": module.pages} if hasattr(module, "pages") else {}
    arguments = ["--dataset", str(datasets(shape)), "--out", str(out)]
    drawn = []

    @functools.wraps(module.draw)
    def draw(dataset):
        drawn.append(module.draw(dataset))
        return drawn[0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure_style.main(draw, module.caption, **pages, argv=arguments)
    assert len(drawn) == 1
    # Saving took the canvas with which boxes of texts are measured.
    FigureCanvasAgg(drawn[0])
    check_layout(drawn[0])
    assert sorted(path.name for path in out.parent.iterdir()) == sorted(
        f"{name}.{suffix}" for suffix in ("pdf", "svg", "png", "json", "rst")
    )
    check_vector_files(out)
    for suffix in ("pdf", "svg", "json"):
        assert str(tmp_path).encode() not in Path(f"{out}.{suffix}").read_bytes()
    with Image.open(f"{out}.png") as image:
        assert image.width <= figure_style.TEXT * 300
        assert len(set(image.convert("L").resize((60, 60)).get_flattened_data())) > 3
    said = json.loads(Path(f"{out}.json").read_text(encoding="utf-8"))
    assert said["n_runs"] == len(Dataset(datasets(shape)).runs)
    assert said["source"]["datasets"] == ["synthetic"]
    assert "data set synthetic (measured)" in said["caption"]
    assert "n = " in said["caption"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_runs_of_which_nothing_is_known(tmp_path, name):
    module = load(name)
    pages = {"pages": module.pages} if hasattr(module, "pages") else {}
    arguments = ["--dataset", str(bare(tmp_path / "d")), "--out", str(tmp_path / name)]
    figure_style.main(module.draw, module.caption, **pages, argv=arguments)
    assert Path(f"{tmp_path / name}.pdf").stat().st_size > 1000


@pytest.mark.parametrize("name", EXPECTED)
def test_empty_data_set_is_one_line(tmp_path, monkeypatch, name):
    synthetic.write_dataset([], tmp_path / "d")
    words = [f"{name}.py", "--dataset", f"{tmp_path / 'd'}", "--out", f"{tmp_path / name}"]
    monkeypatch.setattr(sys, "argv", words)
    # As Python runs a script; what it exits with is printed, and the status is 1.
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    assert ended.value.code == (
        f"{name}: {tmp_path / 'd'} holds no run: run the sweep first (`snakemake runs`)"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["outcome_map", "timelines"])
def test_same_data_give_the_same_bytes(datasets, tmp_path, name):
    """Whatever the time, the user's matplotlib settings, time zone, hash seed and directory are."""
    for number in (1, 2):
        home = tmp_path / f"home{number}"
        home.mkdir()
        settings = home / "matplotlibrc"
        settings.write_text(
            "font.size: 20\nsavefig.dpi: 30\n" if number == 2 else "", encoding="utf-8"
        )
        environment = os.environ | {
            "MATPLOTLIBRC": str(settings),
            "PYTHONHASHSEED": str(number),
            "TZ": ("UTC", "Asia/Tokyo")[number - 1],
        }
        command = [sys.executable, SCRIPTS / f"{name}.py", "--dataset", datasets("four")]
        command += ["--out", home / "figures" / name]
        subprocess.run(command, env=environment, check=True, cwd=home)
    one, two = (tmp_path / f"home{number}" / "figures" for number in (1, 2))
    for suffix in ("pdf", "svg", "png", "json", "rst"):
        assert (one / f"{name}.{suffix}").read_bytes() == (two / f"{name}.{suffix}").read_bytes()


@pytest.mark.slow
def test_timelines_pdf_has_every_run_and_the_picture_the_corners(datasets):
    figure_style.apply()
    module = load("timelines")
    dataset = Dataset(datasets("sweep"))
    chosen = module.selection(dataset.runs)
    assert [(r["task"], r["mem_limit_bytes"] // synthetic.MIB, r["cpu_limit"]) for r in chosen] == [
        (task, m, c)
        for task in ("logstats", "starlette-1147")
        for m in (512, 2048)
        for c in (0.5, 2.0)
    ]
    pages = list(module.pages(dataset))
    assert [len(page.axes) for page in pages] == [20, 16]
    plt.close("all")


@pytest.mark.slow
def test_timeline_shows_limits_kills_and_which_memory(datasets):
    figure_style.apply()
    module = load("timelines")
    figure = module.draw(Dataset(datasets("sweep")))
    memory = figure.axes[0]
    assert memory.get_title() == "logstats, 512MiB, 0.5 CPU: completed, 1 tool OOM"
    levels = [line.get_ydata()[0] for line in memory.lines if len(set(line.get_ydata())) == 1]
    assert 512 in levels
    assert sum(line.get_marker() == "v" for line in memory.lines) == 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"working set", "anonymous memory", "OOM kill", "limit"} <= set(labels)
    plt.close(figure)


@pytest.mark.slow
def test_outcome_map_names_each_cell_and_counts_kills(datasets):
    figure_style.apply()
    figure = load("outcome_map").draw(Dataset(datasets("sweep")))
    texts = [text for text, _ in shown_texts(figure)]
    assert texts.count("completed\n1 tool OOM") == 3
    assert texts.count("completed") == 15 + 1
    plt.close(figure)


@pytest.mark.slow
def test_outcome_map_of_several_runs_shows_shares(datasets):
    figure_style.apply()
    dataset = Dataset(datasets("mixed"))
    figure = load("outcome_map").draw(dataset)
    texts = " ".join(text for text, _ in shown_texts(figure))
    assert "0/2" in texts
    assert "1/2" in texts
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[: len(figure_style.OUTCOME_NAMES)] == list(figure_style.OUTCOME_NAMES.values())
    plt.close(figure)


def test_every_outcome_has_a_look_and_a_name():
    assert (
        list(figure_style.OUTCOME_LOOK) == list(figure_style.OUTCOME_NAMES) == [*Outcome, "unknown"]
    )
    looks = [look[:2] for look in figure_style.OUTCOME_LOOK.values()]
    assert len(set(looks)) == len(looks)


def test_peak_memory_draws_every_limit(datasets):
    figure_style.apply()
    figure = load("peak_memory").draw(Dataset(datasets("sweep")))
    for axes in figure.axes:
        dashed = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
        assert dashed == [512 * synthetic.MIB, synthetic.GIB, 2 * synthetic.GIB]
    plt.close(figure)


def test_wall_time_line_is_the_median(datasets):
    figure_style.apply()
    dataset = Dataset(datasets("one_memory"))
    figure = load("wall_time").draw(dataset)
    (line,) = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 1]
    for cpus, shown in zip((0.5, 1.0, 2.0), line.get_ydata(), strict=True):
        seconds = sorted(
            run["agent_s"]
            for run in dataset.runs
            if run["task"] == "logstats" and run["cpu_limit"] == cpus
        )
        assert shown == seconds[1]
    plt.close(figure)


def test_fidelity_draws_each_replay_and_the_median(datasets):
    figure_style.apply()
    dataset = Dataset(datasets("replays"))
    figure = load("fidelity").draw(dataset)
    for axes, task in ((figure.axes[0], "logstats"), (figure.axes[1], "starlette-1147")):
        runs = [run for run in dataset.runs if run["task"] == task]
        points = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 1]
        assert sorted(points) == sorted(run["fidelity"] for run in runs)
        medians = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == 3]
        assert len(medians) == 3
        for cpus, shown in zip((0.5, 1.0, 2.0), medians, strict=True):
            at_least = [
                run
                for run in runs
                if run["cpu_limit"] == cpus and run["mem_limit_bytes"] == 512 * synthetic.MIB
            ]
            if task == "logstats":
                # Both were killed and left their recording: a line would make them replays.
                assert {run["outcome"] for run in at_least} == {"diverged"}
                assert math.isnan(shown[0])
            else:
                assert shown[0] == pytest.approx(sum(run["fidelity"] for run in at_least) / 2)
    plt.close(figure)


def test_fidelity_divides_the_calls_of_each_cell_and_frames_what_limits_did(datasets):
    figure_style.apply()
    module = load("fidelity")
    figure = module.draw(Dataset(datasets("one_replay")))
    above, below = figure.axes
    # Seven recorded calls: the third was killed, and the run ended after one more.
    bars = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in below.patches]
    stacked = [bar for bar in bars if bar[0] >= 0]
    assert [low for low, _ in stacked] == pytest.approx([0, *(high for _, high in stacked[:-1])])
    assert stacked[-1][1] == pytest.approx(100)
    (killed,) = [bar for bar in below.patches if bar.get_hatch() == "//////"]
    assert killed.get_height() == pytest.approx(100 / 7)
    assert killed.get_edgecolor()[:3] == (0, 0, 0)
    assert len(above.lines) == 2
    assert above.lines[0].get_marker() == figure_style.CENSORED_MARKER
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["1 CPU", "diverged"]
    assert {"killed (limit)", "not reached"} <= set(labels)
    assert "timed out (limit)" not in labels
    plt.close(figure)


@pytest.mark.slow
def test_fidelity_shows_replays_alone(datasets):
    figure_style.apply()
    dataset = Dataset(datasets("partly_replays"))
    module = load("fidelity")
    figure = module.draw(dataset)
    # 3 GiB is a limit of runs that are no replays.
    assert "3GiB" not in [text for text, _ in shown_texts(figure)]
    plt.close(figure)
    numbers = module.caption(dataset).numbers
    replays = [run for run in dataset.runs if run["model_mode"] == "replay"]
    known = [run for run in sweep_metrics.completed(replays) if run["fidelity"] is not None]
    assert 0 < len(known) < len(replays) < len(dataset.runs)
    assert (numbers["n_runs"], numbers["n_fidelity"]) == (len(replays), len(known))
    assert numbers["source"]["model_modes"] == ["replay"]
    assert list(numbers["fates"]) == list(sweep_metrics.FATES)
    assert list(module._LOOKS) == list(sweep_metrics.FATES)


def test_fidelity_says_that_there_is_no_replay(datasets):
    figure_style.apply()
    module = load("fidelity")
    dataset = Dataset(datasets("sweep"))
    figure = module.draw(dataset)
    assert [text for text, _ in shown_texts(figure)] == ["no run replays a recording"]
    plt.close(figure)
    assert module.caption(dataset).sentences[0] == "n = 0 of 18 runs (the others are no replays)."


def test_fidelity_says_that_no_call_can_be_compared(tmp_path):
    figure_style.apply()
    path = bare(tmp_path / "d")
    rows = parquet.read("runs", path / "runs.parquet").to_pylist()
    parquet.write("runs", [row | {"model_mode": "replay"} for row in rows], path / "runs.parquet")
    module = load("fidelity")
    figure = module.draw(Dataset(path))
    assert [text for text, _ in shown_texts(figure)].count("no call to compare") == 2
    plt.close(figure)
    said = module.caption(Dataset(path)).sentences
    assert said[:2] == [
        "n = 0 of 3 runs: 0 of 3 completed, and lines and numbers are of these alone.",
        "Median fidelity: unknown at no memory limit, no CPU limit (0 of 3 completed).",
    ]
    assert "No recorded call is known." in said
    assert "Distinct patches of completed runs by task: t 0 in no run of no recording." in said


def test_fidelity_caption_counts_patches_and_fates(datasets):
    caption = load("fidelity").caption(Dataset(datasets("replays")))
    assert caption.numbers["patches"] == {
        "logstats": {"distinct": 1, "runs": 12, "recordings": 1, "alike": True},
        "starlette-1147": {"distinct": 1, "runs": 18, "recordings": 1, "alike": True},
    }
    assert (
        "Distinct patches of completed runs by task: logstats 1 in 12 runs of 1 recording, "
        "starlette-1147 1 in 18 runs of 1 recording." in caption.sentences
    )
    assert "6 runs left the recording." in caption.sentences
    fates = caption.numbers["fates"]
    limited = (fates["killed"] + fates["timed_out"]) / sum(fates.values())
    assert caption.numbers["limited_share"] == pytest.approx(limited)
    many = {f"t{n}": sweep_metrics.Patches(1, 2, 1, n > 2) for n in range(9)}
    assert load("fidelity")._patches_sentence(many) == (
        "In 6 of 9 tasks all completed replays of a recording left the same patch."
    )


def test_captions_say_how_many_runs_a_number_rests_on(datasets):
    dataset = Dataset(datasets("mixed"))
    for name, key, missing in (
        ("peak_memory", "n_peak", "a peak"),
        ("throttling", "n_counters", "CFS bandwidth counters"),
        ("time_split", "n_split", "a division of their time"),
    ):
        caption = load(name).caption(dataset)
        known, done = caption.numbers[key], len(sweep_metrics.completed(dataset.runs))
        assert 0 < known < done < len(dataset.runs)
        expected = (
            f"n = {known} of {len(dataset.runs)} runs: {done} of {len(dataset.runs)} completed "
            f"({done - known} of them without {missing}), and lines and numbers are of these alone."
        )
        assert caption.sentences[0] == expected


def killed_at_the_least_memory(replicates=3):
    """All runs with 512 MiB but the first replicates are killed early, and so seem quick."""
    runs = synthetic.sweep(tasks=["logstats"], cpus=[1.0, 2.0], replicates=replicates)
    for run in runs:
        if run.row["mem_limit_bytes"] == 512 * synthetic.MIB and run.row["replicate"]:
            run.row |= {
                "outcome": "oom_agent",
                "tool_oom_count": None,
                "tool_oom_count_max": 2,
                "oom_kill_count": 3,
                "agent_s": 0.5,
            }
            last = run.tool_calls[-1]
            last |= {"is_error": None, "finished": False, "end_ns": None, "duration_s": None}
    return runs


def test_runs_that_were_killed_are_in_no_line_and_no_number(tmp_path):
    figure_style.apply()
    dataset = Dataset(synthetic.write_dataset(killed_at_the_least_memory(), tmp_path / "d"))
    module = load("wall_time")
    figure = module.draw(dataset)
    axes = figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) > 1]
    first = [run for run in dataset.runs if run["mem_limit_bytes"] == 512 * synthetic.MIB]
    survivors = [run for run in first if run["outcome"] == "completed"]
    shown = {line.get_ydata()[0] for line in lines}
    assert shown == {run["agent_s"] for run in survivors}
    marks = [line for line in axes.lines if line.get_marker() == figure_style.CENSORED_MARKER]
    assert len(marks) == len(first) - len(survivors) == 4
    assert "512MiB\n2/6" in [label.get_text() for label in axes.get_xticklabels()]
    assert "agent OOM" in [text.get_text() for text in figure.legends[0].get_texts()]
    plt.close(figure)
    caption = module.caption(dataset)
    here = caption.numbers["median_by_limits"]["512MiB, 1 CPU"]
    assert (here["n"], here["n_completed"], here["n_runs"]) == (1, 1, 3)
    assert here["median_s"] > 1
    assert "at 512MiB, 1 CPU (1 of 3 completed)" in caption.sentences[1]
    split = load("time_split").caption(dataset).numbers["by_limits"]["512MiB, 1 CPU"]
    assert split["n"] == 1
    peak = load("peak_memory").caption(dataset).numbers["by_limits"]
    assert peak["512MiB, 2 CPUs"]["n"] == 1
    assert peak["1GiB, 2 CPUs"]["median_peak_bytes"] > 512 * synthetic.MIB


def test_unknown_kills_have_a_bound_and_are_not_none(tmp_path):
    figure_style.apply()
    dataset = Dataset(synthetic.write_dataset(killed_at_the_least_memory(), tmp_path / "d"))
    module = load("outcome_map")
    caption = module.caption(dataset)
    assert caption.sentences[1] == (
        "The kernel killed 2 tools for memory in 2 runs, of which 2 completed; in 4 runs the "
        "number is not known (together at most 8)."
    )
    assert caption.numbers["tool_oom_count"] is None
    assert caption.numbers["tool_oom_count_max"] == 10
    figure = module.draw(dataset)
    assert any("1-5 tool OOM" in text for text, _ in shown_texts(figure))
    plt.close(figure)


def test_calls_that_died_with_the_agent_are_a_third_state(tmp_path):
    figure_style.apply()
    dataset = Dataset(synthetic.write_dataset(killed_at_the_least_memory(), tmp_path / "d"))
    module = load("tool_calls")
    figure = module.draw(dataset)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "no result: unknown whether an error" in labels
    assert "unfilled: runs that did not complete" in labels
    plt.close(figure)
    numbers = module.caption(dataset).numbers
    left_out = {run["run_id"] for run in dataset.runs if run["outcome"] != "completed"}
    calls = dataset.rows("tool_calls", ["run_id"])
    assert numbers["n_calls_left_out"] == sum(call["run_id"] in left_out for call in calls) > 0


def test_what_says_nothing_about_the_limit_is_in_no_share(tmp_path):
    figure_style.apply()
    runs = synthetic.sweep(["logstats"], [synthetic.GIB], [1.0], replicates=4)
    for run, outcome in zip(
        runs, ("completed", "oom_agent", "api_error", "over_budget"), strict=True
    ):
        run.row |= {"outcome": outcome, "resolved": outcome == "completed"}
    dataset = Dataset(synthetic.write_dataset(runs, tmp_path / "d"))
    figure = load("outcome_map").draw(dataset)
    assert "1/2 (+2)" in [text for text, _ in shown_texts(figure)]
    plt.close(figure)
    said = (
        "2 runs (1 API error, 1 over budget) are left out of shares: these outcomes say nothing "
        "about the limit."
    )
    outcomes, resolved = (load(name).caption(dataset) for name in ("outcome_map", "resolved_share"))
    assert said in outcomes.sentences
    assert outcomes.numbers["completed_share"] == 0.5
    assert said in resolved.sentences
    assert resolved.sentences[0].startswith("1 of 2 graded runs resolved their task (50 %")


def test_an_incomplete_archive_says_how_many_cells_have_a_run(datasets, tmp_path):
    module = load("wall_time")
    path = shutil.copytree(datasets("one"), tmp_path / "d")
    (path / "cells.json").write_text('{"wanted": 18, "with_run": 17}', encoding="utf-8")
    figure_style.main(
        module.draw, module.caption, argv=["--dataset", str(path), "--out", f"{path}/f"]
    )
    written = json.loads((path / "f.json").read_text(encoding="utf-8"))
    assert written["caption"].endswith("Incomplete: 17 of 18 cells have a run.")
    assert (written["cells_with_run"], written["cells_wanted"]) == (17, 18)
    assert captions.with_cells(captions.Caption(["n = 1."]), [None, (3, 3)]).sentences == ["n = 1."]


def test_what_nobody_timed_is_not_zero_seconds(tmp_path):
    runs = synthetic.sweep(["logstats"], [synthetic.GIB], [1.0])
    for call in runs[0].tool_calls:
        call["duration_s"] = None
    caption = load("tool_calls").caption(Dataset(synthetic.write_dataset(runs, tmp_path / "d")))
    assert "Time in all unknown." in caption.sentences
    assert caption.numbers["seconds"] is None


def test_caption_text_is_no_markup(tmp_path):
    from docutils.core import publish_parts

    sentence = "Task a_b__c-1_, *x* `y` |z| <w> \\v."
    captions.write(captions.Caption([sentence], {}), tmp_path / "f")
    html = publish_parts((tmp_path / "f.rst").read_text(encoding="utf-8"), writer="html")["body"]
    assert html.strip() == f"<p>{sentence.replace('<', '&lt;').replace('>', '&gt;')}</p>"


def test_palette_is_told_apart_in_grey():
    """Neighbours of an ordered quantity differ in lightness too."""
    for count in range(2, 7):
        greys = [
            0.3 * r + 0.59 * g + 0.11 * b for r, g, b, _ in figure_style.ordered_colours(count)
        ]
        assert min(one - other for one, other in pairwise(greys)) > 0.06


def test_long_names_keep_both_ends():
    name = "astropy__astropy-12345"
    assert figure_style.short(name, 5) == name
    cut = figure_style.short(name, 0.7)
    assert len(cut) < len(name)
    assert cut.startswith("ast")
    assert cut.endswith("345")
