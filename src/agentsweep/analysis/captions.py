"""What a figure's caption says beside how to read it: n, the source, and numbers from metrics."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsweep.analysis import sweep_metrics
from agentsweep.analysis.cohort import Cohort
from agentsweep.analysis.run_metrics import CORRECTED, PAPER
from agentsweep.analysis.values import Value, counted, datasets, everything
from agentsweep.cpu_modes import QUOTA
from agentsweep.tables.rows import Row
from agentsweep.units import format_size
from agentsweep.vocabulary import Outcome


@dataclass(frozen=True)
class Caption:
    """Sentences in plain text, and every number in them by name."""

    sentences: Sequence[str]
    numbers: Mapping[str, Any] = field(default_factory=dict)


def describe(runs: Sequence[Row], sentences: Iterable[str], **numbers: Any) -> Caption:
    """The sentences, followed by where the data come from and how many runs there are."""
    source = source_of(runs)
    return Caption(
        [*sentences, sentence_of(source)], {"n_runs": len(runs), "source": source} | numbers
    )


def with_cells(caption: Caption, cells: Iterable[tuple[int, int] | None]) -> Caption:
    """The caption with how many of the wanted cells have a run, where some have none.

    cells: of each data set its runs and its wanted cells, None where that is not known.
    """
    lacking = [(runs, wanted) for runs, wanted in filter(None, cells) if runs < wanted]
    if not lacking:
        return caption
    said = [
        f"Incomplete: {runs} of {count(wanted, 'cell')} have a run." for runs, wanted in lacking
    ]
    numbers = {
        "cells_wanted": sum(wanted for _, wanted in lacking),
        "cells_with_run": sum(runs for runs, _ in lacking),
    }
    return Caption([*caption.sentences, *said], {**caption.numbers, **numbers})


def with_left_out(caption: Caption, left_out: Sequence[Row]) -> Caption:
    """The caption, with a sentence for each task whose runs are in no number of it."""
    by_task: dict[str, list[Row]] = {}
    for run in left_out:
        by_task.setdefault(run["task"], []).append(run)
    if not by_task:
        return caption
    said = [
        f"Left out: {count(len(runs), 'run')} of {task}: {runs[0]['grade_detail']}."
        for task, runs in by_task.items()
    ]
    numbers = {"n_left_out": {task: len(runs) for task, runs in by_task.items()}}
    return Caption([*caption.sentences, *said], {**caption.numbers, **numbers})


def of_cohorts(
    cohorts: Sequence[Cohort], mode: str, sentences: Iterable[str], **numbers: Any
) -> Caption:
    """The sentences, followed by the mode and by what each data set is."""
    sources = {cohort.name: _cohort_source(cohort) for cohort in datasets(cohorts)}
    said = "; ".join(_cohort_phrase(name, source) for name, source in sources.items())
    if mode == CORRECTED:
        sentences = [*sentences, *_completed_sentence(sources)]
    return Caption(
        [*sentences, f"Mode {mode}: {_MODES[mode]}.", f"Data: {said}."],
        {
            "mode": mode,
            "n_runs": len(everything(cohorts).runs),
            "n_completed": len(counted(everything(cohorts), CORRECTED).runs),
            "datasets": sources,
        }
        | numbers,
    )


_MODES = {
    PAPER: "definitions as published, with their defects",
    CORRECTED: "definitions of docs/measurement.md",
}


def _cohort_source(cohort: Cohort) -> dict[str, Any]:
    rows = [run.row for run in cohort.runs]
    columns = {"sources": "source", "agents": "agent", "agent_versions": "agent_version"}
    columns |= {"models": "model", "model_modes": "model_mode"}
    found = {name: _distinct(rows, column) for name, column in columns.items()}
    numbers = {"n_runs": len(rows), "n_completed": len(sweep_metrics.completed(rows))}
    return numbers | {"attempts": cohort.attempts} | found


def _completed_sentence(sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How many runs completed, where some did not: the others have no part in the numbers."""
    said = {
        name: f"{source['n_completed']} of {count(source['n_runs'], 'run')}"
        for name, source in sources.items()
        if source["n_completed"] < source["n_runs"]
    }
    return [f"Completed, and alone in all numbers: {each(said)}."] if said else []


