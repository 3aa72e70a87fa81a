"""What a paper session keeps beside its journal: a JSON file with a format number, whose it is, and a digest over all of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from quantfleet.backtest.paper.journal import to_json
from quantfleet.errors import BacktestError, ChecksumError, ConfigError

__all__ = ["FORMAT", "check_memory", "check_owner", "sealed", "unsealed"]

FORMAT = 1


def sealed(content: Mapping[str, Any]) -> str:
    """The text of a state."""
    body = {"format": FORMAT, **content}
    return json.dumps({**json.loads(to_json(body)), "digest": _digest(body)}, indent=1)


def unsealed(text: str, where: str) -> dict[str, Any]:
    """Read what `sealed` wrote. Raises: ChecksumError: it is not that. ConfigError: another format."""
    try:
        body = json.loads(text)
        digest = body.pop("digest")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChecksumError(
            f"{where} is no state of a paper session ({error}). Restore it, or use another name."
        ) from error
    if body.get("format") != FORMAT:
        raise ConfigError(
            f"{where} has format {body.get('format')}; this version of Quantfleet reads {FORMAT}. Go on with the version that "
            "wrote it, or begin a session under another name."
        )
    if digest != _digest(body):
        raise ChecksumError(
            f"{where} was changed after it was written: its digest does not fit. Restore it, or use another name."
        )
    return dict(body)


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps(json.loads(to_json(body)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_owner(saved: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Raises: ConfigError: the state was written by a session of another strategy or other settings; names each that differs."""
    before, today = _flat(saved), _flat(json.loads(to_json(now)))
    absent = "nothing"
    differing = [
        f"{name}: {before.get(name, absent)!r} then, {today.get(name, absent)!r} now"
        for name in sorted({*before, *today})
        if before.get(name, absent) != today.get(name, absent)
    ]
    if differing:
        raise ConfigError(
            f"{where} belongs to another session. It differs in {'; '.join(differing)}. Go on with its settings, or begin a "
            "session under another name.",
            differing=differing,
        )


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    if isinstance(tree, dict) and tree:
        return {k: v for name, part in tree.items() for k, v in _flat(part, f"{path}.{name}" if path else name).items()}
    return {path: tree}


def check_memory(value: Any, strategy: str, where: str = "state()") -> None:
    """Raises: BacktestError: a strategy's memory would not come back from JSON as it was; says which part of it."""
    if isinstance(value, dict):
        for key, part in value.items():
            if type(key) is not str:
                raise _no_memory(strategy, f"{where}: the key {key!r}", "no text")
            check_memory(part, strategy, f"{where}[{key!r}]")
    elif isinstance(value, list):
        for k, part in enumerate(value):
            check_memory(part, strategy, f"{where}[{k}]")
    elif isinstance(value, float | np.floating) and not np.isfinite(value):
        raise _no_memory(strategy, where, f"{value}, which JSON has not; use None")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise _no_memory(strategy, where, f"a {type(value).__name__}")


def _no_memory(strategy: str, where: str, what: str) -> BacktestError:
    return BacktestError(
        f"{strategy} cannot be kept between bars: {where} is {what}. Give numbers, texts, lists and mappings with texts as keys; "
        "override state() and restore() where an attribute is something else."
    )
