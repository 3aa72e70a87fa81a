"""Typed configuration: defaults < YAML/JSON file < QUANTFLEET_* environment < --set a.b=c."""

from quantfleet.config.loader import Resolved, from_plain, load_config
from quantfleet.config.plain import fingerprint, to_plain

__all__ = ["Resolved", "fingerprint", "from_plain", "load_config", "to_plain"]
