"""The claims of a paper on agents' resources, for any data sets: computed, compared, written down.

Every claim is a function, which `CLAIMS` gives by the claim's name. Those that give several numbers
have a row for each, `<claim>/<name>`.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from pathlib import Path

from tabulate import tabulate

from agentsweep.analysis import (
    claims_cpu,
    claims_memory,
    claims_session,
    claims_time,
    claims_tools,
    sweep_metrics,
)
from agentsweep.analysis.cohort import Cohort
from agentsweep.analysis.run_metrics import CORRECTED, MODES, PAPER
from agentsweep.analysis.values import Value, Values
from agentsweep.errors import AgentsweepError

# A claim's value, its values by name, or None where the mode has none.
Claim = Callable[[Cohort, str], Value | Values | None]
# Every claim by its name, in the order of the table.
CLAIMS: dict[str, Claim] = {
    "task_duration_mean": claims_time.task_duration_mean,
    "task_duration_median": claims_time.task_duration_median,
    "tool_share_of_active_mean": claims_time.tool_share_of_active_mean,
    "tool_share_of_active_median": claims_time.tool_share_of_active_median,
    "tool_share_of_active_max": claims_time.tool_share_of_active_max,
    "startup_share_mean": claims_time.startup_share_mean,
    "model_share_mean": claims_time.model_share_mean,
    "os_share_mean": claims_time.os_share_mean,
    "startup_cold_mean": claims_time.startup_cold_mean,
    "startup_warm_mean": claims_time.startup_warm_mean,
    "tool_time_share": claims_tools.tool_time_share,
    "bash_time_share": claims_tools.bash_time_share,
    "cpu_mean": claims_cpu.cpu_mean,
    "cpu_max": claims_cpu.cpu_max,
    "cpu_samples_over_50": claims_cpu.cpu_samples_over_50,
    "cpu_memory_correlation_mean": claims_cpu.cpu_memory_correlation_mean,
    "cpu_bursts_in_tools": claims_cpu.cpu_bursts_in_tools,
    "memory_baseline_mean": claims_memory.memory_baseline_mean,
    "memory_bursts_in_tools": claims_memory.memory_bursts_in_tools,
    "memory_burst_time_share": claims_memory.memory_burst_time_share,
    "test_call_memory_rise_p95": claims_memory.test_call_memory_rise_p95,
    "memory_change_rate_max": claims_memory.memory_change_rate_max,
    "intervals_memory_over_100mb": claims_memory.intervals_memory_over_100mb,
    "retry_loop_tasks": claims_tools.retry_loop_tasks,
    "peak_position_mean": claims_memory.peak_position_mean,
    "peak_to_average_max": claims_memory.peak_to_average_max,
    "peak_to_average_mean": claims_memory.peak_to_average_mean,
    "memory_peak_min": claims_memory.memory_peak_min,
    "memory_peak_max": claims_memory.memory_peak_max,
    "memory_peak_cv": claims_memory.memory_peak_cv,
    "image_size_median": claims_session.image_size_median,
    "image_size_mean": claims_session.image_size_mean,
    "rounds_duration_correlation": claims_session.rounds_duration_correlation,
    "rounds_peak_correlation": claims_session.rounds_peak_correlation,
    "tokens_peak_correlation": claims_session.tokens_peak_correlation,
    "models_main": claims_session.models_main,
    "models_subagent": claims_session.models_subagent,
    "prompt_without_issue": claims_session.prompt_without_issue,
    "test_interpreter": claims_session.test_interpreter,
}
COLUMNS = (
    *("claim", "dataset", "mode", "value", "unit", "n", "definition"),
    *("runs", "completed", "left_out"),
)
_PUBLISHED_COLUMNS = ("claim", "dataset", "printed", "number", "factor", "remark")


@dataclass(frozen=True)
class Published:
    """What a paper prints: `number`, with as many decimals as it has there, times `factor` is the
    claim's value in our unit. `remark` says why the data say something else, if they do."""

    printed: str
    number: Decimal
    factor: Decimal
    remark: str

    def agrees(self, value: float | None) -> bool:
        """Whether a value comes to the printed digits."""
        if value is None:
            return False
        scaled = Decimal(repr(value)) / self.factor
        # Of a number it is an integer: `read_published` takes no other one.
        step = Decimal(1).scaleb(int(self.number.as_tuple().exponent))
        return scaled.quantize(step, ROUND_HALF_EVEN) == self.number


