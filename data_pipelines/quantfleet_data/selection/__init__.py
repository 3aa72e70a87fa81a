"""Feature selection: by correlation, importance, mutual information, principal components; on training rows only."""

from quantfleet_data.selection.base import ColumnSelection
from quantfleet_data.selection.components import PrincipalComponents, PrincipalComponentsConfig
from quantfleet_data.selection.correlation import CorrelationSelectorConfig
from quantfleet_data.selection.importance import GainSelectorConfig, PermutationSelectorConfig
from quantfleet_data.selection.information import MutualInformationSelectorConfig

__all__ = [
    "ColumnSelection",
    "CorrelationSelectorConfig",
    "GainSelectorConfig",
    "MutualInformationSelectorConfig",
    "PermutationSelectorConfig",
    "PrincipalComponents",
    "PrincipalComponentsConfig",
]
