"""The figures of a paper: every script, in both modes, for imported runs and for our own."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import agentcgroup_maker as maker
import pytest
import synthetic
from figure_checks import check_layout, check_vector_files, load_script, shown_texts
from matplotlib import pyplot as plt

from agentsweep.analysis import captions, claims_memory, claims_time, cohort, figure_style
from agentsweep.analysis.run_metrics import CORRECTED, MODES, PAPER
from agentsweep.analysis.values import Value, datasets, everything
from agentsweep.extraction.importer import import_runs

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "workflow" / "scripts" / "paper"
FIGURES = sorted(path.stem for path in SCRIPTS.glob("*.py"))
EXPECTED = [
    "change_rates",
    "exec_overview",
    "resource_profile",
    "timeseries",
    "tool_breakdown",
    "tool_pattern",
]


def load(name):
    return load_script(SCRIPTS / f"{name}.py")


def averages(second: float) -> str:
    """What is printed of two CPUs at work every other ten seconds."""
    busy = second // 20 * 10 + min(second % 20, 10)
    return f"{200 * busy / (second + 0.5):.2f}%"


def samples(count: int = 70) -> list[dict]:
    found = [
        maker.sample(s, f"{180 + 40 * (s % 20) if s < 60 else 1500}MB", averages(s))
        for s in range(count - 1)
    ]
    return [*found, maker.sample(count - 1, "0B", "0.00%")]


def write_set(root: Path, name: str, tasks: int, **attempts) -> Path:
    for number in range(tasks):
        maker.attempt(
            root / f"raw-{name}" / f"a__b-{number}" / "attempt_1", listed=samples(), **attempts
        )
    import_runs(root / f"raw-{name}", name, "last", root / name)
    return root / name


def two_sets(root):
    # Two calls at once, which the paper counts twice.
    other = maker.session()
    other.bash("m5", "t4", "git status", 4.5, output=8, stop=None)
    other.result("t4", "nothing", 6.5)
    return [write_set(root, "H", 3), write_set(root, "a-longer-name", 2, trace=other)]


def without_trace_and_image(root):
    bare = {"claude_time": 80.0}
    return [write_set(root, "H", 2, trace=None, calls=None, result=bare)]


def own(root, **sweep):
    return [synthetic.write_dataset(synthetic.sweep(**sweep), root / "own")]


def without_samples(root):
    runs = synthetic.sweep(tasks=["logstats"])
    for run in runs:
        run.samples, run.tool_calls = [], []
    return [synthetic.write_dataset(runs, root / "own")]


SHAPES = {
    "two sets": two_sets,
    "one run": lambda root: [write_set(root, "H", 1)],
    "no trace": without_trace_and_image,
    "own": own,
    "own, one run": lambda root: own(root, tasks=["logstats"], memory=[synthetic.GIB], cpus=[1.0]),
    "no samples": without_samples,
    "own beside imported": lambda root: [*own(root), write_set(root, "H", 2)],
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    made = {}

    def get(shape):
        if shape not in made:
            made[shape] = SHAPES[shape](root / shape.replace(" ", "-"))
        return made[shape]

    return get


def test_every_figure_has_a_script_and_a_caption():
    assert FIGURES == EXPECTED
    for name in FIGURES:
        text = (ROOT / "workflow" / "report" / f"paper_{name}.rst").read_text(encoding="utf-8")
        assert text.rstrip().endswith(".. include:: {{ snakemake.output.caption }}")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", EXPECTED)
def test_texts_can_be_read_and_captions_name_their_n(sets, name, shape, mode):
    figure_style.apply()
    module, cohorts = load(name), cohort.load(sets(shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = module.draw(cohorts, mode)
        texts = check_layout(figure)
        caption = module.caption(cohorts, mode)
    assert not [text for text in texts if "$" in text or "mathdefault" in text]
    plt.close(figure)
    said = " ".join(caption.sentences)
    assert "n = " in said
    assert f"Mode {mode}: " in said
    for one in datasets(cohorts):
        assert f"{one.name} (" in said
        assert caption.numbers["datasets"][one.name]["n_runs"] == len(one.runs)
    json.dumps(caption.numbers)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_files_are_the_same_each_time_and_differ_by_mode(sets, tmp_path, name):
    module = load(name)
    arguments = [f"--tables={path}" for path in sets("two sets")]
    made = []
    for folder in ("first", "second"):
        out = tmp_path / folder / name
        figure_style.paper_main(module.draw, module.caption, [*arguments, "--out", str(out)])
        made.append({path.name: path.read_bytes() for path in out.parent.iterdir()})
    assert sorted(made[0]) == sorted(
        f"{name}_{mode}.{suffix}" for mode in MODES for suffix in ("pdf", "svg", "json", "rst")
    )
    assert made[0] == made[1]
    for mode in MODES:
        check_vector_files(tmp_path / "first" / f"{name}_{mode}")
    assert made[0][f"{name}_paper.svg"] != made[0][f"{name}_corrected.svg"]
    for content in made[0].values():
        assert str(tmp_path).encode() not in content


def numbers(name, sets, shape, mode):
    cohorts = cohort.load(sets(shape))
    return load(name).caption(cohorts, mode).numbers, cohorts


@pytest.mark.parametrize("mode", MODES)
def test_numbers_of_captions_are_those_of_the_metrics(sets, mode):
    said, cohorts = numbers("exec_overview", sets, "two sets", mode)
    for one in cohorts:
        assert said["duration_mean"][one.name] == vars(claims_time.task_duration_mean(one, mode))
    said, cohorts = numbers("change_rates", sets, "two sets", mode)
    found = claims_memory.memory_change_rate_max(cohorts[0], mode)
    assert said["memory_change_rate_max"]["H"] == vars(found)


def test_the_corrected_time_series_shows_the_load_and_not_its_average(sets):
    paper, _ = numbers("timeseries", sets, "two sets", PAPER)
    corrected, _ = numbers("timeseries", sets, "two sets", CORRECTED)
    assert paper["shown"]["H"]["run_id"] == corrected["shown"]["H"]["run_id"]
    # Two CPUs at work half of the time; the averages fall towards one.
    assert corrected["shown"]["H"]["cpu_max_percent"] == pytest.approx(200, abs=5)
    assert corrected["shown"]["H"]["n_samples"] == paper["shown"]["H"]["n_samples"] - 1


@pytest.mark.parametrize("name", ["exec_overview", "resource_profile", "tool_pattern"])
def test_a_panel_of_all_runs_has_those_of_every_source(sets, name):
    cohorts = cohort.load(sets("own beside imported"))
    whole = everything(cohorts)
    assert len(whole.runs) == sum(len(one.runs) for one in cohorts) > len(cohorts[-1].runs)
    said, _ = numbers(name, sets, "own beside imported", CORRECTED)
    assert said["n_runs"] == len(whole.runs)
    module = load(name)
    said = " ".join(module.caption(cohorts, CORRECTED).sentences)
    shown = {
        "exec_overview": f"n = {len(whole.runs)} runs",
        "resource_profile": f"n = {len(claims_memory.memory_trajectories(whole, CORRECTED))} ",
        "tool_pattern": f"n = {sum(len(run.leaf_calls) for run in whole.runs)} calls",
    }[name]
    assert shown in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "entry"),
    [("exec_overview", "bounds of tools"), ("timeseries", "CPU, bounds of the error")],
)
def test_bounds_are_drawn_where_there_are_some(sets, name, entry):
    for shape, mode, there in (
        ("two sets", CORRECTED, True),
        ("two sets", PAPER, False),
        ("own", CORRECTED, False),
    ):
        figure = load(name).draw(cohort.load(sets(shape)), mode)
        assert (entry in [text for text, _ in shown_texts(figure)]) is there, (shape, mode)
        plt.close(figure)


def test_an_exact_value_has_no_bounds_in_a_caption():
    def said(low, high):
        return captions.number(Value(43.58, 3, "%", "A definition.", low, high))

    assert said(None, None) == said(43.58, 43.581) == "43.6 %"
    assert said(1.8, 43.58) == "43.6 % (1.8 to 43.6)"


@pytest.mark.slow
def test_nothing_that_counts_is_one_line(tmp_path):
    write_set(tmp_path, "H", 1, result={"claude_time": 80.0})
    maker.attempt(tmp_path / "short" / "a__b-1" / "attempt_1")
    import_runs(tmp_path / "short", "S", "last", tmp_path / "S")
    done = subprocess.run(
        [sys.executable, SCRIPTS / "timeseries.py", "--tables", tmp_path / "S",
         "--out", tmp_path / "t"],
        capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no run counts" in done.stderr