def _cohort_phrase(name: str, source: Mapping[str, Any]) -> str:
    made = " and ".join(source["sources"]) or "of unknown origin"
    versions = " and ".join(source["agent_versions"])
    return (
        f"{name} ({made}), {source['n_runs']} of {count(source['attempts'], 'attempt')} count, "
        + f"{_named('agent', source['agents'])} {versions}".strip()
        + f", {_named('model', source['models'])}{_bracketed(source['model_modes'])}"
    )


def of_each(
    function: Callable[[Cohort, str], Any], cohorts: Iterable[Cohort], mode: str
) -> dict[str, Any]:
    """What a metric comes to for each cohort, by its name, as a caption's number."""
    return {cohort.name: plain(function(cohort, mode)) for cohort in cohorts}


def plain(value: Any) -> Any:
    """A metric's values, alone or by name, as they go into a caption's numbers."""
    if isinstance(value, Value):
        return vars(value)
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def number(value: Value) -> str:
    """A value with its unit, and its bounds where it is an estimate: `30 % (17 to 30)`."""
    if value.value is None:
        return "unknown"
    text = _short(value.value)
    shown = f"{text} {value.unit}"
    if value.low is None or value.high is None:
        return shown
    low, high = _short(value.low), _short(value.high)
    return shown if low == high == text else f"{shown} ({low} to {high})"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def each(phrases: Mapping[str, str]) -> str:
    """What is said of each data set, by its name: `H 34 %, L 36 %`."""
    return ", ".join(f"{name} {phrase}" for name, phrase in phrases.items())


def source_of(runs: Sequence[Row]) -> dict[str, Any]:
    """Where the runs come from, and the grid that they lie on."""
    return {
        "datasets": _distinct(runs, "dataset"),
        "sources": _distinct(runs, "source"),
        "tasks": _distinct(runs, "task"),
        "agents": _distinct(runs, "agent"),
        "agent_versions": _distinct(runs, "agent_version"),
        "models": _distinct(runs, "model"),
        "model_modes": _distinct(runs, "model_mode"),
        "memory_limits_bytes": sweep_metrics.memory_limits(runs),
        "cpu_limits": sweep_metrics.cpu_limits(runs),
        "cpu_modes": _distinct(runs, "cpu_mode"),
        "replicates": len({run["replicate"] for run in runs}),
        "hosts": len({(run["hostname"], run["kernel"], run["cpu_model"]) for run in runs}),
    }


def sentence_of(source: Mapping[str, Any]) -> str:
    """The source in one sentence."""
    memory = ", ".join(
        "none" if m is None else format_size(m) for m in source["memory_limits_bytes"]
    )
    cpus = ", ".join("none" if c is None else f"{c:g}" for c in source["cpu_limits"])
    modes = source["cpu_modes"]
    made = " and ".join(source["sources"]) or "of unknown origin"
    parts = [
        f"Data: {_named('data set', source['datasets'])} ({made})",
        _named("task", source["tasks"]),
        f"memory {memory}",
        f"CPUs {cpus}" + ("" if modes == [QUOTA] else _bracketed(modes)),
        f"{source['replicates']} replicate{'s' * (source['replicates'] != 1)}",
        f"{_named('agent', source['agents'])} {' and '.join(source['agent_versions'])}".strip(),
        _named("model", source["models"]) + _bracketed(source["model_modes"]),
        f"{source['hosts']} host{'s' * (source['hosts'] != 1)}",
    ]
    return "; ".join(parts) + "."


