"""Every different evaluation of a test period counts, on the bars and the time that it shares."""

import datetime as dt
from pathlib import Path

from quantfleet.contracts import TimeInterval
from quantfleet.registry.looks import Look, LookLog
from quantfleet.storage import Storage, StorageConfig

NOW = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def year(first: int, last: int) -> TimeInterval:
    return TimeInterval(dt.datetime(first, 1, 1, tzinfo=dt.UTC), dt.datetime(last, 1, 1, tzinfo=dt.UTC))


def look(fingerprint: str, *, bars: str = "lake/bars/1d", test: TimeInterval | None = None) -> Look:
    return Look(looked_at=NOW, bars=bars, test=test or year(2020, 2024), run="r", models=2, fingerprint=fingerprint)


def log(folder: Path) -> LookLog:
    return LookLog(Storage(StorageConfig(root=str(folder))).absolute())


def test_each_different_evaluation_is_one_look_more_and_the_same_again_is_none(tmp_path: Path):
    looks = log(tmp_path)
    assert [looks.append(look(name)) for name in ("a", "b", "a", "c")] == [1, 2, 2, 3]
    assert looks.rows().height == 3


def test_a_period_that_shares_time_was_looked_at_too_and_another_was_not(tmp_path: Path):
    looks = log(tmp_path)
    looks.append(look("a", test=year(2018, 2021)))
    assert looks.append(look("b", test=year(2020, 2024))) == 2
    assert looks.append(look("c", test=year(2024, 2025))) == 1
    assert looks.append(look("d", bars="lake/bars/1h")) == 1


def test_nobody_has_looked_before_the_first(tmp_path: Path):
    assert log(tmp_path).count("lake/bars/1d", year(2020, 2024)) == 0
    assert log(tmp_path).rows().is_empty()
