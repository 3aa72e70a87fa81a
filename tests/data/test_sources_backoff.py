"""When to ask again: doubling with jitter, never before the time the other side asked for, and not for ever."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantfleet.errors import ConfigError
from quantfleet_data.sources.backoff import Backoff, GiveUp, Wait, asked_wait_s

NOW = dt.datetime(2024, 6, 10, 12, 0, 0, tzinfo=dt.UTC)
POLICY = Backoff(max_retries=5, base_s=1.0, cap_s=6.0, patience_s=30.0)


def test_waits_double_up_to_the_cap_and_end_with_the_retries():
    decisions = [POLICY.decide(failures=n, asked_s=None, jitter=1.0) for n in range(1, 7)]
    assert decisions == [Wait(1.0), Wait(2.0), Wait(4.0), Wait(6.0), Wait(6.0), GiveUp("failed 6 times in a row")]


def test_half_of_a_wait_is_random():
    assert POLICY.decide(failures=2, asked_s=None, jitter=0.0) == Wait(1.0)
    assert POLICY.decide(failures=2, asked_s=None, jitter=0.5) == Wait(1.5)


@given(
    failures=st.integers(1, 5),
    asked_s=st.floats(0, 30),
    jitter=st.floats(0, 1, exclude_max=True),
)
def test_no_wait_is_shorter_than_asked_for(failures, asked_s, jitter):
    decision = POLICY.decide(failures=failures, asked_s=asked_s, jitter=jitter)
    assert isinstance(decision, Wait)
    assert asked_s <= decision.seconds <= max(POLICY.cap_s, asked_s + 0.25 * POLICY.cap_s)


def test_a_wait_beyond_patience_is_not_sat_out():
    assert POLICY.decide(failures=1, asked_s=31.0, jitter=0.0) == GiveUp("asks to wait 31 s, longer than max_wait_s=30")


def test_no_retries_means_one_try():
    once = Backoff(max_retries=0, base_s=1, cap_s=1, patience_s=1)
    assert once.decide(failures=1, asked_s=None, jitter=0.0) == GiveUp("failed 1 times in a row")


def test_many_failures_do_not_overflow():
    patient = Backoff(max_retries=10_000, base_s=1.0, cap_s=6.0, patience_s=1.0)
    assert patient.decide(failures=9_999, asked_s=None, jitter=1.0) == Wait(6.0)


@pytest.mark.parametrize(
    ("headers", "text", "expected"),
    [
        ({"Retry-After": "7"}, "", 7.0),
        ({"retry-after": "0.5"}, "retry in 99 s", 0.5),
        ({"Retry-After": "Mon, 10 Jun 2024 12:00:45 GMT"}, "", 45.0),
        ({"Retry-After": "Mon, 10 Jun 2024 11:00:00 GMT"}, "", 0.0),
        ({"Retry-After": "-3"}, "", 0.0),
        ({"Retry-After": "soon"}, "", None),
        ({"Date": "x"}, "Way too many requests; IP banned until 1718020810000.", 10.0),
        ({}, "Too many requests, retry after 12 seconds", 12.0),
        ({}, "Rate limit: try again in 1500 ms", 1.5),
        ({}, "please retry in 2 minutes", 120.0),
        ({}, "retry in 3 milliseconds", 0.003),
        ({}, "GET https://x/klines?limit=500&startTime=1609459200000 429", None),
        ({}, "", None),
    ],
)
def test_reads_the_wait_out_of_headers_and_words(headers, text, expected):
    assert asked_wait_s(headers, text, now_utc=NOW) == expected


@pytest.mark.parametrize(
    "wrong", [{"max_retries": -1}, {"base_s": -1.0}, {"cap_s": float("nan")}, {"patience_s": -0.1}]
)
def test_nonsense_is_refused(wrong):
    settings = {"max_retries": 1, "base_s": 1.0, "cap_s": 1.0, "patience_s": 1.0} | wrong
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))}="):
        Backoff(**settings)
