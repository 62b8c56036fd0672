"""Share of runs that resolved their task, with its interval, by memory and CPU limit.

Runs whose outcome says nothing about the limit are in no share.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from agentsweep.analysis import captions, figure_style, resolved_share, sweep_metrics
from agentsweep.tables.dataset import Dataset
from agentsweep.tables.rows import Row

_NOTHING = "no run's patch was graded"


def draw(dataset: Dataset) -> Figure:
    """Memory limit across, a colour for each CPU limit, a panel for each agent."""
    memory, cpus = sweep_metrics.memory_limits(dataset.runs), sweep_metrics.cpu_limits(dataset.runs)
    agents = figure_style.shown_subjects(_by_agent(dataset.runs))
    wide = 2 if len(memory) > 2 else 3
    figure, axes = figure_style.panels(len(agents), 1.9, wide=wide)
    looks = figure_style.ordered_series(cpus)
    for place, (panel, (name, runs)) in enumerate(zip(axes, agents.items(), strict=True)):
        drawn = [
            _draw_series(panel, runs, memory, look, 0.7 * ((number + 0.5) / len(cpus) - 0.5))
            for number, look in enumerate(looks)
        ]
        if len(agents) > 1:
            panel.set_title(figure_style.short(name, 2.4))
        if not any(drawn):
            figure_style.say_instead(panel, _NOTHING)
            continue
        panel.set_xticks(range(len(memory)), map(figure_style.memory_name, memory))
        panel.set(xlim=(-0.5, len(memory) - 0.5), ylim=(-4, 112), yticks=(0, 25, 50, 75, 100))
        panel.set_xlabel("memory limit")
        panel.set_ylabel("runs that resolved\ntheir task (%)" if place % wide == 0 else "")
        panel.grid(axis="y")
    if any(panel.axison for panel in axes):
        handles = [
            Line2D(
                [],
                [],
                color=colour,
                marker=marker,
                linestyle="",
                label=figure_style.cpus_name(limit),
            )
            for limit, colour, marker in looks
        ]
        figure_style.legend_above(figure, handles)
    return figure


def _draw_series(panel: Axes, runs: list[Row], memory: list, look: tuple, dodge: float) -> bool:
    """The points of one CPU limit; whether there were any."""
    cpu_limit, colour, marker = look
    drawn = False
    for x, limit in enumerate(memory):
        here = [
            run for run in runs if run["mem_limit_bytes"] == limit and run["cpu_limit"] == cpu_limit
        ]
        found = resolved_share.resolved(here)
        if found is None:
            continue
        drawn = True
        panel.errorbar(
            [x + dodge], [100 * found.share],
            yerr=[[100 * (found.share - found.lower)], [100 * (found.upper - found.share)]],
            color=colour, marker=marker, capsize=2, elinewidth=0.8, zorder=3,
        )  # fmt: skip
        panel.annotate(
            f"{found.count}/{found.n}", (x + dodge, 100 * found.upper), xytext=(0, 4),
            textcoords="offset points", ha="center", va="bottom", fontsize=5.2,
        )  # fmt: skip
    return drawn


def _by_agent(runs: list[Row]) -> dict[str, list[Row]]:
    """The runs of each agent, and of each CPU mode where there are several."""
    found: dict[str, list[Row]] = {}
    for mode, own in sweep_metrics.by_cpu_mode(runs).items():
        for run in own:
            name = f"{run['agent']} ({mode})" if mode else run["agent"]
            found.setdefault(name, []).append(run)
    return found


def caption(dataset: Dataset) -> captions.Caption:
    """The share at each pair of limits, and how many runs were not graded."""
    runs = dataset.runs
    numbers = {}
    for agent, own in _by_agent(runs).items():
        for (memory, cpus), here in sweep_metrics.by_cell(own).items():
            found = resolved_share.resolved(here)
            if found is not None:
                name = f"{agent}, {figure_style.memory_name(memory)}, {figure_style.cpu_name(cpus)}"
                numbers[name] = {
                    "resolved": found.count,
                    "n": found.n,
                    "share": found.share,
                    "lower": found.lower,
                    "upper": found.upper,
                    "left_out": sweep_metrics.left_out_counts(here),
                }
    everything = resolved_share.resolved(runs)
    said = "No run was graded."
    if everything is not None:
        said = (
            f"{everything.count} of {everything.n} graded runs resolved their task "
            f"({captions.percent(everything.share)}, 95% interval "
            f"{captions.percent(everything.lower)} to {captions.percent(everything.upper)})."
        )
    graded = everything.n if everything else 0
    tasks = len({r["task"] for r in sweep_metrics.countable(runs) if r["resolved"] is not None})
    countable = sweep_metrics.countable(runs)
    sentences = [
        said,
        f"Tasks with graded runs: {tasks}.",
        captions.n_of(graded, countable, "grading"),
        *captions.left_out(runs),
    ]
    return captions.describe(
        runs,
        sentences,
        n_graded=graded,
        n_tasks=tasks,
        n_countable=len(countable),
        left_out=sweep_metrics.left_out_counts(runs),
        by_limits=numbers,
    )


if __name__ == "__main__":
    figure_style.main(draw, caption)
