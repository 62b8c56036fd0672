"""How much of a run tools take, and which tools are called when."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agentsweep.analysis import (
    captions,
    claims_time,
    claims_tools,
    figure_style,
    run_metrics,
)
from agentsweep.analysis.cohort import Cohort
from agentsweep.analysis.run_metrics import CORRECTED, PAPER
from agentsweep.analysis.values import counted, datasets, everything

_COLOURS = (
    *(
        figure_style.BLUE,
        figure_style.SKY,
        figure_style.VERMILION,
        figure_style.YELLOW,
        figure_style.GREEN,
        figure_style.ORANGE,
    ),
    *(figure_style.PURPLE, figure_style.GREY),
)
_BIN_PERCENT = 5
_DEFINITIONS = {
    PAPER: "A share sums request-to-result times over the session's span (overlaps and "
    "sub-agents count again, so it can exceed 100 %); a call's place is that of its request "
    "between the first and the last sample.",
    CORRECTED: "A share is the time with a leaf tool at work over the agent's phase after "
    "its start-up; a call's place is that of the start of a leaf call between the agent's start "
    "and its end.",
}


def draw(cohorts: Sequence[Cohort], mode: str) -> Figure:
    """A histogram of shares for each data set; calls of all data sets by tenth of their run."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(figure_style.TEXT, 2.4), layout="constrained"
    )
    left.set_title("(a) tool share of active time")
    right.set_title("(b) tool calls in the course of a run")
    _draw_shares(left, cohorts, mode)
    _draw_deciles(right, claims_tools.calls_by_decile(everything(cohorts), mode))
    return figure


def _draw_shares(panel: Axes, cohorts: Sequence[Cohort], mode: str) -> None:
    looks = figure_style.dataset_colours(cohorts)
    percents = [_percents(cohort, mode) for cohort, _ in looks]
    if not any(map(len, percents)):
        figure_style.say_instead(panel, "no run has a tool share")
        return
    most = max(100, *(found.max() for found in percents if len(found)))
    bins = np.arange(0, most + 2 * _BIN_PERCENT, _BIN_PERCENT)
    panel.hist(percents, bins, color=[colour for _, colour in looks], rwidth=0.9)
    panel.set_xlim(0, bins[-1] if most > 100 else 100)
    panel.set_xlabel("tool share (%)")
    panel.set_ylabel("runs")
    panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.grid(axis="y")
    handles = figure_style.dataset_swatches(cohorts)
    if handles:
        figure_style.legend_below(panel, handles, 3)


def _percents(cohort: Cohort, mode: str) -> np.ndarray:
    shares = [run_metrics.tool_share(run, mode) for run in counted(cohort, mode).runs]
    return np.array([100 * share for share in shares if share is not None])


def _draw_deciles(panel: Axes, calls: dict[str, list[int]]) -> None:
    if not any(map(sum, calls.values())):
        figure_style.say_instead(panel, "no call with a known time")
        return
    bottom = np.zeros(10)
    handles = []
    for (name, counts), colour in zip(calls.items(), _COLOURS, strict=True):
        if any(counts):
            panel.bar(
                range(1, 11), counts, 0.86, bottom, color=colour, edgecolor="#ffffff", linewidth=0.3
            )
            bottom += counts
            handles.append(figure_style.swatch(colour, name))
    panel.set_xticks(range(1, 11))
    panel.tick_params(axis="x", length=0)
    panel.set_xlabel("tenth of the run")
    panel.set_ylabel("calls")
    panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.grid(axis="y")
    # As the bars are stacked.
    panel.legend(
        handles=handles[::-1], loc="center left", bbox_to_anchor=(1, 0.5), borderaxespad=0.3
    )


def caption(cohorts: Sequence[Cohort], mode: str) -> captions.Caption:
    """Median shares and the number of calls."""
    sets = datasets(cohorts)
    shares = {cohort.name: claims_time.tool_share_of_active_median(cohort, mode) for cohort in sets}
    said = {name: f"{captions.number(share)} (n = {share.n})" for name, share in shares.items()}
    calls = claims_tools.calls_by_decile(everything(cohorts), mode)
    total = sum(map(sum, calls.values()))
    return captions.of_cohorts(
        cohorts,
        mode,
        [
            f"(a) Median share of runs: {captions.each(said)}.",
            f"(b) n = {captions.count(total, 'call')} of all data sets together.",
            _DEFINITIONS[mode],
        ],
        tool_share_mean=captions.of_each(claims_time.tool_share_of_active_mean, sets, mode),
        tool_share_median=captions.of_each(claims_time.tool_share_of_active_median, sets, mode),
        tool_share_max=captions.of_each(claims_time.tool_share_of_active_max, sets, mode),
        n_calls=total,
        calls_by_decile=calls,
    )


if __name__ == "__main__":
    figure_style.paper_main(draw, caption)
