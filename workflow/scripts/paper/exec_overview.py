"""How long tasks take, and how much of the active time is the tools' and the model's."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from agentsweep.analysis import (
    captions,
    claims_time,
    figure_style,
    run_metrics,
    sweep_metrics,
)
from agentsweep.analysis.cohort import Cohort
from agentsweep.analysis.run_metrics import CORRECTED, PAPER
from agentsweep.analysis.values import counted, datasets, everything

# Colour, name and hatch of the parts of a bar.
_LOOKS = {
    "tools": (figure_style.ORANGE, "tools", ""),
    "both": (figure_style.BLUE, "both at once", "////"),
    "model": (figure_style.SKY, "model", ""),
    "other": (figure_style.PALE, "neither", ""),
}
_SUMMARIES = (
    ("mean", claims_time.task_duration_mean, "-"),
    ("median", claims_time.task_duration_median, (0, (3, 1.5))),
)
_BINS = 20
# A part of less than this, in percent, cannot be seen and needs no entry in the legend.
_VISIBLE = 0.4
_BOUNDS = {"color": figure_style.BLACK, "linewidth": 0.9, "marker": "|", "markersize": 4}
_DEFINITIONS = {
    PAPER: "A duration is the container's time, its creation included; the tools' share "
    "sums request-to-result times over the session's span, and the rest is called the model's.",
    CORRECTED: "A duration is the agent's phase, its start to its last record; shares are "
    "of that phase after its start-up, in which time with several tools at work counts once and a "
    "sub-agent's model is model.",
}


def draw(cohorts: Sequence[Cohort], mode: str) -> Figure:
    """Durations of all runs with their mean and median; a bar of shares for each data set."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(figure_style.TEXT, 2.35), width_ratios=(1.25, 1), layout="constrained"
    )
    left.set_title("(a) task duration")
    right.set_title("(b) active time")
    _draw_durations(left, cohorts, mode)
    _draw_shares(right, cohorts, mode)
    return figure


def _draw_durations(panel: Axes, cohorts: Sequence[Cohort], mode: str) -> None:
    looks = figure_style.dataset_colours(cohorts)
    minutes = [_minutes(cohort, mode) for cohort, _ in looks]
    together = np.concatenate(minutes)
    if not len(together):
        figure_style.say_instead(panel, "no run has a duration")
        return
    bins = np.linspace(0, together.max() * 1.001, _BINS + 1)
    panel.hist(minutes, bins, color=[colour for _, colour in looks], rwidth=0.9)
    handles = figure_style.dataset_swatches(cohorts)
    for name, metric, dashes in _SUMMARIES:
        value = metric(everything(cohorts), mode).value / 60
        panel.axvline(value, color=figure_style.BLACK, linewidth=1, linestyle=dashes)
        whose = "all" if mode == PAPER else "completed"
        label = f"{name} of {whose}: {value:.3g} min"
        handles.append(
            Line2D([], [], color=figure_style.BLACK, linewidth=1, linestyle=dashes, label=label)
        )
    panel.set_xlim(0, bins[-1])
    if mode == CORRECTED:
        handles += _draw_censored(panel, everything(cohorts), bins[-1])
    panel.set_xlabel("duration (min)")
    panel.set_ylabel("runs")
    panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.grid(axis="y")
    figure_style.legend_below(panel, handles, 3.4)


def _draw_censored(panel: Axes, cohort: Cohort, longest: float) -> list:
    """A star on the axis for each run that did not complete; their handles."""
    rows = [run.row for run in cohort.runs if not sweep_metrics.is_completed(run.row)]
    known = [row for row in rows if row["agent_s"] is not None]
    for row in known:
        minutes = row["agent_s"] / 60
        panel.plot(
            minutes,
            0,
            clip_on=False,
            zorder=4,
            **figure_style.run_point(row, figure_style.BLACK, "o"),
        )
    if known:
        panel.set_xlim(0, max(longest, *(row["agent_s"] / 60 for row in known)))
    return figure_style.censored_handles(known)


def _minutes(cohort: Cohort, mode: str) -> np.ndarray:
    seconds = [run_metrics.duration_s(run, mode) for run in counted(cohort, mode).runs]
    return np.array([s / 60 for s in seconds if s is not None])


def _draw_shares(panel: Axes, cohorts: Sequence[Cohort], mode: str) -> None:
    splits = [(c, claims_time.active_split(c, mode)) for c in datasets(cohorts)]
    known = [(cohort, split) for cohort, split in splits if split]
    if not known:
        figure_style.say_instead(panel, "no run has a division of its time")
        return
    occur = {part for _, split in known for part in split if split[part].value > _VISIBLE}
    bounded = False
    for place, (cohort, split) in enumerate(known):
        left = 0.0
        for part, (colour, _, hatch) in _LOOKS.items():
            if part in split:
                width = max(split[part].value, 0.0)
                panel.barh(
                    place, width, left=left, height=0.6, color=colour, hatch=hatch,
                    edgecolor="#ffffff", linewidth=0.3,
                )  # fmt: skip
                left += width
        tools = claims_time.tool_share_of_active_mean(cohort, mode)
        if tools.low is not None and tools.high - tools.low > _VISIBLE:
            panel.plot([tools.low, tools.high], [place + 0.38] * 2, **_BOUNDS)
            bounded = True
    names = [
        f"{figure_style.short(cohort.name, 1)}\nn = {split['tools'].n}" for cohort, split in known
    ]
    panel.set_yticks(range(len(known)), names)
    panel.set_ylim(len(known) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    panel.set_xlim(left=0)
    panel.set_xlabel("mean share (%)")
    handles: list = [figure_style.swatch(*look) for part, look in _LOOKS.items() if part in occur]
    if bounded:
        handles.append(Line2D([], [], **_BOUNDS, label="bounds of tools"))
    figure_style.legend_below(panel, handles, 3.2)


def caption(cohorts: Sequence[Cohort], mode: str) -> captions.Caption:
    """Mean and median duration, and the shares of tools and model."""
    sets = datasets(cohorts)
    mean, middle = (metric(everything(cohorts), mode) for _, metric, _ in _SUMMARIES)
    said = "unknown"
    if mean.value is not None:
        said = f"mean {mean.value / 60:.3g} min, median {middle.value / 60:.3g} min"
    splits = {cohort.name: claims_time.active_split(cohort, mode) for cohort in sets}
    shares = {
        cohort.name: captions.number(claims_time.tool_share_of_active_mean(cohort, mode))
        + (f" (n = {splits[cohort.name]['tools'].n})" if splits[cohort.name] else "")
        for cohort in sets
    }
    return captions.of_cohorts(
        cohorts,
        mode,
        [
            f"(a) n = {captions.count(mean.n, 'run')}; {said}.",
            f"(b) Mean share of the tools: {captions.each(shares)}.",
            _DEFINITIONS[mode],
        ],
        duration_mean=captions.of_each(claims_time.task_duration_mean, cohorts, mode),
        duration_median=captions.of_each(claims_time.task_duration_median, cohorts, mode),
        tool_share_mean=captions.of_each(claims_time.tool_share_of_active_mean, sets, mode),
        active_split=captions.of_each(claims_time.active_split, sets, mode),
    )


if __name__ == "__main__":
    figure_style.paper_main(draw, caption)
