"""Results as data for other programs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["json_ready"]


def json_ready(value: Any) -> Any:
    """The same without what JSON has not: NaN and infinities become null, dataclasses and mappings objects, tuples lists."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_ready(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_ready(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
