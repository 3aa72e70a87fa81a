"""Sample weights against the published snippets, looped over every label and bar, and against the book's own numbers."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import Timeframe
from quantfleet.errors import ConfigError
from quantfleet_data.labels import LabelsConfig, TripleBarrier, compute_labels
from quantfleet_data.weights import (
    WeightsConfig,
    average_uniqueness,
    concurrency,
    return_attribution,
    sequential_bootstrap,
    time_decay,
)

DAY = Timeframe("1d")


@st.composite
def spans(draw):
    bars = draw(st.integers(1, 60))
    first = np.array(draw(st.lists(st.integers(0, bars - 1), min_size=1, max_size=40)), np.int64)
    length = np.array(draw(st.lists(st.integers(0, 20), min_size=first.size, max_size=first.size)), np.int64)
    return bars, first, np.minimum(first + length, bars - 1)


def indicator(bars, first, last):
    """Snippet 4.3: 1 where label i spans bar t, shape (bars, labels)."""
    matrix = np.zeros((bars, first.size))
    for i in range(first.size):
        matrix[first[i] : last[i] + 1, i] = 1.0
    return matrix


def published_uniqueness(matrix):
    """Snippet 4.4, getAvgUniqueness."""
    share = np.divide(matrix, matrix.sum(1, keepdims=True), out=np.zeros_like(matrix), where=matrix > 0)
    return np.array([share[matrix[:, i] > 0, i].mean() for i in range(matrix.shape[1])])


@settings(max_examples=80, deadline=None)
@given(spans(), st.integers(0, 2**32 - 1))
def test_concurrency_uniqueness_and_return_attribution_equal_the_published_loops(case, seed):
    bars, first, last = case
    matrix, returns = indicator(bars, first, last), np.random.default_rng(seed).normal(0.0, 0.01, bars)
    count = matrix.sum(1)
    assert concurrency(first, last, bars).tolist() == count.tolist()
    np.testing.assert_allclose(average_uniqueness(first, last, bars), published_uniqueness(matrix), rtol=1e-12)
    attributed = [  # snippet 4.10, mpSampleW
        abs(sum(returns[t] / count[t] for t in range(first[i], last[i] + 1))) for i in range(first.size)
    ]
    np.testing.assert_allclose(return_attribution(first, last, returns), attributed, rtol=1e-9, atol=1e-15)


def test_what_labels_attribute_adds_up_to_what_the_bars_earned():
    first, last = np.array([0, 2, 2]), np.array([3, 5, 2])
    returns = np.array([0.01, 0.02, 0.03, 0.01, 0.02, 0.04])
    assert return_attribution(first, last, returns).sum() == pytest.approx(returns.sum())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=50).map(np.array),
    st.sampled_from([1.0, 0.75, 0.5, 0.0, -0.25, -0.5]),
)
def test_time_decay_equals_the_published_formula(uniqueness, oldest):
    gathered = np.cumsum(uniqueness)  # snippet 4.11, getTimeDecay
    slope = (1.0 - oldest) / gathered[-1] if oldest >= 0 else 1.0 / ((oldest + 1) * gathered[-1])
    constant = 1.0 - slope * gathered[-1]
    published = np.maximum(constant + slope * gathered, 0.0)
    np.testing.assert_allclose(time_decay(uniqueness, oldest), published, atol=1e-12)
    assert time_decay(uniqueness, oldest)[-1] == 1.0


def test_the_books_example_of_the_sequential_bootstrap_comes_out():
    """Section 4.5.3: labels over returns (0, 1, 2), (2, 3) and (4, 5). After label 2 the chances are 5/14, 3/14 and 6/14."""
    first, last = np.array([0, 2, 4]), np.array([2, 3, 5])
    np.testing.assert_allclose(average_uniqueness(first, last, 6), [5 / 6, 3 / 4, 1.0])
    rng = np.random.default_rng(0)
    pairs = np.array([sequential_bootstrap(first, last, 6, draws=2, rng=rng) for _ in range(4_000)])
    np.testing.assert_allclose(np.bincount(pairs[:, 0]) / len(pairs), [1 / 3] * 3, atol=0.03)
    second = pairs[pairs[:, 0] == 1, 1]
    np.testing.assert_allclose(np.bincount(second) / second.size, [5 / 14, 3 / 14, 6 / 14], atol=0.05)


def test_the_sequential_bootstrap_draws_more_unique_samples_than_chance():
    """Section 4.5.4: 10 labels of up to 5 bars among 100 bars; the book's medians are about 0.7 against 0.6."""
    rng = np.random.default_rng(1)
    ours, plain = [], []
    for _ in range(300):
        first = rng.integers(0, 100, 10)
        last = np.minimum(first + rng.integers(1, 5, 10), 99)
        for found, drawn in (
            (ours, sequential_bootstrap(first, last, 100, draws=10, rng=rng)),
            (plain, rng.integers(0, 10, 10)),
        ):
            found.append(average_uniqueness(first[drawn], last[drawn], 100).mean())
    assert np.median(ours) > np.median(plain) + 0.05


