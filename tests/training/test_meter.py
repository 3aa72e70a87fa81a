"""The meter of a worker's loop: plain arithmetic on a clock that the test holds."""

import time

import pytest

from quantfleet.training.meter import StepMeter, resident_mb


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += seconds


class Recorder:
    """An exporter that keeps what it gets."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.intervals: list[tuple[int, float]] = []

    def step(self, seconds: float) -> None:
        self.steps.append(seconds)

    def interval(self, *, rows: int, input_stall: float) -> None:
        self.intervals.append((rows, input_stall))


def make_step(meter: StepMeter, clock: Clock, *, wait_s: float, work_s: float, windows: int) -> None:
    meter.wait_began()
    clock.go(wait_s)
    meter.wait_ended()
    clock.go(work_s)
    meter.step_ended(windows)


def test_a_snapshot_holds_the_rate_of_all_workers_the_time_of_a_step_and_the_share_spent_waiting():
    clock = Clock()
    meter = StepMeter(workers=2, clock=clock)
    make_step(meter, clock, wait_s=0.1, work_s=0.3, windows=100)
    make_step(meter, clock, wait_s=0.0, work_s=0.1, windows=60)

    row = meter.snapshot()

    assert row["step"] == 2
    assert row["rows_per_s"] == pytest.approx(160 * 2 / 0.5)
    assert row["step_ms"] == pytest.approx(250.0)
    assert row["input_stall"] == pytest.approx(0.1 / 0.5)
    assert row["seconds"] == pytest.approx(0.5)


def test_each_snapshot_begins_anew_and_steps_count_on_from_where_an_earlier_attempt_stood():
    clock = Clock()
    meter = StepMeter(first_step=240, clock=clock)
    make_step(meter, clock, wait_s=1.0, work_s=1.0, windows=10)
    meter.snapshot()
    make_step(meter, clock, wait_s=0.0, work_s=0.5, windows=10)

    row = meter.snapshot()

    assert (row["step"], row["rows_per_s"], row["input_stall"]) == (242, 20.0, 0.0)


def test_validation_and_checkpoints_between_steps_slow_no_step_down():
    clock = Clock()
    meter = StepMeter(clock=clock)
    make_step(meter, clock, wait_s=0.0, work_s=0.5, windows=10)
    clock.go(30.0)
    make_step(meter, clock, wait_s=0.0, work_s=0.5, windows=10)
    row = meter.snapshot()
    assert (row["rows_per_s"], row["step_ms"], row["seconds"]) == (20.0, 500.0, 31.0)


def test_an_interval_without_a_step_repeats_the_rates_before_it_and_exports_nothing():
    clock, kept = Clock(), Recorder()
    meter = StepMeter(clock=clock, exporter=kept)
    assert meter.snapshot()["rows_per_s"] == 0.0
    make_step(meter, clock, wait_s=0.0, work_s=0.5, windows=10)
    before = meter.snapshot()
    clock.go(5.0)

    row = meter.snapshot()

    assert {**row, "seconds": 0, "rss_mb": 0} == {**before, "seconds": 0, "rss_mb": 0}
    assert row["seconds"] == pytest.approx(5.0)
    assert kept.intervals == [(10, 0.0)]


def test_a_loop_that_never_says_when_it_waits_is_timed_from_step_to_step():
    clock = Clock()
    meter = StepMeter(clock=clock)
    for _ in range(4):
        clock.go(0.25)
        meter.step_ended(8)
    row = meter.snapshot()
    assert (row["step_ms"], row["rows_per_s"], row["input_stall"]) == (250.0, 32.0, 0.0)


def test_the_exporter_gets_every_step_and_every_interval():
    clock, kept = Clock(), Recorder()
    meter = StepMeter(workers=4, clock=clock, exporter=kept)
    make_step(meter, clock, wait_s=0.25, work_s=0.75, windows=10)
    make_step(meter, clock, wait_s=0.0, work_s=1.0, windows=20)
    meter.snapshot()
    assert kept.steps == [1.0, 1.0]
    assert kept.intervals == [(30, 0.125)], "this worker's own rows"


def test_a_snapshot_is_due_when_the_last_one_is_old_enough():
    clock = Clock()
    meter = StepMeter(clock=clock)
    clock.go(1.9)
    assert not meter.due(2.0)
    clock.go(0.2)
    assert meter.due(2.0)
    meter.snapshot()
    assert not meter.due(2.0)


def test_a_step_costs_less_than_twenty_microseconds():
    meter = StepMeter()
    best = float("inf")
    for _ in range(5):  # the machine may be busy: the fastest of five is the meter's own cost
        began = time.perf_counter()
        for _ in range(1000):
            meter.wait_began()
            meter.wait_ended()
            meter.step_ended(64)
            meter.due(2.0)
        best = min(best, (time.perf_counter() - began) / 1000)
    assert best < 20e-6


def test_resident_memory_grows_with_what_is_held():
    before = resident_mb()
    held = bytearray(b"x" * 64_000_000)
    assert resident_mb() - before > 50
    assert len(held) == 64_000_000
