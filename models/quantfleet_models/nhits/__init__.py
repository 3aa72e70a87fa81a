"""N-HiTS: a hierarchy of rates."""

from quantfleet_models.nhits.config import NHITSConfig

__all__ = ["NHITSConfig"]
