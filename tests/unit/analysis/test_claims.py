"""Claims: the table of all numbers, what a paper prints beside them, and the files they go to."""

import csv
import json
import re
from pathlib import Path

import cohort_maker
import pytest
import synthetic
from recorded_sessions import needs_runs

from agentsweep.analysis import claims, cohort
from agentsweep.analysis.run_metrics import CORRECTED, MODES, PAPER
from agentsweep.analysis.values import Value
from agentsweep.errors import AgentsweepError

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "config" / "agentcgroup-published.csv"
HEADER = "claim,dataset,printed,number,factor,remark\n"

SINGLE = [
    "task_duration_mean",
    "task_duration_median",
    "tool_share_of_active_mean",
    "tool_share_of_active_median",
    "tool_share_of_active_max",
    "startup_share_mean",
    "model_share_mean",
    "os_share_mean",
    "cpu_mean",
    "cpu_max",
    "cpu_samples_over_50",
    "cpu_memory_correlation_mean",
    "cpu_bursts_in_tools",
    "memory_baseline_mean",
    "memory_bursts_in_tools",
    "memory_burst_time_share",
    "test_call_memory_rise_p95",
    "memory_change_rate_max",
    "intervals_memory_over_100mb",
    "retry_loop_tasks",
    "peak_position_mean",
    "peak_to_average_max",
    "peak_to_average_mean",
    "memory_peak_min",
    "memory_peak_max",
    "memory_peak_cv",
    "image_size_median",
    "image_size_mean",
    "rounds_duration_correlation",
    "rounds_peak_correlation",
    "tokens_peak_correlation",
    "startup_cold_mean",
    "startup_warm_mean",
]
FAMILIES = [
    "tool_time_share",
    "bash_time_share",
    "models_main",
    "models_subagent",
    "test_interpreter",
]


def published(tmp_path, text):
    path = tmp_path / "published.csv"
    path.write_text(HEADER + text, encoding="utf-8")
    return claims.read_published(path)


@pytest.mark.parametrize(
    ("number", "factor", "value", "agrees"),
    [
        ("5.8", "60", 347.344, True),
        ("5.8", "60", 350.9, True),
        ("5.8", "60", 351.1, False),
        ("518", "1", 518.82, False),
        ("3", "1000", 2999.0, True),
        ("-0.39", "1", -0.3949, True),
        ("-0.39", "1", -0.3959, False),
        ("0.5", "1", None, False),
    ],
)
def test_agreement_is_to_the_printed_digits(tmp_path, number, factor, value, agrees):
    found = published(tmp_path, f"a,H,x,{number},{factor},\n")["a", "H"]
    assert found.agrees(value) is agrees


def test_what_is_no_table_of_printed_values_is_refused_with_its_line(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text("claim,value\n", encoding="utf-8")
    with pytest.raises(AgentsweepError, match=r"published\.csv: line 1: the columns must be claim"):
        claims.read_published(path)
    with pytest.raises(AgentsweepError, match="line 3: number and factor must be numbers"):
        published(tmp_path, "a,H,x,1,1,\nb,H,x,many,1,\n")
    with pytest.raises(AgentsweepError, match=r"absent\.csv: cannot be read"):
        claims.read_published(tmp_path / "absent.csv")


def rows():
    value = Value(1234.56789, 3, "MB", "A definition, with a comma | and a bar.")
    return [
        claims.Row("a_b/c|d", "H", PAPER, value),
        claims.Row("a_b/c|d", "H", CORRECTED, Value(0.25, 2, "MB", "Corrected.", 0.2, 0.3)),
        claims.Row("count", "H", PAPER, Value(28.0, 33, "tasks", "Counted.")),
        claims.Row("none", "H+L", CORRECTED, Value(None, 0, "%", "Nothing to count.")),
    ]


def test_the_four_files(tmp_path):
    lines = "a_b/c|d,H,1235 MB,1235,1,\ncount,H,29,29,1,counted_wrongly & more\n"
    said = published(tmp_path, lines)
    claims.write(rows(), said, tmp_path / "out")
    with (tmp_path / "out" / "claims.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    assert lines == [
        ["claim", "dataset", "mode", "value", "unit", "n", "definition",
         "runs", "completed", "left_out"],
        ["a_b/c|d", "H", "paper", "1234.56789", "MB", "3",
         "A definition, with a comma | and a bar.", "0", "0", "0"],
        ["a_b/c|d", "H", "corrected", "0.25", "MB", "2", "Corrected.", "0", "0", "0"],
        ["count", "H", "paper", "28", "tasks", "33", "Counted.", "0", "0", "0"],
        ["none", "H+L", "corrected", "", "%", "0", "Nothing to count.", "0", "0", "0"],
    ]  # fmt: skip
    entries = json.loads((tmp_path / "out" / "claims.json").read_text(encoding="utf-8"))
    assert [(e.get("printed"), e.get("reproduced")) for e in entries] == [
        ("1235 MB", True), (None, None), ("29", False), (None, None),
    ]  # fmt: skip
    assert (entries[1]["low"], entries[1]["high"]) == (0.2, 0.3)
    markdown = (tmp_path / "out" / "claims.md").read_text(encoding="utf-8")
    assert "| `a_b/c\\|d` | H | 1235 MB | 1235 | = | 0.25 (0.2 to 0.3) | MB | 3 / 2 |" in markdown
    assert "| `count` | H | 29 | 28 | differs | - | tasks | 33 |" in markdown
    assert "- `count`, H (29): counted_wrongly & more" in markdown
    latex = (tmp_path / "out" / "claims.tex").read_text(encoding="utf-8")
    assert "a\\_b/c|d & H & 1235 MB & 1235 & 0.25 (0.2 to 0.3) & MB & 3 / 2 \\\\" in latex
    body = latex.split("\\midrule")[1]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 6 for line in body.splitlines() if "&" in line)


