"""From a file of book messages into the lake, and from there beside bars: the book of the close, of one version."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from support.recipes import NAIVE, small_recipe, write_recipe

from quantfleet.contracts import BAR_COLUMNS
from quantfleet.errors import BookError, ConfigError, MissingInputError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data import book_table
from quantfleet_data.book_table import BookBeside, BookColumns, write_book
from quantfleet_data.features import BookMeasure, FeaturesConfig, compute_features
from quantfleet_data.ingest import IngestConfig, event_stretches, ingest
from quantfleet_data.order_book import BookFeaturesConfig, replay
from quantfleet_data.per_symbol import in_process
from quantfleet_data.sources import FilesConfig
from quantfleet_jobs import book as job
from quantfleet_jobs.recipe import load_recipe
from quantfleet_jobs.run import stages_of

BOOK = "bybit_xrpusdt_l2_book_500_2024-12-01.parquet"
COLUMNS = {"event": "kind", "update_id": "sequence", "size": "amount"}
MINUTE = dt.datetime(2024, 12, 1, tzinfo=dt.UTC)


@pytest.fixture
def storage(tmp_path):
    return Storage(StorageConfig(root=str(tmp_path / "lake"))).absolute()


@pytest.fixture
def messages(shared_data):
    return pl.read_parquet(shared_data / BOOK)


@pytest.fixture
def bybit(storage, shared_data):
    """The sample, ingested; returns the storage."""
    ingest(IngestConfig(sources=(FilesConfig(path=str(shared_data / BOOK), rows="book", columns=COLUMNS),)), storage)
    return storage


def minutes(count, symbol="XRP/USDT", first=MINUTE):
    times = [first + dt.timedelta(minutes=i) for i in range(count)]
    return pl.DataFrame(
        {"symbol": [symbol] * count, "timestamp": times, **dict.fromkeys(BAR_COLUMNS[2:], [2.0] * count)},
        schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
    )


def added(storage, folder, rows):
    rows.write_parquet(folder / "more.parquet")
    ingest(
        IngestConfig(sources=(FilesConfig(path=str(folder / "more.parquet"), rows="book", columns=COLUMNS),)), storage
    )


def test_beside_a_bar_stands_the_book_as_the_replay_of_the_file_leaves_it(bybit, messages):
    version, made_of = write_book(bybit, "1m", BookColumns(), run=in_process)
    joined = BookBeside(bybit, version, "1m").join(minutes(2))
    last = replay(messages.rename(COLUMNS)).tail(1)
    expected = last.drop("symbol", "timestamp", "sequence").rename(lambda name: f"book_{name}")
    assert_frame_equal(joined[:1].select(expected.columns), expected, check_exact=True)
    assert joined["book_age_s"].to_list() == pytest.approx([54.51, 114.51])
    assert tuple(joined.columns[len(BAR_COLUMNS) :]) == BookColumns().columns
    assert str(made_of) == f"lake/book@{LakeTable(bybit, 'lake/book').latest().version}"


def test_a_book_too_old_and_a_symbol_without_one_are_null(bybit):
    version, _ = write_book(bybit, "1m", BookColumns(), run=in_process)
    old = BookBeside(bybit, version, "1m", max_age_s=60.0).join(minutes(2))
    assert old["book_mid"].is_null().to_list() == [False, True]
    assert BookBeside(bybit, version, "1m").join(minutes(2, "ADA/USDT"))["book_mid"].null_count() == 2


def test_features_read_the_book_at_the_close(bybit):
    version, _ = write_book(bybit, "1m", BookColumns(), run=in_process)
    bars = BookBeside(bybit, version, "1m").join(minutes(3, first=MINUTE - dt.timedelta(minutes=1)))
    extra = (BookMeasure(), BookMeasure(measure="spread_bps", bars=2))
    made = compute_features(bars, FeaturesConfig(sets=(), extra=extra).resolve())
    imbalance = made["book_imbalance_5_1"].to_numpy()
    np.testing.assert_allclose(imbalance, [np.nan, -0.452737, -0.452737], atol=1e-6)
    np.testing.assert_allclose(made["book_spread_bps_2"].to_numpy(), [np.nan, np.nan, 0.511836], atol=1e-6)


def test_the_same_messages_again_change_nothing_and_new_ones_make_a_new_version(bybit, messages, tmp_path):
    first, _ = write_book(bybit, "1m", BookColumns(), run=in_process)
    assert write_book(bybit, "1m", BookColumns(), run=in_process)[0] == first
    later = messages.filter(pl.col("event") == "snapshot").with_columns(pl.col("timestamp") + dt.timedelta(minutes=3))
    added(bybit, tmp_path, later.with_columns(pl.col("update_id") + 10_000_000))
    second, _ = write_book(bybit, "1m", BookColumns(), run=in_process)
    assert second.version > first.version
    contexts = [BookBeside(bybit, version, "1m") for version in (first, second)]
    assert contexts[0].fingerprint != contexts[1].fingerprint
    ages = [context.join(minutes(4))["book_age_s"][3] for context in contexts]
    assert ages[0] > 200 > 60 > ages[1]


def test_a_lost_message_is_told_and_the_last_finished_version_stays(bybit, messages, tmp_path):
    first, _ = write_book(bybit, "1m", BookColumns(), run=in_process)
    delta = messages.filter(pl.col("event") == "delta")[-1:].with_columns(
        pl.col("timestamp") + dt.timedelta(minutes=1), pl.col("update_id") + 2
    )
    added(bybit, tmp_path, delta)
    with pytest.raises(BookError, match=r"book of XRP/USDT.* messages are missing"):
        write_book(bybit, "1m", BookColumns(), run=in_process)
    assert BookBeside(bybit, first, "1m").join(minutes(1))["book_mid"].null_count() == 0
    assert write_book(bybit, "1m", BookColumns(sequence_step=None), run=in_process)[0].path != first.path


@pytest.mark.parametrize("rows", [1, 5_000])
def test_however_long_the_stretches_the_measures_are_the_same(bybit, messages, tmp_path, monkeypatch, rows):
    hour = messages.filter(pl.col("event") == "snapshot").with_columns(
        pl.col("timestamp") + dt.timedelta(hours=1), pl.col("update_id") + 10_000_000
    )
    added(bybit, tmp_path, hour)
    spans = list(event_stretches(bybit, "book", None, "XRP/USDT", rows=rows))
    assert len(spans) == (2 if rows == 1 else 1)
    monkeypatch.setattr(book_table, "_STRETCH_ROWS", rows)
    version, _ = write_book(bybit, "1m", BookColumns(), run=in_process)
    joined = BookBeside(bybit, version, "1m").join(minutes(61))
    assert joined["book_levels_bid"].to_list() == [500] * 61
    assert joined["book_age_s"][60] == pytest.approx(59.309)


def test_without_messages_it_is_said_how_to_get_some(storage):
    with pytest.raises(MissingInputError, match=r"there are no messages at .* Run `quantfleet ingest` on a recipe"):
        write_book(storage, "1m", BookColumns(), run=in_process)


def test_the_recipe_knows_the_columns_of_its_book_and_runs_its_stage_before_quality(tmp_path):
    extra = {"extra": [{"kind": "book", "measure": "imbalance_3"}]}
    plain = write_recipe(tmp_path, small_recipe(str(tmp_path), models=list(NAIVE), features={"sets": ["core"]} | extra))
    with pytest.raises(ConfigError, match=r"reads 'book_imbalance_3', but the recipe has no order book"):
        load_recipe(str(plain), environ={})
    with pytest.raises(
        ConfigError, match=r"reads the bar column 'book_imbalance_3'.* Did you mean 'book_imbalance_\d'"
    ):
        load_recipe(str(plain), ["book={}"], environ={})
    good = load_recipe(str(plain), ["book={max_age_s: 60, features: {levels: [3]}}"], environ={}).value
    assert good.book.features == BookFeaturesConfig(levels=(3,))
    assert [stage.name for stage in stages_of(good)][:3] == ["ingest", "book", "quality"]
    with pytest.raises(ConfigError, match="the recipe has no section `book`"):
        job.STAGE.check(load_recipe("quickstart", environ={}).value)


def test_a_measure_that_has_a_scale_is_no_feature():
    with pytest.raises(ConfigError, match="measure='best_bid' is no scale-free measure"):
        BookMeasure(measure="best_bid")
