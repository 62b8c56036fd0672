"""What must hold of every figure, whatever it shows."""

import importlib.util
import sys
from itertools import combinations
from pathlib import Path
from types import ModuleType

from matplotlib.text import Text

from agentsweep.analysis import figure_style


def load_script(path: Path) -> ModuleType:
    """A figure's script as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def check_layout(figure) -> list[str]:
    """The texts of a figure, which lie within it and not on each other; it fits a page."""
    texts = list(shown_texts(figure))
    assert texts
    width, height = figure.canvas.get_width_height()
    for text, box in texts:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside, f"{text!r} leaves the figure: {box}"
    for (one, one_box), (other, other_box) in combinations(texts, 2):
        assert not overlap(one_box, other_box), f"{one!r} and {other!r} overlap"
    inches = figure.get_size_inches()
    assert inches[0] <= figure_style.TEXT + 1e-9
    assert inches[1] <= figure_style.PAGE_HEIGHT + 1e-9
    return [text for text, _ in texts]


def check_vector_files(out) -> None:
    """OUT.pdf embeds its fonts, OUT.svg needs none, and neither has a date."""
    pdf = Path(f"{out}.pdf").read_bytes()
    assert b"/FontFile2" in pdf, "no embedded TrueType font"
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    svg = Path(f"{out}.svg").read_text(encoding="utf-8")
    assert "<text" not in svg, "a text that needs a font of the reader's"
    assert "<dc:date>" not in svg


def shown_texts(figure):
    """The texts that are really drawn, with their boxes in pixels."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            slack = (high - low) * 1e-6
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                inside = low - slack <= tick.get_loc() <= high + slack
                if not inside or not axes.axison:
                    hidden |= {tick.label1, tick.label2}
            if not axes.axison:
                hidden.add(axis.label)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in hidden:
            yield text.get_text(), text.get_window_extent(renderer)


def overlap(one, other):
    """Square pixels that two boxes share, if that is more than touching."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width * height if width > 1.5 and height > 1.5 else 0