@dataclass(frozen=True)
class Row:
    """One number: a claim, for a data set, in a mode.

    runs: the runs of the data set that count; completed: those of them that completed, which are
    alone in most numbers of `corrected` mode; left_out: those whose outcome says nothing about a
    limit, which are in no share of outcomes.
    """

    claim: str
    dataset: str
    mode: str
    value: Value
    runs: int = 0
    completed: int = 0
    left_out: int = 0


def compute(cohorts: Iterable[Cohort]) -> list[Row]:
    """Every claim for every data set in every mode, as far as the mode has it."""
    rows = []
    for name, claim in CLAIMS.items():
        for cohort in cohorts:
            for mode in MODES:
                found = claim(cohort, mode)
                if isinstance(found, Value):
                    rows.append(Row(name, cohort.name, mode, found, *_counts(cohort)))
                elif found:
                    rows += [
                        Row(f"{name}/{part}", cohort.name, mode, value, *_counts(cohort))
                        for part, value in found.items()
                    ]
    return rows


def _counts(cohort: Cohort) -> tuple[int, int, int]:
    rows = [run.row for run in cohort.runs]
    left_out = sum(sweep_metrics.left_out_counts(rows).values())
    return len(rows), len(sweep_metrics.completed(rows)), left_out


def read_published(path: Path) -> dict[tuple[str, str], Published]:
    """What a paper prints, by claim and data set, from a CSV file.

    Raises AgentsweepError, with the line, for a file that is not one.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise AgentsweepError(
            f"{path}: cannot be read ({error}): check `paper.published`"
        ) from None
    try:
        lines = csv.DictReader(io.StringIO(text, newline=""))
        columns, rows = tuple(lines.fieldnames or ()), [(lines.line_num, row) for row in lines]
    except csv.Error as error:
        raise AgentsweepError(
            f"{path}: not a CSV file ({error}): check `paper.published`"
        ) from None
    if columns != _PUBLISHED_COLUMNS:
        raise AgentsweepError(f"{path}: line 1: the columns must be {','.join(_PUBLISHED_COLUMNS)}")
    published = {}
    for number, line in rows:
        try:
            entry = Published(
                line["printed"], Decimal(line["number"]), Decimal(line["factor"]), line["remark"]
            )
        except (InvalidOperation, TypeError):
            raise AgentsweepError(
                f"{path}: line {number}: number and factor must be numbers"
            ) from None
        published[line["claim"], line["dataset"]] = entry
    return published


def write(rows: Sequence[Row], published: dict[tuple[str, str], Published], out: Path) -> None:
    """Write claims.csv, claims.json, claims.md and claims.tex below a directory.

    claims.csv has `COLUMNS`; claims.json also bounds and what a paper prints; the other two set
    what is printed, reproduced and corrected side by side.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("claims.csv", _csv(rows)),
        ("claims.json", _json(rows, published)),
        ("claims.md", markdown(rows, published)),
        ("claims.tex", latex(rows, published)),
    ):
        (out / name).write_text(text, encoding="utf-8")


def _csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        value = row.value
        writer.writerow(
            (
                *(row.claim, row.dataset, row.mode, _exactly(value.value)),
                *(value.unit, value.n, value.definition),
                *(row.runs, row.completed, row.left_out),
            )
        )
    return text.getvalue()


def _exactly(number: float | None) -> str:
    """All digits; counts without a fraction; nothing for what is not known."""
    if number is None:
        return ""
    return str(int(number)) if number == int(number) else repr(number)


def _json(rows: Iterable[Row], published: dict[tuple[str, str], Published]) -> str:
    entries = []
    for row in rows:
        value, said = row.value, published.get((row.claim, row.dataset))
        entry = {
            "claim": row.claim,
            "dataset": row.dataset,
            "mode": row.mode,
            "value": value.value,
            "low": value.low,
            "high": value.high,
            "unit": value.unit,
            "n": value.n,
            "definition": value.definition,
            "runs": row.runs,
            "completed": row.completed,
            "left_out": row.left_out,
        }
        if said is not None and row.mode == PAPER:
            entry |= {"printed": said.printed, "reproduced": said.agrees(value.value)}
        entries.append(entry)
    return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class _Line:
    """A claim for a data set, its modes side by side."""

    claim: str
    dataset: str
    published: Published | None
    paper: Value | None
    corrected: Value | None

    @property
    def printed(self) -> str:
        return self.published.printed if self.published else ""

    @property
    def unit(self) -> str:
        value = self.paper or self.corrected
        return value.unit if value else ""

    @property
    def verdict(self) -> str:
        """Whether the printed digits come out: `=`, `differs`, or nothing to compare."""
        if self.published is None or self.paper is None or self.paper.value is None:
            return ""
        return "=" if self.published.agrees(self.paper.value) else "differs"


