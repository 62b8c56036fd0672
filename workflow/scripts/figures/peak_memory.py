"""Peak memory against the memory limit, with the limit drawn.

Numbers are over completed runs: the peak of a run that was killed is what it was given, not what it
needs. The others are drawn as what became of them.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from agentsweep.analysis import captions, figure_style, sweep_metrics
from agentsweep.tables.dataset import Dataset

_MIB = 2**20


def draw(dataset: Dataset) -> Figure:
    """A point for each run, on a scale of powers of two; a bar at each limit that was set."""
    memory, cpus = sweep_metrics.memory_limits(dataset.runs), sweep_metrics.cpu_limits(dataset.runs)
    subjects = figure_style.shown_subjects(sweep_metrics.by_subject(dataset.runs))
    wide = 3 if len(memory) <= 4 else 2
    figure, axes = figure_style.panels(len(subjects), 1.9, wide=wide)
    inches = figure.get_figwidth() / min(len(subjects), wide) - 0.5
    looks = figure_style.ordered_series(cpus)
    for place, (panel, (name, runs)) in enumerate(zip(axes, subjects.items(), strict=True)):
        cells = sweep_metrics.by_cell(runs)
        for x, limit in enumerate(memory):
            if limit is not None:
                panel.plot(
                    [x - 0.42, x + 0.42], [limit, limit], **figure_style.LIMIT_LINE, zorder=1
                )
            for number, (cpu, colour, marker) in enumerate(looks):
                dodge = 0.6 * ((number + 0.5) / len(cpus) - 0.5)
                _draw_points(
                    panel, cells.get((limit, cpu), []), x + dodge, 0.5 / len(cpus), colour, marker
                )
        panel.set_title(figure_style.short(name, inches))
        groups = [[run for run in runs if run["mem_limit_bytes"] == limit] for limit in memory]
        names = list(map(figure_style.memory_name, memory))
        panel.set_xticks(range(len(memory)), figure_style.completed_ticks(names, groups))
        panel.set_xlim(-0.5, len(memory) - 0.5)
        panel.set_xlabel("memory limit")
        panel.set_ylabel("peak memory (charged)" if place % wide == 0 else "")
        _set_scale(panel, runs, memory)
    handles = [
        Line2D([], [], linestyle="", color=colour, marker=marker, label=figure_style.cpus_name(cpu))
        for cpu, colour, marker in looks
    ]
    handles += figure_style.censored_handles(dataset.runs)
    if any(map(sweep_metrics.had_oom, sweep_metrics.completed(dataset.runs))):
        handles.append(
            Line2D([], [], linestyle="", marker="o", markersize=4.2, markerfacecolor="#ffffff",
                   markeredgecolor=figure_style.VERMILION, markeredgewidth=1.1,
                   label="completed with an OOM kill")
        )  # fmt: skip
    if memory != [None]:
        handles.append(Line2D([], [], **figure_style.LIMIT_LINE, label="memory limit"))
    figure_style.legend_above(figure, handles)
    return figure


def _draw_points(panel: Axes, runs: list, x: float, width: float, colour, marker: str) -> None:
    known = [run for run in runs if sweep_metrics.peak_memory_bytes(run)]
    for run, offset in zip(known, figure_style.spread(len(known), width), strict=True):
        here = (x + (offset if len(known) > 1 else 0), sweep_metrics.peak_memory_bytes(run))
        look = figure_style.run_point(run, colour, marker)
        oom = sweep_metrics.had_oom(run)
        if oom and sweep_metrics.is_completed(run):
            look |= {
                "markersize": 4.2,
                "markeredgewidth": 1.1,
                "markeredgecolor": figure_style.VERMILION,
            }
        panel.plot(*here, zorder=4 if oom else 3, **look)


def _set_scale(panel: Axes, runs: list, memory: list) -> None:
    levels = [peak for run in runs if (peak := sweep_metrics.peak_memory_bytes(run))]
    if not levels:
        figure_style.say_instead(panel, "no run has a peak")
        return
    levels += [limit for limit in memory if limit]
    panel.set_yscale("log", base=2)
    low, high = min(levels) / 1.6, max(levels) * 1.3
    panel.set_ylim(low, high)
    powers = [2**e for e in range(10, 50) if low <= 2**e <= high]
    every = -(-len(powers) // 7)
    panel.yaxis.set_major_locator(FixedLocator(powers[::every]))
    panel.yaxis.set_major_formatter(
        FixedFormatter([figure_style.memory_name(p) for p in powers[::every]])
    )
    panel.yaxis.set_minor_locator(NullLocator())
    panel.grid(axis="y")


def caption(dataset: Dataset) -> captions.Caption:
    """Peaks of completed runs at each pair of limits, and where they come from."""
    runs = dataset.runs
    known = sweep_metrics.estimate(runs, sweep_metrics.peak_memory_bytes).n
    sources = sweep_metrics.peak_sources(runs)
    oom = sum(map(sweep_metrics.had_oom, runs))

    def peak(here: list) -> str | None:
        found = sweep_metrics.estimate(here, sweep_metrics.peak_memory_bytes).value
        if found is None:
            return None
        share = sweep_metrics.estimate(here, sweep_metrics.peak_share_of_limit).value
        of_limit = "" if share is None else f" ({captions.percent(share)} of the limit)"
        return f"{found / _MIB:.0f} MiB{of_limit}"

    def numbers(here: list) -> dict:
        found = sweep_metrics.estimate(here, sweep_metrics.peak_memory_bytes)
        share = sweep_metrics.estimate(here, sweep_metrics.peak_share_of_limit)
        return {
            "median_peak_bytes": found.value,
            "median_share_of_limit": share.value,
            "n": found.n,
        }

    return captions.describe(
        runs,
        [
            captions.n_completed(known, runs, "a peak"),
            f"Median peak: {captions.by_limits(runs, peak)}; {captions.count(oom, 'run')} with an "
            "OOM kill.",
            "Source of the peak: "
            + (", ".join(f"{name} ({n})" for name, n in sources.items()) or "unknown")
            + ".",
        ],
        n_peak=known,
        by_limits=captions.numbers_by_limits(runs, numbers),
        runs_with_oom=oom,
        peak_sources=sources,
    )


if __name__ == "__main__":
    figure_style.main(draw, caption)