def test_what_was_killed_is_in_no_corrected_number_and_is_counted_beside_it():
    seconds = {"completed": 100.0, "oom_agent": 1.0, "timed_out": 2.0, "api_error": 3.0}
    runs = [
        cohort_maker.run(
            run_id=outcome, source="measured", outcome=outcome, agent_s=s, container_s=s + 1
        )
        for outcome, s in seconds.items()
    ]
    found = {(row.claim, row.mode): row for row in claims.compute([cohort_maker.group(*runs)])}
    corrected = found["task_duration_mean", CORRECTED]
    assert (corrected.value.value, corrected.value.n) == (100.0, 1)
    assert (corrected.runs, corrected.completed, corrected.left_out) == (4, 1, 1)
    assert corrected.value.definition.endswith(" Completed runs alone.")
    # As published: whatever came of a run.
    paper = found["task_duration_mean", PAPER]
    assert (paper.value.value, paper.value.n) == (27.5, 4)
    assert "Completed" not in paper.value.definition
    text = claims.markdown(list(found.values()), {})
    assert "Runs that completed, which corrected numbers are of: D 1 of 4." in text


def test_where_nothing_was_computed_nothing_differs(tmp_path):
    said = published(tmp_path, "cpu,H,13.2 %,13.2,1,\n")
    nothing = claims.Row("cpu", "H", PAPER, Value(None, 0, "%", "No run has it."))
    assert "| `cpu` | H | 13.2 % | - |  | - | % | 0 |" in claims.markdown([nothing], said)


def test_every_claim_of_the_issue_is_computed_for_made_up_runs():
    assert {*SINGLE, *FAMILIES, "prompt_without_issue"} == set(claims.CLAIMS)
    empty = cohort.Cohort("empty", [cohort.CohortRun(cohort_maker.row())], frozenset(), 1)
    found = claims.compute([empty])
    assert {row.claim for row in found if row.mode == PAPER} >= set(SINGLE)
    assert all(row.value.definition.endswith(".") and row.value.unit for row in found)


