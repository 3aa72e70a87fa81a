"""Volume profile: volume spread over the range of its bars, the fullest price, the area that holds 70 %."""

import numpy as np
import polars as pl
import pytest

from quantfleet_data.features.volume_profile import VolumeProfile

LEVELS = ("point_of_control", "value_area_high", "value_area_low")


def by_definition(bars, bins):
    """Levels of one window: overlap of every bar with every bin, then grow from the fullest bin."""
    high, low, volume = (bars[n].to_numpy() for n in ("high", "low", "volume"))
    edges = np.linspace(low.min(), high.max(), bins + 1)
    overlap = np.clip(np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1]), 0.0, None)
    profile = (volume[:, None] * overlap / (high - low)[:, None]).sum(axis=0)
    lower = upper = int(profile.argmax())
    while profile[lower : upper + 1].sum() < 0.7 * volume.sum():
        below = profile[lower - 1] if lower > 0 else -1.0
        above = profile[upper + 1] if upper < bins - 1 else -1.0
        lower, upper = (lower, upper + 1) if above >= below else (lower - 1, upper)
    peak = profile.argmax()
    return (edges[peak] + edges[peak + 1]) / 2, edges[upper + 1], edges[lower]


@pytest.mark.parametrize("seed", range(4))
def test_levels_equal_their_definition(make_bars, seed):
    bars = make_bars(seed, 160)
    for row in (59, 100, 159):
        window = bars[row - 59 : row + 1]
        for level, price in zip(LEVELS, by_definition(window, 20), strict=True):
            value = VolumeProfile(level=level, bars=60, bins=20).compute(bars)[row]
            assert value == pytest.approx(price / bars["close"][row] - 1.0, rel=1e-9, abs=1e-12), level


def test_the_control_lies_where_the_volume_was_and_inside_the_value_area(write_bars):
    quiet, busy = [[100.0, 101.0, 100.0, 100.5]] * 10, [[110.0, 111.0, 110.0, 110.5]] * 10
    bars = write_bars([*quiet, *busy], volume=[1.0] * 10 + [9.0] * 10)
    control, high, low = (VolumeProfile(level=level, bars=20, bins=11).compute(bars)[-1] for level in LEVELS)
    assert control == pytest.approx(110.5 / 110.5 - 1.0)
    assert low <= control <= high
    assert (1.0 + low) * 110.5 == pytest.approx(110.0)


def test_a_market_at_one_price_has_its_levels_there(write_bars):
    bars = write_bars([[5.0]] * 30)
    for level in LEVELS:
        assert VolumeProfile(level=level, bars=20).compute(bars)[-1] == 0.0


@pytest.mark.parametrize("volume", ["null", "zero"])
def test_without_volume_it_is_neutral(make_bars, volume):
    values = VolumeProfile(bars=20).compute(make_bars(5, 60, volume=volume))
    assert (values[19:] == 0.0).all()


def test_one_null_silences_its_windows_only(make_bars):
    bars = make_bars(6, 120)
    broken = bars.with_columns(volume=pl.when(pl.int_range(pl.len()) != 50).then("volume"))
    clean, missing = VolumeProfile(bars=20).compute(bars), VolumeProfile(bars=20).compute(broken)
    changed = np.flatnonzero((clean != missing) & ~np.isnan(clean))
    np.testing.assert_array_equal(changed, np.arange(50, 70))
