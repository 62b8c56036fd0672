"""CPU and memory of one run of each data set over time, with its tool calls."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from agentsweep.analysis import (
    captions,
    change_rates,
    claims_cpu,
    figure_style,
    run_metrics,
)
from agentsweep.analysis.cohort import Cohort, CohortRun
from agentsweep.analysis.run_metrics import CORRECTED, PAPER
from agentsweep.analysis.values import datasets

_MOST_WIDE = 2
_BAND = "#b9d7ea"
_TOOLS = "#e9e9e9"
_CPU_LABELS = {
    PAPER: "CPU, mean since\nthe start (% of a core)",
    CORRECTED: "CPU load\n(% of a core)",
}
_DEFINITIONS = {
    PAPER: "CPU is the printed average since the container's start, memory the printed "
    "text with 1 GB as 1024 MB; a tool works from a call's request to its result.",
    CORRECTED: "CPU is the load between live samples, counted or reconstructed from the "
    "averages since the start, with the bounds of its error; memory is of live samples, in MB of "
    "10⁶ bytes; a tool works while a leaf call runs.",
}


def draw(cohorts: Sequence[Cohort], mode: str) -> Figure:
    """A pair of panels for each data set."""
    sets = datasets(cohorts)
    columns = min(len(sets), _MOST_WIDE)
    rows = -(-len(sets) // columns)
    figure, grid = plt.subplots(
        2 * rows, columns, figsize=(figure_style.TEXT, 0.35 + 2.7 * rows), squeeze=False,
        sharex="none", layout="constrained",
    )  # fmt: skip
    bounded = False
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        pair = grid[2 * row, column], grid[2 * row + 1, column]
        if place < len(sets):
            inches = figure_style.TEXT / columns - 0.8
            bounded |= _draw_pair(*pair, sets[place], mode, inches, column == 0)
        else:
            for panel in pair:
                panel.set_axis_off()
    handles = [
        Line2D([], [], color=figure_style.BLUE, label="CPU"),
        Line2D([], [], color=figure_style.VERMILION, label="memory"),
        figure_style.swatch(_TOOLS, "tool at work"),
    ]
    if bounded:
        handles.insert(1, figure_style.swatch(_BAND, "CPU, bounds of the error"))
    figure_style.legend_above(figure, handles)
    return figure


def _draw_pair(
    upper: Axes, lower: Axes, cohort: Cohort, mode: str, inches: float, first: bool
) -> bool:
    """Whether the CPU has bounds of an error, which the legend has to name."""
    run = claims_cpu.burstiest(cohort)
    name = cohort.name if run is None else f"{cohort.name}: {run.row['task'] or run.row['run_id']}"
    upper.set_title(figure_style.short(name, inches))
    if run is None:
        figure_style.say_instead(upper, "no run has two samples")
        lower.set_axis_off()
        return False
    seconds = max(float(run.series.t_s[-1]), 1e-9)
    for panel in (upper, lower):
        _draw_tools(panel, run, mode)
        panel.set_xlim(0, seconds)
        panel.margins(y=0.06)
    bounded = _draw_cpu(upper, run, mode)
    t_s, memory_mb = run_metrics.memory_over_time(run, mode)
    lower.plot(t_s, memory_mb, color=figure_style.VERMILION, linewidth=0.9)
    for panel in (upper, lower):
        panel.set_ylim(bottom=0)
    upper.tick_params(axis="x", labelbottom=False)
    lower.set_xlabel("time since the first sample (s)")
    if first:
        upper.set_ylabel(_CPU_LABELS[mode])
        lower.set_ylabel("memory\n(MB)")
        upper.figure.align_ylabels([upper, lower])
    return bounded


def _draw_cpu(panel: Axes, run: CohortRun, mode: str) -> bool:
    t_s, percent, error = run_metrics.cpu_over_time(run, mode)
    if not np.isfinite(percent).any():
        figure_style.say_instead(panel, "no CPU time is known")
        return False
    bounded = bool(error.any())
    if bounded:
        panel.stairs(
            percent + error, t_s, baseline=np.maximum(percent - error, 0), fill=True, color=_BAND
        )
    if mode == PAPER:
        panel.plot(t_s[:-1], percent, color=figure_style.BLUE, linewidth=0.9)
    else:
        panel.stairs(percent, t_s, baseline=None, color=figure_style.BLUE, linewidth=0.6)
    # The bounds may be far beyond: what was found decides the scale.
    panel.set_ylim(0, max(float(np.nanmax(percent)) * 1.08, 1.0))
    return bounded


def _draw_tools(panel: Axes, run: CohortRun, mode: str) -> None:
    start_ns = run.series.utc_ns[0]
    spans = [
        ((start - start_ns) / 1e9, (end - start) / 1e9)
        for start, end in run_metrics.tool_spans(run, mode)
    ]
    panel.broken_barh(
        spans, (0, 1), transform=panel.get_xaxis_transform(), color=_TOOLS, linewidth=0, zorder=0
    )


def caption(cohorts: Sequence[Cohort], mode: str) -> captions.Caption:
    """Which runs are shown, and the most of CPU and memory in each."""
    shown = {cohort.name: _shown(cohort, mode) for cohort in datasets(cohorts)}
    said = {
        name: "no run"
        if found is None
        else f"{found['run_id']} ({found['outcome'] or 'outcome unknown'}, "
        f"n = {captions.count(found['n_samples'], 'sample')}, "
        f"{captions.count(found['burst_steps'], 'burst step')}, CPU at most "
        f"{_rounded(found['cpu_max_percent'])} %, memory at most "
        f"{_rounded(found['memory_max_mb'])} MB)"
        for name, found in shown.items()
    }
    return captions.of_cohorts(
        cohorts,
        mode,
        [
            "Of each data set (n = 1 run) the run with the most steps in which printed CPU changes "
            f"by over {change_rates.RATE_BURST_CPU:g} %/s or memory by over "
            f"{change_rates.RATE_BURST_MEMORY_MB:g} MB/s.",
            f"Shown: {captions.each(said)}.",
            _DEFINITIONS[mode],
        ],
        shown=shown,
    )


def _shown(cohort: Cohort, mode: str) -> dict | None:
    run = claims_cpu.burstiest(cohort)
    if run is None:
        return None
    _, percent, _ = run_metrics.cpu_over_time(run, mode)
    known = percent[np.isfinite(percent)]
    _, memory_mb = run_metrics.memory_over_time(run, mode)
    return {
        "run_id": run.row["run_id"],
        "outcome": run.row["outcome"],
        "n_samples": len(memory_mb),
        "burst_steps": change_rates.burst_steps(run),
        "cpu_max_percent": float(known.max()) if len(known) else None,
        "memory_max_mb": float(memory_mb.max()),
    }


def _rounded(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    figure_style.paper_main(draw, caption)
