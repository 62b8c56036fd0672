"""How fast CPU and memory change from one second to the next."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from agentsweep.analysis import (
    captions,
    change_rates,
    claims_cpu,
    claims_memory,
    figure_style,
)
from agentsweep.analysis.cohort import Cohort
from agentsweep.analysis.run_metrics import CORRECTED, PAPER
from agentsweep.analysis.values import Value, datasets

# Rates below this share one bin, at which the scale turns from linear to logarithmic.
_LINEAR_BELOW = 1.0
_BINS_A_DECADE = 10
_DASHES = ("-", (0, (4, 1.2)), (0, (1.2, 1.2)))
_PANELS = (
    ("(a) CPU", "change (% of a core per second)", change_rates.RATE_BURST_CPU),
    ("(b) memory", "change (MB/s)", change_rates.RATE_BURST_MEMORY_MB),
)
_DEFINITIONS = {
    PAPER: "CPU is the printed average since the container's start, whose changes are not "
    "those of the load; memory is the printed text with 1 GB as 1024 MB.",
    CORRECTED: "CPU is the load between live samples, counted or reconstructed from the "
    "averages since the start; memory is of live samples, in MB of 10⁶ bytes.",
}


def draw(cohorts: Sequence[Cohort], mode: str) -> Figure:
    """Two histograms with an outline for each data set, and the thresholds of a burst."""
    figure, panels = plt.subplots(1, 2, figsize=(figure_style.TEXT, 2.3), layout="constrained")
    looks = figure_style.dataset_colours(cohorts)
    for place, (panel, (title, label, threshold)) in enumerate(zip(panels, _PANELS, strict=True)):
        panel.set_title(title)
        rates = [change_rates.all_rates(cohort, mode, place) for cohort, _ in looks]
        _draw_rates(panel, rates, [colour for _, colour in looks], label, threshold)
    handles = [
        Line2D(
            [], [], color=colour, linestyle=_dashes(number), label=figure_style.short(c.name, 1.6)
        )
        for number, (c, colour) in enumerate(looks)
    ]
    handles.append(Line2D([], [], color=figure_style.GREY, label="threshold of a burst"))
    figure_style.legend_above(figure, handles)
    return figure


def _draw_rates(
    panel: Axes, rates: list[np.ndarray], colours: list[str], label: str, threshold: float
) -> None:
    together = np.concatenate(rates)
    if not len(together):
        figure_style.say_instead(panel, "no two samples within 2 s")
        return
    decades = np.ceil(np.log10(max(together.max(), threshold) * 1.001 / _LINEAR_BELOW))
    count = round(decades * _BINS_A_DECADE) + 1
    bins = np.r_[0, _LINEAR_BELOW * np.logspace(0, decades, count)]
    panel.axvline(threshold, color=figure_style.GREY, linewidth=0.9, zorder=1)
    for number, (found, colour) in enumerate(zip(rates, colours, strict=True)):
        panel.hist(
            found, bins, histtype="step", color=colour, linestyle=_dashes(number), linewidth=1.1
        )
    panel.set_xscale("symlog", linthresh=_LINEAR_BELOW, linscale=0.3)
    panel.set_yscale("log")
    panel.set_xlim(0, bins[-1])
    panel.set_ylim(bottom=0.7)
    _name_powers(panel.xaxis, [0, *_powers(_LINEAR_BELOW, bins[-1])])
    _name_powers(panel.yaxis, _powers(1, panel.get_ylim()[1]))
    panel.set_xlabel(label)
    panel.set_ylabel("steps between samples")
    panel.grid(axis="y")


def _powers(first: float, last: float) -> list[float]:
    return [first * 10**power for power in range(int(np.log10(last / first)) + 1)]


def _name_powers(axis: Axis, values: list[float]) -> None:
    """Ticks at these values alone; matplotlib's own names for powers are markup."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_major_formatter(FixedFormatter([f"{value:,g}" for value in values]))
    axis.set_minor_locator(NullLocator())


def _dashes(number: int):
    return _DASHES[number % len(_DASHES)]


def caption(cohorts: Sequence[Cohort], mode: str) -> captions.Caption:
    """The fastest changes, and the share of steps over the thresholds."""
    sets = datasets(cohorts)
    over = {cohort.name: change_rates.steps_over_threshold(cohort, mode) for cohort in sets}
    most = {
        "cpu": {cohort.name: claims_cpu.cpu_change_rate_max(cohort, mode) for cohort in sets},
        "memory": {
            cohort.name: claims_memory.memory_change_rate_max(cohort, mode) for cohort in sets
        },
    }
    said = {
        kind: captions.each({name: _said(over[name][kind], most[kind][name]) for name in over})
        for kind in most
    }
    return captions.of_cohorts(
        cohorts,
        mode,
        [
            f"(a) Changes of over {change_rates.RATE_BURST_CPU:g} %/s: {said['cpu']}.",
            f"(b) Changes of over {change_rates.RATE_BURST_MEMORY_MB:g} MB/s: {said['memory']}.",
            _DEFINITIONS[mode],
        ],
        steps_over_threshold=captions.plain(over),
        cpu_change_rate_max=captions.plain(most["cpu"]),
        memory_change_rate_max=captions.plain(most["memory"]),
    )


def _said(share: Value, most: Value) -> str:
    steps = captions.count(share.n, "step")
    return f"{captions.number(share)} of n = {steps}, at most {captions.number(most)}"


if __name__ == "__main__":
    figure_style.paper_main(draw, caption)
