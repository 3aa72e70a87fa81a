"""The chunk store: records that are mapped or read by range, an index, and a manifest that makes them valid."""

import json
import pickle
from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from support.chunk_tables import SPEC, assert_same, built, plan, row_of, tables

from quantfleet.contracts import SEGMENTS, ChunkBatch, Segment
from quantfleet.errors import ConfigError, MissingInputError, SchemaError, StorageError
from quantfleet.storage import LakeTable, Storage, StorageConfig, TableVersion
from quantfleet.training.windows import WindowLoader
from quantfleet_data.chunks import ChunkInputs, ChunkStore, chunk_segment, chunk_store_path, write
from quantfleet_data.chunks.records import SegmentReader


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path / "root")))


def inputs(**changes) -> ChunkInputs:
    values = {
        "features": TableVersion("lake/features/x", 0),
        "labels": TableVersion("lake/labels/x", 0),
        "plan": plan(0, 30, 32, 45, 47, 60),
        "spec": SPEC,
    }
    return ChunkInputs(**{**values, **changes})


def store_of(storage: Storage, **changes) -> ChunkStore:
    """A store of two symbols, each written as a Ray task writes it."""
    versions = {}
    for kind, place in ((0, "features"), (1, "labels")):
        rows = [tables(60 + i)[kind].with_columns(symbol=pl.lit(s)) for i, s in enumerate(SPEC.symbols)]
        if place == "labels":  # row r weighs r / 8, and every ten rows are a regime
            rows = [frame.with_row_index("w").with_columns(pl.col("w") / 8, r=pl.col("w") // 10) for frame in rows]
        table = LakeTable(storage, f"lake/{place}/x")
        versions[place] = table.overwrite(pl.concat(rows).to_arrow(), partition_by=["symbol"])
    made = inputs(**versions, **changes)
    path = chunk_store_path(made)
    written = [write._write_symbol({"symbol_id": i}, inputs=made, storage=storage, path=path) for i in range(2)]
    return write.commit_symbols(written, made, storage, path)


def test_a_store_gives_every_chunk_once_in_order_of_chunk_id(storage):
    store = store_of(storage)
    for segment in SEGMENTS:
        for batch_chunks in (1, 3, 64):
            batches = list(store.read(segment, batch_chunks=batch_chunks))
            ids = np.concatenate([b.chunk_id_B for b in batches])
            assert len(ids) == len(set(ids.tolist())) == store.chunks(segment)
            assert (np.diff(ids) > 0).all()
            assert max(len(b.chunk_id_B) for b in batches) <= batch_chunks


def cut_whole(segment: Segment) -> ChunkBatch:
    """The chunks of both symbols, cut in one go."""
    cut = [chunk_segment(built(60 + i, (0, 30, 32, 45, 47, 60)), segment, i, SPEC) for i in range(2)]
    return ChunkBatch(**{f.name: np.concatenate([getattr(c, f.name) for c in cut]) for f in fields(ChunkBatch)})


def test_what_a_store_gives_is_what_was_cut_whatever_the_blocks_it_was_cut_in(storage, monkeypatch):
    for block_bytes in (1, 16_000_000):  # the smallest block is four chunks
        monkeypatch.setattr(write, "_BLOCK_BYTES", block_bytes)
        store = store_of(storage)
        assert len(store.parts["train"]) == (4 if block_bytes == 1 else 2)
        for segment in SEGMENTS:
            assert_same(store.reader(segment).take(np.arange(store.chunks(segment))), cut_whole(segment))


@given(data=st.data())
def test_a_reader_gives_the_chunks_of_any_places_in_the_order_asked(data, module_store):
    reader = module_store.reader("train")
    place_B = np.array(data.draw(st.lists(st.integers(0, len(reader) - 1), max_size=12)), np.int64)
    whole = cut_whole("train")
    assert_same(
        reader.take(place_B), ChunkBatch(**{f.name: getattr(whole, f.name)[place_B] for f in fields(ChunkBatch)})
    )


@pytest.fixture(scope="module")
def module_store(tmp_path_factory) -> ChunkStore:
    return store_of(Storage(StorageConfig(root=str(tmp_path_factory.mktemp("store")))))


def test_by_range_as_from_object_storage_a_reader_gives_the_same(module_store, monkeypatch):
    monkeypatch.setattr(SegmentReader, "local", False)
    for place_B in (np.arange(14), np.array([3, 4, 9, 0, 1, 13]), np.array([7]), np.zeros(0, np.int64)):
        reader = module_store.reader("train")
        whole = cut_whole("train")
        assert_same(
            reader.take(place_B), ChunkBatch(**{f.name: getattr(whole, f.name)[place_B] for f in fields(ChunkBatch)})
        )


@pytest.mark.services
def test_a_store_on_real_s3_is_streamed_by_range(s3_server):
    root = s3_server.create_bucket("chunk-tests")
    config = StorageConfig(
        root=root, endpoint_url=s3_server.endpoint_url, region=s3_server.region,
        access_key_id=SecretStr(s3_server.access_key), secret_access_key=SecretStr(s3_server.secret_key),
    )  # fmt: skip
    store = store_of(Storage(config))
    reader = ChunkStore.open(Storage(config), store.path).reader("train")
    assert not reader.local
    loader = WindowLoader(reader, batch_windows=7, buffer_chunks=2, seed=3)
    assert sum(int(step.mask_N.sum()) for step in loader) == store.stats.targets["train"]
    assert_same(reader.take(np.arange(len(reader))), cut_whole("train"))
    Storage(config).delete(store.path, store.parts["test"][0][0])
    with pytest.raises(MissingInputError, match=r"s3://.*test/symbol-00000-00000\.npy does not exist"):
        list(store.read("test"))


def test_a_reader_travels_as_paths_and_what_it_gives_may_be_written(module_store):
    reader = pickle.loads(pickle.dumps(module_store.reader("train")))
    assert len(pickle.dumps(reader)) < 3000
    batch = reader.take(np.array([1, 0]))
    batch.x_BTF[:] = 0
    assert (reader.take(np.array([1]))).x_BTF.any()
    with pytest.raises(IndexError, match="places 0 to 99"):
        reader.take(np.array([0, 99]))


def test_the_index_knows_the_counted_targets_of_every_chunk(storage):
    labels = {"weight_column": "w", "regime_column": "r"}
    store = store_of(storage, **labels)
    for segment in SEGMENTS:
        reader = store.reader(segment)
        index, batch = reader.index(), reader.take(np.arange(len(reader)))
        np.testing.assert_array_equal(index.chunk_id_P, batch.chunk_id_B)
        np.testing.assert_array_equal(index.targets_P, batch.mask_BC.sum(1))
        for p in range(len(reader)):
            counted = batch.mask_BC[p]
            rows = np.array([row_of(int(t)) for t in batch.time_BC[p][counted]])
            assert index.time_P[p] == int(batch.time_BC[p][counted].mean())
            assert index.weight_P[p] == rows.sum() / 8
            assert index.regime_P[p] == np.bincount(rows // 10).argmax()
            known = batch.y_BCK[p][counted & np.isfinite(batch.y_BCK[p, :, 2]), 2]
            np.testing.assert_allclose(index.volatility_P[p], known.mean() if len(known) else np.nan)


def test_without_weights_and_regimes_the_index_says_so(module_store):
    index = module_store.reader("train").index()
    assert np.isnan(index.weight_P).all()
    assert (index.regime_P == -1).all()


def test_every_target_carries_its_weight_and_the_moments_know_their_sum(storage, monkeypatch):
    monkeypatch.setattr(write, "_BLOCK_BYTES", 1)
    store = store_of(storage, weight_column="w")
    for segment in SEGMENTS:
        for batch in store.read(segment):
            rows_BC = np.vectorize(lambda t: row_of(int(t)) if t >= 0 else 0)(batch.time_BC)
            np.testing.assert_array_equal(batch.weight_BC, np.where(batch.mask_BC, rows_BC / 8, 0.0))
    train = list(store.read("train"))
    weight_R = np.concatenate([b.weight_BC[b.mask_BC] for b in train]).astype(np.float64)
    known_RK = np.concatenate([np.isfinite(b.y_BCK[b.mask_BC]) for b in train])
    np.testing.assert_allclose(store.stats.label_weight_K, weight_R @ known_RK)
    assert store.stats.mean_weight == pytest.approx((weight_R @ known_RK).sum() / known_RK.sum())


def test_without_weights_every_target_weighs_one(module_store):
    assert all((batch.weight_BC == 1.0).all() for batch in module_store.read("train"))
    np.testing.assert_array_equal(module_store.stats.label_weight_K, module_store.stats.label_known_K)
    assert module_store.stats.mean_weight == 1.0


def test_a_store_exists_only_once_it_is_committed(storage):
    store = store_of(storage)
    storage.delete(store.path, "manifest.json")
    assert not ChunkStore.exists(storage, store.path)
    with pytest.raises(MissingInputError):
        ChunkStore.open(storage, store.path)
    store.commit()
    assert ChunkStore.exists(storage, store.path)


def test_a_store_opens_as_it_was_committed(storage):
    store = store_of(storage)
    again = ChunkStore.open(storage, store.path)
    assert (again.spec, again.parts, again.stats.targets) == (SPEC, store.parts, store.stats.targets)
    for name in ("feature_mean_F", "feature_std_F", "label_mean_K", "label_std_K", "label_known_K", "label_weight_K"):
        np.testing.assert_array_equal(getattr(again.stats, name), getattr(store.stats, name))


def test_scalers_are_the_moments_of_the_training_targets_in_whatever_blocks(storage, monkeypatch):
    whole = store_of(storage).stats
    monkeypatch.setattr(write, "_BLOCK_BYTES", 1)
    parts = store_of(storage).stats
    rows = cut_whole("train").x_BTF[:, SPEC.lookback_bars - 1 :][cut_whole("train").mask_BC].astype(np.float64)
    np.testing.assert_allclose(whole.feature_mean_F, rows.mean(0), rtol=1e-12)
    for name in ("feature_mean_F", "feature_std_F", "label_mean_K", "label_std_K", "label_known_K", "label_weight_K"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)


def test_a_deleted_chunk_file_is_named(storage):
    store = store_of(storage)
    storage.delete(store.path, store.parts["test"][1][0])
    with pytest.raises(MissingInputError, match=r"test/symbol-00001-00000\.npy does not exist"):
        list(store.read("test"))


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:40], lambda b: b"", lambda b: b"\x80" + b[1:]])
def test_a_damaged_chunk_file_is_refused_by_name(storage, damage, monkeypatch):
    store = store_of(storage)
    file = f"{store.path}/{store.parts['test'][0][0]}"
    storage.write_bytes(file, damage(storage.read_bytes(file)))
    for local in (True, False):
        monkeypatch.setattr(SegmentReader, "local", local)
        with pytest.raises(
            StorageError, match=r"test/symbol-00000-00000\.npy is not the file of chunks that was written"
        ):
            list(store.read("test"))


