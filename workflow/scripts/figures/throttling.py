"""CPU throttling against the CPU limit: share of periods, and throttled time.

Lines and numbers are over completed runs; the others are drawn as what became of them.
"""

from collections.abc import Callable
from math import nan

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from agentsweep.analysis import captions, figure_style, sweep_metrics
from agentsweep.tables.dataset import Dataset
from agentsweep.tables.rows import Row

_NOTHING = "no run has CFS bandwidth counters"


def draw(dataset: Dataset) -> Figure:
    """A point for each run, a line through the medians of each task's completed ones."""
    cpus = sweep_metrics.cpu_limits(dataset.runs)
    subjects = figure_style.shown_subjects(sweep_metrics.by_subject(dataset.runs))
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(figure_style.TEXT * 0.75, 2.2), layout="constrained"
    )
    _draw_metric(
        left, subjects, cpus, lambda run: _times(sweep_metrics.throttled_period_share(run), 100)
    )
    left.set_ylabel("throttled CFS periods (%)")
    _draw_metric(right, subjects, cpus, sweep_metrics.throttled_s_per_s)
    right.set_ylabel("throttled time, summed\nover CPUs (s per s)")
    if left.axison:
        left.set_ylim(-3, 103)
    if right.axison:
        right.set_ylim(bottom=-0.03 * right.get_ylim()[1])
    handles = [
        Line2D([], [], color=colour, marker=marker, label=figure_style.short(name, 2.2))
        for name, colour, marker in _looks(subjects)
    ]
    handles += figure_style.censored_handles(dataset.runs)
    figure_style.legend_above(figure, handles)
    return figure


def _looks(subjects: dict) -> list[tuple]:
    return list(zip(subjects, figure_style.SUBJECT_COLOURS, figure_style.MARKERS, strict=False))


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _draw_metric(
    panel: Axes, subjects: dict, cpus: list, metric: Callable[[Row], float | None]
) -> None:
    drawn = False
    for number, (name, colour, marker) in enumerate(_looks(subjects)):
        dodge = 0.4 * ((number + 0.5) / len(subjects) - 0.5)
        medians = []
        for x, limit in enumerate(cpus):
            here = [run for run in subjects[name] if run["cpu_limit"] == limit]
            known = [run for run in here if metric(run) is not None]
            if not known:
                continue
            drawn = True
            offsets = figure_style.spread(len(known), 0.3 / len(subjects))
            for run, offset in zip(known, offsets, strict=True):
                panel.plot(
                    x + dodge + (offset if len(known) > 1 else 0), metric(run), zorder=3,
                    alpha=0.8 if len(known) < 10 else 0.4,
                    **figure_style.run_point(run, colour, marker),
                )  # fmt: skip
            middle = sweep_metrics.estimate(here, metric).value
            # No line across limits under which no run completed.
            medians.append((x + dodge, nan if middle is None else middle))
        if medians:
            panel.plot(*zip(*medians, strict=True), color=colour, zorder=2)
    if not drawn:
        figure_style.say_instead(panel, _NOTHING)
        return
    runs = [run for own in subjects.values() for run in own]
    groups = [[run for run in runs if run["cpu_limit"] == limit] for limit in cpus]
    names = list(map(figure_style.cpu_name, cpus))
    panel.set_xticks(range(len(cpus)), figure_style.completed_ticks(names, groups))
    panel.set_xlim(-0.5, len(cpus) - 0.5)
    panel.set_xlabel("CPU limit")
    panel.grid(axis="y")


def caption(dataset: Dataset) -> captions.Caption:
    """The median of both over the completed runs at each pair of limits."""
    runs = dataset.runs

    def share(here: list[Row]) -> str | None:
        found = sweep_metrics.estimate(here, sweep_metrics.throttled_period_share)
        return None if found.value is None else f"{captions.percent(found.value)} (n = {found.n})"

    def numbers(here: list[Row]) -> dict:
        found = sweep_metrics.estimate(here, sweep_metrics.throttled_period_share)
        rate = sweep_metrics.estimate(here, sweep_metrics.throttled_s_per_s)
        return {
            "median_period_share": found.value,
            "n_period_share": found.n,
            "median_s_per_s": rate.value,
            "n_s_per_s": rate.n,
        }

    n = sweep_metrics.estimate(runs, sweep_metrics.throttled_period_share).n
    return captions.describe(
        runs,
        [
            captions.n_completed(n, runs, "CFS bandwidth counters"),
            f"Median share of throttled periods: {captions.by_limits(runs, share)}.",
        ],
        n_counters=n,
        by_limits=captions.numbers_by_limits(runs, numbers),
    )


if __name__ == "__main__":
    figure_style.main(draw, caption)
