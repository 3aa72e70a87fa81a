"""Several models as one: voting, stacking, model averaging, a gate by regime."""

from quantfleet_models.ensemble.config import ModelAveragingConfig, RegimeGatedConfig, StackingConfig, VotingConfig

__all__ = ["ModelAveragingConfig", "RegimeGatedConfig", "StackingConfig", "VotingConfig"]
