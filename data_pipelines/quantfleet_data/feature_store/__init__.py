"""Feature store: the versioned offline table, its incremental upkeep, point-in-time joins and the online view."""

from quantfleet_data.feature_store.drift import feature_drift
from quantfleet_data.feature_store.join import point_in_time_join
from quantfleet_data.feature_store.latest import latest_features
from quantfleet_data.feature_store.live import OnlineFeatures
from quantfleet_data.feature_store.offline import BarContext, FeatureBars, feature_table_path, write_features

__all__ = [
    "BarContext",
    "FeatureBars",
    "OnlineFeatures",
    "feature_drift",
    "feature_table_path",
    "latest_features",
    "point_in_time_join",
    "write_features",
]
