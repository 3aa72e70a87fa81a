"""The shared rate limit: slots never closer than their cost, whoever asks; a wait asked of one is kept by all."""

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantfleet_data.sources.ccxt_limit import SendSlots, shared_limit

SECONDS = st.floats(0.0, 10.0, allow_nan=False)


@given(asked=st.lists(st.tuples(SECONDS, SECONDS), min_size=2, max_size=50))
def test_a_slot_begins_only_when_those_before_it_are_paid_for(asked: list[tuple[float, float]]):
    slots, now_s, sent = SendSlots(), 0.0, []
    for pause_s, cost_s in asked:
        now_s += pause_s
        sent.append((now_s + slots.reserve(cost_s, now_s=now_s), cost_s))
    for (earlier_s, cost_s), (later_s, _) in itertools.pairwise(sent):
        assert later_s >= earlier_s + cost_s - 1e-9


@given(asked=st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=50), burst_s=SECONDS)
def test_a_bucket_never_gives_more_than_its_burst_and_the_time_that_went_by(asked, burst_s: float):
    slots, now_s, spent_s = SendSlots(burst_s=burst_s), 0.0, 0.0
    for pause_s, cost_s in asked:
        now_s += pause_s
        begin_s = now_s + slots.reserve(cost_s, now_s=now_s)
        assert spent_s <= begin_s + burst_s + 1e-6, "what was sent before has been paid for by time and burst"
        spent_s += cost_s


def test_nobody_waits_when_there_is_room():
    slots = SendSlots()
    assert [slots.reserve(0.5, now_s=now_s) for now_s in (0.0, 0.5, 2.0)] == [0.0, 0.0, 0.0]
    assert [SendSlots(burst_s=1.0).reserve(0.4, now_s=0.0)] == [0.0]


def test_a_burst_is_spent_at_once_and_then_paced():
    slots = SendSlots(burst_s=1.0)
    assert [round(slots.reserve(0.5, now_s=10.0), 6) for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 1.0]


def test_a_wait_asked_of_one_client_is_kept_by_all():
    slots = SendSlots()
    slots.hold(30.0, now_s=0.0)
    slots.hold(5.0, now_s=1.0)
    assert slots.reserve(1.0, now_s=10.0) == pytest.approx(20.0)
    assert slots.reserve(1.0, now_s=10.0) == pytest.approx(21.0)


def test_threads_of_a_process_share_the_limit_of_an_exchange_and_not_that_of_another():
    waits: list[float] = []

    def client() -> None:
        wait = shared_limit("test-exchange").throttle(100.0, sleep=waits.append)
        for _ in range(5):
            wait(2.0)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    slots = sorted(waits)
    assert len(slots) == 19, "the first of all need not wait"
    assert [round(slot) for slot in slots] == [200 * n for n in range(1, 20)]
    assert shared_limit("another-exchange").reserve(1.0) == 0.0
