"""Fidelity of replays against the memory limit, and what became of the recorded calls.

Lines and medians are over completed runs; the fates of calls are of all, because those that a run
did not come to are among them.
"""

from collections.abc import Sequence
from math import nan

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from agentsweep.analysis import captions, figure_style, sweep_metrics
from agentsweep.extraction.fidelity import LIMITED
from agentsweep.tables.dataset import Dataset
from agentsweep.tables.rows import Row

_NO_REPLAY = "no run replays a recording"
_NO_CALL = "no call to compare"
_CALL_COLUMNS = ["run_id", "replay_status"]
# Colour, hatch and name; the effects of limits are framed besides.
_LOOKS = {
    "same": ("#9fd8c4", "", "same result"),
    "text_differs": (figure_style.SKY, "", "text differs"),
    "state_differs": (figure_style.BLUE, "", "end differs"),
    "killed": (figure_style.VERMILION, "//////", "killed (limit)"),
    "timed_out": (figure_style.YELLOW, "\\\\\\\\\\\\", "timed out (limit)"),
    "unfinished": ("#4d4d4d", "", "unfinished"),
    "not_comparable": ("#ffffff", "......", "not comparable"),
    "not_reached": (figure_style.PALE, "", "not reached"),
}
# Inches.
_PANEL_HEIGHT, _LEGEND_ROW_HEIGHT = 1.25, 0.14
# The strip in the colour of the series, in percent below the bars.
_STRIP = (-3, -8)
_SPREAD = 0.84


def draw(dataset: Dataset) -> Figure:
    """Two panels for each task: a point for each run, and a bar for each pair of limits."""
    runs = sweep_metrics.replayed(dataset.runs)
    if not runs:
        figure, (panel,) = figure_style.panels(1, _PANEL_HEIGHT)
        figure_style.say_instead(panel, _NO_REPLAY)
        return figure
    calls = dataset.rows("tool_calls", _CALL_COLUMNS)
    calls_of: dict[str, list[Row]] = {}
    for call in calls:
        calls_of.setdefault(call["run_id"], []).append(call)
    axis = _Axis(runs)
    subjects = figure_style.shown_subjects(sweep_metrics.by_subject(runs))
    wide = min(len(subjects), 3 if len(axis.ticks) <= 4 else 2)
    handles = _handles(axis, runs, sweep_metrics.fates(runs, calls))
    figure, pairs = _panels(len(subjects), wide, handles)
    inches = figure.get_figwidth() / wide - 0.4
    for place, ((above, below), (name, group)) in enumerate(
        zip(pairs, subjects.items(), strict=True)
    ):
        cells = sweep_metrics.by_cell(group)
        _draw_fidelity(above, axis, cells)
        _draw_fates(below, axis, cells, calls_of)
        above.set_title(figure_style.short(name, inches))
        if place % wide == 0:
            above.set_ylabel("fidelity of a run")
            below.set_ylabel("recorded calls (%)")
    figure_style.legend_above(figure, handles)
    return figure


class _Axis:
    """What runs along the panels and what is told apart by colour: memory and CPU limits. With one
    memory limit there is nothing to see along it: then it is the other way round."""

    def __init__(self, runs: Sequence[Row]):
        memory, cpus = sweep_metrics.memory_limits(runs), sweep_metrics.cpu_limits(runs)
        self.by_memory = len(memory) > 1 or len(cpus) == 1
        self.ticks, self.series = (memory, cpus) if self.by_memory else (cpus, memory)
        self.looks = figure_style.ordered_series(self.series)

    def cell(self, cells: dict, tick, value) -> list[Row]:
        return cells.get((tick, value) if self.by_memory else (value, tick), [])

    def offset(self, number: int) -> float:
        """Where the series of that number stands beside its tick."""
        return _SPREAD * ((number + 0.5) / len(self.series) - 0.5)

    def label(self, panel: Axes) -> None:
        naming = figure_style.memory_name if self.by_memory else figure_style.cpu_name
        panel.set_xticks(range(len(self.ticks)), map(naming, self.ticks))
        panel.set_xlim(-0.5, len(self.ticks) - 0.5)

    @property
    def name(self) -> str:
        return "memory limit" if self.by_memory else "CPU limit"

    def handles(self) -> list[Line2D]:
        naming = figure_style.cpus_name if self.by_memory else figure_style.memory_name
        return [
            Line2D([], [], color=colour, marker=marker, label=naming(value))
            for value, colour, marker in self.looks
        ]