def write(caption: Caption, out: Path) -> None:
    """Write OUT.json (sentences and numbers) and OUT.rst (the sentences, for reports)."""
    content = {"caption": " ".join(caption.sentences), **caption.numbers}
    out.with_name(f"{out.name}.json").write_text(
        json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    out.with_name(f"{out.name}.rst").write_text(
        "\n".join(map(escape, caption.sentences)) + "\n", encoding="utf-8"
    )


def escape(text: str) -> str:
    """Text in which reStructuredText finds no markup."""
    return re.sub(r"([\\`*_|<>])", r"\\\1", text)


def count(number: int, noun: str) -> str:
    """`1 run`, `18 runs`, `no run`."""
    return f"{number or 'no'} {noun}{'s' * (number > 1)}"


def n_of(known: int, runs: Sequence[Row], missing: str) -> str:
    """The sentence `n = 18 runs.`, or `n = 16 of 18 runs (the others have no peak).`"""
    if known == len(runs):
        return f"n = {count(known, 'run')}."
    return f"n = {known} of {count(len(runs), 'run')} (the others have no {missing})."


def completed_of(runs: Sequence[Row]) -> str:
    """`6 of 12 completed`."""
    return f"{len(sweep_metrics.completed(runs))} of {len(runs)} completed"


def n_completed(known: int, runs: Sequence[Row], missing: str) -> str:
    """The sentence `n = 18 runs, all completed.`, or what it says of runs that are left out.

    known: the completed runs that numbers and lines rest on.
    """
    done = len(sweep_metrics.completed(runs))
    if known == done == len(runs):
        return f"n = {count(known, 'run')}, {'all ' * (known > 1)}completed."
    without = f" ({done - known} of them without {missing})" * (known < done)
    return (
        f"n = {known} of {count(len(runs), 'run')}: {completed_of(runs)}{without}, and lines and "
        "numbers are of these alone."
    )


# In a caption; the numbers have all of them.
_MOST_CELLS = 12


def by_limits(runs: Sequence[Row], number_of: Callable[[Sequence[Row]], str | None]) -> str:
    """What is said of the runs at each pair of limits, without pooling them.

    `40.1 s at 512MiB, 1 CPU (6 of 12 completed); ...`; pairs of which nothing is known are left
    out, and many pairs are not listed.
    """
    cells = _by_pair(runs)
    if len(cells) > _MOST_CELLS:
        return f"different at each of {len(cells)} pairs of limits (numbers beside the figure)"
    said = [
        f"{number_of(here) or 'unknown'} at {name} ({completed_of(here)})"
        for name, here in cells.items()
    ]
    return "; ".join(said) or "unknown"


def numbers_by_limits(
    runs: Sequence[Row], numbers_of: Callable[[Sequence[Row]], Mapping[str, Any]]
) -> dict[str, Any]:
    """The numbers at each pair of limits, by its name, with how many runs completed there."""
    return {
        name: {
            **numbers_of(here),
            "n_completed": len(sweep_metrics.completed(here)),
            "n_runs": len(here),
        }
        for name, here in _by_pair(runs).items()
    }


def _by_pair(runs: Sequence[Row]) -> dict[str, list[Row]]:
    found = {}
    for mode, own in sweep_metrics.by_cpu_mode(runs).items():
        cells = sweep_metrics.by_cell(own)
        for memory in sweep_metrics.memory_limits(own):
            for cpus in sweep_metrics.cpu_limits(own):
                if (memory, cpus) in cells:
                    name = f"{_limit(memory, 'memory', format_size)}, "
                    name += _limit(cpus, "CPU", lambda c: f"{c:g} CPU{'s' * (c > 1)}")
                    found[name + (f" ({mode})" if mode else "")] = cells[memory, cpus]
    return found


def _limit(value: Any, noun: str, shown: Callable[[Any], str]) -> str:
    return f"no {noun} limit" if value is None else shown(value)


_UNRELATED: dict[str, str] = {Outcome.API_ERROR: "API error", Outcome.OVER_BUDGET: "over budget"}


def left_out(runs: Sequence[Row]) -> list[str]:
    """The sentence on runs that shares leave out, where there are some."""
    counts = sweep_metrics.left_out_counts(runs)
    if not counts:
        return []
    said = ", ".join(f"{n} {_UNRELATED[name]}" for name, n in counts.items())
    total = sum(counts.values())
    return [
        f"{count(total, 'run').capitalize()} ({said}) {'is' if total == 1 else 'are'} left out of "
        "shares: these outcomes say nothing about the limit."
    ]


def percent(share: float | None) -> str:
    """A share as a percentage; `unknown` for None."""
    if share is None:
        return "unknown"
    return f"{share * 100:.1f} %" if 0 < share < 0.1 else f"{share * 100:.0f} %"


def _distinct(runs: Sequence[Row], column: str) -> list[str]:
    return sorted({run[column] for run in runs if run[column] is not None})


def _named(noun: str, names: Sequence[str]) -> str:
    """`task a`, `tasks a, b`, `12 tasks`."""
    if not names:
        return f"unknown {noun}"
    if len(names) > 4:
        return f"{len(names)} {noun}s"
    return f"{noun}{'s' * (len(names) > 1)} {', '.join(names)}"


def _bracketed(names: Sequence[str]) -> str:
    return f" ({' and '.join(names)})" if names else ""
