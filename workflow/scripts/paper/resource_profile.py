"""How large the tasks' images are, and how the memory in use develops in a run."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from agentsweep.analysis import (
    captions,
    claims_memory,
    claims_session,
    figure_style,
    run_metrics,
)
from agentsweep.analysis.cohort import Cohort
from agentsweep.analysis.run_metrics import CORRECTED, PAPER
from agentsweep.analysis.values import everything

_BINS = 20
# Percentiles that a band lies between, and its colour.
_BANDS = ((10, 90, "#d6e6f2"), (25, 75, "#8fbfdf"))
_DEFINITIONS = {
    PAPER: "One image a task, in GB of 1024³ bytes; memory as printed, 1 GB being 1024 MB, "
    "over the number of the sample, those after the container's end included.",
    CORRECTED: "Distinct images, in GB of 10⁹ bytes, layers that they share counted in "
    "each; memory of live samples, in MB of 10⁶ bytes, over the time between them.",
}


def draw(cohorts: Sequence[Cohort], mode: str) -> Figure:
    """A histogram of image sizes, and the memory of all runs over their progress."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(figure_style.TEXT, 2.3), layout="constrained"
    )
    left.set_title("(a) image size")
    right.set_title("(b) memory in the course of a run")
    _draw_images(left, claims_session.image_sizes_gb(everything(cohorts), mode))
    _draw_memory(right, claims_memory.memory_trajectories(everything(cohorts), mode))
    return figure


def _draw_images(panel: Axes, sizes_gb: list[float]) -> None:
    if not sizes_gb:
        figure_style.say_instead(panel, "no image size is known")
        return
    panel.hist(sizes_gb, np.linspace(0, max(sizes_gb) * 1.001, _BINS + 1), color=figure_style.BLUE,
               rwidth=0.9)  # fmt: skip
    middle = float(np.median(sizes_gb))
    line = panel.axvline(middle, color=figure_style.BLACK, linewidth=1, linestyle=(0, (3, 1.5)))
    line.set_label(f"median: {middle:.3g} GB")
    panel.set_xlim(left=0)
    panel.set_xlabel("size (GB)")
    panel.set_ylabel("images")
    panel.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.grid(axis="y")
    figure_style.legend_below(panel, [line], 3)


def _draw_memory(panel: Axes, memory_mb: np.ndarray) -> None:
    if not len(memory_mb):
        figure_style.say_instead(panel, "no run has two samples")
        return
    progress = np.linspace(0, 100, run_metrics.TRAJECTORY_POINTS)
    handles = []
    for low, high, colour in _BANDS:
        panel.fill_between(
            progress, *np.percentile(memory_mb, (low, high), axis=0), color=colour, linewidth=0
        )
        handles.append(figure_style.swatch(colour, f"{low}th to {high}th percentile"))
    panel.plot(progress, memory_mb.mean(axis=0), color=figure_style.BLACK)
    handles.append(Line2D([], [], color=figure_style.BLACK, label="mean"))
    panel.set_xlim(0, 100)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("progress of the run (%)")
    panel.set_ylabel("memory (MB)")
    panel.grid(axis="y")
    figure_style.legend_below(panel, handles[::-1], 3.3)


def caption(cohorts: Sequence[Cohort], mode: str) -> captions.Caption:
    """Sizes of images, and what the memory is on average at both ends."""
    together = everything(cohorts)
    images = claims_session.image_size_median(together, mode)
    memory_mb = claims_memory.memory_trajectories(together, mode)
    mean_mb = memory_mb.mean(axis=0) if len(memory_mb) else None
    said = "unknown"
    if mean_mb is not None:
        highest = int(np.argmax(mean_mb))
        said = f"{mean_mb[0]:.0f} MB at first, at most {mean_mb[highest]:.0f} MB"
    return captions.of_cohorts(
        cohorts,
        mode,
        [
            f"(a) n = {captions.count(images.n, 'image')}; median {captions.number(images)}.",
            f"(b) n = {captions.count(len(memory_mb), 'run')}, each interpolated to "
            f"{run_metrics.TRAJECTORY_POINTS} points; their mean is {said}.",
            _DEFINITIONS[mode],
        ],
        image_size_median=captions.of_each(claims_session.image_size_median, [together], mode),
        image_size_mean=captions.of_each(claims_session.image_size_mean, [together], mode),
        memory_baseline=captions.of_each(claims_memory.memory_baseline_mean, [together], mode),
        n_trajectories=len(memory_mb),
        mean_memory_mb=None if mean_mb is None else mean_mb.tolist(),
    )


if __name__ == "__main__":
    figure_style.paper_main(draw, caption)
