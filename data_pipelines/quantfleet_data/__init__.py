"""From markets to chunks: ingestion, trade bars, quality, features, labels, splits. Importing it registers its plugins."""

from quantfleet_data import augmentation, features, labels, scaling, selection, sources, splits, trade_bars

__all__ = ["augmentation", "features", "labels", "scaling", "selection", "sources", "splits", "trade_bars"]
