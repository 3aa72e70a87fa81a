"""The report of a run: one file that says what was decided, why, and when its numbers lie."""

import datetime as dt
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support.html_page import Page, look, open_browser, visible_text

from quantfleet.errors import ConfigError, DataError, SchemaError, TimeError
from quantfleet.evaluation.report import ModelPage, ReportInputs, StageRow, render_report
from quantfleet.evaluation.report.charts import spread, thin
from quantfleet.evaluation.report.text import count, duration, listed, number, percent

START = dt.datetime(2016, 1, 4, tzinfo=dt.UTC)
HOSTILE = "<b>&\"'$x_1$</b>"
EPOCHS = [{"epoch": float(k), "train_loss": 0.7 - 0.01 * k, "val_loss": 0.72 + 0.004 * (k - 3) ** 2} for k in range(8)]


def curve(*, seed: int = 0, bars: int = 120, drift: float = 0.0004) -> pl.DataFrame:
    returns = np.random.default_rng(seed).normal(drift, 0.01, bars)
    returns[0] = 0.0
    equity = 1e6 * np.cumprod(1.0 + returns)
    return pl.DataFrame(
        {
            "timestamp": pl.datetime_range(START, START + dt.timedelta(days=bars - 1), "1d", eager=True),
            "equity": equity,
            "net_return": returns,
            "drawdown": equity / np.maximum.accumulate(equity) - 1.0,
        }
    )


def metrics(sharpe: float, **others: float) -> dict[str, float]:
    return {
        "sharpe": sharpe,
        "sharpe_low": sharpe - 1.0,
        "sharpe_high": sharpe + 1.0,
        "total_return": 0.1234,
        "max_drawdown": 0.2,
        "turnover_per_year": 12.5,
        "ic": 0.021,
        "directional_accuracy": 0.523,
        "up_share": 0.541,
        "call_share": 1.0,
        **others,
    }


def model(name: str, sharpe: float = 0.5, *, promote: bool = False, **changes: Any) -> ModelPage:
    gates = (("min_ic", True, "IC 0.0210; must be above 0.0000"), ("min_sharpe", promote, f"Sharpe {sharpe:.2f}"))
    fields = {
        "name": name,
        "kind": "hybrid",
        "baseline": False,
        "metrics": metrics(sharpe),
        "curve": curve(seed=len(name)),
        "learning_curve": EPOCHS,
        "fit_seconds": 12.5,
        "parameters": 48_312,
        "verdict": "PROMOTE" if promote else "HOLD",
        "reasons": gates,
    }
    return ModelPage(**{**fields, **changes})


def naive(name: str, sharpe: float = 0.8, **changes: Any) -> ModelPage:
    plain = {"kind": name, "baseline": True, "learning_curve": (), "parameters": 0, "reasons": ()}
    return model(name, sharpe, **{**plain, **changes})


HOLD = naive("buy_and_hold")


def finding(**changes: Any) -> dict[str, Any]:
    at = "2016-02-01T00:00:00+00:00"
    plain = {"check": "outliers", "symbol": "SP500", "start": at, "end": at, "bars": 1, "detail": "21 deviations"}
    return {**plain, "severity": "warning", "action": "keep", **changes}


def quality(*findings: dict[str, Any]) -> dict[str, Any]:
    symbol = {"symbol": "SP500", "rows": 5031, "rows_kept": 5030, "rows_quarantined": 1, "findings": list(findings)}
    times = {"first": "1999-01-04T00:00:00+00:00", "last": "2018-12-31T00:00:00+00:00"}
    return {"timeframe": "1d", "rows": 5031, "counts": {}, "policy": {}, "symbols": [{**symbol, **times}]}


def report(*models: ModelPage, **changes: Any) -> ReportInputs:
    day = dt.timedelta(days=1)
    fields: dict[str, Any] = {
        "run_name": "quickstart",
        "created_utc": dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC),
        "version": "0.1.0",
        "config": {"run": {"seed": 7}, "storage": {"secret": "********"}},
        "data_versions": {"bars": "3"},
        "stages": (StageRow(name="ingest", seconds=1.25, summary="10 bars", inputs=("arch",), outputs=("bars@3",)),),
        "quality": quality(finding()),
        "features": pl.DataFrame(
            {
                "feature": ["rsi_14", "flat"],
                "lookback_bars": [15, 1],
                "source": ["TA-Lib RSI", "polars"],
                "mean": [50.2, 1.0],
                "std": [11.0, 0.0],
                "missing_share": [0.004, 0.0],
                "ic_train": [-0.031, math.nan],
            }
        ),
        "split": {
            "train": (START - 900 * day, START - 330 * day),
            "validation": (START - 320 * day, START - 10 * day),
            "test": (START, START + 120 * day),
        },
        "models": models or (model("hybrid"), HOLD),
        "benchmark": "buy_and_hold",
        "notes": ("2 symbols, one test period",),
    }
    return ReportInputs(**{**fields, **changes})


