"""Colours of the report: every one has a light and a dark form, and both pages and charts name it by CSS variable.

The series colours are those of Okabe and Ito (2008), "Color Universal Design", without yellow and black: they stay
apart for colour-blind readers. Text is never set in them; labels are ink, joined to their line by a leader.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ACCENT",
    "BENCHMARK",
    "CARD",
    "DASHES",
    "FAIL",
    "GRID",
    "INK",
    "MUTED",
    "NAIVE",
    "PASS",
    "SERIES",
    "SOFT",
    "WARN",
    "Colour",
    "css_variables",
    "with_variables",
]


@dataclass(frozen=True, slots=True)
class Colour:
    """A role, not a shade. `light` is unique, as charts are drawn in it and then rewritten to the variable."""

    role: str
    light: str
    dark: str


INK = Colour("ink", "#1b2430", "#e8ecf2")
MUTED = Colour("muted", "#5a6675", "#a3aebb")
GRID = Colour("grid", "#e5e8ec", "#2d3540")
SOFT = Colour("soft", "#d3dae2", "#3c4654")
CARD = Colour("card", "#ffffff", "#171d25")
PAGE = Colour("page", "#f4f6f8", "#0e1319")
ACCENT = Colour("accent", "#0b62b0", "#6cb6f5")
PASS = Colour("pass", "#0b7a3e", "#4fcf8a")
WARN = Colour("warn", "#a15c00", "#f0b14a")
FAIL = Colour("fail", "#b42318", "#ff8a7d")
BENCHMARK = Colour("benchmark", "#a7afb9", "#77828f")
NAIVE = Colour("naive", "#66717e", "#98a3b0")
SERIES = (
    Colour("series-1", "#0072b2", "#4fa9e3"),
    Colour("series-2", "#d55e00", "#ff8f45"),
    Colour("series-3", "#009e73", "#2cc99c"),
    Colour("series-4", "#cc79a7", "#e7a3c9"),
    Colour("series-5", "#e69f00", "#f6bd42"),
    Colour("series-6", "#56b4e9", "#9ad7fa"),
)
DASHES: tuple[tuple[float, ...], ...] = ((5, 2.5), (1.2, 2), (8, 2, 1.5, 2))
"""Patterns that tell naive models apart, as all of them are grey."""

_ALL = (INK, MUTED, GRID, SOFT, CARD, PAGE, ACCENT, PASS, WARN, FAIL, BENCHMARK, NAIVE, *SERIES)


def css_variables(*, dark: bool) -> str:
    """Declarations `--role: colour;` for a style sheet."""
    return " ".join(f"--{colour.role}: {colour.dark if dark else colour.light};" for colour in _ALL)


def with_variables(markup: str) -> str:
    """Replace every light colour by its variable, the colour itself as fallback."""
    for colour in _ALL:
        markup = markup.replace(colour.light, f"var(--{colour.role}, {colour.light})")
    return markup
