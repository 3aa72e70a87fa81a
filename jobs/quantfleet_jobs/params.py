"""Config trees as MLflow parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flat_params"]


def flat_params(tree: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """`{"model": {"width": 32}}` becomes `{"model.width": "32"}`."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        here = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            flat.update(flat_params(value, here))
        else:
            flat[here] = str(value)
    return flat
