"""From the inputs to the page: pictures and words put into the template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

import quantfleet
from quantfleet.evaluation.report import charts, quality, robust, text, theme, timelines, view
from quantfleet.evaluation.report.inputs import ModelPage, ReportInputs

__all__ = ["render_quality_page", "render_report"]

_TEMPLATE, _QUALITY_TEMPLATE = "template.html.j2", "quality_page.html.j2"
_OPEN_PAGES = 4
"""Up to so many candidates the gates are laid open; of more, the promoted ones and the best."""
_OPEN_FEATURES = 40
_CURVES_SHOWN = 12


def render_report(inputs: ReportInputs) -> str:
    """Render the report as one HTML file that needs nothing else: no script, no font, no request.

    Equal inputs give equal text. Texts of the inputs are escaped. Takes a few seconds, most of it for the charts;
    calls from several threads wait for each other, as matplotlib's settings belong to the process.
    """
    return _environment().get_template(_TEMPLATE).render(_context(inputs))


def render_quality_page(record: Mapping[str, Any], *, table: str) -> str:
    """Render the quality report of one table of bars as an HTML file of its own, on the same terms.

    Args:
        record: the quality report as plain data: timeframe, policy, symbols, market, coverage, prices.
        table: what to call the table, such as "lake/bars/1d@3".
    """
    sentence, detail, verdict = quality.page_headline(record)
    context = {
        **_colours(),
        "table": table,
        "version": quantfleet.__version__,
        "sentence": sentence,
        "detail": detail,
        "verdict": verdict,
        "tiles": quality.page_tiles(record),
        "quality": quality.quality_section(record),
    }
    return _environment().get_template(_QUALITY_TEMPLATE).render(context)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("quantfleet.evaluation.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "moment": text.moment,
        "duration": text.duration,
        "percent": text.percent,
        "breakable": _breakable,
    }
    return environment


def _colours() -> dict[str, Markup]:
    return {
        "css_light": Markup(theme.css_variables(dark=False)),  # noqa: S704 (ours)
        "css_dark": Markup(theme.css_variables(dark=True)),  # noqa: S704
    }


def _context(inputs: ReportInputs) -> dict[str, Any]:
    style = charts.strokes(inputs)
    candidates = charts.by_sharpe(inputs.candidates)
    features = view.feature_rows(inputs.features)
    slowest = max((stage.seconds for stage in inputs.stages), default=0.0)
    return {
        "inputs": inputs,
        **_colours(),
        "headline": view.headline(inputs),
        "tiles": view.tiles(inputs),
        "rows": view.decision_rows(inputs),
        "swatches": {
            name: (stroke.colour.role, "dashed" if stroke.dash else "thick" if name == inputs.benchmark else "")
            for name, stroke in style.items()
        },
        "always_up": view.always_up(inputs),
        "unnamed": sum(not stroke.labelled for stroke in style.values()),
        "equity": charts.equity_and_drawdown(inputs),
        "sharpe": charts.sharpe_intervals(inputs),
        "robust": robust.robust_section(inputs),
        "why": [(f"why-{inputs.models.index(page)}", page, view.gate_summary(page)) for page in candidates],
        "open_pages": _open_pages(candidates),
        "training": view.training_rows(inputs),
        "curves": _learning_curves(inputs, style),
        "quality": quality.quality_section(inputs.quality),
        "features": features[:_OPEN_FEATURES],
        "more_features": features[_OPEN_FEATURES:],
        "segments": view.segment_rows(inputs),
        "split": timelines.split_timeline(inputs),
        "stages": [(stage, stage.seconds / slowest if slowest > 0.0 else 0.0) for stage in inputs.stages],
        "stage_total": text.duration(sum(stage.seconds for stage in inputs.stages)),
        "config": view.config_text(inputs.config),
    }


def _breakable(name: str) -> Markup:
    """The name as HTML that may break after an underscore."""
    return escape(name).replace("_", Markup("_<wbr>"))


def _open_pages(candidates: list[ModelPage]) -> set[str]:
    if len(candidates) <= _OPEN_PAGES:
        return {page.name for page in candidates}
    return {page.name for page in candidates if page.verdict == "PROMOTE"} | {candidates[0].name}


def _learning_curves(inputs: ReportInputs, style: dict[str, charts.Stroke]) -> list[tuple[ModelPage, Markup, Any]]:
    """(model, picture, (best epoch, loss) or None) for every model that has a curve."""
    learned = [page for page in charts.by_sharpe(inputs.models) if page.learning_curve][:_CURVES_SHOWN]
    return [
        (
            page,
            charts.learning_curve(page, style[page.name].colour, f"learning-{k}"),
            charts.best_epoch(page.learning_curve),
        )
        for k, page in enumerate(learned)
    ]
