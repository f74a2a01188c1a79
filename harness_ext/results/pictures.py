"""How every picture looks: colours, letters, axes, labels beside lines; as files and as a part of a page.

Nothing is told by colour alone: each line has a marker and dashes of its own, and its name beside it. Names are untrusted
text: none is read as a formula. The same picture drawn twice is the same file.
"""

import io
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from harness_ext.results.records import replacing
from harness_ext.results.tables import shorten, visible

# Of the eight colours of Okabe & Ito (2008) those that stand out from a white page and a black one.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
INK = "#161718"  # text and axes; the page's own colour in a part of a page
_MORE_LETTERS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC")
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Line:
    """How a line is drawn."""

    color: str
    marker: str
    linestyle: Any


def lines() -> Iterator[Line]:
    """Give styles, no two alike for the first 120."""
    return map(Line, itertools.cycle(COLOURS), itertools.cycle(MARKERS), itertools.cycle(DASHES))


@contextmanager
def style() -> Iterator[None]:
    """Draw and save within this."""
    import matplotlib as mpl

    with mpl.rc_context(_settings()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the PNG has a box there, the SVG the letter
        yield


def _settings() -> Any:
    from matplotlib.font_manager import get_font_names

    ink = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return dict.fromkeys(ink, INK) | {
        "svg.hashsalt": "picture",
        "svg.fonttype": "none",  # text stays text: whatever shows it has the letters that the font here lacks
        "font.family": ["DejaVu Sans", *(font for font in _MORE_LETTERS if font in get_font_names())],
        "font.size": 9,
        "text.parse_math": False,  # "$" is a character of a name
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
    }


def label(name: str, most: int = 72) -> str:
    """Write a name so that it fits and is shown, which matplotlib's legends do not if it begins with an underscore."""
    short = shorten(visible(name), most)
    return f" {short}" if short.startswith("_") else short


def percent(*axes: Any) -> None:
    """Write axes of shares, as in ``axis.yaxis``, in percent."""
    from matplotlib.ticker import PercentFormatter

    for each in axes:
        each.set_major_formatter(PercentFormatter(1, decimals=0))


def save(figure: Any, path: Path) -> list[Path]:
    """Write a figure, within `style`, as PNG and SVG on white; the path is without suffix."""
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    for file in files:
        with replacing(file) as new:
            figure.savefig(new, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
    return files


def part_of_page(figure: Any, name: str, title: str, alternative: str) -> str:
    """Write a figure, within `style`, as an ``<svg>`` without background for HTML.

    Its ink is the page's text colour, and it scales with its place.

    Args:
        figure: A figure of matplotlib.
        name: What its ids begin with, so that no two pictures of a page share one.
        title: Its name to a screen reader.
        alternative: What it shows, in words.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())  # noqa: S314  of our own making
    for each in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(each)
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', file.getvalue()))
    for each in root.iter():
        _adapt(each, name, used)
    del root.attrib["width"], root.attrib["height"]
    root.set("role", "img")
    for tag, words in (("desc", alternative), ("title", title)):
        child = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        child.text = words
        root.insert(0, child)
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Give ids that are referred to the picture's name, drop others, and have the page choose the ink."""
    for key, value in list(element.attrib.items()):
        if key == "id" and value not in used:
            del element.attrib[key]
        elif key == "id":
            element.set(key, f"{name}-{value}")
        elif key.endswith("href"):
            element.set(key, value.replace("#", f"#{name}-", 1))
        else:
            element.set(key, value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor"))


def place(labels: Sequence[tuple[float, float, str, str]], axis: Any, **text: Any) -> None:
    """Write a label right of each point of an axis, moved up or down where it would lie on another or on a line.

    Args:
        labels: x, y, text and the colour of what joins them, of each; the most important first.
        axis: What is drawn on it is avoided.
        text: How it is written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text  # its own extent: an annotation's has the joint in it

    renderer = FigureCanvasAgg(axis.figure).get_renderer()
    axis.figure.draw_without_rendering()
    axis.figure.set_layout_engine("none")  # all stays where it is from here on
    shapes = [(line.get_transform().transform_path(line.get_path()), line.get_linestyle()) for line in axis.get_lines()]
    drawn = [path for path, dashes in shapes if dashes != "None"]
    points = [place for path, _ in shapes for place in path.vertices]
    taken = [each.get_window_extent(renderer) for each in axis.texts]

    for x, y, words, colour in labels:
        joint = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
        note = axis.annotate(words, (x, y), (12, 0), textcoords="offset points", va="center", arrowprops=joint, **text)
        note.set_in_layout(False)
        note.update_positions(renderer)
        at_its_point, choices = Text.get_window_extent(note, renderer), []
        for move in range(-90, 91, 3):  # points
            box = at_its_point.translated(0, renderer.points_to_pixels(move))
            if axis.bbox.y0 <= box.y0 and box.y1 <= axis.bbox.y1:
                hidden = sum(map(box.overlaps, taken))
                crossed = sum(path.intersects_bbox(box, filled=False) for path in drawn) + box.count_contains(points)
                choices.append((hidden, crossed + abs(move) / 40, move, box))
        *_, move, box = min(choices, default=(0, 0, 0, at_its_point))
        note.set_position((12, move))
        taken.append(box)
