"""Acting on findings: keep, repair, quarantine, fail."""

import dataclasses
import datetime as dt
from dataclasses import dataclass

import polars as pl
import pytest

from quantfleet.config import load_config
from quantfleet.contracts import PRICE_COLUMNS, Timeframe, validate_bars
from quantfleet.errors import ConfigError, QualityError
from quantfleet_data.quality import CHECKS, QualityPolicy, apply_policy, inspect_bars

DAY = Timeframe("1d")
OPEN = QualityPolicy(calendar="continuous", splits="keep")


def clean(bars, **actions):
    policy = dataclasses.replace(OPEN, **actions)
    return apply_policy(bars, inspect_bars(bars, policy, DAY), policy)


def doubled(bars, row, **changes):
    """Bar `row` twice, the second with other values."""
    again = bars[row : row + 1].with_columns(**{k: pl.lit(v) for k, v in changes.items()})
    return pl.concat([bars[: row + 1], again, bars[row + 1 :]])


def contradicting(bars, row):
    index = pl.int_range(pl.len())
    return bars.with_columns(
        high=pl.when(index == row).then(pl.col("close") * 0.9).otherwise("high"),
        low=pl.when(index == row).then(pl.col("close") * 1.1).otherwise("low"),
    )


def rescaled(bars, row, factor):
    later = pl.int_range(pl.len()) >= row
    return bars.with_columns(pl.when(later).then(pl.col(PRICE_COLUMNS) * factor).otherwise(pl.col(PRICE_COLUMNS)))


def test_clean_bars_come_back_untouched(make_bars):
    bars = make_bars(1, 100)
    result = clean(bars)
    assert result.bars.equals(bars)
    assert result.quarantined.is_empty()
    assert result.findings == ()


def test_keep_leaves_the_bars_and_notes_the_action(make_bars):
    bars = contradicting(make_bars(2, 100), 20)
    result = clean(bars, ohlc="keep")
    assert result.bars.equals(bars)
    assert [(f.check, f.action) for f in result.findings] == [("ohlc", "keep")]


def test_repair_of_duplicates_keeps_the_last_row(make_bars):
    bars = make_bars(3, 100)
    result = clean(doubled(bars, 20, volume=7.0), duplicates="repair")
    assert result.bars.height == 100
    assert result.bars["volume"][20] == 7.0
    assert result.bars.drop("volume").equals(bars.drop("volume"))
    assert result.findings[0].action == "repair"


def test_repair_of_duplicates_keeps_the_bar_ingested_last_wherever_it_stands(make_bars):
    at = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    bars = make_bars(4, 100).with_columns(ingested_at=pl.lit(at))
    older = doubled(bars, 20, volume=7.0, ingested_at=at - dt.timedelta(days=1))
    assert clean(older, duplicates="repair").bars.equals(bars)


def test_repair_of_a_contradiction_widens_the_range_to_enclose_open_and_close(make_bars):
    bars = make_bars(5, 100)
    result = clean(contradicting(bars, 20), ohlc="repair")
    mended = result.bars.row(20, named=True)
    assert mended["high"] == pytest.approx(mended["close"] * 1.1)
    assert mended["low"] == pytest.approx(mended["close"] * 0.9)
    assert (mended["open"], mended["close"]) == (bars["open"][20], bars["close"][20])
    others = pl.int_range(pl.len()) != 20
    assert result.bars.filter(others).equals(bars.filter(others))
    assert inspect_bars(result.bars, OPEN, DAY) == ()


def test_repairs_are_causal_what_is_done_to_a_bar_needs_no_later_bar(make_bars):
    bars = doubled(contradicting(make_bars(6, 100), 20), 30, volume=7.0)
    whole = clean(bars).bars
    for cut in (25, 32, 60):
        assert clean(bars.head(cut)).bars.equals(whole.head(cut if cut <= 30 else cut - 1))


def test_repaired_bars_keep_the_bars_contract(make_bars):
    bars = doubled(contradicting(make_bars(7, 100), 20), 30)
    validate_bars(clean(bars).bars, where="repaired bars")


