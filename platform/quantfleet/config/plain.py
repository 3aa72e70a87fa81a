"""Config trees as plain JSON values: to show, to store and to fingerprint."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import SecretBytes, SecretStr

from quantfleet.plugins import PluginConfig

__all__ = ["MASK", "fingerprint", "to_plain"]

MASK = "********"


def to_plain(value: Any) -> Any:
    """Turn a config tree into dicts, lists and scalars; plugins carry their `kind`, secrets are masked."""
    if isinstance(value, SecretStr | SecretBytes):
        return MASK
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {"kind": value.kind} if isinstance(value, PluginConfig) else {}
        plain.update({f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init})
        return plain
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, set | frozenset):  # in an order that is the same in every process
        return sorted((to_plain(v) for v in value), key=lambda v: json.dumps(v, sort_keys=True))
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no plain form")


def fingerprint(*values: Any) -> str:
    """Return 16 hex digits that change when any of the values (config trees, names, versions) changes.

    Secrets do not count: they open the door to data, they do not change it.
    """
    text = json.dumps([to_plain(v) for v in values], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
