"""The benchmark harness: correctness before time, ratios per unit of work, results that later runs add to."""

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from support.recipes import REPOSITORY


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return importlib.import_module("bench.harness")


def row(harness: Any, *, ours: Any, peer: Any, check: Any = lambda a, b: None, **prepared: Any) -> Any:
    return harness.BenchRow(
        id="X", work="a unit", peer="a peer", target=0.5, rounds=3, versions=("numpy",),
        prepare=lambda: harness.Prepared(ours=ours, peer=peer, check=check, **prepared),
    )  # fmt: skip


def test_every_row_has_the_id_of_its_file_and_a_target(harness: Any):
    rows = importlib.import_module("bench.rows")
    found = {
        name: importlib.import_module(f"bench.rows.{name}").ROW for _, name, _ in pkgutil.iter_modules(rows.__path__)
    }
    ids = [one.id for one in found.values()]
    assert {"A1", "A2", "B1", "B1w", "B2", "C", "C_memcpy", "D", "E1", "E1-1M", "E2", "E3", "J1", "J2", "J3"} <= set(
        ids
    )
    assert len(set(ids)) == len(ids)
    assert all(one.target > 0 and one.rounds >= 5 and one.work and one.peer for one in found.values())


def test_what_is_wrong_is_not_timed_and_what_was_started_is_ended(harness: Any):
    ended: list[str] = []

    def differ(ours: int, peer: int) -> None:
        assert ours == peer

    wrong = row(harness, ours=lambda: 1, peer=lambda: 2, check=differ, close=lambda: ended.append("closed"))
    with pytest.raises(AssertionError):
        harness.measure(wrong)
    assert ended == ["closed"]


def test_the_score_is_the_median_ratio_per_unit_of_work(harness: Any, monkeypatch: pytest.MonkeyPatch):
    clock = {"now": 0.0}
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock["now"])
    lasts = iter([7.0, 1.0, 2.0, 9.0])  # the first is the warm-up

    def ours() -> None:
        clock["now"] += next(lasts)

    def peer() -> None:
        clock["now"] += 40.0

    result = harness.measure(row(harness, ours=ours, peer=peer, ours_units=1.0, peer_units=10.0))
    assert result.ratios == [0.25, 0.5, 2.25]
    assert (result.ratio, result.ours_s, result.peer_s) == (0.5, 2.0, 4.0)
    assert result.held, "equal to the bound holds it"
    assert result.warm_up_s == 7.0


def test_results_of_other_rows_are_kept(harness: Any, tmp_path: Path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"id": "A0", "ratio": 1.0}, {"id": "X", "ratio": 9.0}]))
    result = harness.measure(row(harness, ours=lambda: None, peer=lambda: sum(range(2000))))
    harness.write_results([result], path)
    written = {record["id"]: record for record in json.loads(path.read_text())}
    assert written["A0"] == {"id": "A0", "ratio": 1.0}
    assert set(written["X"]) >= {
        "id",
        "work",
        "ours_s",
        "peer_s",
        "peer",
        "ratio",
        "target",
        "held",
        "versions",
        "machine",
    }