def test_quarantine_moves_the_bars_and_says_why(make_bars):
    bars = contradicting(make_bars(8, 100), 20)
    result = clean(bars, ohlc="quarantine")
    assert result.bars.height == 99
    assert result.quarantined["timestamp"].to_list() == [bars["timestamp"][20]]
    assert result.quarantined["quarantined_for"].to_list() == ["ohlc"]
    assert result.quarantined.columns == [*bars.columns, "quarantined_for"]


def test_no_bar_is_lost_between_what_is_kept_and_what_is_quarantined(make_bars):
    bars = rescaled(contradicting(make_bars(9, 400), 20), 300, 3.0)
    result = clean(bars, ohlc="quarantine", outliers="quarantine", splits="quarantine")
    both = pl.concat([result.bars, result.quarantined.drop("quarantined_for")]).sort("timestamp")
    assert both.equals(bars)


def test_quarantine_of_duplicates_moves_all_bars_of_that_time(make_bars):
    bars = doubled(make_bars(10, 100), 20, volume=7.0)
    result = clean(bars, duplicates="quarantine")
    assert result.bars.height == 99
    assert result.quarantined.height == 2


def test_quarantine_of_a_split_moves_everything_from_it_on_and_nothing_before(make_bars):
    bars = rescaled(make_bars(11, 100, volatility=0.005), 60, 0.1)
    result = clean(bars, splits="quarantine")
    assert result.bars.equals(bars.head(60))
    assert set(result.quarantined["quarantined_for"]) == {"splits"}


@pytest.mark.parametrize(("factor", "check"), [(1000.0, "token_swaps"), (0.1, "splits")])
def test_quarantine_of_a_change_of_scale_never_touches_what_came_before(make_bars, factor, check):
    bars = rescaled(make_bars(11, 100, volatility=0.005), 60, factor)
    result = clean(bars, **{check: "quarantine"})
    assert result.bars.equals(bars.head(60))
    (finding,) = [f for f in result.findings if f.check == check]
    assert (finding.hindsight, finding.known_at) == (True, bars["timestamp"][64] + DAY.delta)


def test_a_wrong_tick_is_moved_out_and_marked_as_judged_with_later_bars(make_bars):
    bars = make_bars(11, 100, volatility=0.005)
    index = pl.int_range(pl.len())
    tenth = bars.with_columns(pl.when(index == 60).then(pl.col(PRICE_COLUMNS) / 10).otherwise(pl.col(PRICE_COLUMNS)))
    result = clean(tenth)
    assert result.bars.equals(bars.filter(index != 60))
    (finding,) = [f for f in result.findings if f.check == "bad_ticks"]
    assert (finding.action, finding.hindsight) == ("quarantine", True)
    assert finding.known_at == bars["timestamp"][61] + DAY.delta


def test_quarantine_of_one_symbol_leaves_the_others(make_bars):
    bad, good = contradicting(make_bars(12, 100), 20), make_bars(12, 100, symbol="BBB")
    policy = dataclasses.replace(OPEN, ohlc="quarantine")
    result = apply_policy(pl.concat([bad, good]), inspect_bars(bad, policy, DAY), policy)
    assert result.quarantined["symbol"].to_list() == ["AAA"]
    assert result.bars.filter(pl.col("symbol") == "BBB").equals(good)


def test_thousands_of_findings_are_quarantined_at_once(make_bars):
    bars = make_bars(13, 20_000, timeframe="1h")
    odd = pl.int_range(pl.len()) % 2 == 1
    bars = bars.with_columns(high=pl.when(odd).then(pl.col("low") * 0.99).otherwise("high"))
    policy = dataclasses.replace(OPEN, ohlc="quarantine")
    result = apply_policy(bars, inspect_bars(bars, policy, Timeframe("1h")), policy)
    assert result.bars.equals(bars.gather_every(2))