def _side_by_side(rows: Iterable[Row], published: dict[tuple[str, str], Published]) -> list[_Line]:
    values: dict[tuple[str, str], dict[str, Value]] = {}
    for row in rows:
        values.setdefault((row.claim, row.dataset), {})[row.mode] = row.value
    return [
        _Line(*key, published.get(key), modes.get(PAPER), modes.get(CORRECTED))
        for key, modes in values.items()
    ]


def shown(value: Value | None) -> str:
    """A value as a table shows it: four digits, with its bounds, `-` for none."""
    if value is None or value.value is None:
        return "-"
    text = _four_digits(value.value)
    if value.low is None or value.high is None:
        return text
    low, high = _four_digits(value.low), _four_digits(value.high)
    return text if low == high == text else f"{text} ({low} to {high})"


def _four_digits(number: float) -> str:
    if number == int(number) and abs(number) < 1e6:
        return str(int(number))
    digits = f"{number:.4g}"
    return f"{number:.0f}" if "e" in digits and abs(number) >= 1 else digits


def _n(line: _Line) -> str:
    counts = [str(value.n) for value in (line.paper, line.corrected) if value is not None]
    return " / ".join(dict.fromkeys(counts))


def markdown(rows: Sequence[Row], published: dict[tuple[str, str], Published]) -> str:
    """The table side by side, and each claim's definitions."""
    cells = [
        (
            *(f"`{line.claim}`", line.dataset, line.printed, shown(line.paper), line.verdict),
            *(shown(line.corrected), line.unit, _n(line)),
        )
        for line in _side_by_side(rows, published)
    ]
    lines = [
        tabulate(
            [[cell.replace("|", "\\|") for cell in line] for line in cells],
            ("claim", "data", "paper", "reproduced", "", "corrected", "unit", "n"),
            "github",
            stralign=None,
            disable_numparse=True,
        )
    ]
    censored = {
        row.dataset: f"{row.dataset} {row.completed} of {row.runs}"
        for row in rows
        if row.completed < row.runs
    }
    if censored:
        said = ", ".join(censored.values())
        lines += ["", f"Runs that completed, which corrected numbers are of: {said}."]
    remarks = [
        f"- `{claim}`, {dataset} ({said.printed}): {said.remark}"
        for (claim, dataset), said in published.items()
        if said.remark
    ]
    if remarks:
        lines += ["", "Where the printed value is not what the data give:", "", *remarks]
    lines += ["", "Definitions (n in the order reproduced / corrected):", ""]
    for claim, modes in _definitions(rows).items():
        lines += [f"- `{claim}`", *(f"  - {mode}: {said}" for mode, said in modes.items())]
    return "\n".join(lines) + "\n"


def _definitions(rows: Iterable[Row]) -> dict[str, dict[str, str]]:
    """The definition of each claim (a family's once) by mode."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row.claim.split("/")[0], {})[row.mode] = row.value.definition
    return found


_LATEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "_%&#${}"},
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "\\": "\\textbackslash{}",
        "<": "\\textless{}",
        ">": "\\textgreater{}",
    }
)


def latex(rows: Sequence[Row], published: dict[tuple[str, str], Published]) -> str:
    """The table side by side for LaTeX, with the packages booktabs and longtable.

    Not tabulate's: it has a long table, whose head is not repeated on each page, or booktabs.
    """
    lines = [
        "% needs \\usepackage{booktabs,longtable}",
        "\\begin{longtable}{llrrrll}",
        "\\toprule",
        "claim & data & paper & reproduced & corrected & unit & $n$ \\\\",
        "\\midrule",
        "\\endhead",
        "\\bottomrule",
        "\\endfoot",
    ]
    for line in _side_by_side(rows, published):
        cells = (
            *(line.claim, line.dataset, line.printed, shown(line.paper), shown(line.corrected)),
            *(line.unit, _n(line)),
        )
        lines.append(" & ".join(cell.translate(_LATEX) for cell in cells) + " \\\\")
    return "\n".join([*lines, "\\end{longtable}"]) + "\n"
