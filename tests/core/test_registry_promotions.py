"""The promotion log: decisions are appended once and never changed, and the alias follows the last PROMOTE."""

import datetime as dt
import json
from typing import Any

import pytest

from quantfleet.registry.promotions import PROMOTIONS_PATH, PromotionLog, PromotionRow
from quantfleet.storage import LakeTable, Storage

NOON = dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC)


def decision(version: int = 1, verdict: str = "PROMOTE", *, minutes: int = 0, **changes: Any) -> PromotionRow:
    fields = {
        "decided_at": NOON + dt.timedelta(minutes=minutes),
        "model_name": "indices",
        "version": version,
        "candidate": "hybrid",
        "verdict": verdict,
        "reasons": ("min_sharpe: passed: Sharpe 1.20",),
        "alias": "champion",
        "run": "quickstart",
        "fingerprint": f"evaluation-{minutes}",
    }
    return PromotionRow(**{**fields, **changes})


@pytest.fixture
def log(local: Storage) -> PromotionLog:
    return PromotionLog(local)


@pytest.fixture
def table(local: Storage) -> LakeTable:
    return LakeTable(local, PROMOTIONS_PATH)


def test_a_log_without_decisions_is_empty_and_has_no_champion(log: PromotionLog, table: LakeTable):
    assert log.rows().is_empty()
    assert log.rows().columns == list(PromotionRow.__dataclass_fields__)
    assert log.champion("indices", "champion") is None
    assert not table.exists(), "looking makes nothing"


def test_no_decisions_append_nothing(log: PromotionLog, table: LakeTable):
    assert log.append([]) is False
    assert not table.exists()


def test_a_decision_is_read_back_as_it_was_made(log: PromotionLog):
    assert log.append([decision(7, "HOLD")]) is True

    (kept,) = log.rows().iter_rows(named=True)
    assert kept["decided_at"] == NOON
    assert {k: v for k, v in kept.items() if k not in ("decided_at", "reasons")} == {
        "model_name": "indices",
        "version": 7,
        "candidate": "hybrid",
        "verdict": "HOLD",
        "alias": "champion",
        "run": "quickstart",
        "fingerprint": "evaluation-0",
    }


def test_reasons_come_back_as_they_were_given(log: PromotionLog):
    reasons = ("min_ic: failed: IC −0.01 < 0", 'quotes " and, commas', "")
    log.append([decision(reasons=reasons)])
    assert tuple(json.loads(log.rows()["reasons"][0])) == reasons


def test_the_decisions_of_one_evaluation_are_one_commit(log: PromotionLog, table: LakeTable):
    log.append([decision(1, "HOLD"), decision(2)])
    assert table.latest().version == 0
    assert log.rows()["version"].to_list() == [1, 2]


def test_the_same_evaluation_is_appended_once_and_makes_no_new_version(log: PromotionLog, table: LakeTable):
    first = [decision(1, "HOLD"), decision(2)]
    assert log.append(first) is True
    version = table.latest()

    again = [decision(1, "PROMOTE", decided_at=NOON + dt.timedelta(days=1)), decision(9)]

    assert log.append(again) is False
    assert table.latest() == version
    assert log.rows()["verdict"].to_list() == ["HOLD", "PROMOTE"]


def test_a_new_evaluation_adds_rows_and_leaves_the_old_ones_alone(log: PromotionLog, table: LakeTable):
    log.append([decision(1)])
    before = log.rows()

    log.append([decision(2, "HOLD", minutes=1)])

    assert log.rows().head(1).equals(before)
    assert log.rows().height == 2
    operations = [commit["operation"] for commit in table.history()]
    assert operations == ["WRITE", "WRITE"]
    assert all(commit["operationParameters"]["mode"] == "Append" for commit in table.history())


def test_two_writers_of_two_evaluations_lose_neither(local: Storage):
    PromotionLog(local).append([decision(1)])
    PromotionLog(local).append([decision(2, minutes=1)])
    assert PromotionLog(local).rows()["version"].to_list() == [1, 2]


def test_the_champion_is_the_last_promoted_version(log: PromotionLog):
    log.append([decision(3, minutes=1)])
    log.append([decision(5, minutes=2)])
    log.append([decision(6, "HOLD", minutes=3)])
    assert log.champion("indices", "champion") == 5


def test_an_older_version_promoted_later_is_the_champion(log: PromotionLog):
    log.append([decision(5, minutes=1)])
    log.append([decision(3, minutes=2)])
    assert log.champion("indices", "champion") == 3


def test_the_time_of_the_decision_counts_not_the_order_of_the_commits(log: PromotionLog):
    log.append([decision(5, minutes=2)])
    log.append([decision(3, minutes=1)])
    assert log.champion("indices", "champion") == 5


def test_every_model_and_every_alias_has_a_champion_of_its_own(log: PromotionLog):
    log.append([decision(1, minutes=1)])
    log.append([decision(2, minutes=2, alias="challenger")])
    log.append([decision(3, minutes=3, model_name="crypto")])
    assert log.champion("indices", "champion") == 1
    assert log.champion("indices", "challenger") == 2
    assert log.champion("crypto", "champion") == 3
    assert log.champion("crypto", "challenger") is None


def test_held_models_never_become_champion(log: PromotionLog):
    log.append([decision(1, "HOLD"), decision(2, "HOLD")])
    assert log.champion("indices", "champion") is None
