"""The report on chance, parts, costs and leaks: what is there is shown, what is not is left out, and the JSON says the same."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from core.test_report import HOLD, curve, model, report
from support.html_page import visible_text

from quantfleet.evaluation import sharpe
from quantfleet.evaluation.report import ReportInputs, render_report, report_data
from quantfleet.evaluation.report import robust_charts as charts
from quantfleet.evaluation.report.robust import robust_section

DETAIL = {
    "slices": [
        {"group": "year", "name": "2016", "bars": 120, "sharpe": 1.25, "total_return": 0.031, "max_drawdown": 0.1, "ic": 0.02},
        {"group": "crisis", "name": "covid crash", "bars": 5, "sharpe": None, "total_return": -0.2, "max_drawdown": 0.2,
         "ic": None},
    ],
    "costs": [{"cost_bps": bps, "sharpe": 1.0 - bps / 50, "total_return": 0.1} for bps in (0.0, 10.0, 50.0)],
    "delays": [{"delay_bars": k, "sharpe": 1.0 - k / 5, "total_return": 0.1} for k in (0, 1, 5)],
    "ic_decay": [{"delay_bars": k, "ic": 0.1 - k / 50} for k in range(5)],
    "capacity": {"break_even": 4.9e7, "half": 1.225e7, "most_profit": 2.18e7},
    "calibration": [{"stated": s, "happened": s + 0.05, "rows": 100} for s in (0.4, 0.5, 0.6)],
}  # fmt: skip
VERDICT: dict[str, Any] = {
    "yardstick": "buy_and_hold",
    "years": 4.99,
    "superiority": {"reality_check_p": 0.5, "spa_p": 0.456, "better": [], "size": 0.05, "block_bars": 3.0},
    "confidence_set": {"hybrid": 1.0},
    "models": {
        "hybrid": {
            "difference": 0.06, "p_value": 0.41, "adjusted_p": 0.82, "diebold_mariano_p": None, "bayes_factor": 1e9,
            "in_confidence_set": True, "probabilistic_sharpe": 0.933, "track_record_years": 6.0, "years_to_detect": 13.6,
            "years_to_beat": None, "power": 0.3,
        }
    },
}  # fmt: skip
SHIFT = {
    "reference_rows": 900, "current_rows": 500, "threshold": 7.5, "out_share": 0.123, "auc": 0.876, "auc_p": 0.004,
    "out_by_part": [["2019-01-01T00:00:00", 0.05], ["2019-06-01T00:00:00", 0.4]], "moved": [["rsi_14", 1.25], ["atr_20", -0.5]],
}  # fmt: skip
AUDIT = (
    {"check": "universe", "outcome": "not_checked", "detail": "the recipe names no instruments", "evidence": {}},
    {"check": "label_overlap", "outcome": "failed", "detail": "3 train target(s) reach", "evidence": {}},
)


def inputs(**changes: Any) -> ReportInputs:
    return report(
        model("hybrid", detail=DETAIL), HOLD, verdict=VERDICT, looks=3, audit=AUDIT, input_shift=SHIFT, **changes
    )


@cache
def text() -> str:
    return visible_text(render_report(inputs()))


@pytest.mark.parametrize(
    "said",
    [
        "looked at 3 times",
        "SPA p = 0.456, reality check p = 0.500; StepM names no candidate at 5%",
        "would be found in it 30% of the time",
        "> 1000",
        "12.3% of the test inputs are out of the training distribution",
        "40% of a tenth of the period, from 2019-06-01 on",
        "with an AUC of 0.88 (0.5 is not at all; p = 0.004)",
        "rsi_14 by 1.2, atr_20 by",
        "– not checked",
        "✗ failed",
        "3 train target(s) reach",
        "covid crash",
        "Monthly returns of hybrid, after costs",
        "Sharpe ratio by cost per fill, bps",
        "IC by age of the forecast, bars",
        "How often it rose, by the chance stated",
    ],
)
def test_what_is_known_of_chance_parts_and_leaks_is_on_the_page(said: str):
    assert said in text()


def test_a_run_without_any_of_it_says_so_and_shows_no_empty_table():
    bare = visible_text(render_report(report()))
    assert "No audit was made of this run" in bare
    assert "There are no candidates and naive models of at least 30 bars to compare." in bare
    assert "Sharpe ratio by cost per fill" not in bare
    assert "covid crash" not in bare


def test_the_heat_map_compounds_days_to_months_and_months_to_years():
    page = model("hybrid")
    (year, months, whole), *_ = robust_section(report(page, HOLD))["heat"]
    returns, times = page.curve["net_return"].to_numpy(), page.curve["timestamp"]
    own = (times.dt.year() == int(year)).to_numpy()
    assert whole == f"{(np.prod(1 + returns[own]) - 1) * 100:.1f}%".replace("-", "−")
    first = own & (times.dt.month() == times.dt.month()[0]).to_numpy()
    cell = months[times.dt.month()[0] - 1]
    assert cell.text == f"{(np.prod(1 + returns[first]) - 1) * 100:.1f}%".replace("-", "−")
    assert cell.tone == ("up" if np.prod(1 + returns[first]) > 1 else "down")
    assert months[(times.dt.month()[-1]) % 12].tone == "none", "a month without bars is empty"


def test_the_rolling_ratio_is_that_of_each_window():
    returns = curve(seed=4, bars=120)["net_return"].to_numpy()
    rolled = charts._rolling(returns, 30, 252.0)
    assert np.isnan(rolled[:29]).all()
    assert rolled[29:] == pytest.approx([sharpe(returns[t - 30 : t], bars_per_year=252.0) for t in range(30, 121)])
    idle = np.concatenate([returns, np.zeros(40)])
    assert math.isnan(charts._rolling(idle, 30, 252.0)[-1])


def test_a_period_too_short_to_roll_and_returns_without_a_ratio_have_no_chart():
    short = model("hybrid", curve=curve(bars=40))
    assert charts.rolling_sharpe(report(short, HOLD)) is None
    flat = curve().with_columns(net_return=0.0)
    assert charts.bootstrap_distribution(report(model("hybrid", curve=flat), model("buy_and_hold", curve=flat))) is None


def test_the_json_says_the_same_and_is_json():
    data = json.loads(json.dumps(report_data(inputs()), allow_nan=False))
    assert data["input_shift"]["out_share"] == 0.123
    assert data["together"]["superiority"]["spa_p"] == 0.456
    assert data["test_looks"] == 3
    assert [finding["check"] for finding in data["audit"]] == ["universe", "label_overlap"]
    hybrid = next(page for page in data["models"] if page["name"] == "hybrid")
    assert hybrid["detail"]["costs"][2] == {"cost_bps": 50.0, "sharpe": 0.0, "total_return": 0.1}
    assert [reason["gate"] for reason in hybrid["reasons"]] == ["min_ic", "min_sharpe"]
    assert data["decision"]["verdict"] == "HOLD"


def test_what_is_not_a_number_is_null():
    undefined = report(model("hybrid", metrics={"sharpe": math.nan}), HOLD)
    assert report_data(undefined)["models"][0]["metrics"]["sharpe"] is None


def test_capacity_stands_beside_what_speaks_for_a_candidate_and_unknown_volumes_are_said():
    ((_, cells),) = robust_section(inputs())["verdict_rows"]
    assert dict(cells)["Capacity"].text == "12.2 M"
    unknown = report(
        model("hybrid", detail=DETAIL | {"capacity": dict.fromkeys(DETAIL["capacity"])}), HOLD, verdict=VERDICT
    )
    ((_, cells),) = robust_section(unknown)["verdict_rows"]
    assert dict(cells)["Capacity"].missing
    assert "volumes are not known" in dict(cells)["Capacity"].title
