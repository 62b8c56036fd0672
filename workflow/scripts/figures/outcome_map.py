"""Outcome map: what happened at each memory and CPU limit, and where the kernel killed tools."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, Rectangle

from agentsweep.analysis import captions, figure_style, sweep_metrics
from agentsweep.tables.dataset import Dataset

_CELL_HEIGHT = 0.44
# Inches below which a cell has no room for the name of an outcome.
_LEAST_NAMED = 0.56
_LEAST_SHARED = 0.72
_SIZE = 5.6
# The part of a cell that shows the shares, where cells have several runs.
_BAR = 0.4


def draw(dataset: Dataset) -> Figure:
    """Memory limit across, CPU limit up; cells of several runs show the share of each outcome."""
    memory, cpus = sweep_metrics.memory_limits(dataset.runs), sweep_metrics.cpu_limits(dataset.runs)
    subjects = figure_style.shown_subjects(sweep_metrics.by_subject(dataset.runs))
    wide = 3 if len(memory) <= 3 else 2 if len(memory) <= 6 else 1
    figure, axes = figure_style.panels(
        len(subjects), max(1.1, 0.55 + _CELL_HEIGHT * len(cpus)), wide=wide
    )
    cell_inches = (figure.get_figwidth() / min(len(subjects), wide) - 0.55) / len(memory)
    # One look for all cells: a single run fills its cell, several share it.
    shares = any(
        len(cell) > 1 for runs in subjects.values() for cell in sweep_metrics.by_cell(runs).values()
    )
    for place, (panel, (name, runs)) in enumerate(zip(axes, subjects.items(), strict=True)):
        cells = sweep_metrics.by_cell(runs)
        for x, m in enumerate(memory):
            for y, c in enumerate(cpus):
                _draw_cell(panel, x, y, cells.get((m, c), []), cell_inches, shares)
        panel.set(xlim=(-0.5, len(memory) - 0.5), ylim=(-0.5, len(cpus) - 0.5))
        panel.set_xticks(range(len(memory)), map(figure_style.memory_name, memory))
        panel.set_yticks(range(len(cpus)), map(figure_style.cpu_name, cpus))
        panel.set_title(figure_style.short(name, cell_inches * len(memory)))
        panel.set_xlabel("memory limit")
        panel.set_ylabel("CPU limit" if place % wide == 0 else "")
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    handles = []
    for outcome in sweep_metrics.outcome_counts(dataset.runs):
        colour, hatch, _ = _look(outcome)
        handles.append(
            figure_style.swatch(colour, figure_style.OUTCOME_NAMES.get(outcome, outcome), hatch)
        )
    if any(_kills(sweep_metrics.tool_kills([run])) for run in dataset.runs):
        handles.append(
            Line2D([], [], linestyle="", marker=((-1, 1), (1, 1), (1, -1), (-1, 1)), markersize=5,
                   color=figure_style.VERMILION, label="the kernel killed tools (number)")
        )  # fmt: skip
    figure_style.legend_above(figure, handles)
    return figure


def _draw_cell(panel: Axes, x: int, y: int, runs: list, inches: float, shares: bool) -> None:
    left, bottom, width, height = x - 0.48, y - 0.46, 0.96, 0.92
    if not runs:
        _fill(panel, left, bottom, width, height, "#ffffff", "")
        panel.text(
            x, y, "no run", ha="center", va="center", fontsize=_SIZE, color=figure_style.GREY
        )
        return
    counts = sweep_metrics.outcome_counts(runs)
    kills = _kills(sweep_metrics.tool_kills(runs))
    named = inches >= _LEAST_NAMED
    killed = [f"{kills} tool OOM" if named else f"{kills} OOM"] if kills else []
    if shares:
        _fill(panel, left, bottom, width, height, "#f4f4f4", "")
        countable = sweep_metrics.countable(runs)
        done = f"{len(sweep_metrics.completed(countable))}/{len(countable)}"
        if len(countable) < len(runs):
            lines = [f"{done} (+{len(runs) - len(countable)})", *killed]
        else:
            lines = [f"{done} completed" if inches >= _LEAST_SHARED else done, *killed]
        start = left
        for outcome, count in sweep_metrics.outcome_counts(countable).items():
            share = count / len(countable) * width
            colour, hatch, _ = _look(outcome)
            _fill(panel, start, bottom, share, height * _BAR, colour, hatch)
            start += share
        middle, text_colour = bottom + height * (1 + _BAR) / 2, figure_style.BLACK
    else:
        (outcome,) = counts
        colour, hatch, text_colour = _look(outcome)
        _fill(panel, left, bottom, width, height, colour, hatch)
        name = figure_style.OUTCOME_NAMES.get(outcome, outcome)
        lines = [name if inches >= _LEAST_SHARED else name.replace(" ", "\n")] if named else []
        lines += killed
        middle = y
    if kills:
        right, top = x + width / 2, y + height / 2
        # A corner of a tenth of an inch, whatever the cell's size.
        corner = [(right, top), (right - 0.1 / inches, top), (right, top - 0.1 / _CELL_HEIGHT)]
        panel.add_patch(
            Polygon(corner, facecolor=figure_style.VERMILION, edgecolor="#ffffff", linewidth=0.4)
        )
    panel.text(
        x, middle, "\n".join(lines), ha="center", va="center", fontsize=_SIZE, color=text_colour,
        linespacing=1.05,
    )  # fmt: skip


def _kills(found: sweep_metrics.ToolKills | None) -> str:
    """The kills of a cell, `0-3` where they are not known, nothing where there are none."""
    if found is None or found.most == 0:
        return ""
    if found.most is None:
        return f"{found.least}+"
    return f"{found.least}" if found.most == found.least else f"{found.least}-{found.most}"


def _fill(
    panel: Axes, x: float, y: float, width: float, height: float, colour: str, hatch: str
) -> None:
    panel.add_patch(
        Rectangle(
            (x, y),
            width,
            height,
            facecolor=colour,
            hatch=hatch,
            edgecolor=figure_style.GREY if hatch or colour == "#ffffff" else "#ffffff",
            linewidth=0.4,
        )
    )


def _look(outcome: str) -> tuple[str, str, str]:
    return figure_style.OUTCOME_LOOK.get(outcome, figure_style.OUTCOME_LOOK["unknown"])


def caption(dataset: Dataset) -> captions.Caption:
    """How many runs came to which outcome, and how many tools the kernel killed."""
    runs = dataset.runs
    counts = sweep_metrics.outcome_counts(runs)
    kills = sweep_metrics.tool_kills(runs)
    said = ", ".join(
        f"{n} {figure_style.OUTCOME_NAMES.get(name, name)}" for name, n in counts.items()
    )
    return captions.describe(
        runs,
        [
            f"n = {captions.count(len(runs), 'run')}: {said}.",
            *captions.left_out(runs),
            _kills_sentence(kills),
        ],
        outcomes=counts,
        left_out=sweep_metrics.left_out_counts(runs),
        n_countable=len(sweep_metrics.countable(runs)),
        completed_share=sweep_metrics.completed_share(runs),
        tool_oom_count=None if kills is None or kills.runs_unknown else kills.least,
        tool_oom_count_max=None if kills is None else kills.most,
        runs_with_tool_oom=None if kills is None else kills.runs_known,
        runs_with_tool_oom_completed=None if kills is None else kills.runs_completed,
        runs_with_unknown_tool_oom=None if kills is None else kills.runs_unknown,
    )


def _kills_sentence(kills: sweep_metrics.ToolKills | None) -> str:
    if kills is None:
        return "No run has a count of OOM kills."
    said = (
        f"The kernel killed {captions.count(kills.least, 'tool')} for memory in "
        f"{captions.count(kills.runs_known, 'run')}"
    )
    if kills.runs_known:
        said += f", of which {kills.runs_completed or 'none'} completed"
    if not kills.runs_unknown:
        return f"{said}."
    more = "" if kills.most is None else f" (together at most {kills.most - kills.least})"
    return f"{said}; in {captions.count(kills.runs_unknown, 'run')} the number is not known{more}."


if __name__ == "__main__":
    figure_style.main(draw, caption)
