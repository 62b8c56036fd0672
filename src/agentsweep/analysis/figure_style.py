"""The one style of all figures, and the command line that their scripts share.

The same data give the same bytes: the style starts from matplotlib's own defaults, whatever the
user's settings are; no date, no random id and no path goes into a file. Fonts are embedded
(TrueType in PDF, outlines in SVG) and are those that matplotlib brings with it.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
from matplotlib.artist import Artist

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from agentsweep.analysis import captions, sweep_metrics
from agentsweep.analysis.cohort import Cohort
from agentsweep.analysis.cohort import load as load_cohorts
from agentsweep.analysis.run_metrics import MODES, UNKNOWN
from agentsweep.analysis.values import datasets
from agentsweep.errors import AgentsweepError
from agentsweep.tables.dataset import Dataset, cells_of
from agentsweep.tables.rows import Row
from agentsweep.units import format_size

_Value = TypeVar("_Value")

# Inches: one column and the full text of a two-column page.
COLUMN = 3.33
TEXT = 7.0
PAGE_HEIGHT = 9.2

# Okabe and Ito's palette, which people with any colour vision tell apart.
BLACK, GREY, PALE = "#000000", "#8a8a8a", "#e6e6e6"
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
SUBJECT_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
# Neighbours differ in lightness too.
DATASET_COLOURS = (BLUE, ORANGE, GREEN, YELLOW, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
# A run that did not complete: a star, which no series has, in the colour of its outcome.
# The types of matplotlib know no such marker.
CENSORED_MARKER: Any = (4, 1, 45)
LIMIT_LINE = {"color": BLACK, "linewidth": 0.9, "linestyle": (0, (3, 1.5))}

# Colour, hatch (for print without colour) and colour of a text on it.
OUTCOME_LOOK = {
    "completed": ("#9fd8c4", "", BLACK),
    "no_work": ("#d9d9d9", "....", BLACK),
    "agent_error": (PURPLE, "", BLACK),
    "api_error": (YELLOW, "", BLACK),
    "timed_out": (ORANGE, "", BLACK),
    "stalled": (SKY, "", BLACK),
    "oom_agent": (VERMILION, "", "#ffffff"),
    "oom_container": ("#7a2e00", "", "#ffffff"),
    "over_budget": ("#f3dcb0", "xxxx", BLACK),
    "diverged": (BLUE, "", "#ffffff"),
    "disk_full": ("#8c8c8c", "\\\\\\\\", BLACK),
    "unknown": ("#ffffff", "////", BLACK),
}
OUTCOME_NAMES = {
    "completed": "completed",
    "no_work": "no work",
    "agent_error": "agent error",
    "api_error": "API error",
    "timed_out": "timed out",
    "stalled": "stalled",
    "oom_agent": "agent OOM",
    "oom_container": "container OOM",
    "over_budget": "over budget",
    "diverged": "diverged",
    "disk_full": "disk full",
    "unknown": "unknown",
}

# More small figures than this beside each other cannot be read: then all tasks are one.
MOST_SUBJECTS = 6

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.6,
    "hatch.linewidth": 0.5,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "agentsweep",
    "path.simplify": False,
    "text.parse_math": False,
}


def apply() -> None:
    """Make this style matplotlib's; nothing of the user's own settings stays."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(_SETTINGS)


