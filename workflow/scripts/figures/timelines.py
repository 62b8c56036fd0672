"""A timeline of each run: memory and its limit, CPU and its limit, tool calls, OOM kills."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import batched

from agentsweep import captions, metrics, style
from agentsweep.dataset import Dataset
from agentsweep.metrics import Curve, Row
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D

_COUNTERS = (
    "memory_current_bytes", "memory_anon_bytes", "memory_inactive_file_bytes",
    "memory_oom_kill", "cpu_usage_usec",
)  # fmt: skip
_CALLS = [
    "run_id", "category", "start_ns", "end_ns", "start_utc_ns", "end_utc_ns",
]  # fmt: skip
_MIB = 2**20
# Two beside each other, as many rows as a page holds.
_ACROSS, _DOWN, _HEIGHT = 2, 5, 1.72
_SELECTED = 8
# A limit further up than this many peaks would press the curve flat.
_LIMIT_IN_VIEW = 2.5

_BANDS = {
    "test": style.VERMILION,
    "build": style.ORANGE,
    "install": style.ORANGE,
    "python": style.BLUE,
    "git": style.PURPLE,
    "edit": style.GREEN,
    "explore": style.SKY,
    "read": style.SKY,
    "search": style.SKY,
}
_BAND_NAMES = {
    style.VERMILION: "test",
    style.ORANGE: "build, install",
    style.BLUE: "python",
    style.PURPLE: "git",
    style.GREEN: "edit",
    style.SKY: "explore, read, search",
    style.GREY: "other tool",
}


@dataclass
class _Timeline:
    """What is drawn of one run; curves are empty where there are no samples."""

    run: Row
    length_s: float
    working_set: Curve
    anon: Curve
    cpus: Curve
    kills: list[tuple[float, int]]
    bands: list[tuple[float, float, str]]
    memory_name: str


def draw(dataset: Dataset) -> Figure:
    """The selected runs: the corners of the grid (see `selection`)."""
    chosen = selection(dataset.runs)
    return _page(list(_timelines(dataset, chosen)))


def pages(dataset: Dataset) -> Iterator[Figure]:
    """All runs, ten a page, by task, memory limit, CPU limit and replicate."""
    for part in batched(_ordered(dataset.runs), _ACROSS * _DOWN):
        yield _page(list(_timelines(dataset, part)))


def selection(runs: Sequence[Row]) -> list[Row]:
    """All runs if they are eight or fewer, else first replicates at the corners of the grid.

    The corners are the smallest and the largest limits; tasks in the order of their names.
    """
    ordered = _ordered(runs)
    if len(ordered) <= _SELECTED:
        return ordered
    memory, cpus = metrics.memory_limits(runs), metrics.cpu_limits(runs)
    corners = {(m, c) for m in (memory[0], memory[-1]) for c in (cpus[0], cpus[-1])}
    seen, chosen = set(), []
    for run in ordered:
        cell = (run["task"], run["agent"], run["mem_limit_bytes"], run["cpu_limit"])
        if cell not in seen and cell[2:] in corners:
            seen.add(cell)
            chosen.append(run)
    return (chosen or ordered)[:_SELECTED]


def _ordered(runs: Sequence[Row]) -> list[Row]:
    last = float("inf")
    return sorted(
        runs,
        key=lambda run: (
            run["task"] or "",
            run["agent"] or "",
            last if run["mem_limit_bytes"] is None else run["mem_limit_bytes"],
            last if run["cpu_limit"] is None else run["cpu_limit"],
            run["replicate"] or 0,
            run["run_id"],
        ),
    )
