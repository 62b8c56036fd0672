"""Tool calls by category: how many, and how much time they took; in completed runs.

A run that was killed made fewer calls because it was killed, so that it is in no mean.
"""

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agentsweep.analysis import captions, figure_style, sweep_metrics
from agentsweep.tables.dataset import Dataset

_COLUMNS = [
    "run_id", "category", "duration_s", "time_source", "is_error", "start_ns", "end_ns",
]  # fmt: skip
# More tasks than this beside each other in one category cannot be read.
_MOST_TASKS = 4
_ERROR, _NO_RESULT = "//////", "......"


def draw(dataset: Dataset) -> Figure:
    """Two panels with the same categories: calls a run (hatched: errors) and seconds a run.

    What the runs that did not complete had come to is drawn apart, as bars without a filling.
    """
    calls = dataset.rows("tool_calls", _COLUMNS)
    subjects = _subjects(dataset)
    order = list(sweep_metrics.category_use(calls))
    height = 0.78 / len(subjects)
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, layout="constrained",
        figsize=(
            figure_style.TEXT * 0.8, 0.75 + max(len(order), 3) * max(0.16, 0.09 * len(subjects)),
        ),
    )  # fmt: skip
    if not order:
        for panel in (left, right):
            figure_style.say_instead(panel, "no tool call")
        return figure
    handles, kinds = [], set()
    for number, (name, runs) in enumerate(subjects.items()):
        colour = figure_style.SUBJECT_COLOURS[number]
        done = sweep_metrics.completed(runs)
        censored = [run for run in runs if not sweep_metrics.is_completed(run)]
        y = (number - (len(subjects) - 1) / 2) * height
        # Above the completed ones; below, where there are some, the others.
        above = 0.55 if censored else 0.92
        kinds |= _draw_bars(
            left, right, calls, done, order, y - (0.46 - above / 2) * height, above * height,
            {"facecolor": colour, "edgecolor": "#ffffff", "linewidth": 0},
        )  # fmt: skip
        others = _draw_bars(
            left, right, calls, censored, order, y + 0.28 * height, 0.34 * height,
            {"facecolor": "#ffffff", "edgecolor": colour, "linewidth": 0.6},
        )  # fmt: skip
        kinds |= others | ({"censored"} if others else set())
        n = f"{len(done)} of {len(runs)}" if censored else f"{len(done)}"
        handles.append(figure_style.swatch(colour, f"{figure_style.short(name, 2)} (n = {n})"))
    handles.append(figure_style.swatch("#ffffff", "error", _ERROR))
    if "unknown" in kinds:
        handles.append(
            figure_style.swatch("#ffffff", "no result: unknown whether an error", _NO_RESULT)
        )
    if "censored" in kinds:
        handles.append(figure_style.swatch("#ffffff", "unfilled: runs that did not complete"))
    left.set_yticks(range(len(order)), order)
    left.set_ylim(len(order) - 0.4, -0.6)
    left.set_xlabel("calls per run")
    right.set_xlabel("time of calls per run (s)")
    for panel in (left, right):
        panel.grid(axis="x")
        panel.tick_params(axis="y", length=0)
        panel.set_xlim(left=0)
    figure_style.legend_above(figure, handles)
    return figure


def _draw_bars(
    left: Axes, right: Axes, calls: list, runs: list, order: list, y: float, height: float,
    look: dict,
) -> set[str]:  # fmt: skip
    """The means over these runs; which kinds of calls occur, `known` and `unknown` results."""
    ours = {run["run_id"] for run in runs}
    use = sweep_metrics.category_use(call for call in calls if call["run_id"] in ours)
    for category, this in use.items():
        here = order.index(category) + y
        left.barh(here, this.calls / len(runs), height, **look)
        errors, unknown = this.errors / len(runs), this.unknown / len(runs)
        left.barh(here, errors, height, hatch=_ERROR, **look)
        left.barh(here, unknown, height, left=errors, hatch=_NO_RESULT, **look)
        if this.seconds is not None:
            right.barh(here, this.seconds / len(runs), height, **look)
    kinds = {"unknown"} if any(this.unknown for this in use.values()) else set()
    return kinds | ({"known"} if use else set())


def _subjects(dataset: Dataset) -> dict[str, list]:
    """The runs of each task, or of all tasks together."""
    subjects = sweep_metrics.by_subject(dataset.runs)
    if len(subjects) > _MOST_TASKS:
        subjects = {f"all {len(subjects)} tasks": list(dataset.runs)}
    return subjects


def caption(dataset: Dataset) -> captions.Caption:
    """Calls, errors and time in completed runs, how exact the times are, and what is left out."""
    runs = dataset.runs
    counted = {run["run_id"] for run in sweep_metrics.completed(runs)}
    every = dataset.rows("tool_calls", _COLUMNS)
    calls = [call for call in every if call["run_id"] in counted]
    use = sweep_metrics.category_use(calls)
    errors, unknown = (
        sum(getattr(u, name) for u in use.values()) for name in ("errors", "unknown")
    )
    timed = [u.seconds for u in use.values() if u.seconds is not None]
    seconds = sum(timed) if timed else None
    untimed = sum(u.untimed for u in use.values())
    exact = sweep_metrics.exact_time_share(calls)
    first = next(iter(use), None)
    most = ""
    if first is not None and seconds and use[first].seconds:
        most = f"; the most in {first}: {captions.percent(use[first].seconds / seconds)}"
    what = captions.count(errors, "error")
    what += f", {unknown} without a result" if unknown else ""
    rest = (
        f", in no number: {len(every) - len(calls)} of the others"
        if len(every) > len(calls)
        else ""
    )
    return captions.describe(
        runs,
        [
            f"n = {captions.count(len(calls), 'call')} ({what}) in the completed runs "
            f"({captions.completed_of(runs)}{rest}).",
            f"Time in all unknown{most}."
            if seconds is None
            else f"They took {seconds:.1f} s in all{most}.",
            f"{captions.percent(exact)} of the calls with a time have an exact one, for the others "
            f"it is an upper bound from the trace; {captions.count(untimed, 'call')} without a "
            "time.",
        ],
        n_calls=len(calls),
        n_errors=errors,
        n_unknown=unknown,
        n_untimed=untimed,
        n_calls_left_out=len(every) - len(calls),
        seconds=seconds,
        exact_time_share=exact,
        by_category={name: vars(u) for name, u in use.items()},
    )


if __name__ == "__main__":
    figure_style.main(draw, caption)
