"""The canary of t_end: a label must be settled at its t_end. Purging trusts that time, so it is put to the proof."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from quantfleet.contracts import Timeframe, t_end_column
from quantfleet.errors import LeakageError
from quantfleet_data.labels.config import LabelsConfig, compute_labels

__all__ = ["assert_settled"]


def assert_settled(config: LabelsConfig, bars: pl.DataFrame, timeframe: Timeframe, cuts: Sequence[int]) -> None:
    """Compute the labels on the first `cut` bars, for every cut: those whose t_end has come must be what they stay.

    Args:
        config: the labels to judge.
        bars: one symbol, as for `compute_labels`.
        timeframe: length of a bar.
        cuts: how many leading bars to keep, each in 1..T.
    Raises:
        LeakageError: a label changes after its t_end, or is known before it; names the label and its time.
        ValueError: a cut outside 1..T.
    """
    whole = compute_labels(bars, config, timeframe)
    for cut in cuts:
        if not 1 <= cut <= bars.height:
            raise ValueError(f"cut={cut} keeps no bars or more than the {bars.height} there are.")
        part = compute_labels(bars.head(cut), config, timeframe)
        now = part["timestamp"][-1] + timeframe.delta
        for name in config.columns:
            end = t_end_column(name)
            both = pl.DataFrame(
                {
                    "timestamp": part["timestamp"],
                    "final": whole[name].head(cut),
                    "final_end": whole[end].head(cut),
                    "seen": part[name],
                    "seen_end": part[end],
                }
            )
            due = (pl.col("final_end") <= now).fill_null(False)
            settled = pl.col("seen").eq(pl.col("final")) & pl.col("seen_end").eq(pl.col("final_end"))
            unknown = pl.col("seen").is_nan() & pl.col("seen_end").is_null()
            wrong = both.filter(~pl.when(due).then(settled.fill_null(False)).otherwise(unknown))
            if not wrong.is_empty():
                row = wrong.row(0, named=True)
                raise LeakageError(
                    f"label {name!r} of {row['timestamp']} is not settled at its t_end {row['final_end']}: with bars "
                    f"up to {now} it is {row['seen']!r}, with all bars {row['final']!r}. Its t_end must be the close "
                    "of the last bar it reads.",
                    label=name,
                    time=row["timestamp"].isoformat(),
                )
