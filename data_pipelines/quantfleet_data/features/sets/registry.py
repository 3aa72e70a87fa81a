"""Where the named sets are kept: each file of this folder registers one under its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from quantfleet.contracts import FeatureSet
from quantfleet.errors import ConfigError, nearest

__all__ = ["feature_set", "feature_set_names", "register_feature_set"]

SetFactory: TypeAlias = Callable[[], FeatureSet]

_SETS: dict[str, SetFactory] = {}


def register_feature_set(name: str) -> Callable[[SetFactory], SetFactory]:
    """Decorate a function that returns the newest version of the set `name`.

    Raises: ConfigError: another function holds the name.
    """

    def decorate(factory: SetFactory) -> SetFactory:
        taken = _SETS.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (factory.__module__, factory.__qualname__):
            raise ConfigError(
                f"feature set {name!r} is taken by {taken.__module__}.{taken.__qualname__}; "
                f"register {factory.__module__}.{factory.__qualname__} under another name."
            )
        _SETS[name] = factory
        return factory

    return decorate


def feature_set_names() -> tuple[str, ...]:
    """All named sets, sorted."""
    return tuple(sorted(_SETS))


def feature_set(name: str) -> FeatureSet:
    """Return the newest version of a named set.

    Raises: ConfigError: no such set; the message holds the nearest name.
    """
    try:
        return _SETS[name]()
    except KeyError:
        raise ConfigError(
            f"no feature set named {name!r}.{nearest(name, _SETS)} Known sets: {', '.join(feature_set_names())}.",
            name=name,
        ) from None
