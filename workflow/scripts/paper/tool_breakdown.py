"""Which tools the tools' time goes to, and which commands that of shell commands."""

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agentsweep.analysis import captions, claims_tools, figure_style
from agentsweep.analysis.cohort import Cohort
from agentsweep.analysis.run_metrics import CORRECTED, PAPER
from agentsweep.analysis.values import Values, datasets

_LEAST_PERCENT = 1.0
_DEFINITIONS = {
    PAPER: "A call's time is from its request to its result, each call's counted, "
    "sub-agents' calls and the calls that start them alike; the kind of a command is the first "
    "pattern that its line matches.",
    CORRECTED: "Time is that with the tool or kind at work in each run, overlaps once, "
    "without the calls that start sub-agents; the kind of a command is that of the programs that "
    "it starts.",
}
_PANELS = (
    ("(a) tools", "share of tool time (%)", claims_tools.tool_time_share, "no tool call"),
    ("(b) shell commands", "share of Bash time (%)", claims_tools.bash_time_share, "no Bash call"),
)


def draw(cohorts: Sequence[Cohort], mode: str) -> Figure:
    """Two panels: a group of bars for each tool and each kind of command."""
    sets = datasets(cohorts)
    shares = [_shares(metric, sets, mode) for _, _, metric, _ in _PANELS]
    most = max(3, *(len(found[0]) for found in shares))
    bar = 0.12 if len(sets) > 1 else 0.16
    figure, panels = plt.subplots(
        1,
        2,
        figsize=(figure_style.TEXT, 0.8 + most * (bar * len(sets) + 0.06)),
        layout="constrained",
    )
    for panel, found, (title, label, _, missing) in zip(panels, shares, _PANELS, strict=True):
        panel.set_title(title)
        if any(share.value for values in found for share in values.values()):
            _draw_bars(panel, found, figure_style.dataset_colours(cohorts), most)
            panel.set_xlabel(label)
        else:
            figure_style.say_instead(panel, missing)
    handles = figure_style.dataset_swatches(cohorts)
    if handles:
        figure_style.legend_above(figure, handles)
    return figure


def _shares(metric, sets: Sequence[Cohort], mode: str) -> list[Values]:
    return claims_tools.large_shares([metric(cohort, mode) for cohort in sets], _LEAST_PERCENT)


def _draw_bars(panel: Axes, shares: list[Values], looks: list, most: int) -> None:
    height = 0.84 / len(shares)
    for number, (values, (_, colour)) in enumerate(zip(shares, looks, strict=True)):
        for place, share in enumerate(values.values()):
            y = place + (number + 0.5) * height - 0.42
            if share.value is None:
                panel.annotate(
                    "unknown", (0, y), (2, 0), textcoords="offset points", va="center", fontsize=6,
                    color=figure_style.GREY,
                )  # fmt: skip
                continue
            panel.barh(y, share.value, height * 0.9, color=colour)
            panel.annotate(
                f"{share.value:.1f}", (share.value, y), (2, 0), textcoords="offset points",
                va="center", fontsize=6,
            )  # fmt: skip
    panel.set_yticks(range(len(shares[0])), shares[0])
    # Bars are as thick in both panels.
    panel.set_ylim(most - 0.5, -0.5)
    panel.set_xlim(0, max(s.value or 0.0 for values in shares for s in values.values()) * 1.12)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x")


def caption(cohorts: Sequence[Cohort], mode: str) -> captions.Caption:
    """The largest share of each data set, and how many calls there are."""
    sets = datasets(cohorts)
    found = [{c.name: metric(c, mode) for c in sets} for _, _, metric, _ in _PANELS]
    tools, kinds = ({name: _said(shares) for name, shares in each.items()} for each in found)
    return captions.of_cohorts(
        cohorts,
        mode,
        [
            f"(a) Largest share: {captions.each(tools)}.",
            f"(b) Largest share: {captions.each(kinds)}.",
            f"Tools and kinds below {_LEAST_PERCENT:g} % in every data set are in other.",
            _DEFINITIONS[mode],
        ],
        tool_time_share=captions.plain(found[0]),
        bash_time_share=captions.plain(found[1]),
    )


def _said(shares: Values) -> str:
    calls = f"n = {captions.count(sum(share.n for share in shares.values()), 'call')}"
    largest = next(iter(shares), None)
    if largest is None or shares[largest].value is None:
        return f"unknown ({calls})"
    return f"{largest} {captions.number(shares[largest])} ({calls})"


if __name__ == "__main__":
    figure_style.paper_main(draw, caption)
