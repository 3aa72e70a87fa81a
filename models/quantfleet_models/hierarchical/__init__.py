"""Several timeframes of one window, from coarse to fine."""

from quantfleet_models.hierarchical.config import HierarchicalConfig

__all__ = ["HierarchicalConfig"]
