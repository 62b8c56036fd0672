"""Tool calls by category: how many, and how much time they took."""

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from agentsweep import captions, metrics, style
from agentsweep.dataset import Dataset

_COLUMNS = [
    "run_id", "category", "duration_s", "time_source", "is_error", "start_ns", "end_ns",
]  # fmt: skip
# More tasks than this beside each other in one category cannot be read.
_MOST_TASKS = 4


def draw(dataset: Dataset) -> Figure:
    """Two panels with the same categories: calls a run (darker: errors) and seconds a run."""
    calls = dataset.rows("tool_calls", _COLUMNS)
    subjects = _subjects(dataset)
    order = list(metrics.category_use(calls))
    height = 0.78 / len(subjects)
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, layout="constrained",
        figsize=(style.TEXT * 0.8, 0.75 + max(len(order), 3) * max(0.16, 0.09 * len(subjects))),
    )  # fmt: skip
    handles = []
    for number, (name, runs) in enumerate(subjects.items()):
        colour = style.SUBJECT_COLOURS[number]
        ours = {run["run_id"] for run in runs}
        use = metrics.category_use(call for call in calls if call["run_id"] in ours)
        for place, category in enumerate(order):
            if category not in use:
                continue
            y = place + (number - (len(subjects) - 1) / 2) * height
            this = use[category]
            left.barh(y, this.calls / len(runs), height * 0.92, color=colour)
            left.barh(
                y, this.errors / len(runs), height * 0.92, color=colour, hatch="//////",
                edgecolor="#ffffff", linewidth=0,
            )  # fmt: skip
            if this.seconds is not None:
                right.barh(y, this.seconds / len(runs), height * 0.92, color=colour)
        handles.append(style.swatch(colour, style.short(name, 2.2)))
    handles.append(style.swatch("#ffffff", "error", "//////"))
    if not order:
        for panel in (left, right):
            style.say_instead(panel, "no tool call")
        return figure
    left.set_yticks(range(len(order)), order)
    left.set_ylim(len(order) - 0.4, -0.6)
    left.set_xlabel("calls per run")
    right.set_xlabel("time of calls per run (s)")
    for panel in (left, right):
        panel.grid(axis="x")
        panel.tick_params(axis="y", length=0)
        panel.set_xlim(left=0)
    style.legend_above(figure, handles)
    return figure


def _subjects(dataset: Dataset) -> dict[str, list]:
    subjects = metrics.by_subject(dataset.runs)
    if len(subjects) > _MOST_TASKS:
        return {f"all {len(subjects)} tasks": list(dataset.runs)}
    return subjects


def caption(dataset: Dataset) -> captions.Caption:
    """Calls, errors and time in all, and how exact the times are."""
    runs = dataset.runs
    calls = dataset.rows("tool_calls", _COLUMNS)
    use = metrics.category_use(calls)
    errors = sum(u.errors for u in use.values())
    seconds = sum(u.seconds or 0.0 for u in use.values())
    untimed = sum(u.untimed for u in use.values())
    exact = metrics.exact_time_share(calls)
    first = next(iter(use), None)
    most = ""
    if first is not None and seconds and use[first].seconds:
        most = f"; the most in {first}: {captions.percent(use[first].seconds / seconds)}"
    return captions.describe(
        runs,
        [
            f"n = {captions.count(len(calls), 'call')} ({captions.count(errors, 'error')}) in "
            f"{captions.count(len(runs), 'run')}.",
            f"They took {seconds:.1f} s in all{most}.",
            f"{captions.percent(exact)} of the calls with a time have an exact one, for the others "
            f"it is an upper bound from the trace; {captions.count(untimed, 'call')} without a "
            "time.",
        ],
        n_calls=len(calls),
        n_errors=errors,
        n_untimed=untimed,
        seconds=seconds,
        exact_time_share=exact,
        by_category={name: vars(u) for name, u in use.items()},
    )


if __name__ == "__main__":
    style.main(draw, caption)
