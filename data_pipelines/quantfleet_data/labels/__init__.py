"""Labels with the time at which each is known. Importing this package registers all of them."""

from quantfleet_data.labels.config import LabelsConfig, compute_labels
from quantfleet_data.labels.leakage import assert_settled
from quantfleet_data.labels.meta import MetaLabel
from quantfleet_data.labels.regime import VolatilityRegime
from quantfleet_data.labels.returns import Direction, Entry, ForwardReturn, Measure
from quantfleet_data.labels.trend import TrendScanning
from quantfleet_data.labels.triple_barrier import TripleBarrier
from quantfleet_data.labels.volatility import RealisedVolatility

__all__ = [
    "Direction",
    "Entry",
    "ForwardReturn",
    "LabelsConfig",
    "Measure",
    "MetaLabel",
    "RealisedVolatility",
    "TrendScanning",
    "TripleBarrier",
    "VolatilityRegime",
    "assert_settled",
    "compute_labels",
]
