"""Where the agent's time went: start-up, model, tools, and neither; in completed runs."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agentsweep.analysis import captions, figure_style, sweep_metrics
from agentsweep.tables.dataset import Dataset
from agentsweep.tables.rows import Row

_LOOKS = {
    "startup": (figure_style.GREY, "start-up", ""),
    "model": (figure_style.SKY, "model", ""),
    "both": (figure_style.BLUE, "model and tools at once", "////"),
    "tools": (figure_style.ORANGE, "tools", ""),
    "other": (figure_style.PALE, "neither", ""),
}
_WIDE, _AROUND, _BAR = 2, 0.55, 0.145
_VISIBLE = 0.004


def draw(dataset: Dataset) -> Figure:
    """A bar for each cell: means over its completed runs, which add up to their mean wall time."""
    bars, _ = _shown_bars(dataset)
    figure, axes = figure_style.panels(len(bars), _height(bars), wide=_WIDE)
    inches = figure.get_figwidth() / min(len(bars), _WIDE) - 1.0
    for panel, (name, shown) in zip(axes, bars.items(), strict=True):
        _draw_bars(panel, shown)
        panel.set_title(figure_style.short(name, inches))
    # A part that nobody can see needs no entry.
    occur = {
        part
        for shown in bars.values()
        for _, split, *_ in shown
        for part, seconds in split.items()
        if seconds > _VISIBLE * sum(split.values())
    }
    figure_style.legend_above(
        figure,
        [figure_style.swatch(*look) for part, look in _LOOKS.items() if part in occur],
    )
    return figure


def _shown_bars(dataset: Dataset) -> tuple[dict[str, list], bool]:
    """The bars of each panel, and whether one bar stands for all memory limits."""
    subjects = figure_style.shown_subjects(sweep_metrics.by_subject(dataset.runs))
    for pooled in (False, True):
        bars = {name: _bars(runs, pooled) for name, runs in subjects.items()}
        if _height(bars) * -(-len(bars) // _WIDE) <= figure_style.PAGE_HEIGHT - 0.4:
            break
    return bars, pooled


def _height(bars: dict[str, list]) -> float:
    return _AROUND + _BAR * max(map(len, bars.values()))


def _bars(runs: list[Row], pooled: bool) -> list[tuple[str, dict[str, float], int, int]]:
    """Label, mean seconds by part, and of how many completed runs of how many, from the top."""
    cells = sweep_metrics.by_cell(runs)
    memory, cpus = sweep_metrics.memory_limits(runs), sweep_metrics.cpu_limits(runs)
    if pooled:
        groups = {
            figure_style.cpus_name(c): [run for run in runs if run["cpu_limit"] == c] for c in cpus
        }
    else:
        groups = {
            f"{figure_style.memory_name(m)}, {figure_style.cpus_name(c)}": cells[m, c]
            for m in memory
            for c in cpus
            if (m, c) in cells
        }
    return [(label, *sweep_metrics.mean_time_split(g), len(g)) for label, g in groups.items()]


def _draw_bars(panel: Axes, bars: list[tuple[str, dict[str, float], int, int]]) -> None:
    if not any(split for _, split, *_ in bars):
        figure_style.say_instead(panel, "no run has its time divided")
        return
    for y, (_, split, n, of) in enumerate(bars):
        left = 0.0
        for part, (colour, _, hatch) in _LOOKS.items():
            width = split.get(part, 0.0)
            panel.barh(
                y, width, left=left, height=0.78, color=colour, hatch=hatch,
                edgecolor="#ffffff", linewidth=0.3,
            )  # fmt: skip
            left += width
        if n < of:
            said = f" {n} of {of}" if n else f" 0 of {of}: unknown"
        else:
            said = f" n = {n}" if n > 1 else ""
        panel.text(left, y, said, va="center", fontsize=5.5, color=figure_style.GREY)
    longest = max(sum(split.values()) for _, split, *_ in bars)
    several = any(of > 1 or n < of for *_, n, of in bars)
    panel.set_xlim(0, longest * (1.14 if several else 1.03))
    panel.set_yticks(range(len(bars)), [label for label, *_ in bars])
    panel.set_ylim(len(bars) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0)
    panel.set_xlabel("wall time of the agent (s)")
    panel.grid(axis="x")


def caption(dataset: Dataset) -> captions.Caption:
    """The median share of each part over the completed runs at each pair of limits."""
    runs = dataset.runs
    n = sweep_metrics.time_share(runs, "model").n
    _, pooled = _shown_bars(dataset)

    def said(here: list[Row]) -> str | None:
        found = {
            part: sweep_metrics.time_share(here, part).value for part in ("model", "both", "tools")
        }
        known = [(part, share) for part, share in found.items() if share]
        return ", ".join(f"{_LOOKS[part][1]} {captions.percent(s)}" for part, s in known) or None

    def numbers(here: list[Row]) -> dict:
        mean_s, n_split = sweep_metrics.mean_time_split(here)
        median = {
            part: sweep_metrics.time_share(here, part).value for part in sweep_metrics.TIME_PARTS
        }
        return {"mean_s": mean_s, "median_share": median, "n": n_split}

    short = n < len(runs)
    return captions.describe(
        runs,
        [
            captions.n_completed(n, runs, "a division of their time"),
            f"Median share of the agent's time: {captions.by_limits(runs, said)}.",
            *(["Each bar stands for all memory limits."] if pooled else []),
            *(["Beside a bar: the runs that it is the mean of, of all there."] if short else []),
        ],
        n_split=n,
        by_limits=captions.numbers_by_limits(runs, numbers),
    )


if __name__ == "__main__":
    figure_style.main(draw, caption)