@cache
def usual_page() -> str:
    """The report of the usual inputs, rendered once for all tests that only look at it."""
    return render_report(report())


def headline(inputs: ReportInputs) -> str:
    found = re.search(r"<h1>(.*?)</h1>", render_report(inputs))
    assert found
    return found[1]


def visible(inputs: ReportInputs) -> str:
    return visible_text(render_report(inputs))


# --- one file that needs nothing else ---------------------------------------------------------------------------------


def test_asks_for_nothing_outside_itself():
    html = usual_page()
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert not [value for name in ("src", "srcset", "xlink:href", "action") for value in page.values(name)]
    assert all(value.startswith(("#", "data:,")) for value in page.values("href"))
    assert not re.search(r"https?:|//|@import|url\((?!#)", html)


def test_is_html_with_balanced_tags_and_headings_in_order():
    page = Page(usual_page())
    assert page.open == []
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_link_leads_to_the_one_element_of_that_id():
    page = Page(usual_page())
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in page.values("href") if value.startswith("#")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", " ".join(page.values("clip-path")))) <= set(ids)


def test_pictures_and_tables_say_what_they_show():
    page = Page(usual_page())
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(pictures) >= 9
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in pictures)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption")


def test_equal_inputs_give_equal_bytes():
    assert render_report(report()) == usual_page()


def test_escapes_hostile_names_everywhere():
    hostile = finding(symbol=HOSTILE, detail=HOSTILE, check=HOSTILE, action=HOSTILE)
    page = model(HOSTILE, kind=HOSTILE, reasons=((HOSTILE, False, HOSTILE),))
    inputs = report(page, replace(HOLD, name=HOSTILE * 2), benchmark=HOSTILE * 2)
    inputs = replace(
        inputs,
        run_name=HOSTILE,
        version=HOSTILE,
        notes=(HOSTILE,),
        prices_note=HOSTILE,
        config={HOSTILE: [HOSTILE]},
        data_versions={HOSTILE: HOSTILE},
        quality={**quality(hostile), "timeframe": HOSTILE},
        stages=(StageRow(name=HOSTILE, seconds=1.0, summary=HOSTILE, inputs=(HOSTILE,), outputs=(HOSTILE,)),),
        features=inputs.features.with_columns(feature=pl.lit(HOSTILE), source=pl.lit(HOSTILE)),
    )
    html = render_report(inputs)
    parsed = Page(html)
    assert '<b>&"' not in html
    assert "onclick" not in {name for _, attrs in parsed.tags for name in attrs}
    assert parsed.open == []
    assert HOSTILE in parsed.text


def test_ships_its_template_inside_the_package():
    assert resources.files("quantfleet.evaluation.report").joinpath("template.html.j2").is_file()


# --- what was decided -------------------------------------------------------------------------------------------------


def test_says_that_nothing_was_promoted():
    assert headline(report(model("a"), model("bb"), HOLD)) == "Nothing was promoted: HOLD for all 2 candidates."
    assert headline(report(model("a"), HOLD)) == "Nothing was promoted: HOLD for the only candidate, a."


def test_says_who_was_promoted():
    promoted = report(model("hybrid"), model("xgboost", 1.5, promote=True), HOLD)
    assert headline(promoted) == "PROMOTED xgboost."
    assert "It passed all 2 gates. 1 other candidate was held." in visible(promoted)


def test_says_that_a_run_of_naive_models_cannot_promote():
    assert headline(report(HOLD, naive("zero_return"))) == "Nothing was promoted: this run has naive models only."


def test_names_the_closest_candidate_and_what_it_failed():
    far = model("far", 2.0, reasons=(("min_ic", False, "IC -0.1"), ("min_sharpe", False, "Sharpe 2.00")))
    text = visible(report(far, model("near", 0.1), HOLD))
    assert "Closest was near, which passed 1 of 2 gates and failed min_sharpe: Sharpe 0.10." in text


def test_has_one_row_per_model_best_sharpe_first_and_undefined_last():
    models = (model("low", 0.1), model("high", 0.9), naive("zero_return", math.nan), HOLD)
    html = render_report(report(*models))
    rows = re.findall(r'<tr role="row" class="model.*?</span>(.*?)<small>', html)
    assert [row.replace("<wbr>", "") for row in rows] == ["high", "buy_and_hold", "low", "zero_return"]


def test_gives_the_main_reason_and_how_many_more_there_are():
    gates = (("a", True, "fine"), ("b", False, "too low"), ("c", False, "too few"))
    assert "b: too low and 1 more" in visible(report(model("hybrid", reasons=gates), HOLD))