@pytest.mark.parametrize("check", ["duplicates", "ohlc", "splits"])
def test_fail_names_check_symbol_first_time_and_count(make_bars, check):
    bars = rescaled(doubled(contradicting(make_bars(14, 200, volatility=0.005), 20), 10, volume=1.0), 100, 0.5)
    if check == "ohlc":
        bars = contradicting(bars, 30)
    first = {"duplicates": 10, "ohlc": 21, "splits": 100}[check]
    count = 2 if check == "ohlc" else 1
    with pytest.raises(QualityError, match=rf"quality.{check}: AAA at .*{count} such findings") as caught:
        clean(bars, **{check: "fail"})
    assert caught.value.fields == {
        "check": check,
        "symbol": "AAA",
        "start": bars["timestamp"][first].isoformat(),
        "findings": count,
    }


def test_by_default_a_suspected_split_stops_and_everything_uncertain_is_kept():
    assert {check: QualityPolicy().action(check) for check in CHECKS} == {
        "gaps": "keep",
        "duplicates": "repair",
        "ohlc": "repair",
        "stale": "keep",
        "zero_volume": "keep",
        "flat": "keep",
        "outliers": "keep",
        "thin_moves": "keep",
        "splits": "fail",
        "token_swaps": "fail",
        "bad_ticks": "quarantine",
        "half_adjusted": "keep",
        "reused_tickers": "fail",
        "corrections": "keep",
        "halts": "keep",
    }


@pytest.mark.parametrize("check", [check for check in CHECKS if check not in ("duplicates", "ohlc")])
def test_repairs_that_would_invent_prices_are_refused(check):
    with pytest.raises(ConfigError, match=f"quality.{check}=repair is refused: it would invent prices"):
        QualityPolicy(**{check: "repair"})


def test_a_repair_that_would_use_the_future_is_refused():
    for action in ("quarantine", "fail"):
        with pytest.raises(ConfigError, match="would let later bars decide about earlier ones"):
            QualityPolicy(outliers=action, outlier_scale="sample")
    assert QualityPolicy(outliers="keep", outlier_scale="sample").outlier_scale == "sample"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"gaps": "quarantine"}, "a missing bar cannot be moved"),
        ({"halts": "quarantine"}, "a missing bar cannot be moved"),
        ({"stale": "drop"}, "quality.stale='drop' is not one of keep, repair, quarantine, fail"),
        ({"stale_bars": 1}, "quality.stale_bars=1 must be at least 2"),
        ({"zero_volume_bars": 0}, "quality.zero_volume_bars=0 must be at least 1"),
        ({"flat_bars": 0}, "quality.flat_bars=0 must be at least 1"),
        ({"halt_symbols": 1}, "quality.halt_symbols=1 must be at least 2"),
        ({"halt_share": 0.5}, "quality.halt_share=0.5 must be more than a half"),
        ({"reuse_stop_days": 0.0}, "quality.reuse_stop_days=0.0 must be a positive number"),
        ({"outlier_z": 0.0}, "quality.outlier_z=0.0 must be a positive number"),
        ({"split_tolerance": 0.5}, "quality.split_tolerance=0.5 must lie between 0 and 0.5"),
    ],
)
def test_contradictory_policies_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        QualityPolicy(**config)


@dataclass(frozen=True)
class Recipe:
    quality: QualityPolicy = dataclasses.field(default_factory=QualityPolicy)


def test_a_recipe_sets_actions_and_thresholds(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("quality: {splits: quarantine, calendar: continuous, outlier_z: 12.0}\n")
    policy = load_config(Recipe, file=path, environ={}).value.quality
    assert policy == QualityPolicy(splits="quarantine", calendar="continuous", outlier_z=12.0)
    path.write_text("quality: {outlier: keep}\n")
    with pytest.raises(ConfigError, match=r"unknown key 'quality.outlier'.*Did you mean 'outliers'"):
        load_config(Recipe, file=path, environ={})
    path.write_text("quality: {gaps: repair}\n")
    with pytest.raises(ConfigError, match=r"quality.gaps=repair is refused.*recipe.yaml:1"):
        load_config(Recipe, file=path, environ={})