def test_a_store_of_an_older_format_is_refused(storage):
    store = store_of(storage)
    storage.write_text(f"{store.path}/manifest.json", json.dumps({"files": {}, "chunks": {}}))
    with pytest.raises(SchemaError, match="chunks of format 1, this version reads 3"):
        ChunkStore.open(storage, store.path)


def test_an_empty_segment_says_what_to_do(storage):
    store = replace(store_of(storage), parts=dict.fromkeys(SEGMENTS, ()))
    with pytest.raises(MissingInputError, match=r"holds no validation chunks; widen the segment in `split`"):
        store.dataset("validation")


@pytest.mark.parametrize(
    "change",
    [
        {"features": TableVersion("lake/features/x", 1)},
        {"labels": TableVersion("lake/labels/x", 1)},
        {"plan": plan(0, 30, 32, 45, 47, 61)},
        {"spec": replace(SPEC, chunk_bars=5)},
        {"spec": replace(SPEC, max_gap_bars=0)},
        {"spec": replace(SPEC, feature_digest="e")},
        {"weight_column": "w"},
        {"regime_column": "w"},
    ],
)
def test_anything_that_changes_the_content_changes_the_path(change):
    assert chunk_store_path(inputs(**change)) != chunk_store_path(inputs())
    assert chunk_store_path(inputs()) == chunk_store_path(inputs())


# --- history ---


def test_a_lookback_longer_than_every_history_names_the_longest_symbol_and_its_bars_before_a_task_starts(storage):
    store_of(storage)
    made = inputs(spec=replace(SPEC, lookback_bars=62))
    with pytest.raises(
        ConfigError, match=r"windows.lookback_bars=62 is longer than the history: BBB, the longest, has 61 bars"
    ):
        write.write_chunks(made, storage)


def test_one_symbol_with_a_long_enough_history_is_enough():
    write.check_history(50, {"NEW": 3, "OLD": 50})


def test_bars_that_features_need_as_their_past_are_not_history():
    with pytest.raises(ConfigError, match=r"history: A has 9 bars with every feature defined"):
        write.check_history(10, {"A": 9}, defined=True)
