"""Wall time of the agent's phase against the memory limit, one line for each CPU limit.

Lines and numbers are over completed runs; the others are drawn as what became of them.
"""

from math import nan

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from agentsweep.analysis import captions, figure_style, sweep_metrics
from agentsweep.tables.dataset import Dataset

# From this ratio of the longest to the shortest on, seconds are on a logarithmic axis.
_LOG_FROM = 30


def draw(dataset: Dataset) -> Figure:
    """A point for each run, a line through the medians of the completed ones."""
    memory, cpus = sweep_metrics.memory_limits(dataset.runs), sweep_metrics.cpu_limits(dataset.runs)
    # With one memory limit there is nothing to see along it: then the CPU limit is the axis.
    by_memory = len(memory) > 1 or len(cpus) == 1
    ticks, series = (memory, cpus) if by_memory else (cpus, memory)
    subjects = figure_style.shown_subjects(sweep_metrics.by_subject(dataset.runs))
    wide = 3 if len(ticks) <= 4 else 2
    figure, axes = figure_style.panels(len(subjects), 1.9, wide=wide)
    inches = figure.get_figwidth() / min(len(subjects), wide) - 0.4
    looks = figure_style.ordered_series(series)
    for place, (panel, (name, runs)) in enumerate(zip(axes, subjects.items(), strict=True)):
        cells = sweep_metrics.by_cell(runs)
        for number, (value, colour, marker) in enumerate(looks):
            dodge = 0.5 * ((number + 0.5) / len(series) - 0.5)
            medians = []
            for x, tick in enumerate(ticks):
                here = cells.get((tick, value) if by_memory else (value, tick), [])
                _draw_points(panel, here, x + dodge, 0.4 / len(series), colour, marker)
                median = sweep_metrics.estimate(here, sweep_metrics.agent_wall_s).value
                # No line across limits under which no run completed.
                medians.append(nan if here and median is None else median)
            known = [(x + dodge, m) for x, m in enumerate(medians) if m is not None]
            panel.plot(*zip(*known, strict=True) if known else ([], []), color=colour, zorder=2)
        panel.set_title(figure_style.short(name, inches))
        limit = "mem_limit_bytes" if by_memory else "cpu_limit"
        names = list(map(figure_style.memory_name if by_memory else figure_style.cpu_name, ticks))
        groups = [[run for run in runs if run[limit] == tick] for tick in ticks]
        panel.set_xticks(range(len(ticks)), figure_style.completed_ticks(names, groups))
        panel.set_xlim(-0.5, len(ticks) - 0.5)
        panel.set_xlabel("memory limit" if by_memory else "CPU limit")
        panel.set_ylabel("wall time of the agent (s)" if place % wide == 0 else "")
        panel.grid(axis="y")
        _set_scale(panel, [run["agent_s"] for run in runs if run["agent_s"]])
    naming = figure_style.cpus_name if by_memory else figure_style.memory_name
    handles = [
        Line2D([], [], color=colour, marker=marker, label=naming(value))
        for value, colour, marker in looks
    ]
    handles += figure_style.censored_handles(dataset.runs)
    figure_style.legend_above(figure, handles)
    return figure


def _draw_points(panel, runs: list, x: float, width: float, colour, marker: str) -> None:
    timed = [run for run in runs if sweep_metrics.agent_wall_s(run) is not None]
    for run, offset in zip(timed, figure_style.spread(len(timed), width), strict=True):
        panel.plot(
            x + (offset if len(timed) > 1 else 0), sweep_metrics.agent_wall_s(run), zorder=3,
            alpha=1.0 if len(timed) < 10 else 0.5, **figure_style.run_point(run, colour, marker),
        )  # fmt: skip


def _set_scale(panel, seconds: list[float]) -> None:
    if not seconds:
        figure_style.say_instead(panel, "no run has a time")
    elif max(seconds) > _LOG_FROM * min(seconds):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    else:
        panel.set_ylim(0, max(seconds) * 1.08)
        panel.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))


def caption(dataset: Dataset) -> captions.Caption:
    """The median wall time of completed runs at each pair of limits."""
    runs = dataset.runs

    def median_s(here: list) -> str | None:
        found = sweep_metrics.estimate(here, sweep_metrics.agent_wall_s).value
        return None if found is None else f"{found:.1f} s"

    def numbers(here: list) -> dict:
        found = sweep_metrics.estimate(here, sweep_metrics.agent_wall_s)
        return {"median_s": found.value, "n": found.n}

    overall = sweep_metrics.estimate(runs, sweep_metrics.agent_wall_s)
    return captions.describe(
        runs,
        [
            captions.n_completed(overall.n, runs, "a time"),
            f"Median over all tasks: {captions.by_limits(runs, median_s)}.",
        ],
        n_timed=overall.n,
        median_by_limits=captions.numbers_by_limits(runs, numbers),
    )


if __name__ == "__main__":
    figure_style.main(draw, caption)
