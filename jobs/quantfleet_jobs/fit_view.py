"""One fit as a person sees it: a line of where it stands, made from what it says while it runs. Pure: no console, no Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from quantfleet.training.live import LiveReport

__all__ = ["FitView", "metric_row"]

_SMOOTHING_S = 30.0
"""Time constant of the rate that the ETA comes from: long enough to bridge a validation, short enough to see a restart."""
_SAME = {"train_rmse": "train_loss", "val_rmse": "val_loss"}
_NO_METRICS = frozenset({"epoch", "epochs", "step", "steps", "round", "rounds", "attempt"})


def metric_row(report: LiveReport) -> tuple[int, dict[str, float]] | None:
    """Step and metrics of a report, by the names that learning curves have; None: it holds no metrics."""
    if report.kind not in ("step", "report"):
        return None
    step = _place(report.values)[0]
    numbers = {
        _SAME.get(k, k): v for k, v in report.values.items() if isinstance(v, int | float) and k not in _NO_METRICS
    }
    if report.kind == "step":
        numbers.pop("seconds", None)  # since the snapshot before; of an epoch's row they are the epoch's
    return step, numbers


class FitView:
    """What a fit has said so far. Not thread-safe; `take` every report, then ask for the line.

    Rates for the ETA are smoothed over about half a minute of clock time, validation and checkpoints included. Steps lost to a
    restart move the goal, not the rate.
    """

    def __init__(self, label: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._clock = clock
        self._row: Mapping[str, Any] = {}
        self._val_loss = self._rows_per_s = self._stall = math.nan
        self._workers: int | None = None
        self._restarts: list[int] = []
        self._rate = math.nan
        self._at: tuple[float, int] | None = None

    def take(self, report: LiveReport) -> bool:
        """Note what was said. Returns: whether a person should see it even where lines are scarce: an epoch's end, a restart."""
        values = report.values
        if report.kind == "workers":
            self._workers = int(values["workers"])
            return False
        if report.kind == "restart":
            self._restarts.append(int(values["from_step"]))
            self._at = None
            return True
        self._row = {**self._row, **values}
        self._workers = int(values.get("workers", self._workers or 0)) or self._workers
        self._rows_per_s = float(values.get("rows_per_s", self._rows_per_s))
        self._stall = float(values.get("input_stall", self._stall))
        self._pace(_place(values)[0])
        validated = _first(values, "val_loss", "val_rmse")
        if validated is not None:
            self._val_loss = validated
        return validated is not None

    def line(self) -> str:
        """For example `hybrid: epoch 3/12 step 120/480 loss 0.812 val 0.790 | 41k rows/s stall 2% | 2 workers | ETA 0:38`."""
        parts = [f"{self._label}: {self._where()}"]
        if self._rows_per_s > 0:
            stall = "" if math.isnan(self._stall) else f" stall {self._stall:.0%}"
            parts.append(f"{_short(self._rows_per_s)} rows/s{stall}")
        if self._workers is not None:
            parts.append("waiting for workers" if not self._workers else _counted(self._workers, "worker"))
        if self._restarts:
            times = {1: "once", 2: "twice"}.get(len(self._restarts), f"{len(self._restarts)} times")
            parts.append(f"restarted {times}, from step {self._restarts[-1]}")
        eta = self.eta_s()
        if eta is not None and self._workers != 0:
            parts.append(f"ETA {_clock_time(eta)}")
        return " | ".join(parts)

    def eta_s(self) -> float | None:
        """Seconds that the rest will take at the present rate; None while it is not known."""
        step, steps = _place(self._row)
        if not steps or not self._rate > 0:
            return None
        return max(0, steps - step) / self._rate

    def _where(self) -> str:
        if not self._row:
            return "starting"
        row, words = self._row, []
        if "epochs" in row:
            words.append(f"epoch {int(row['epoch']) + 1}/{int(row['epochs'])}")
        step, steps = _place(row)
        if steps:
            words.append(f"{'round' if 'round' in row else 'step'} {step}/{steps}")
        loss = _first(row, "train_loss", "train_rmse")
        words += [f"loss {loss:.3f}"] if loss is not None else []
        words += [f"val {self._val_loss:.3f}"] if not math.isnan(self._val_loss) else []
        return " ".join(words)

    def _pace(self, step: int) -> None:
        now = self._clock()
        if self._at is None:
            self._at = (now, step)
            return
        seconds, steps = now - self._at[0], step - self._at[1]
        if steps <= 0 or seconds <= 0:
            return
        weight = 1.0 if math.isnan(self._rate) else -math.expm1(-seconds / _SMOOTHING_S)
        self._rate = weight * steps / seconds + (0.0 if weight == 1.0 else (1.0 - weight) * self._rate)
        self._at = (now, step)


def _place(row: Mapping[str, Any]) -> tuple[int, int]:
    """Steps done and in all: of optimisation, or rounds, or epochs; 0 in all where it is not known."""
    for done, total in (("step", "steps"), ("round", "rounds")):
        if done in row:
            return int(row[done]), int(row.get(total, 0))
    return int(row.get("epoch", 0)), 0


def _first(row: Mapping[str, Any], *names: str) -> float | None:
    return next((float(row[n]) for n in names if n in row and math.isfinite(row[n])), None)


def _short(number: float) -> str:
    """41,250 is `41k`, 1,300,000 is `1.3M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}" if number < 10 * size else f"{number / size:.0f}{unit}"
    return f"{number:.0f}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _clock_time(seconds: float) -> str:
    """38 is `0:38`, 3,725 is `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
