"""Only what is missing: further back, the holes, and on from the newest; what a source lacks is asked for once."""

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.contracts import Asked, FetchRequest, Source, SourceConfig, Timeframe
from quantfleet.errors import SourceError
from quantfleet.storage import LakeTable, Storage, StorageConfig
from quantfleet_data.ingest import IngestConfig, RowCounts, bars_path, ingest
from quantfleet_data.ingest.known import Known, cut_out, merged

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def hour(number: int) -> dt.datetime:
    return START + number * HOUR


def bars_at(symbol: str, hours: "list[int] | range") -> pl.DataFrame:
    stamps = pl.Series("timestamp", [hour(h) for h in hours], dtype=pl.Datetime("us", "UTC"))
    price = pl.lit(1.0)
    return pl.DataFrame({"timestamp": stamps}).select(
        pl.lit(symbol).alias("symbol"),
        "timestamp",
        *(price.alias(name) for name in ("open", "high", "low", "close", "volume")),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Market(SourceConfig):
    """A paging source: has bars at `hours` of each symbol, from `since` on; notes what it was asked for."""

    hours: tuple[int, ...]
    since: int = 0
    until: int = 100
    symbols: tuple[str, ...] = ("AAA",)
    parts: int = 1
    fail_on: str = ""
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def source_name(self) -> str:
        return "market"

    def split(self) -> tuple[SourceConfig, ...]:
        return tuple(
            Market(
                hours=self.hours,
                since=self.since,
                until=self.until,
                symbols=self.symbols[n :: self.parts],
                fail_on=self.fail_on,
                asked=self.asked,
            )
            for n in range(self.parts)
        )

    def build(self) -> Source:
        return _Market(self)


class _Market(Source):
    def __init__(self, config: Market) -> None:
        self.config = config

    def fetch(self, request: FetchRequest) -> Iterator[pl.DataFrame | Asked]:
        config = self.config
        for symbol in config.symbols:
            for start, end in request.missing(symbol, hour(config.since), hour(config.until)):
                first, last = (round((t - START) / HOUR) for t in (start, end))
                config.asked.append((symbol, first, last))
                for page in range(first, last, 10):
                    have = [h for h in config.hours if page <= h < min(page + 10, last)]
                    if have:
                        yield bars_at(symbol, have)
                    if config.fail_on == symbol:
                        raise SourceError(f"{symbol} broke")
                yield Asked(symbol=symbol, start_utc=start, end_utc=end)


def run(storage: Storage, market: Market, now_utc: dt.datetime = NOW) -> RowCounts:
    market.asked.clear()
    return ingest(IngestConfig(timeframe="1h", sources=(market,)), storage, now_utc=now_utc).total


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(StorageConfig(root=str(tmp_path)))


# --- What is missing --------------------------------------------------------------------------------------------------


def request(first: int | None, last: int | None, holes: tuple[tuple[int, int], ...] = ()) -> FetchRequest:
    spans = tuple((hour(a), hour(b)) for a, b in holes)
    at: Callable[[int | None], dt.datetime | None] = lambda h: None if h is None else hour(h)  # noqa: E731
    return FetchRequest(Timeframe("1h"), lambda s: at(last), NOW, lambda s: at(first), lambda s: spans)


@pytest.mark.parametrize(
    ("request_", "since", "until", "expected"),
    [
        (request(None, None), 0, 50, [(0, 50)]),
        (request(10, 20), 10, 50, [(20, 50)]),
        (request(10, 20), 0, 50, [(0, 10), (20, 50)]),
        (request(10, 20, ((12, 13), (15, 18))), 0, 50, [(0, 10), (12, 13), (15, 18), (20, 50)]),
        (request(10, 20, ((12, 16),)), 14, 50, [(14, 16), (20, 50)]),
        (request(10, 20), 30, 50, [(30, 50)]),
        (request(10, 20), 0, 15, [(0, 10)]),
        (request(10, 20), 0, 5, [(0, 5)]),
    ],
    ids=["all", "newer", "older", "holes", "clipped", "since-later", "until-inside", "before-it-all"],
)
def test_missing_is_what_lies_before_in_and_after_the_table(request_, since, until, expected):
    spans = request_.missing("AAA", hour(since), hour(until))
    assert [(round((a - START) / HOUR), round((b - START) / HOUR)) for a, b in spans] == expected


def test_a_request_with_only_its_newest_row_asks_from_there_on():
    bare = FetchRequest(Timeframe("1h"), lambda symbol: hour(7), NOW)
    assert bare.missing("AAA", hour(0), hour(9)) == ((hour(7), hour(9)),)


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 10)), max_size=12).map(
    lambda pairs: [(hour(a), hour(a + n)) for a, n in pairs]
)