def test_shows_every_number_with_its_unit():
    row = re.search(r'<tr role="row" class="model".*?</tr>', usual_page(), re.DOTALL)
    assert row
    text = " ".join(Page(row[0]).text.split())
    for shown in ("0.50", "[−0.50, 1.50]", "+12.3%", "−20.0%", "12.5×", "+0.021", "52.3%"):
        assert shown in text


def test_shows_undefined_and_missing_values_as_a_dash_that_says_why():
    scores = metrics(math.nan, sharpe_low=math.nan, sharpe_high=math.nan, ic=math.nan)
    del scores["directional_accuracy"]
    html = render_report(report(model("hybrid", metrics=scores), HOLD))
    assert not re.search(r"\bnan\b", html, re.IGNORECASE)
    assert 'title="undefined: all returns are equal, as when no position is ever taken">–' in html
    assert 'title="directional_accuracy was not computed">–' in html


def test_prints_every_gate_of_every_candidate_with_its_reason():
    text = visible_text(usual_page())
    assert "✓ passed min_ic IC 0.0210; must be above 0.0000" in text
    assert "✗ failed min_sharpe Sharpe 0.50" in text


def test_prints_the_caveats_beside_the_headline():
    header = render_report(report(prices_note="index levels without dividends")).split("</header>")[0]
    assert "2 symbols, one test period" in header
    assert "Prices: index levels without dividends" in header


def test_says_in_every_section_how_to_read_it_and_when_it_lies():
    html = usual_page()
    assert html.count("<section") == html.count("How to read it:") == html.count("When it lies:") == 11


# --- what it rests on -------------------------------------------------------------------------------------------------


def test_sums_findings_up_with_the_action_taken():
    found = [finding(), finding(), finding(check="ohlc", severity="error", action="quarantine", bars=3)]
    text = visible(report(quality=quality(*found)))
    assert "outliers a move far outside the usual warning 2 2 SP500 (2) kept, reported only" in text
    assert "error 1 3 SP500 (1) moved out of the table" in text
    assert text.index("ohlc") < text.index("outliers")


def test_says_so_when_there_are_no_findings_and_when_nobody_looked():
    assert "✓ No findings." in visible(report(quality=quality()))
    assert "No quality report was made for this run." in visible(report(quality={}))


def test_works_without_any_learning_curve():
    text = visible(report(model("xgboost", learning_curve=()), HOLD))
    assert "No model of this run learned in epochs" in text


def test_names_the_epoch_of_the_lowest_validation_loss():
    assert "lowest validation loss 0.72 at epoch 3" in visible_text(usual_page())


def test_takes_learning_curves_with_gaps_or_without_validation():
    rows = [{"epoch": 0.0, "train_loss": 1.0}, {"epoch": 1.0, "train_loss": math.nan, "val_loss": math.nan}]
    assert "no validation loss was recorded" in visible(report(model("hybrid", learning_curve=rows), HOLD))


def test_draws_accounts_that_were_ruined_and_curves_of_one_bar():
    broke = curve().with_columns(
        equity=pl.when(pl.int_range(pl.len()) > 50).then(0.0).otherwise("equity"),
        net_return=pl.when(pl.int_range(pl.len()) > 51).then(math.nan).otherwise("net_return"),
    )
    models = (model("broke", curve=broke), model("brief", curve=curve(bars=1)), HOLD)
    assert "NaN" not in render_report(report(*models))


def test_orders_features_by_the_size_of_their_correlation():
    frame = report().features.vstack(report().features.with_columns(feature=pl.lit("best"), ic_train=pl.lit(0.05)))
    names = re.findall(
        r'<th scope="row"><code>(.*?)</code></th><td class="n"><span', render_report(report(features=frame))
    )
    assert names[0] == "best"
    assert names[-1] == "flat"


def test_prints_the_config_in_its_own_order_as_it_was_given():
    html = render_report(report(config={"b": {"z": 1, "a": [1.5, None]}, "a": True}))
    config = re.search(r"<pre[^>]*>(.*?)</pre>", html, re.DOTALL)
    assert config
    assert config[1].split("\n")[:3] == ["b:", "  z: 1", "  a:"]


def test_stays_readable_with_many_models_symbols_and_features():
    models = [model(f"candidate_{k}", k / 10) for k in range(14)]
    symbols = [{**quality()["symbols"][0], "symbol": f"S{k}"} for k in range(60)]
    features = pl.concat(
        [report().features.with_columns(feature=pl.format("{}_{}", "feature", pl.lit(k))) for k in range(40)]
    )
    inputs = report(*models, HOLD, quality={**quality(), "symbols": symbols}, features=features)
    text = visible(inputs)
    assert "8 further models are thin grey and without a name" in text
    assert "30 further symbols with fewer findings are left out here" in text
    assert "40 more features" in text
    assert len(render_report(inputs)) < 1_500_000


