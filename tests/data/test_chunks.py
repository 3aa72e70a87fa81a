"""Chunks: every target once, windows that are the table's own rows, masks instead of invented values, additive moments.

Shapes: R rows of the symbol, B chunks, C targets of a chunk, L look-back bars, F features, K label columns.
"""

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.chunk_tables import SPEC, assert_same, built, plan, row_of, tables

from quantfleet.contracts import SEGMENTS, ChunkBatch, DataSpec
from quantfleet.errors import SchemaError, TimeError
from quantfleet.moments import Moments
from quantfleet_data.chunks import ChunkCutter, chunk_segment, symbol_rows
from quantfleet_data.chunks.build import SymbolRows

# --- which rows are targets -------------------------------------------------------------------------------------------


def test_targets_are_the_rows_of_the_segment_whose_whole_window_is_defined():
    found = built(30).target_R
    assert {s: np.flatnonzero(found[s]).tolist() for s in SEGMENTS} == {
        "train": list(range(2, 10)),  # rows 0 and 1 have no full window of 3
        "validation": list(range(12, 20)),
        "test": list(range(22, 30)),
    }


def test_an_undefined_feature_takes_out_every_window_that_reads_it():
    found = built(30, undefined={(5, 0), (15, 1)}).target_R
    assert np.flatnonzero(found["train"]).tolist() == [2, 3, 4, 8, 9]
    assert np.flatnonzero(found["validation"]).tolist() == [12, 13, 14, 18, 19]


@pytest.mark.parametrize("odd", [float("inf"), float("-inf"), 1e300, None])
def test_an_infinite_or_missing_feature_counts_as_undefined(odd):
    features, labels = tables(12)
    values = features["f0"].to_list()
    values[5] = odd
    rows = symbol_rows(features.with_columns(pl.Series("f0", values)), labels, plan(0, 10, 12, 20, 22, 99), SPEC)
    assert np.flatnonzero(rows.target_R["train"]).tolist() == [2, 3, 4, 8, 9]
    assert np.isnan(rows.x_RF[5, 0])


def test_rows_whose_label_reaches_the_next_segment_are_purged():
    found = built(40, horizon=4).target_R
    assert np.flatnonzero(found["train"]).tolist() == list(range(2, 8))
    assert np.flatnonzero(found["validation"]).tolist() == list(range(12, 18))


def test_rows_without_a_known_label_are_test_targets_only():
    found = built(30, horizon=3).target_R
    assert np.flatnonzero(found["test"]).tolist() == list(range(22, 30))
    assert not built(15, horizon=5).target_R["validation"].any()


def test_a_row_whose_weight_is_unknown_weighs_nothing():
    features, labels = tables(40)
    weights = pl.Series("w", [None, float("nan"), *[0.25] * 38])
    rows = symbol_rows(features, labels.with_columns(weights), plan(0, 30, 32, 35, 36, 99), SPEC, weight_column="w")
    assert rows.weight_R.tolist() == [0.0, 0.0, *[0.25] * 38]


@pytest.mark.parametrize("odd", [-0.5, float("inf")])
def test_a_weight_that_cannot_be_one_is_refused_with_its_bar(odd):
    features, labels = tables(40)
    weights = pl.Series("w", [1.0, odd, *[1.0] * 38])
    with pytest.raises(SchemaError, match=rf"column 'w' holds {odd} at 2020-01-02"):
        symbol_rows(features, labels.with_columns(weights), plan(0, 30, 32, 35, 36, 99), SPEC, weight_column="w")


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_fewer_rows_than_a_window_give_no_target_and_no_chunk(rows):
    found = built(rows)
    for segment in SEGMENTS:
        assert not found.target_R[segment].any()
        assert len(chunk_segment(found, segment, 0, SPEC).chunk_id_B) == 0


def test_rows_that_come_unsorted_are_put_in_order_of_time():
    features, labels = tables(20)
    mixed = symbol_rows(
        features.sample(fraction=1, shuffle=True, seed=1), labels.reverse(), plan(0, 10, 12, 20, 22, 99), SPEC
    )
    np.testing.assert_array_equal(mixed.x_RF, built(20).x_RF)
    np.testing.assert_array_equal(mixed.y_RK, built(20).y_RK)


@pytest.mark.parametrize(("table", "column"), [(0, "f1"), (0, "timestamp"), (1, "t_end"), (1, "direction_1")])
def test_a_table_that_lacks_a_column_is_refused_by_name(table, column):
    pair = list(tables(20))
    pair[table] = pair[table].drop(column)
    with pytest.raises(SchemaError, match=rf"the {('features', 'labels')[table]} table lacks {column}"):
        symbol_rows(*pair, plan(0, 10, 12, 20, 22, 99), SPEC)


@pytest.mark.parametrize("cut", [lambda f, lb: (f[1:], lb), lambda f, lb: (f, lb[:-1]), lambda f, lb: (f[1:], lb[:-1])])
def test_features_and_labels_of_different_bars_are_refused(cut):
    with pytest.raises(SchemaError, match="different versions of the bars"):
        symbol_rows(*cut(*tables(20)), plan(0, 10, 12, 20, 22, 99), SPEC)