@given(spans=SPANS)
def test_merged_spans_cover_the_same_hours_and_do_not_touch(spans):
    def hours(of):
        return {h for h in range(80) if any(a <= hour(h) < b for a, b in of)}

    joined = merged(spans)
    assert hours(joined) == hours(spans)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(joined))
    assert hours(cut_out(joined, (hour(5), hour(20)))) == hours(spans) & set(range(5, 20))


@settings(max_examples=12)
@given(have=st.sets(st.integers(0, 40), min_size=1), since=st.integers(0, 20), more=st.sets(st.integers(0, 40)))
def test_whatever_the_table_has_one_run_makes_it_whole_and_the_next_finds_nothing(tmp_path_factory, have, since, more):
    storage = Storage(StorageConfig(root=str(tmp_path_factory.mktemp("lake"))))
    market = {"since": since, "until": 41}
    if any(h >= since for h in have):
        run(storage, Market(hours=tuple(sorted(have)), **market))
    whole = tuple(sorted(have | more | {40}))
    LakeTable(storage, "lake/asked").storage.delete("lake/asked")  # the source has bars now that it had not
    run(storage, Market(hours=whole, since=0, until=41))
    table = LakeTable(storage, bars_path("1h")).read()
    assert sorted(round((t - START) / HOUR) for t in table["timestamp"]) == list(whole)
    again = Market(hours=whole, since=0, until=41)
    assert run(storage, again).new == 0
    assert again.asked == [("AAA", 40, 41)], "only the newest bar is asked for again"


def test_moving_since_back_fetches_the_older_part_and_nothing_twice(storage: Storage):
    assert run(storage, Market(hours=tuple(range(100)), since=60)).new == 40
    back = Market(hours=tuple(range(100)), since=20)
    assert run(storage, back) == RowCounts(new=40, unchanged=1)
    assert back.asked == [("AAA", 20, 60), ("AAA", 99, 100)]


def test_a_hole_that_the_source_can_fill_now_is_filled(storage: Storage):
    run(storage, Market(hours=(*range(40), *range(50, 100))))
    storage.delete("lake/asked")
    market = Market(hours=tuple(range(100)))
    assert run(storage, market).new == 10
    assert market.asked == [("AAA", 40, 50), ("AAA", 99, 100)]


def test_what_a_source_lacks_is_asked_for_once(storage: Storage):
    hours = (*range(30, 40), *range(50, 100))
    run(storage, Market(hours=hours))
    again = Market(hours=hours)
    run(storage, again)
    assert again.asked == [("AAA", 99, 100)]
    further = Market(hours=hours, since=-50)
    run(storage, further)
    assert further.asked == [("AAA", -50, 0), ("AAA", 99, 100)], "the part in front that was asked for is not, again"
    run(storage, further)
    assert further.asked == [("AAA", 99, 100)]


