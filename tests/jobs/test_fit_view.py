"""The line of a running fit, and how often lines are printed; on a clock that the test holds."""

import io
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from quantfleet.training.live import LiveReport, fleet_row
from quantfleet_jobs.fit_view import FitView, metric_row
from quantfleet_jobs.plots import learning_png
from quantfleet_jobs.progress import Progress

EPOCH = {
    "epoch": 2, "epochs": 12, "step": 120, "steps": 480, "train_loss": 0.8123, "val_loss": 0.79, "learning_rate": 1e-3,
    "seconds": 3.0, "rows_per_s": 41_250.0, "step_ms": 12.0, "input_stall": 0.021, "workers": 2, "attempt": 0,
}  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def view(clock: Clock) -> FitView:
    return FitView("hybrid", clock=clock)


def step(number: int, **more: Any) -> LiveReport:
    row = {key: value for key, value in EPOCH.items() if key != "val_loss"}
    return LiveReport("step", {**row, "step": number, **more})


def report(**more: Any) -> LiveReport:
    return LiveReport("report", {**EPOCH, **more})


def test_the_line_says_where_the_fit_is_how_fast_on_how_many_workers_and_how_long_it_will_take(
    view: FitView, clock: Clock
):
    view.take(step(20))
    clock.now = 4.0
    view.take(step(60))
    clock.now = 10.5
    view.take(report())
    assert view.line().startswith(
        "hybrid: epoch 3/12 step 120/480 loss 0.812 val 0.790 | 41k rows/s stall 2% | 2 workers | ETA 0:"
    )


