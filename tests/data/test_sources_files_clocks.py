"""Whatever clock a vendor's timestamps follow, bars are in UTC; and when it cannot be told, nothing is guessed."""

import datetime as dt
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from quantfleet.contracts import FetchRequest, Timeframe
from quantfleet.errors import EmptyTableError, TimeError
from quantfleet_data.sources import FilesConfig

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAYS = [dt.datetime(2024, 1, day, tzinfo=dt.UTC) for day in range(1, 7)]
NAIVE = [dt.datetime(2024, 3, 8, 9, 30), dt.datetime(2024, 3, 11, 9, 30)]


def with_times(times: list[Any]) -> pl.DataFrame:
    prices = (pl.lit(10.0).alias(name) for name in ("open", "high", "low", "close", "volume"))
    return pl.DataFrame({"timestamp": times}).with_columns(pl.lit("AAA").alias("symbol"), *prices)


def write(frame: pl.DataFrame, file: Path) -> Path:
    if file.suffix == ".csv":
        frame.write_csv(file, datetime_format="%Y-%m-%d %H:%M:%S")
    else:
        frame.write_parquet(file)
    return file


def times_in(path: Path, *, now_utc: dt.datetime = NOW, **settings: Any) -> list[dt.datetime]:
    source = FilesConfig(path=str(path), **settings).build()
    batches = list(source.fetch(FetchRequest(Timeframe("1d"), lambda symbol: None, now_utc)))
    assert {str(batch.schema["timestamp"]) for batch in batches} == {"Datetime(time_unit='us', time_zone='UTC')"}
    return [stamp.astimezone(dt.UTC) for batch in batches for stamp in batch["timestamp"]]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_naive_timestamps_are_refused_without_a_zone_and_converted_with_one(tmp_path: Path, suffix: str):
    file = write(with_times(NAIVE), tmp_path / f"a.{suffix}")
    with pytest.raises(TimeError, match=r"source 'files' .* timestamps are naive .* `time_zone: UTC`"):
        times_in(file)
    assert times_in(file, time_zone="UTC") == [moment.replace(tzinfo=dt.UTC) for moment in NAIVE]
    # New York put its clocks forward on 2024-03-10: 14:30 UTC before, 13:30 after.
    in_new_york = times_in(file, time_zone="America/New_York")
    assert [f"{moment:%d %H:%M}" for moment in in_new_york] == ["08 14:30", "11 13:30"]


@pytest.mark.parametrize(
    "moment", [dt.datetime(2024, 11, 3, 1, 30), dt.datetime(2024, 3, 10, 2, 30)], ids=["twice", "never"]
)
def test_a_time_that_the_clock_change_makes_doubtful_is_refused(tmp_path: Path, moment: dt.datetime):
    file = write(with_times([moment]), tmp_path / "a.parquet")
    with pytest.raises(TimeError, match="America/New_York changed its clocks"):
        times_in(file, time_zone="America/New_York")


def test_timestamps_with_a_zone_are_converted_to_utc(tmp_path: Path):
    in_tokyo = with_times(DAYS).with_columns(pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo"))
    assert times_in(write(in_tokyo, tmp_path / "a.parquet")) == DAYS


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_calendar_dates_are_labels_at_midnight_utc_whatever_the_zone(tmp_path: Path, suffix: str):
    file = write(with_times([day.date() for day in DAYS]), tmp_path / f"a.{suffix}")
    assert times_in(file) == times_in(file, time_zone="America/New_York") == DAYS


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_numbers_are_times_once_their_unit_is_known(tmp_path: Path, unit: str, factor: int, suffix: str):
    numbers = with_times([int(day.timestamp()) * factor for day in DAYS])
    file = write(numbers, tmp_path / f"a.{suffix}")
    assert times_in(file, time_unit=unit) == DAYS
    with pytest.raises(TimeError, match=r"timestamps are numbers such as 17\d+; set `time_unit`"):
        times_in(file)


def test_fractions_of_seconds_are_kept(tmp_path: Path):
    file = write(with_times([1_704_067_200.5, 1_704_153_600.25]), tmp_path / "a.parquet")
    assert [moment.microsecond for moment in times_in(file, time_unit="s")] == [500_000, 250_000]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("us", TimeError, "before 1971 when read in us; time_unit is wrong"),
        ("s", EmptyTableError, "all 6 bars are still open"),
    ],
)
def test_a_wrong_time_unit_is_noticed(tmp_path: Path, wrong, error, message):
    milliseconds = with_times([int(day.timestamp()) * 1000 for day in DAYS])
    with pytest.raises(error, match=message):
        times_in(write(milliseconds, tmp_path / "a.parquet"), time_unit=wrong)


def test_text_is_read_by_its_format_only(tmp_path: Path):
    file = write(with_times(["02.01.2024 16:00", "03.01.2024 16:00"]), tmp_path / "a.parquet")
    with pytest.raises(TimeError, match=r"timestamps are text such as '02.01.2024 16:00'; set `time_format`"):
        times_in(file, time_zone="UTC")
    with pytest.raises(TimeError, match="do not follow time_format='%Y-%m-%d'"):
        times_in(file, time_zone="UTC", time_format="%Y-%m-%d")
    with pytest.raises(TimeError, match="naive"):
        times_in(file, time_format="%d.%m.%Y %H:%M")
    assert times_in(file, time_zone="UTC", time_format="%d.%m.%Y %H:%M")[0].hour == 16


def test_dates_written_as_numbers_in_csv_are_read_by_their_format(tmp_path: Path):
    file = write(with_times([f"{day:%Y%m%d}" for day in DAYS]), tmp_path / "a.csv")
    assert times_in(file, time_format="%Y%m%d", time_zone="UTC") == DAYS


def test_a_bar_that_is_not_over_is_left_out(tmp_path: Path):
    file = write(with_times(DAYS), tmp_path / "a.parquet")
    assert times_in(file, now_utc=DAYS[3] + dt.timedelta(hours=5)) == DAYS[:3]
