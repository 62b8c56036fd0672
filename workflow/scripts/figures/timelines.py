"""A timeline of each run: memory and its limit, CPU and its limit, tool calls, OOM kills."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from agentsweep.analysis import captions, figure_style, sweep_metrics
from agentsweep.analysis.curves import (
    Curve,
    kill_times,
    peak_curve,
    rate_curve,
    tool_bands,
    working_set_bytes,
)
from agentsweep.analysis.run_metrics import UNKNOWN
from agentsweep.cpu_modes import CPUSET
from agentsweep.tables.dataset import Dataset
from agentsweep.tables.rows import Row

_COUNTERS = (
    "memory_current_bytes", "memory_anon_bytes", "memory_inactive_file_bytes",
    "memory_oom_kill", "cpu_usage_usec",
)  # fmt: skip
_CALLS = [
    "run_id", "category", "start_ns", "end_ns", "start_utc_ns", "end_utc_ns",
]  # fmt: skip
_MIB = 2**20
# Two beside each other, as many rows as a page holds.
_ACROSS, _DOWN, _HEIGHT = 2, 5, 1.72
# A little wider than the axes, so that neighbours stay apart.
_TITLE_INCHES = 2.85
_SELECTED = 8
# A limit further up than this many peaks would press the curve flat.
_LIMIT_IN_VIEW = 2.5

_BANDS = {
    "test": figure_style.VERMILION,
    "build": figure_style.ORANGE,
    "install": figure_style.ORANGE,
    "python": figure_style.BLUE,
    "git": figure_style.PURPLE,
    "edit": figure_style.GREEN,
    "explore": figure_style.SKY,
    "read": figure_style.SKY,
    "search": figure_style.SKY,
}
_BAND_NAMES = {
    figure_style.VERMILION: "test",
    figure_style.ORANGE: "build, install",
    figure_style.BLUE: "python",
    figure_style.PURPLE: "git",
    figure_style.GREEN: "edit",
    figure_style.SKY: "explore, read, search",
    figure_style.GREY: "other tool",
}


@dataclass
class _Timeline:
    """What is drawn of one run; curves are empty where there are no samples."""

    run: Row
    length_s: float
    working_set: Curve
    anon: Curve
    cpus: Curve
    kills: list[tuple[float, int]]
    bands: list[tuple[float, float, str]]
    memory_name: str


def draw(dataset: Dataset) -> Figure:
    """The selected runs: the corners of the grid (see `selection`)."""
    chosen = selection(dataset.runs)
    return _page(_timelines(chosen, _curves_by_run(dataset, chosen), _calls_by_run(dataset)))


def pages(dataset: Dataset) -> Iterator[Figure]:
    """All runs, ten a page, by task, memory limit, CPU limit and replicate."""
    ordered, calls = _ordered(dataset.runs), _calls_by_run(dataset)
    curves = _curves_by_run(dataset, ordered)
    for first in range(0, len(ordered), _ACROSS * _DOWN):
        yield _page(_timelines(ordered[first : first + _ACROSS * _DOWN], curves, calls))


def selection(runs: Sequence[Row]) -> list[Row]:
    """All runs if they are eight or fewer, else first replicates at the corners of the grid.

    The corners are the smallest and the largest limits; tasks in the order of their names.
    """
    ordered = _ordered(runs)
    if len(ordered) <= _SELECTED:
        return ordered
    memory, cpus = sweep_metrics.memory_limits(runs), sweep_metrics.cpu_limits(runs)
    corners = {(m, c) for m in (memory[0], memory[-1]) for c in (cpus[0], cpus[-1])}
    seen, chosen = set(), []
    for run in ordered:
        limits = (run["mem_limit_bytes"], run["cpu_limit"])
        cell = (run["task"], run["agent"], run["cpu_mode"], *limits)
        if cell not in seen and limits in corners:
            seen.add(cell)
            chosen.append(run)
    return (chosen or ordered)[:_SELECTED]


def _ordered(runs: Sequence[Row]) -> list[Row]:
    last = float("inf")
    return sorted(
        runs,
        key=lambda run: (
            run["task"] or "",
            run["agent"] or "",
            last if run["mem_limit_bytes"] is None else run["mem_limit_bytes"],
            last if run["cpu_limit"] is None else run["cpu_limit"],
            run["replicate"] or 0,
            run["run_id"],
        ),
    )


def _calls_by_run(dataset: Dataset) -> dict[str, list[Row]]:
    calls: dict[str, list[Row]] = {}
    for call in dataset.rows("tool_calls", _CALLS):
        calls.setdefault(call["run_id"], []).append(call)
    return calls


def _curves_by_run(dataset: Dataset, runs: Sequence[Row]) -> dict[str, dict]:
    """One pass over the samples, which keeps some kilobytes of each run."""
    wanted = {run["run_id"]: run for run in runs}
    return {
        run_id: _curves(wanted[run_id], arrays)
        for run_id, arrays in dataset.samples(_COUNTERS, wanted)
    }


def _timelines(
    runs: Sequence[Row], curves: dict[str, dict], calls: dict[str, list[Row]]
) -> list[_Timeline]:
    return [_timeline(run, curves.get(run["run_id"]), calls.get(run["run_id"], [])) for run in runs]


def _curves(run: Row, samples: dict) -> dict:
    """The curves of one run, thinned, so that the samples themselves can go."""
    t_ns = samples["t_ns"]
    start = run["agent_start_ns"] if run["agent_start_ns"] is not None else int(t_ns[0])
    end = run["agent_end_ns"] if run["agent_end_ns"] is not None else int(t_ns[-1])
    level, name = working_set_bytes(samples), "working set"
    if not peak_curve(t_ns, level, start, end).t_s.size:
        level, name = samples["memory_current_bytes"], "memory charged"
    return {
        "start_ns": start,
        "end_ns": end,
        "working_set": peak_curve(t_ns, level, start, end),
        "anon": peak_curve(t_ns, samples["memory_anon_bytes"], start, end),
        "cpus": rate_curve(t_ns, samples["cpu_usage_usec"], start, end),
        "kills": kill_times(t_ns, samples["memory_oom_kill"], start),
        "memory_name": name,
    }


def _timeline(run: Row, curves: dict | None, calls: Sequence[Row]) -> _Timeline:
    if curves is None:
        starts = [call["start_ns"] for call in calls if call["start_ns"] is not None]
        start = (
            run["agent_start_ns"] if run["agent_start_ns"] is not None else min(starts, default=0)
        )
        ends = [call["end_ns"] for call in calls if call["end_ns"] is not None]
        end = run["agent_end_ns"] if run["agent_end_ns"] is not None else max(ends, default=start)
        nothing = Curve(np.empty(0), np.empty(0))
        curves = {"start_ns": start, "end_ns": end, "working_set": nothing, "anon": nothing,
                  "cpus": nothing, "kills": [], "memory_name": "working set"}  # fmt: skip
    start, end = curves["start_ns"], curves["end_ns"]
    return _Timeline(
        run=run,
        length_s=(end - start) / 1e9,
        bands=tool_bands(calls, run, start, end),
        **{name: value for name, value in curves.items() if not name.endswith("_ns")},
    )


def _page(timelines: Sequence[_Timeline]) -> Figure:
    rows = -(-len(timelines) // _ACROSS)
    across = min(_ACROSS, len(timelines))
    width = figure_style.TEXT if across > 1 else figure_style.COLUMN * 1.4
    handles = _handles(timelines)
    columns = figure_style.legend_columns(handles, width)
    head = 0.36 + 0.145 * -(-len(handles) // columns)
    height = rows * _HEIGHT + head - 0.21
    # Exact places, not a layout engine: every page looks alike, and hundreds are drawn in time.
    figure = plt.figure(figsize=(width, height))
    grid = figure.add_gridspec(
        rows, across, left=0.58 / width, right=1 - 0.12 / width, top=1 - head / height,
        bottom=0.36 / height, wspace=0.3, hspace=0.52,
    )  # fmt: skip
    for place, timeline in enumerate(timelines):
        _draw_run(figure, grid[place // across, place % across], timeline, place, len(timelines))
    figure.legend(
        handles=handles, loc="upper center", ncols=columns, borderpad=0.1,
        bbox_to_anchor=(0.5, 1 - 0.02 / height),
    )  # fmt: skip
    return figure


def _draw_run(
    figure: Figure, cell: SubplotSpec, timeline: _Timeline, place: int, count: int
) -> None:
    parts = cell.subgridspec(2, 1, height_ratios=(1, 0.62), hspace=0.12)
    memory = figure.add_subplot(parts[0])
    cpu = figure.add_subplot(parts[1])
    _draw_strip(memory, timeline)
    _draw_memory(memory, timeline)
    _draw_cpu(cpu, timeline)
    for panel in (memory, cpu):
        panel.set_xlim(0, timeline.length_s or 1)
        panel.yaxis.set_label_coords(-0.115, 0.5)
    memory.tick_params(labelbottom=False)
    memory.set_title(_title(timeline.run), fontsize=6.5, pad=10)
    if not timeline.length_s:
        cpu.set_xticks([])
    if place >= count - _ACROSS:
        cpu.set_xlabel("time since the agent's start (s)")


def _title(run: Row) -> str:
    memory = run["mem_limit_bytes"]
    memory_limit = "no memory limit" if memory is None else figure_style.memory_name(memory)
    limits = f"{memory_limit}, {figure_style.cpus_name(run['cpu_limit'])}"
    if run["cpu_mode"] == CPUSET:
        limits += " pinned"
    outcome = figure_style.OUTCOME_NAMES.get(run["outcome"] or UNKNOWN, run["outcome"])
    least, most = sweep_metrics.tool_kill_bounds(run)
    kills = f", {least} tool OOM" if least else ""
    if least is None and run["oom_kill_count"]:
        kills = f", 0-{most} tool OOM"
    replicate = f", #{run['replicate']}" if run["replicate"] else ""
    rest = f", {limits}{replicate}: {outcome}{kills}"
    room = _TITLE_INCHES - figure_style.width_inches(rest, 6.5)
    return figure_style.short(run["task"] or UNKNOWN, room, 6.5) + rest


def _draw_strip(panel: Axes, timeline: _Timeline) -> None:
    """The tool calls by category, in a strip above the panel."""
    # A call shorter than half a point would be invisible.
    least = timeline.length_s / 400
    for colour in _BAND_NAMES:
        spans = [
            (start, max(end - start, least))
            for start, end, category in timeline.bands
            if _BANDS.get(category, figure_style.GREY) == colour
        ]
        panel.broken_barh(
            spans, (1.04, 0.1), facecolor=colour, linewidth=0, clip_on=False,
            transform=panel.get_xaxis_transform(),
        )  # fmt: skip


def _shade(panel: Axes, timeline: _Timeline) -> None:
    panel.broken_barh(
        [(start, end - start) for start, end, _ in timeline.bands], (0, 1), facecolor="#f0f0f0",
        linewidth=0, zorder=0, transform=panel.get_xaxis_transform(),
    )  # fmt: skip


def _draw_memory(panel: Axes, timeline: _Timeline) -> None:
    panel.set_ylabel("MiB")
    if timeline.working_set.empty and timeline.anon.empty:
        panel.set_yticks([])
        panel.text(0.5, 0.5, "no samples", ha="center", va="center", transform=panel.transAxes,
                   color=figure_style.GREY)  # fmt: skip
        return
    _shade(panel, timeline)
    highest = 0.0
    for curve, colour, line in (
        (timeline.anon, figure_style.ORANGE, {"linewidth": 0.8}),
        (timeline.working_set, figure_style.BLUE, {"linewidth": 1.0}),
    ):
        if not curve.empty:
            panel.plot(curve.t_s, curve.value / _MIB, color=colour, **line)
            highest = max(highest, float(np.nanmax(curve.value)) / _MIB)
    limit_bytes = sweep_metrics.memory_limit_bytes(timeline.run)
    top = highest * 1.12 or 1.0
    if limit_bytes is not None:
        limit = limit_bytes / _MIB
        if limit <= _LIMIT_IN_VIEW * highest:
            panel.axhline(limit, **figure_style.LIMIT_LINE, zorder=1)
            top = max(top, limit * 1.12)
        else:
            top = highest * 1.4
            panel.text(0.995, 0.97, f"limit {figure_style.memory_name(limit_bytes)} ↑", ha="right",
                       va="top", transform=panel.transAxes, fontsize=5.5)  # fmt: skip
    panel.set_ylim(0, top)
    for second, kills in timeline.kills:
        panel.plot(second, top * 0.9, marker="v", markersize=4.5, color=figure_style.VERMILION,
                   markeredgecolor=figure_style.BLACK, markeredgewidth=0.4, zorder=5)  # fmt: skip
        if kills > 1:
            panel.annotate(f"{kills}", (second, top * 0.9), (4, -2), textcoords="offset points",
                           fontsize=5.5)  # fmt: skip
    panel.locator_params(axis="y", nbins=4)


def _draw_cpu(panel: Axes, timeline: _Timeline) -> None:
    panel.set_ylabel("CPUs")
    if timeline.cpus.empty:
        panel.set_yticks([])
        return
    _shade(panel, timeline)
    panel.plot(timeline.cpus.t_s, timeline.cpus.value, color=figure_style.GREEN, linewidth=0.8)
    highest = float(np.nanmax(timeline.cpus.value))
    limit = timeline.run["cpu_limit"]
    top = max(highest * 1.12, 0.1)
    if limit is not None and limit <= _LIMIT_IN_VIEW * max(highest, 0.2):
        panel.axhline(limit, **figure_style.LIMIT_LINE, zorder=1)
        top = max(top, limit * 1.25)
    elif limit is not None:
        top = max(highest * 1.5, 0.1)
        panel.text(0.995, 0.95, f"limit {figure_style.cpu_name(limit)} ↑", ha="right", va="top",
                   transform=panel.transAxes, fontsize=5.5)  # fmt: skip
    panel.set_ylim(0, top)
    # The topmost label would stand in the panel above.
    panel.yaxis.set_major_locator(MaxNLocator(3, steps=(1, 2, 5, 10), prune="upper"))


def _handles(timelines: Sequence[_Timeline]) -> list:
    names = sorted({timeline.memory_name for timeline in timelines}, reverse=True)
    handles = [
        Line2D([], [], color=figure_style.BLUE, label=" or ".join(names)),
        Line2D([], [], color=figure_style.ORANGE, linewidth=0.8, label="anonymous memory"),
        Line2D([], [], color=figure_style.GREEN, linewidth=0.8, label="CPU use"),
        Line2D([], [], **figure_style.LIMIT_LINE, label="limit"),
        Line2D([], [], linestyle="", marker="v", markersize=4.5, color=figure_style.VERMILION,
               markeredgecolor=figure_style.BLACK, markeredgewidth=0.4, label="OOM kill"),
    ]  # fmt: skip
    occur = {
        _BANDS.get(band[2], figure_style.GREY) for timeline in timelines for band in timeline.bands
    }
    handles += [figure_style.swatch(c, name) for c, name in _BAND_NAMES.items() if c in occur]
    return handles


def caption(dataset: Dataset) -> captions.Caption:
    """How many runs, how many are shown, and which have no samples."""
    runs = dataset.runs
    shown = len(selection(runs))
    sampled = sum((run["n_samples"] or 0) > 0 for run in runs)
    which = "all" if shown == len(runs) else f"{shown}, at the corners of the grid,"
    return captions.describe(
        runs,
        [
            f"n = {captions.count(len(runs), 'run')}; {which} are shown here, every one in the "
            "PDF.",
            f"{captions.count(sampled, 'run')} with samples.",
        ],
        n_shown=shown,
        n_sampled=sampled,
        shown=[run["run_id"] for run in selection(runs)],
    )


if __name__ == "__main__":
    figure_style.main(draw, caption, pages)