def main(
    draw: Callable[[Dataset], Figure],
    caption: Callable[[Dataset], captions.Caption],
    pages: Callable[[Dataset], Iterator[Figure]] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """What a figure script does: read the data set, draw, write the files.

    Writes OUT.pdf, OUT.svg, OUT.png, OUT.json (n, source and the caption's numbers) and OUT.rst
    (the same as sentences). `pages` draws the PDF instead, one figure a page. Ends the process
    with one line when the data cannot be drawn.
    """
    parser = _parser(draw)
    parser.add_argument("--dataset", type=Path, required=True, help="directory of the tables")
    arguments = parser.parse_args(argv)
    with _one_line_on_errors(arguments.out):
        dataset = Dataset(arguments.dataset)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        save(draw(dataset), arguments.out, None if pages is None else pages(dataset))
        said = captions.with_left_out(caption(dataset), dataset.left_out)
        said = captions.with_cells(said, [cells_of(arguments.dataset)])
        captions.write(said, arguments.out)


def paper_main(
    draw: Callable[[Sequence[Cohort], str], Figure],
    caption: Callable[[Sequence[Cohort], str], captions.Caption],
    argv: Sequence[str] | None = None,
) -> None:
    """What the script of a paper's figure does: read the tables, draw and write in each mode.

    For each of `MODES` writes OUT_<mode>.pdf, .svg, .json and .rst as `main` does. Ends the
    process with one line when the data cannot be drawn.
    """
    parser = _parser(draw)
    parser.add_argument(
        "--tables", type=Path, required=True, action="append", metavar="DIR",
        help="directory of the tables of one or more data sets (repeatable)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    with _one_line_on_errors(arguments.out):
        cohorts = load_cohorts(arguments.tables)
        cells = [cells_of(directory) for directory in arguments.tables]
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        for mode in MODES:
            out = arguments.out.with_name(f"{arguments.out.name}_{mode}")
            save(draw(cohorts, mode), out, png=False)
            captions.write(captions.with_cells(caption(cohorts, mode), cells), out)


def _parser(draw: Callable[..., Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(draw.__module__ and sys.modules[draw.__module__].__doc__)
    )
    parser.add_argument("--out", type=Path, required=True, help="path of the figure, no suffix")
    return parser


@contextmanager
def _one_line_on_errors(out: Path) -> Iterator[None]:
    """This style for what is drawn within; an error in the data ends the process with one line."""
    apply()
    try:
        yield
    except AgentsweepError as error:
        sys.exit(f"{out.name}: {error}")


def save(
    figure: Figure, out: Path, pages: Iterable[Figure] | None = None, png: bool = True
) -> None:
    """Write OUT.pdf, OUT.svg and, if asked, OUT.png; with `pages`, these are the PDF's pages."""
    undated = {"CreationDate": None, "ModDate": None}
    figure.savefig(f"{out}.svg", metadata={"Date": None})
    # Where everything stands is known now, and takes as long to find out as all the drawing.
    figure.set_layout_engine("none")
    if png:
        figure.savefig(f"{out}.png")
    with PdfPages(f"{out}.pdf", metadata=undated) as pdf:
        for page in [figure] if pages is None else pages:
            pdf.savefig(page)
            plt.close(page)
    plt.close(figure)


# --- names of limits and subjects ---


def memory_name(limit_bytes: int | None) -> str:
    """A memory limit as an axis names it."""
    return "none" if limit_bytes is None else format_size(limit_bytes)


def cpus_name(limit: float | None) -> str:
    """A CPU limit with its unit, as a legend names it."""
    if limit is None:
        return "no CPU limit"
    return f"{limit:g} CPU{'s' * (limit > 1)}"


def cpu_name(limit: float | None) -> str:
    """A CPU limit as an axis names it."""
    return "none" if limit is None else f"{limit:g}"


def by_cpu_limit(runs: Sequence[Row]) -> dict[str, list[Row]]:
    """The runs at each CPU limit, by its name; with the mode behind it where there are several."""
    found = {}
    for mode, own in sweep_metrics.by_cpu_mode(runs).items():
        for limit in sweep_metrics.cpu_limits(own):
            name = cpu_name(limit) + (f" ({mode})" if mode else "")
            found[name] = [run for run in own if run["cpu_limit"] == limit]
    return found


def width_inches(text: str, size: float) -> float:
    """About how wide a text is: a letter is some 0.58 of the font size, on average."""
    return len(text) * 0.58 * size / 72


def short(name: str, inches: float, size: float = 7.5) -> str:
    """A name that fits into `inches` at a font size, its middle left out if need be."""
    room = max(int(inches / width_inches("x", size)), 5)
    if len(name) <= room:
        return name
    return f"{name[: (room - 1) // 2]}…{name[len(name) - room // 2 :]}"


def shown_subjects(subjects: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The subjects to draw beside each other; one that holds all runs if there are too many."""
    if len(subjects) <= MOST_SUBJECTS:
        return subjects
    return {f"all {len(subjects)} tasks": [run for runs in subjects.values() for run in runs]}


def ordered_colours(count: int) -> list[Any]:
    """Colours for an ordered quantity (a limit), light to dark, also in grey."""
    scale = matplotlib.colormaps["viridis_r"]
    if count == 1:
        return [scale(0.5)]
    return [scale(0.12 + 0.82 * place / (count - 1)) for place in range(count)]


def ordered_series(values: Sequence[_Value]) -> list[tuple[_Value, Any, Any]]:
    """(value, colour, marker) for each value of an ordered quantity."""
    return list(zip(values, ordered_colours(len(values)), cycle(MARKERS), strict=False))


def spread(count: int, width: float) -> list[float]:
    """Offsets that set `count` points apart within `width`, the same ones each time."""
    # Multiples of the golden ratio fill the width evenly at every count.
    return [((0.5 + place * 0.6180339887) % 1 - 0.5) * width for place in range(count)]


# --- runs as points ---


def run_point(run: Row, colour: object, marker: object) -> dict[str, Any]:
    """How one run is drawn: in the look of its series, or as what became of it.

    What a run that did not complete has is a bound, so that no line goes through its mark: a star
    in the colour of its outcome, framed in that of its series.
    """
    if sweep_metrics.is_completed(run):
        return {"linestyle": "", "marker": marker, "color": colour, "markeredgewidth": 0.7}
    face = OUTCOME_LOOK.get(run["outcome"] or UNKNOWN, OUTCOME_LOOK["unknown"])[0]
    return {
        "linestyle": "", "marker": CENSORED_MARKER, "markersize": 5.2, "markerfacecolor": face,
        "markeredgecolor": colour, "markeredgewidth": 0.8,
    }  # fmt: skip


def censored_handles(runs: Sequence[Row]) -> list[Line2D]:
    """The legend of the runs that did not complete: an entry for each of their outcomes."""
    censored = [run for run in runs if not sweep_metrics.is_completed(run)]
    return [
        Line2D([], [], linestyle="", marker=CENSORED_MARKER, markersize=5.2,
               markerfacecolor=OUTCOME_LOOK.get(outcome, OUTCOME_LOOK["unknown"])[0],
               markeredgecolor=BLACK, markeredgewidth=0.8,
               label=OUTCOME_NAMES.get(outcome, outcome))
        for outcome in sweep_metrics.outcome_counts(censored)
    ]  # fmt: skip


def completed_ticks(names: Sequence[str], groups: Sequence[Sequence[Row]]) -> list[str]:
    """The labels of limits; where a run did not complete, how many of how many did below each."""
    if all(map(sweep_metrics.is_completed, (run for group in groups for run in group))):
        return list(names)
    return [
        f"{name}\n{len(sweep_metrics.completed(group))}/{len(group)}" if group else name
        for name, group in zip(names, groups, strict=True)
    ]


# --- parts of figures ---


def panels(count: int, height: float, *, wide: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes beside each other, at most `wide` in a row; `height` of each.

    One alone is as wide as a column of text, several as the text.
    """
    columns = min(count, wide)
    rows = -(-count // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(COLUMN if count == 1 else TEXT, height * rows + 0.35),
        squeeze=False,
        layout="constrained",
    )
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.set_axis_off()
    return figure, axes[:count]


def legend_columns(handles: Sequence[Artist], inches: float) -> int:
    """As many columns of a legend as fit."""
    # A handle and its gaps take some 0.42 in.
    widths = [0.42 + width_inches(str(handle.get_label()), 6.5) for handle in handles]
    return max(1, min(len(handles), int(inches / max(widths, default=1))))


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend over all panels, in as many columns as fit."""
    columns = legend_columns(handles, figure.get_figwidth())
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, borderpad=0.2)


def legend_below(axes: Axes, handles: Sequence[Artist], inches: float) -> None:
    """A legend under an axes' label, in as many columns as fit into `inches`."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes that are drawn are in a figure"
    # Ticks, their labels and the axis label take this much.
    lower = axes.transAxes + ScaledTranslation(0, -0.36, figure.dpi_scale_trans)
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=lower,
        ncols=legend_columns(handles, inches), borderpad=0, borderaxespad=0,
    )  # fmt: skip


def dataset_colours(cohorts: Sequence[Cohort]) -> list[tuple[Cohort, str]]:
    """Each single data set with its colour."""
    return list(zip(datasets(cohorts), cycle(DATASET_COLOURS), strict=False))


def dataset_swatches(cohorts: Sequence[Cohort]) -> list[Patch]:
    """The legend of the data sets; none is needed for one."""
    looks = dataset_colours(cohorts)
    return [swatch(colour, short(c.name, 1.6)) for c, colour in looks] if len(looks) > 1 else []


def swatch(colour: Any, label: str, hatch: str = "") -> Patch:
    """A legend's coloured square."""
    return Patch(facecolor=colour, edgecolor="#555555", linewidth=0.4, hatch=hatch, label=label)


def say_instead(axes: Axes, sentence: str) -> None:
    """An empty panel that says why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, sentence, ha="center", va="center", transform=axes.transAxes, color=GREY)