def _panels(count: int, wide: int, handles: list) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure with `count` pairs of panels, one above the other, at most `wide` side by side, and
    with room for a legend of these handles."""
    rows = -(-count // wide)
    inches = figure_style.COLUMN if count == 1 else figure_style.TEXT
    legend_rows = -(-len(handles) // figure_style.legend_columns(handles, inches))
    figure, grid = plt.subplots(
        2 * rows,
        wide,
        figsize=(inches, 2 * _PANEL_HEIGHT * rows + _LEGEND_ROW_HEIGHT * legend_rows),
        squeeze=False,
        layout="constrained",
    )
    pairs = [(grid[2 * row, x], grid[2 * row + 1, x]) for row in range(rows) for x in range(wide)]
    for pair in pairs[count:]:
        for spare in pair:
            spare.set_axis_off()
    return figure, pairs[:count]


def _draw_fidelity(panel: Axes, axis: _Axis, cells: dict) -> None:
    drawn = False
    for number, (value, colour, marker) in enumerate(axis.looks):
        medians = []
        for x, tick in enumerate(axis.ticks):
            here = axis.cell(cells, tick, value)
            known = [run for run in here if sweep_metrics.run_fidelity(run) is not None]
            if not known:
                continue
            middle = x + axis.offset(number)
            for run, aside in zip(
                known, figure_style.spread(len(known), 0.5 / len(axis.series)), strict=True
            ):
                panel.plot(
                    middle + (aside if len(known) > 1 else 0), sweep_metrics.run_fidelity(run),
                    zorder=3, **figure_style.run_point(run, colour, marker),
                )  # fmt: skip
            drawn = True
            median = sweep_metrics.estimate(known, sweep_metrics.run_fidelity).value
            # No line across limits under which no run completed.
            medians.append((middle, nan if median is None else median))
        if medians:
            panel.plot(*zip(*medians, strict=True), color=colour, zorder=2)
    if not drawn:
        figure_style.say_instead(panel, _NO_CALL)
        return
    axis.label(panel)
    panel.tick_params(axis="x", labelbottom=False)
    panel.set_ylim(-0.04, 1.04)
    panel.grid(axis="y")


def _draw_fates(panel: Axes, axis: _Axis, cells: dict, calls_of: dict[str, list[Row]]) -> None:
    width = 0.86 * _SPREAD / len(axis.series)
    drawn = False
    for number, (value, colour, _) in enumerate(axis.looks):
        for x, tick in enumerate(axis.ticks):
            here = axis.cell(cells, tick, value)
            calls = [call for run in here for call in calls_of.get(run["run_id"], ())]
            counts = sweep_metrics.fates(here, calls)
            if not counts:
                continue
            drawn = True
            middle, bottom = x + axis.offset(number), 0.0
            for fate in counts:
                height = 100 * sweep_metrics.fate_share(counts, fate)
                panel.bar(middle, height, width, bottom=bottom, **_look(fate))
                bottom += height
            low, high = _STRIP
            panel.bar(middle, high - low, width, bottom=low, color=colour)
    if not drawn:
        figure_style.say_instead(panel, _NO_CALL)
        return
    axis.label(panel)
    panel.set_xlabel(axis.name)
    panel.set_ylim(min(_STRIP) - 2, 101)
    panel.set_yticks(range(0, 101, 25))
    panel.tick_params(axis="x", length=0)


def _look(fate: str) -> dict:
    colour, hatch, _ = _LOOKS[fate]
    if fate in LIMITED:
        edge = {"edgecolor": figure_style.BLACK, "linewidth": 0.7, "zorder": 3}
    else:
        edge = {
            "edgecolor": figure_style.GREY if hatch else "#ffffff",
            "linewidth": 0.3,
            "zorder": 2,
        }
    return {"facecolor": colour, "hatch": hatch, **edge}


def _handles(axis: _Axis, runs: list[Row], counts: dict[str, int]) -> list:
    handles = list(axis.handles())
    handles += figure_style.censored_handles(runs)
    # Of the others nothing is seen.
    return [*handles, *(Patch(label=_LOOKS[fate][2], **_look(fate)) for fate in counts)]


def caption(dataset: Dataset) -> captions.Caption:
    """Fidelity at each pair of limits, the calls' fates, and how many patches the runs left."""

    def median(here: list[Row]) -> str | None:
        found = sweep_metrics.estimate(here, sweep_metrics.run_fidelity).value
        return None if found is None else f"{found:.3f}"

    def numbers(here: list[Row]) -> dict:
        found = sweep_metrics.estimate(here, sweep_metrics.run_fidelity)
        return {"median_fidelity": found.value, "n": found.n}

    runs = sweep_metrics.replayed(dataset.runs)
    if not runs:
        count = captions.count(len(dataset.runs), "run")
        said = f"n = 0 of {count} (the others are no replays)."
        return captions.describe(dataset.runs, [said], n_replayed=0)
    counts = sweep_metrics.fates(runs, dataset.rows("tool_calls", _CALL_COLUMNS))
    overall = sweep_metrics.estimate(runs, sweep_metrics.run_fidelity)
    diverged = sum(map(sweep_metrics.has_diverged, runs))
    patches = {
        name: sweep_metrics.distinct_patches(group)
        for name, group in sweep_metrics.by_subject(runs).items()
    }
    return captions.describe(
        runs,
        [
            captions.n_completed(overall.n, runs, "a call to compare"),
            f"Median fidelity: {captions.by_limits(runs, median)}.",
            _fates_sentence(counts),
            f"{captions.count(diverged, 'run').capitalize()} left the recording.",
            _patches_sentence(patches),
        ],
        n_replayed=len(runs),
        n_fidelity=overall.n,
        median_fidelity=overall.value,
        by_limits=captions.numbers_by_limits(runs, numbers),
        fates=counts,
        limited_share=sweep_metrics.limited_share(counts),
        runs_diverged=diverged,
        patches={name: vars(found) for name, found in patches.items()},
    )


def _fates_sentence(counts: dict[str, int]) -> str:
    if not counts:
        return "No recorded call is known."
    parts = [
        f"{_LOOKS[fate][2]} {captions.percent(sweep_metrics.fate_share(counts, fate))}"
        for fate in counts
    ]
    return f"Of {captions.count(sum(counts.values()), 'recorded call')}: {', '.join(parts)}."


def _patches_sentence(patches: dict[str, sweep_metrics.Patches]) -> str:
    """Each task's distinct patches in completed runs; of many tasks, how many have one for each
    recording."""
    if len(patches) > figure_style.MOST_SUBJECTS:
        alike = sum(found.alike for found in patches.values())
        return (
            f"In {alike} of {len(patches)} tasks all completed replays of a recording left the "
            "same patch."
        )
    said = [
        f"{name} {found.distinct} in {captions.count(found.runs, 'run')} of "
        f"{captions.count(found.recordings, 'recording')}"
        for name, found in patches.items()
    ]
    return f"Distinct patches of completed runs by task: {', '.join(said)}."


if __name__ == "__main__":
    figure_style.main(draw, caption)