def test_long_curves_do_not_make_a_large_file():
    long = curve(bars=40_000)
    inputs = report(*(model(f"m{k}", curve=long) for k in range(3)), naive("buy_and_hold", curve=long))
    assert len(render_report(inputs)) < 1_000_000


# --- one clear error --------------------------------------------------------------------------------------------------


def test_refuses_a_run_without_models():
    with pytest.raises(DataError, match="no models to report on"):
        replace(report(), models=())


def test_refuses_a_missing_benchmark_and_names_the_nearest():
    with pytest.raises(ConfigError, match=r"benchmark='buy_hold' is not among .* Did you mean 'buy_and_hold'"):
        report(benchmark="buy_hold")


def test_refuses_two_models_of_one_name():
    with pytest.raises(DataError, match="models of one name apart: hybrid"):
        report(model("hybrid"), model("hybrid"), HOLD)


def test_refuses_tables_that_lack_a_column_and_curves_without_bars():
    with pytest.raises(SchemaError, match="curve of 'a' has no column 'drawdown'"):
        model("a", curve=curve().drop("drawdown"))
    with pytest.raises(DataError, match="curve of 'a' has no bars"):
        model("a", curve=curve().clear())
    with pytest.raises(SchemaError, match="feature table of the report has no column 'ic_train'"):
        report(features=report().features.drop("ic_train"))


def test_refuses_verdicts_that_cannot_be():
    with pytest.raises(DataError, match="verdict 'MAYBE'"):
        model("a", verdict="MAYBE")
    with pytest.raises(DataError, match="naive model and cannot be promoted"):
        naive("a", verdict="PROMOTE")


def test_refuses_a_split_without_test_and_a_naive_time():
    with pytest.raises(DataError, match="the split has no test"):
        report(split={name: pair for name, pair in report().split.items() if name != "test"})
    with pytest.raises(TimeError, match="naive"):
        report(created_utc=dt.datetime(2026, 1, 2))


# --- its parts --------------------------------------------------------------------------------------------------------


def test_labels_move_apart_as_little_as_needed_and_keep_their_order():
    assert spread([10.0, 50.0], gap=15, low=0, high=100) == [10.0, 50.0]
    assert spread([50.0, 50.0], gap=10, low=0, high=100) == [45.0, 55.0]
    assert spread([99.0, 98.0], gap=10, low=0, high=100) == [100.0, 90.0]
    assert spread([5.0, 5.0, 5.0], gap=90, low=0, high=100) == [0.0, 50.0, 100.0]
    assert spread([], gap=10, low=0, high=100) == []


def test_thinning_keeps_the_ends_and_the_extremes():
    values = np.sin(np.arange(10_000) / 50.0)
    values[1234], values[7777] = -9.0, 9.0
    rows = thin(values, 100)
    assert len(rows) <= 202
    assert {0, 1234, 7777, 9999} <= set(rows.tolist())
    assert thin(values[:50], 100).tolist() == list(range(50))


def test_numbers_read_as_people_write_them():
    assert [number(v) for v in (-1234.5, -0.001, math.nan, -math.inf)] == ["−1,234.50", "0.00", "–", "−∞"]
    assert [percent(v, signed=True) for v in (0.1234, 0.0, -0.5, math.nan, None)] == [
        "+12.3%",
        "0.0%",
        "−50.0%",
        "–",
        "–",
    ]
    assert [duration(v) for v in (0.04, 12.34, 125.0, 3840.0, math.nan)] == [
        "0.0 s",
        "12.3 s",
        "2 min 05 s",
        "1 h 04 min",
        "–",
    ]
    assert count(48_312) == "48,312"
    assert [listed(list(names)) for names in ("", "a", "ab", "abcdef")] == [
        "none",
        "a",
        "a and b",
        "a, b, c, d and 2 more",
    ]


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as chromium:
        yield chromium


@pytest.mark.services
@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("many", [False, True], ids=["few models", "many models"])
def test_opens_in_a_browser_without_errors_requests_or_overflow(browser: Any, tmp_path: Path, width: int, many: bool):
    models = [model(f"a_rather_long_model_name_{k}", k / 10) for k in range(14 if many else 2)]
    found = [finding(), finding(check="ohlc", severity="error", action="quarantine", bars=3, detail="x" * 300)]
    file = tmp_path / "report.html"
    file.write_text(render_report(report(*models, naive("moving_average"), HOLD, quality=quality(*found))), "utf-8")

    look(browser, file, width, heading="Nothing was promoted")
