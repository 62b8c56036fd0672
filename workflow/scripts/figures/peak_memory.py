"""Peak memory against the memory limit, with the limit drawn."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from agentsweep import captions, metrics, style
from agentsweep.dataset import Dataset

_MIB = 2**20


def draw(dataset: Dataset) -> Figure:
    """A point for each run, on a scale of powers of two; a bar at each limit that was set."""
    memory, cpus = metrics.memory_limits(dataset.runs), metrics.cpu_limits(dataset.runs)
    subjects = style.shown_subjects(metrics.by_subject(dataset.runs))
    wide = 3 if len(memory) <= 4 else 2
    figure, axes = style.panels(len(subjects), 1.9, wide=wide)
    inches = figure.get_figwidth() / min(len(subjects), wide) - 0.5
    looks = style.ordered_series(cpus)
    for place, (panel, (name, runs)) in enumerate(zip(axes, subjects.items(), strict=True)):
        cells = metrics.by_cell(runs)
        for x, limit in enumerate(memory):
            if limit is not None:
                panel.plot([x - 0.42, x + 0.42], [limit, limit], **style.LIMIT_LINE, zorder=1)
            for number, (cpu, colour, marker) in enumerate(looks):
                dodge = 0.6 * ((number + 0.5) / len(cpus) - 0.5)
                _draw_points(
                    panel, cells.get((limit, cpu), []), x + dodge, 0.5 / len(cpus), colour, marker
                )
        panel.set_title(style.short(name, inches))
        panel.set_xticks(range(len(memory)), map(style.memory_name, memory))
        panel.set_xlim(-0.5, len(memory) - 0.5)
        panel.set_xlabel("memory limit")
        panel.set_ylabel("peak memory (charged)" if place % wide == 0 else "")
        _set_scale(panel, runs, memory)
    handles = [
        Line2D([], [], linestyle="", color=colour, marker=marker, label=style.cpus_name(cpu))
        for cpu, colour, marker in looks
    ]
    if any(map(metrics.had_oom, dataset.runs)):
        handles.append(
            Line2D([], [], linestyle="", marker="o", markersize=4.2, markerfacecolor="#ffffff",
                   markeredgecolor=style.VERMILION, markeredgewidth=1.1, label="with an OOM kill")
        )  # fmt: skip
    if memory != [None]:
        handles.append(Line2D([], [], **style.LIMIT_LINE, label="memory limit"))
    style.legend_above(figure, handles)
    return figure


def _draw_points(panel: Axes, runs: list, x: float, width: float, colour, marker: str) -> None:
    known = [run for run in runs if metrics.peak_memory_bytes(run)]
    for run, offset in zip(known, style.spread(len(known), width), strict=True):
        here = (x + (offset if len(known) > 1 else 0), metrics.peak_memory_bytes(run))
        oom = metrics.had_oom(run)
        panel.plot(
            *here, marker=marker, color=colour, zorder=4 if oom else 3,
            markersize=4.2 if oom else 3.6, markeredgewidth=1.1 if oom else 0,
            markeredgecolor=style.VERMILION if oom else colour,
        )  # fmt: skip


def _set_scale(panel: Axes, runs: list, memory: list) -> None:
    levels = [peak for run in runs if (peak := metrics.peak_memory_bytes(run))]
    if not levels:
        style.say_instead(panel, "no run has a peak")
        return
    levels += [limit for limit in memory if limit]
    panel.set_yscale("log", base=2)
    low, high = min(levels) / 1.6, max(levels) * 1.3
    panel.set_ylim(low, high)
    powers = [2**e for e in range(10, 50) if low <= 2**e <= high]
    every = -(-len(powers) // 7)
    panel.yaxis.set_major_locator(FixedLocator(powers[::every]))
    panel.yaxis.set_major_formatter(FixedFormatter([style.memory_name(p) for p in powers[::every]]))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.grid(axis="y")


def caption(dataset: Dataset) -> captions.Caption:
    """Peaks as shares of the limit, and where they come from."""
    runs = dataset.runs
    share = metrics.estimate(runs, metrics.peak_share_of_limit)
    peak = metrics.estimate(runs, metrics.peak_memory_bytes)
    sources = metrics.peak_sources(runs)
    oom = sum(map(metrics.had_oom, runs))
    said = "unknown" if peak.value is None else f"{peak.value / _MIB:.0f} MiB"
    return captions.describe(
        runs,
        [
            captions.n_of(peak.n, runs, "peak"),
            f"Median peak {said}; median share of the limit {captions.percent(share.value)} "
            f"(n = {share.n}); {captions.count(oom, 'run')} with an OOM kill.",
            "Source of the peak: "
            + (", ".join(f"{name} ({n})" for name, n in sources.items()) or "unknown")
            + ".",
        ],
        n_peak=peak.n,
        median_peak_bytes=peak.value,
        median_share_of_limit=share.value,
        runs_with_oom=oom,
        peak_sources=sources,
    )


if __name__ == "__main__":
    style.main(draw, caption)
