"""From a matplotlib figure to SVG that can stand inside an HTML page, among others, and be the same bytes every time.

One unit of the figure is one CSS pixel at full size. Text stays text: matplotlib lays it out with the font it ships,
which is wide, so what a browser puts in its place fits.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib.style
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.transforms import IdentityTransform

from quantfleet.evaluation.report.theme import CARD, GRID, INK, MUTED, with_variables

__all__ = [
    "CHARACTER",
    "NARROW",
    "WIDE",
    "Chart",
    "axes_at",
    "clipped",
    "date_axis",
    "draw",
    "draw_one",
    "new_figure",
    "write",
]

WIDE, NARROW = 940, 352
"""Pixels: the widths a chart is drawn at, one for a desk and one for a phone."""

CHARACTER = 7.3
"""Pixels that a character of size 12 takes in the widest font a browser may use."""

_FONTS = "-apple-system, BlinkMacSystemFont, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quantfleet",
    "text.parse_math": False,  # a model may be called $x$
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same layout on every machine
    "font.size": 12.0,
    "figure.dpi": 72.0,
    "savefig.dpi": 72.0,
    "path.simplify_threshold": 0.2,
    "text.color": INK.light,
    "axes.edgecolor": GRID.light,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED.light,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": 12.0,
    "axes.titlelocation": "left",
    "axes.titlecolor": MUTED.light,
    "axes.unicode_minus": True,
    "figure.facecolor": CARD.light,
    "grid.color": GRID.light,
    "grid.linewidth": 1.0,
    "xtick.color": GRID.light,
    "xtick.labelcolor": MUTED.light,
    "ytick.color": GRID.light,
    "ytick.labelcolor": MUTED.light,
    "ytick.major.size": 0.0,
    "lines.solid_capstyle": "round",
}
_LOCK = threading.Lock()
"""matplotlib's settings and Python's warning filters belong to the whole process."""


@dataclass(frozen=True, slots=True)
class Chart:
    """The same chart for a desk and for a phone; the page shows one of them."""

    wide: Markup
    narrow: Markup


def draw(chart_id: str, label: str, paint: Callable[[int], Figure]) -> Chart:
    """Paint a chart at both widths.

    Args:
        chart_id: unique within the page, letters and hyphens.
        label: what the chart shows, for those who cannot see it.
        paint: builds the figure for a width in pixels, with `new_figure`.
    """
    with _settings():
        wide, narrow = (
            _export(paint(width), f"{chart_id}-{kind}", label) for width, kind in ((WIDE, "w"), (NARROW, "n"))
        )
    return Chart(wide, narrow)


def draw_one(chart_id: str, label: str, paint: Callable[[], Figure]) -> Markup:
    """Paint a chart that is small enough to be the same everywhere."""
    with _settings():
        return _export(paint(), chart_id, label)


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many pixels, outside pyplot's books."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasSVG(figure)
    return figure


def axes_at(figure: Figure, left: float, top: float, right: float, bottom: float) -> Axes:
    """Axes whose box keeps so many pixels from each edge of the figure."""
    width, height = figure.get_size_inches() * 72
    return figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    )


def date_axis(axes: Axes, *, wide: bool) -> None:
    """Dates along the bottom, as many as a chart of that width takes, and no grid."""
    locator = AutoDateLocator(minticks=4, maxticks=9) if wide else AutoDateLocator(minticks=2, maxticks=5)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    axes.grid(visible=False, axis="x")


def write(figure: Figure, x: float, y: float, text: str, **options: Any) -> None:
    """Text at a place in pixels, centred on its line."""
    figure.text(x, y, text, transform=IdentityTransform(), verticalalignment="center", **options)


def clipped(text: str, length: int) -> str:
    """The text on one line, cut to a length with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


@contextmanager
def _settings() -> Iterator[None]:
    with _LOCK, matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the browser's fonts will have it
        yield


def _export(figure: Figure, chart_id: str, label: str) -> Markup:
    raw = io.StringIO()
    figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = raw.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)  # it would style the whole page
    body = re.sub(r"<[^>]*>", lambda tag: _tidy(tag[0], chart_id), body)
    body = re.sub(r">\s+<", "><", body)
    width, height = (round(side * 72) for side in figure.get_size_inches())
    opening = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}" style="max-width:{}px">').format(
        label, width, height, width
    )
    return opening + Markup(with_variables(body).strip()) + Markup("</svg>")  # noqa: S704 (matplotlib escapes texts)


def _tidy(tag: str, chart_id: str) -> str:
    """One tag, smaller and with ids of its own."""
    tag = re.sub(r"\s+", " ", tag)
    tag = re.sub(r"(\.\d{2})\d+", r"\1", tag)
    tag = re.sub(r"font-family: [^;\"]*", f"font-family: {_FONTS}", tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    tag = re.sub(r' id="[a-z]+[A-Za-z.]*_\d+"', "", tag)  # figure_1, axes_2: nobody refers to them
    tag = re.sub(r' id="([^"]+)"', rf' id="{chart_id}-\1"', tag)
    tag = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{chart_id}-\1"', tag)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{chart_id}-\1)", tag)