def test_a_sweep_of_ones_own_has_every_claim_and_exact_cpu_times(tmp_path):
    data = synthetic.write_dataset(synthetic.sweep(), tmp_path / "own")
    found = claims.compute(cohort.load([data]))
    values = {(row.claim, row.mode): row.value for row in found}
    assert {row.dataset for row in found} == {"synthetic"}
    assert {claim for claim in SINGLE if (claim, CORRECTED) not in values} == set()
    # Counted, not estimated.
    assert values["cpu_max", CORRECTED].low is None
    assert values["cpu_mean", CORRECTED].value > 0
    assert values["task_duration_mean", CORRECTED].n == 18
    # Nobody wrote down what a prompt of a measured run held.
    assert values["prompt_without_issue", CORRECTED].value is None
    claims.write(found, {}, tmp_path / "out")
    assert "differs" not in (tmp_path / "out" / "claims.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def real(recorded_data_sets):
    out, _ = recorded_data_sets
    cohorts = cohort.load([out / "H", out / "L"])
    return claims.compute(cohorts), claims.read_published(PUBLISHED)


@pytest.mark.slow
@needs_runs
def test_every_claim_has_a_row_for_each_data_set(real):
    computed, _ = real
    names = {(row.claim, row.dataset) for row in computed}
    for dataset in ("H", "L", "H+L"):
        assert {claim for claim in SINGLE if (claim, dataset) not in names} == set()
        for family in FAMILIES:
            assert any(c.startswith(f"{family}/") and d == dataset for c, d in names), family
    for row in computed:
        if row.claim in SINGLE and row.value.value is None:
            # The final number of tokens is not in H's sessions.
            assert (row.claim, row.dataset) == ("tokens_peak_correlation", "H")


@pytest.mark.slow
@needs_runs
def test_what_is_printed_comes_out_or_the_difference_is_explained(real):
    computed, printed = real
    values = {(r.claim, r.dataset): r.value.value for r in computed if r.mode == PAPER}
    assert printed.keys() <= values.keys()
    agreeing = {key for key, said in printed.items() if said.agrees(values[key])}
    assert {key for key, said in printed.items() if not said.remark} == agreeing
    assert len(agreeing) == 47


@pytest.mark.slow
@needs_runs
def test_the_table_in_the_docs_is_what_comes_out(real):
    computed, printed = real
    made = set(claims.markdown(computed, printed).splitlines())
    text = (ROOT / "docs" / "agentcgroup.md").read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| `") and "_bytes" not in line]
    table = [line for line in table if line.count("|") == 9]
    assert len(table) > 100
    assert [line for line in table if line not in made] == []
    remarks = [f"({said.printed}): {said.remark}" for said in printed.values() if said.remark]
    flat = " ".join(text.split())
    assert [remark for remark in remarks if " ".join(remark.split()) not in flat] == []


@pytest.mark.slow
@needs_runs
def test_the_numbers_in_the_docs_are_those_of_the_claims(real):
    """The sentences of docs/agentcgroup.md, number by number."""
    computed, _ = real
    corrected = {(r.claim, r.dataset): r.value for r in computed if r.mode == CORRECTED}
    text = " ".join((ROOT / "docs" / "agentcgroup.md").read_text(encoding="utf-8").split())

    def value(claim, dataset):
        return corrected[claim, dataset].value

    for sentence in (
        f"by {value('cpu_memory_correlation_mean', 'H'):+.2f} (H) and "
        f"{value('cpu_memory_correlation_mean', 'L'):+.2f} (L)",
        f"by {corrected['cpu_memory_correlation_mean', 'H'].low:+.2f} (H) and "
        f"{corrected['cpu_memory_correlation_mean', 'L'].low:+.2f} (L)",
        f"interval is {corrected['test_call_memory_rise_p95', 'H'].low:.0f} to "
        f"{corrected['test_call_memory_rise_p95', 'H'].high:,.0f} MB",
        f"{value('cpu_bursts_in_tools', 'H'):.0f} % (H) and "
        f"{value('cpu_bursts_in_tools', 'L'):.0f} % (L) lies in tool",
        f"In L, {value('cpu_samples_over_50', 'L'):.1f} % of the time",
        f"Tools take {value('tool_share_of_active_mean', 'H'):.0f} % of H's active time",
        f"Bash is {value('tool_time_share/Bash', 'H'):.0f} % of H's tool time",
        f"{value('test_call_memory_rise_p95', 'H'):.0f} MB (H) and "
        f"{value('test_call_memory_rise_p95', 'L'):.0f} MB (L)",
        f"{value('intervals_memory_over_100mb', 'H'):.1f} % (H) and "
        f"{value('intervals_memory_over_100mb', 'L'):.1f} % (L) of the intervals",
        f"occurs in {value('retry_loop_tasks', 'H'):.0f} and {value('retry_loop_tasks', 'L'):.0f}",
        f"started in {value('startup_warm_mean', 'H+L'):.1f} s",
        f"in {value('startup_cold_mean', 'H+L'):.0f} s",
        f"in L, {value('prompt_without_issue', 'L'):.0f} of "
        f"{corrected['prompt_without_issue', 'L'].n} prompts",
    ):
        assert sentence.lower() in text.lower(), sentence
    low = corrected["tool_share_of_active_mean", "L"]
    assert f"{low.low:.1f} % to {low.high:.0f} % for L" in text


@pytest.mark.slow
@needs_runs
def test_modes_name_their_definitions(real):
    computed, _ = real
    said = {(r.claim.split("/")[0], r.mode): r.value.definition for r in computed}
    for claim in claims.CLAIMS:
        both = [said.get((claim, mode)) for mode in MODES]
        assert any(both), claim
        if claim not in ("memory_peak_min",):
            assert both[0] != both[1], claim