def test_spans_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"label 1 spans bars 3\.\.2; it must lie within 0\.\.9"):
        concurrency(np.array([0, 3]), np.array([1, 2]), 10)
    with pytest.raises(ValueError, match=r"label 0 spans bars 8\.\.10"):
        average_uniqueness(np.array([8]), np.array([10]), 10)
    with pytest.raises(ValueError, match="bar 0 has no return"):
        return_attribution(np.array([0]), np.array([1]), np.array([np.nan, 0.1]))
    with pytest.raises(ValueError, match="no labels to draw from"):
        sequential_bootstrap(np.array([], np.int64), np.array([], np.int64), 5, draws=1, rng=np.random.default_rng(0))


@pytest.mark.parametrize("by", ["uniqueness", "return"])
def test_a_rows_weight_counts_the_bars_from_the_next_one_to_the_one_that_makes_its_label_known(make_bars, by):
    """Ten bars are missing in the middle: bars count, not days."""
    bars = make_bars(4, 100).with_row_index().filter((pl.col("index") < 40) | (pl.col("index") >= 50)).drop("index")
    family = TripleBarrier(horizons_bars=(10,), volatility_bars=5)
    label = family.columns[0]
    table = compute_labels(bars, LabelsConfig(families=(family,), weights=WeightsConfig(label=label, by=by)), DAY)
    ends = table[f"{label}__t_end"].to_list()
    rows = [t for t in range(90) if ends[t] is not None]
    opens = bars["timestamp"].to_list()
    span = {t: [i for i in range(90) if opens[i] > opens[t] and opens[i] + DAY.delta <= ends[t]] for t in rows}
    count = np.array([sum(i in own for own in span.values()) for i in range(90)])
    change = np.log(bars["close"].to_numpy()[1:] / bars["close"].to_numpy()[:-1])
    for t in range(90):
        expected = 0.0
        if t in span and by == "uniqueness":
            expected = np.mean([1 / count[i] for i in span[t]])
        elif t in span:
            expected = abs(sum(change[i - 1] / count[i] for i in span[t]))
        assert table["weight"][t] == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_old_rows_weigh_less_with_time_decay(make_bars):
    bars = make_bars(4, 300)
    plain, decayed = (
        compute_labels(bars, LabelsConfig(weights=WeightsConfig(label="return_5", oldest_weight=w)), DAY)["weight"]
        for w in (1.0, 0.2)
    )
    ratio = (decayed / plain).filter(plain > 0)
    assert ratio.is_sorted()
    assert ratio[-1] == pytest.approx(1.0)
    assert ratio[0] == pytest.approx(0.2, abs=0.02)


def test_without_a_known_label_every_weight_is_zero(make_bars):
    bars = make_bars(1, 6)
    config = LabelsConfig(weights=WeightsConfig(label="return_21"))
    assert compute_labels(bars, config, DAY)["weight"].to_list() == [0.0] * 6
    assert isinstance(compute_labels(bars, config, DAY)["t_end"], pl.Series)


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ConfigError, match=r"oldest_weight=1.5 must lie above -1"):
        WeightsConfig(label="return_5", oldest_weight=1.5)
    with pytest.raises(ValueError, match=r"oldest=-1\.0"):
        time_decay(np.ones(3), -1.0)