# --- holes in time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "expected"), [(None, [2, 3, 4, 8, 9, 10]), (3, [2, 3, 4, 8, 9, 10]), (2, [2, 3, 4, 10])]
)
def test_a_hole_wider_than_max_gap_masks_every_target_whose_window_crosses_it(most, expected):
    """Bars 5, 6 and 7 are missing: the windows of 3 that end at 8 and 9 begin before the hole, that of 10 does not."""
    found = built(14, (0, 12, 12, 13, 13, 14), replace(SPEC, max_gap_bars=most), gaps={5, 6, 7}).target_R
    stamps = [r for r in range(14) if r not in {5, 6, 7}]
    assert [stamps[i] for i in np.flatnonzero(found["train"])] == expected


@given(st.sets(st.integers(0, 40), max_size=25), st.integers(1, 6), st.integers(0, 3))
def test_a_window_counts_when_no_two_of_its_neighbours_are_further_apart_than_allowed(gaps, lookback, most):
    """The rule again, row by row, from its words."""
    spec = replace(SPEC, lookback_bars=lookback, max_gap_bars=most)
    found = built(40, (0, 50, 50, 51, 51, 52), spec, gaps=gaps).target_R["train"]
    days = [r for r in range(40) if r not in gaps]
    for i, r in enumerate(days):
        window = days[max(i - lookback + 1, 0) : i + 1]
        whole = len(window) == lookback and all(b - a - 1 <= most for a, b in pairwise(window))
        known = r + 1 < 40  # the label's horizon, one bar of the grid
        assert found[i] == (whole and known)


def test_a_bar_that_comes_twice_is_refused():
    features, labels = (pl.concat([t, t[3:4]]) for t in tables(9))
    with pytest.raises(TimeError, match="bar 2020-01-04 00:00:00"):
        symbol_rows(features, labels, plan(0, 10, 12, 20, 22, 99), SPEC)


# --- chunks -----------------------------------------------------------------------------------------------------------


@st.composite
def symbols(draw: st.DrawFn) -> tuple[SymbolRows, DataSpec]:
    """Rows with holes in time, undefined features and any split; and a spec of any window and chunk length."""
    rows = draw(st.integers(0, 60))
    spec = replace(
        SPEC,
        lookback_bars=draw(st.integers(1, 6)),
        chunk_bars=draw(st.integers(1, 7)),
        max_gap_bars=draw(st.none() | st.integers(0, 3)),
    )
    cuts = sorted(draw(st.sets(st.integers(0, 70), min_size=6, max_size=6)))
    undefined = draw(st.sets(st.tuples(st.integers(0, 60), st.integers(0, 1)), max_size=6))
    gaps = draw(st.sets(st.integers(0, 59), max_size=10))
    horizon = draw(st.integers(1, 5))
    return built(rows, tuple(cuts), spec, undefined=undefined, gaps=gaps, horizon=horizon), spec


@given(symbols())
def test_every_target_of_a_segment_is_in_exactly_one_slot(drawn):
    rows, spec = drawn
    for segment in SEGMENTS:
        batch = chunk_segment(rows, segment, 0, spec)
        assert batch.time_BC[batch.mask_BC].tolist() == rows.time_R[rows.target_R[segment]].tolist()
        assert batch.mask_BC.any(1).all()  # no chunk without a target


@given(symbols())
def test_a_window_is_the_tables_rows_up_to_its_target_and_its_label_is_the_targets(drawn):
    rows, spec = drawn
    L = spec.lookback_bars
    for segment in SEGMENTS:
        batch = chunk_segment(rows, segment, 0, spec)
        for b, i in np.argwhere(batch.mask_BC):
            r = int(np.flatnonzero(rows.time_R == batch.time_BC[b, i])[0])
            window_LF = batch.x_BTF[b, i : i + L]
            np.testing.assert_array_equal(window_LF, rows.x_RF[r - L + 1 : r + 1])
            np.testing.assert_array_equal(batch.y_BCK[b, i], rows.y_RK[r])
            assert np.isfinite(window_LF).all()


@given(symbols())
def test_a_chunk_is_consecutive_rows_halo_included_and_nothing_after_the_end(drawn):
    rows, spec = drawn
    C, L, R = spec.chunk_bars, spec.lookback_bars, len(rows.time_R)
    for segment in SEGMENTS:
        batch = chunk_segment(rows, segment, 0, spec)
        assert batch.x_BTF.shape == (len(batch.chunk_id_B), C + L - 1, spec.features)
        for b in range(len(batch.chunk_id_B)):
            first = int(np.flatnonzero(rows.time_R == batch.time_BC[b, 0])[0])
            there = min(C, R - first)
            assert batch.time_BC[b].tolist() == [*rows.time_R[first : first + there].tolist(), *[-1] * (C - there)]
            table = rows.x_RF[first - L + 1 : first + there]
            np.testing.assert_array_equal(batch.x_BTF[b, : len(table)], table)
            assert np.isnan(batch.x_BTF[b, len(table) :]).all()
            assert not batch.mask_BC[b, there:].any()


