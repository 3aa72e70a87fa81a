"""Sample weights: labels that overlap in time tell less than their number."""

from quantfleet_data.weights.config import WeightsConfig
from quantfleet_data.weights.intervals import (
    average_uniqueness,
    concurrency,
    return_attribution,
    sequential_bootstrap,
    time_decay,
)

__all__ = [
    "WeightsConfig",
    "average_uniqueness",
    "concurrency",
    "return_attribution",
    "sequential_bootstrap",
    "time_decay",
]
