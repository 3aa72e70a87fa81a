"""The proof of a split: the first offending pair, whatever the symbols and the order of the rows."""

import datetime as dt
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.errors import EmptyTableError, LeakageError, SchemaError
from quantfleet_data.splits import assert_no_leak

DAY = dt.timedelta(days=1)
START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def rows(*given):
    """A label table from (symbol, day, day of t_end or None)."""
    return pl.DataFrame(
        {
            "symbol": [s for s, _, _ in given],
            "timestamp": pl.Series([START + t * DAY for _, t, _ in given], dtype=pl.Datetime("us", "UTC")),
            "t_end": pl.Series(
                [None if e is None else START + e * DAY for _, _, e in given], dtype=pl.Datetime("us", "UTC")
            ),
        }
    )


SOME = st.lists(
    st.tuples(st.sampled_from("ABC"), st.integers(0, 60), st.none() | st.integers(1, 8)), min_size=1, max_size=12
).map(lambda drawn: [(s, t, None if span is None else t + span) for s, t, span in drawn])


@settings(max_examples=200, deadline=None)
@given(train=SOME, test=SOME, embargo=st.integers(0, 5))
def test_it_refuses_exactly_the_splits_in_which_a_pair_of_label_intervals_meets(train, test, embargo):
    """Every pair, from the definition: overlap, unknown training labels, and training too soon after a test label is known."""

    def meets(own, other):
        (_, t, t_end), (_, c, known) = own, other
        known = c if known is None else known
        return (t < max(known, c + 1e-6) and c < t_end) or c <= t < known + embargo

    refusal = None
    try:
        assert_no_leak(rows(*train), rows(*test), embargo=embargo * DAY)
    except LeakageError as error:
        refusal = error.fields
    order = sorted(train, key=lambda row: (row[1], row[0]))
    guilty = [row for row in order if row[2] is None or any(meets(row, other) for other in test)]
    assert (refusal is None) == (not guilty)
    if refusal is not None:
        symbol, t, t_end = guilty[0]
        assert (refusal["rows"], refusal["symbol"]) == (len(guilty), symbol)
        assert refusal["t"] == (START + t * DAY).isoformat()
        if t_end is not None:
            met = min((o for o in test if meets(guilty[0], o)), key=lambda row: (row[1], row[0]))
            assert (refusal["test_symbol"], refusal["test_t"]) == (met[0], (START + met[1] * DAY).isoformat())


def test_the_error_names_both_rows_and_what_to_do_and_crosses_ray():
    train, test = rows(("B", 9, 14), ("A", 2, 4), ("A", 9, 12)), rows(("C", 20, 25), ("C", 11, 16), ("D", 11, 13))
    with pytest.raises(LeakageError) as caught:
        assert_no_leak(train, test)
    assert caught.value.message.startswith(
        "split leaks in 2 rows: A t=2020-01-10 00:00:00+00:00 t_end=2020-01-13 00:00:00+00:00 is in train and overlaps "
        "C t=2020-01-12 00:00:00+00:00 t_end=2020-01-17 00:00:00+00:00 of test. Purge by t_end"
    )
    assert pickle.loads(pickle.dumps(caught.value)).fields["test_symbol"] == "C"


def test_what_is_known_at_the_very_moment_the_other_begins_does_not_overlap():
    assert_no_leak(rows(("A", 0, 5), ("A", 9, 12)), rows(("B", 5, 9)))
    with pytest.raises(LeakageError, match="overlaps B"):
        assert_no_leak(rows(("A", 8, 12)), rows(("B", 5, 9)))


def test_a_training_row_inside_the_embargo_is_told_from_an_overlap():
    train, test = rows(("A", 9, 12)), rows(("B", 5, 9))
    with pytest.raises(LeakageError, match=r"A .* within the embargo of 2 days, 0:00:00 after B .* of test"):
        assert_no_leak(train, test, embargo=2 * DAY)
    assert_no_leak(rows(("A", 11, 12)), test, embargo=2 * DAY)


def test_a_training_row_whose_label_is_unknown_leaks():
    with pytest.raises(LeakageError, match="its label is not known, so it may reach into test"):
        assert_no_leak(rows(("A", 0, None)), rows(("B", 5, 9)))


def test_a_table_that_holds_no_labels_is_refused():
    with pytest.raises(SchemaError, match="no column 't_end'"):
        assert_no_leak(rows(("A", 0, 1)).drop("t_end"), rows(("B", 5, 9)))
    with pytest.raises(EmptyTableError):
        assert_no_leak(rows(("A", 0, 1)), rows(("B", 5, 9)).clear())


def test_two_hundred_thousand_rows_are_proved_in_no_time_to_speak_of():
    """Every pair would be 10^10 comparisons; sorting and a running maximum make it a fraction of a second."""
    t = np.arange(200_000, dtype=np.int64) * 60_000_000
    table = pl.DataFrame(
        {
            "symbol": ["A"] * t.size,
            "timestamp": pl.Series(t).cast(pl.Datetime("us", "UTC")),
            "t_end": pl.Series(t + 600_000_000).cast(pl.Datetime("us", "UTC")),
        }
    )
    train, test = table.head(99_990), table.slice(100_000)
    assert_no_leak(train, test)
    with pytest.raises(LeakageError, match="split leaks in 9 rows"):
        assert_no_leak(table.head(100_000), test)
