"""Search on Ray Tune over Ray Train."""

from quantfleet.tuning.config import ParameterRange, SearchConfig

__all__ = ["ParameterRange", "SearchConfig"]
