"""The inputs of a run's test period against those its models were taught."""

from __future__ import annotations

import numpy as np

from quantfleet.contracts import Segment, TrainingData
from quantfleet.evaluation.shift import InputShift, input_shift
from quantfleet.transforms.rows import RowSample, TrainingRows, segment_rows

__all__ = ["period_shift"]

_ROWS = 20_000
_LEAST = 400


def period_shift(data: TrainingData, seed: int) -> InputShift | None:
    """Compare samples of at most 20,000 rows of all symbols together; None where a segment has fewer than 400.

    Memory: the two samples and one batch of chunks, whatever the size of the store.
    """
    train, test = _sample(data, "train", seed), _sample(data, "test", seed)
    if min(len(train), len(test)) < _LEAST:
        return None
    return input_shift(
        train.x_RF, test.x_RF, test.time_R.astype("datetime64[us]"), data.spec.feature_columns, seed=seed
    )


def _sample(data: TrainingData, segment: Segment, seed: int) -> TrainingRows:
    sample = RowSample(_ROWS, seed)
    for rows in segment_rows(data, segment):
        sample.offer(rows.take(np.flatnonzero(np.isfinite(rows.x_RF).all(axis=1))))
    return sample.result()