def test_a_hole_is_given_a_day_to_be_filled_by_the_exchange(storage: Storage):
    hours = (*range(40), *range(50, 60))
    run(storage, Market(hours=hours, until=60), now_utc=hour(60))
    soon = Market(hours=hours, until=60)
    run(storage, soon, now_utc=hour(70))
    assert ("AAA", 40, 50) in soon.asked
    run(storage, soon, now_utc=hour(75))
    later = Market(hours=hours, until=60)
    run(storage, later, now_utc=hour(76))
    assert later.asked == [("AAA", 59, 60)]


def test_rows_that_go_missing_in_the_table_are_asked_for_again(storage: Storage):
    table = LakeTable(storage, bars_path("1h"))
    run(storage, Market(hours=(*range(40), *range(50, 100))))
    table.overwrite(table.read().filter(pl.col("timestamp") != hour(45 - 6)).to_arrow(), partition_by=("symbol",))
    market = Market(hours=(*range(40), *range(50, 100)))
    assert run(storage, market).new == 1
    assert market.asked == [("AAA", 39, 50), ("AAA", 99, 100)]


def test_a_span_that_was_broken_off_is_not_taken_for_asked(storage: Storage):
    with pytest.raises(SourceError, match="AAA broke"):
        run(storage, Market(hours=(*range(5, 40),), fail_on="AAA"))
    market = Market(hours=tuple(range(100)))
    run(storage, market)
    assert market.asked == [("AAA", 0, 5), ("AAA", 9, 100)]


def test_the_bounds_of_a_symbol_come_out_of_the_log_without_reading_a_row(storage: Storage, monkeypatch):
    run(storage, Market(hours=tuple(range(100)), symbols=("AAA", "B/B")))
    known = Known(LakeTable(storage, bars_path("1h")), "market", step=HOUR)
    monkeypatch.setattr(LakeTable, "read", lambda *args, **kwargs: pytest.fail("rows were read"))
    assert (known.first("B/B"), known.last("B/B"), known.last("CCC")) == (hour(0), hour(99), None)


def test_sources_that_share_a_file_are_told_apart(storage: Storage):
    run(storage, Market(hours=(1, 2)))
    table = LakeTable(storage, bars_path("1h"))
    rows = table.read()
    other = rows.with_columns(pl.lit("other").alias("source"), pl.col("timestamp") + 10 * HOUR)
    table.overwrite(pl.concat([rows, other]).to_arrow(), partition_by=("symbol",))
    known = Known(table, "market", step=HOUR)
    assert (known.first("AAA"), known.last("AAA")) == (hour(1), hour(2))


# --- Parts at the same time -------------------------------------------------------------------------------------------


def test_parts_fill_the_same_table_as_one_after_another(storage: Storage, tmp_path: Path):
    symbols = tuple(f"S{n}" for n in range(7))
    hours = (*range(35), *range(60, 100))
    single = Storage(StorageConfig(root=str(tmp_path / "single")))
    run(single, Market(hours=hours, symbols=symbols))
    assert run(storage, Market(hours=hours, symbols=symbols, parts=3)).new == 7 * 75
    both = [LakeTable(s, bars_path("1h")).read().sort("symbol", "timestamp") for s in (single, storage)]
    assert both[0].drop("ingested_at").equals(both[1].drop("ingested_at"))
    again = Market(hours=hours, symbols=symbols, parts=3)
    assert run(storage, again) == RowCounts(unchanged=7)


def test_one_part_that_fails_is_one_error_and_what_others_delivered_is_kept(storage: Storage):
    market = Market(hours=tuple(range(100)), symbols=("AAA", "BBB", "CCC"), parts=3, fail_on="BBB")
    with pytest.raises(SourceError, match="BBB broke"):
        run(storage, market)
    kept = LakeTable(storage, bars_path("1h")).read()
    assert kept.filter(pl.col("symbol") == "BBB").height == 10
    run(storage, Market(hours=tuple(range(100)), symbols=("AAA", "BBB", "CCC"), parts=3))
    assert LakeTable(storage, bars_path("1h")).read().height == 300