@given(symbols())
def test_labels_of_masked_targets_are_not_in_the_chunk(drawn):
    rows, spec = drawn
    for segment in SEGMENTS:
        batch = chunk_segment(rows, segment, 0, spec)
        assert np.isnan(batch.y_BCK[~batch.mask_BC]).all()


@given(symbols(), st.integers(0, 2**31 - 1))
def test_chunk_ids_are_unique_rising_and_hold_the_symbol(drawn, symbol_id):
    rows, spec = drawn
    batch = chunk_segment(rows, "train", symbol_id, spec)
    assert (batch.chunk_id_B >> 32 == symbol_id).all()
    assert (np.diff(batch.chunk_id_B) > 0).all()
    assert (batch.symbol_id_B == symbol_id).all()


@given(symbols(), st.lists(st.integers(0, 60), max_size=6))
def test_cutting_in_blocks_of_any_length_is_cutting_at_once(drawn, cuts):
    rows, spec = drawn
    edges = sorted({0, len(rows), *(min(c, len(rows)) for c in cuts)})
    for segment in SEGMENTS:
        cutter = ChunkCutter(segment, 3, spec)
        blocks = [rows[a:b] for a, b in pairwise(edges)] or [rows]
        pieces = [cutter.push(block, last=i + 1 == len(blocks))[0] for i, block in enumerate(blocks)]
        joined = {f.name: np.concatenate([getattr(p, f.name) for p in pieces]) for f in fields(ChunkBatch)}
        assert_same(ChunkBatch(**joined), chunk_segment(rows, segment, 3, spec))


def test_the_halo_reaches_back_into_the_segment_before():
    batch = chunk_segment(built(30), "validation", 0, SPEC)
    assert batch.x_BTF[0, :3, 0].tolist() == [1000.0, 1100.0, 1200.0]
    assert row_of(int(batch.time_BC[0, 0])) == 12


def test_the_last_chunk_is_filled_up_and_masked():
    batch = chunk_segment(built(27), "test", 1, SPEC)
    assert batch.mask_BC.tolist() == [[True] * 4, [True, False, False, False]]
    assert batch.time_BC[1, 1:].tolist() == [-1, -1, -1]


def test_a_hole_wider_than_a_chunk_makes_no_empty_chunk():
    batch = chunk_segment(
        built(60, (0, 40, 45, 50, 52, 60), undefined={(15, 0)}, spec=replace(SPEC, lookback_bars=13)),
        "train",
        0,
        replace(SPEC, lookback_bars=13),
    )
    assert [row_of(int(t)) for t in batch.time_BC[:, 0]] == [12, 28, 32, 36]


# --- moments ----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_moments_of_any_partition_are_those_of_the_whole(data):
    columns = data.draw(st.integers(1, 3))
    value = st.one_of(st.floats(-1e6, 1e6, width=32), st.just(float("nan")))
    row = st.lists(value, min_size=columns, max_size=columns)
    parts = data.draw(st.lists(st.lists(row, max_size=8), min_size=1, max_size=5))
    arrays = [np.asarray(part, np.float32).reshape(-1, columns) for part in parts]
    total = Moments.of(arrays[0])
    for array in arrays[1:]:
        total = total + Moments.of(array)
    whole = np.concatenate(arrays).astype(np.float64)
    for i in range(columns):
        known = whole[np.isfinite(whole[:, i]), i]
        spread = max(1.0, float(np.abs(known).max(initial=0)))
        assert total.count[i] == len(known)
        np.testing.assert_allclose(total.mean[i], known.mean() if len(known) else 0.0, rtol=1e-12, atol=1e-12 * spread)
        np.testing.assert_allclose(total.std[i], known.std() if len(known) else 0.0, rtol=1e-7, atol=1e-7 * spread)


def test_moments_keep_their_digits_far_from_zero():
    rng = np.random.default_rng(5)
    values = (1e6 + rng.normal(0, 3.0, (1000, 1))).astype(np.float32)
    total = sum((Moments.of(values[i : i + 10]) for i in range(10, 1000, 10)), Moments.of(values[:10]))
    np.testing.assert_allclose(total.std, values.astype(np.float64).std(0), rtol=1e-9)


def test_moments_of_many_rows_at_once_are_those_of_the_whole():
    values = np.random.default_rng(2).normal(50.0, 2.0, (20_001, 2)).astype(np.float32)
    found, exact = Moments.of(values), values.astype(np.float64)
    assert found.count.tolist() == [20_001, 20_001]
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.std, exact.std(0), rtol=1e-12)


def test_a_column_that_is_never_known_has_mean_and_spread_zero():
    total = Moments.of(np.full((4, 1), np.nan, np.float32)) + Moments.of(np.zeros((0, 1), np.float32))
    assert (total.count.tolist(), total.mean.tolist(), total.std.tolist()) == ([0.0], [0.0], [0.0])
