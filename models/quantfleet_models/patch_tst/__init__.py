"""PatchTST: a transformer on patches of each channel."""

from quantfleet_models.patch_tst.config import PatchTSTConfig

__all__ = ["PatchTSTConfig"]
