"""Splits purged by label interval, as plans to store and as scikit-learn splitters. Importing this registers all of them."""

from quantfleet_data.splits.assign import (
    SegmentCounts,
    assign_segments,
    check_split,
    count_segments,
    require_rows,
    segment_column,
)
from quantfleet_data.splits.folds import FoldSplitter
from quantfleet_data.splits.kfold import CombinatorialPurged, PurgedKFold
from quantfleet_data.splits.leak import assert_no_leak
from quantfleet_data.splits.regime import RegimeStratified
from quantfleet_data.splits.time import TimeSplit
from quantfleet_data.splits.walk_forward import WalkForward

__all__ = [
    "CombinatorialPurged",
    "FoldSplitter",
    "PurgedKFold",
    "RegimeStratified",
    "SegmentCounts",
    "TimeSplit",
    "WalkForward",
    "assert_no_leak",
    "assign_segments",
    "check_split",
    "count_segments",
    "require_rows",
    "segment_column",
]