def test_the_eta_is_what_is_left_at_the_smoothed_rate(view: FitView, clock: Clock):
    for seconds in range(0, 301, 10):
        clock.now = float(seconds)
        view.take(step(seconds // 10 * 2, steps=1000))
    assert view.eta_s() == pytest.approx((1000 - 60) / 0.2)
    assert view.line().endswith("ETA 1:18:20")


def test_one_slow_interval_moves_the_eta_less_than_it_would_alone(view: FitView, clock: Clock):
    for seconds in range(0, 101, 2):
        clock.now = float(seconds)
        view.take(step(seconds, steps=1000))
    before = view.eta_s()
    clock.now = 104.0
    view.take(step(101, steps=1000))
    after = view.eta_s()
    assert before is not None
    assert after is not None
    assert before < after < 1.2 * before, "alone it would be four times as long"


def test_before_the_first_step_it_is_starting_and_claims_no_time(view: FitView):
    assert view.line() == "hybrid: starting"
    view.take(LiveReport("workers", {"workers": 2}))
    assert view.line() == "hybrid: starting | 2 workers"


def test_a_restart_is_shown_with_the_step_it_goes_on_from_and_the_rate_survives_it(view: FitView, clock: Clock):
    view.take(step(200))
    clock.now = 10.0
    view.take(step(300))
    view.take(LiveReport("workers", {"workers": 0}))
    assert view.take(LiveReport("restart", {"from_step": 240})), "a person should see it"
    assert "| waiting for workers | restarted once, from step 240" in view.line()
    assert "ETA" not in view.line()

    clock.now = 40.0
    view.take(LiveReport("workers", {"workers": 1}))
    view.take(step(241, workers=1))

    assert view.eta_s() == pytest.approx((480 - 241) / 10.0)
    assert "| 1 worker | restarted once, from step 240 | ETA 0:24" in view.line()
    view.take(LiveReport("restart", {"from_step": 240}))
    assert "restarted twice, from step 240" in view.line()


def test_the_validation_loss_of_the_last_epoch_stays_while_the_next_one_trains(view: FitView):
    assert view.take(report())
    assert not view.take(step(125, epoch=3, train_loss=0.7))
    assert "epoch 4/12 step 125/480 loss 0.700 val 0.790" in view.line()


def test_boosting_rounds_and_reports_of_epochs_alone_have_a_line_too(view: FitView):
    view.take(LiveReport("report", {"round": 20, "rounds": 200, "train_rmse": 0.91, "val_rmse": 0.95}))
    assert view.line() == "hybrid: round 20/200 loss 0.910 val 0.950"
    plain = FitView("patch")
    plain.take(LiveReport("report", {"epoch": 0, "epochs": 4, "train_loss": 1.5, "val_loss": 1.25, "seconds": 2.0}))
    assert plain.line() == "patch: epoch 1/4 loss 1.500 val 1.250"


@pytest.mark.parametrize(
    ("rate", "said"),
    [(950.0, "950 rows/s"), (4_130.0, "4.1k rows/s"), (41_250.0, "41k rows/s"), (1.3e6, "1.3M rows/s")],
)
def test_rates_are_short(rate: float, said: str, view: FitView):
    view.take(step(1, rows_per_s=rate))
    assert f"| {said} stall" in view.line()


def test_rank_0s_row_stands_for_all_with_the_worst_stall_and_memory_of_any():
    rows: list[Mapping[str, Any]] = [
        {"step": 5, "rows_per_s": 10.0, "input_stall": 0.1, "rss_mb": 900.0},
        {"step": 5, "rows_per_s": 10.0, "input_stall": 0.6, "rss_mb": 700.0},
    ]
    assert fleet_row(rows) == {"step": 5, "rows_per_s": 10.0, "input_stall": 0.6, "rss_mb": 900.0}
    assert fleet_row([{"round": 1}, {"round": 1}]) == {"round": 1}


def test_metrics_of_a_report_are_its_measures_at_their_step():
    assert metric_row(report()) == (
        120,
        {
            "train_loss": 0.8123, "val_loss": 0.79, "learning_rate": 1e-3, "seconds": 3.0, "rows_per_s": 41_250.0,
            "step_ms": 12.0, "input_stall": 0.021, "workers": 2,
        },
    )  # fmt: skip
    between = metric_row(step(7))
    assert between is not None
    assert "seconds" not in between[1], "they are since the snapshot before, not the epoch's"
    assert metric_row(LiveReport("report", {"round": 20, "rounds": 200, "train_rmse": 0.9, "val_rmse": 1.0})) == (
        20,
        {"train_loss": 0.9, "val_loss": 1.0},
    )
    assert metric_row(LiveReport("workers", {"workers": 2})) is None


# --- how often ---


def test_where_lines_stay_live_ones_come_at_most_every_ten_seconds_and_the_others_always(clock: Clock):
    said = io.StringIO()
    progress = Progress(Console(file=said, width=200), live_every_s=10.0, clock=clock)
    progress.start("train", 7, 12)
    for second in range(25):
        clock.now = float(second)
        progress.live(f"step {second}")
        if second == 12:
            progress.update("an epoch's end")
    lines = [line.removeprefix("[ 7/12] train     ") for line in said.getvalue().splitlines()]
    assert lines == ["started", "step 0", "step 10", "an epoch's end", "step 22"]


def test_a_note_stays(clock: Clock):
    said = io.StringIO()
    progress = Progress(Console(file=said, width=200), clock=clock)
    progress.start("train", 7, 12)
    progress.note("hybrid: http://127.0.0.1:8265/#/jobs/01000000")
    assert said.getvalue().splitlines()[1] == "[ 7/12] train     hybrid: http://127.0.0.1:8265/#/jobs/01000000"


# --- the picture ---


def test_a_picture_is_drawn_of_rows_with_and_without_steps_and_with_losses_missing():
    by_step = learning_png(
        "m", [{"epoch": 0, "step": 10, "train_loss": 1.0}, {"epoch": 0, "step": 20, "val_loss": 0.9}]
    )
    by_epoch = learning_png("m", [{"epoch": 0, "train_loss": 1.0, "val_loss": float("nan")}])
    assert by_step[:8] == by_epoch[:8] == b"\x89PNG\r\n\x1a\n"
    assert by_step != by_epoch
