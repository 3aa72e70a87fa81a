"""Registries: an explicit name for every plugin, a typed frozen config behind it.

A plugin is a frozen dataclass derived from the base config of its kind (`ModelConfig`, `SourceConfig`, ...) and
registered under a name. Recipes name it (`kind: hybrid`), the config loader builds it, and the object itself travels to
the workers, never the name.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, TypeVar

from quantfleet.errors import ConfigError, QuantfleetError, UnknownPluginError, nearest

__all__ = ["PluginConfig", "PluginRegistry", "load_plugins"]

ENTRY_POINT_GROUP = "quantfleet.plugins"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PluginConfig:
    """Base of every plugin's config. `kind` is set by the registry's decorator."""

    kind: ClassVar[str] = ""
    registry: ClassVar[PluginRegistry[Any] | None] = None


P = TypeVar("P", bound=PluginConfig)


class PluginRegistry(Generic[P]):
    """Names of one kind of plugin ("model", "source", ...) and the config classes behind them.

    Not thread-safe: plugins register while modules are imported, before any thread starts.
    """

    def __init__(self, noun: str, base: type[P], *, command: str) -> None:
        self.noun = noun
        self.base = base
        self.command = command
        self._plugins: dict[str, type[P]] = {}
        base.registry = self

    def register(self, name: str) -> Callable[[type[P]], type[P]]:
        """Class decorator that registers a frozen config dataclass under `name`.

        Raises: ConfigError: the class is not a frozen dataclass of this kind, the name is empty or taken by another
            class, or the class is registered already under another name.
        """

        def decorate(cls: type[P]) -> type[P]:
            if not (inspect.isclass(cls) and issubclass(cls, self.base)):
                raise ConfigError(f"{cls!r} cannot be a {self.noun}: derive it from {self.base.__name__}.")
            params = getattr(cls, "__dataclass_params__", None)
            if "__dataclass_fields__" not in cls.__dict__ or params is None or not params.frozen:
                raise ConfigError(f"{cls.__name__} must be a @dataclass(frozen=True) below @register_{self.noun}.")
            if not name:
                raise ConfigError(f'{cls.__name__} needs a name: @register_{self.noun}("some_name").')
            own = cls.__dict__.get("kind")
            if own is not None and own != name:
                raise ConfigError(f"{cls.__name__} is registered as {own!r} already; give {name!r} a class of its own.")
            taken = self._plugins.get(name)
            if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(
                    f"{self.noun} name {name!r} is taken by {taken.__module__}.{taken.__qualname__}; "
                    f"register {cls.__module__}.{cls.__qualname__} under another name."
                )
            cls.kind = name
            self._plugins[name] = cls
            return cls

        return decorate

    def get(self, name: str) -> type[P]:
        """Return the config class registered as `name`.

        Raises: UnknownPluginError: no such name; the message holds the nearest one.
        """
        try:
            return self._plugins[name]
        except KeyError:
            raise UnknownPluginError(
                f"no {self.noun} named {name!r}.{nearest(name, self._plugins)} Run `quantfleet {self.command} list`.",
                noun=self.noun,
                name=name,
            ) from None

    def names(self) -> tuple[str, ...]:
        """All registered names, sorted."""
        return tuple(sorted(self._plugins))

    def summary(self, name: str) -> str:
        """First line of the plugin's docstring."""
        return (inspect.getdoc(self.get(name)) or "").split("\n", 1)[0]


def load_plugins(modules: Iterable[str]) -> None:
    """Import the named modules, then everything installed under the entry point group `quantfleet.plugins`.

    Import failures surface: a plugin that cannot be imported stops the program and is named.

    Raises: ConfigError: a module cannot be imported, for whatever reason.
    """
    targets = [*modules, *(point.module for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP))]
    for target in targets:
        try:
            importlib.import_module(target)
        except Exception as error:  # whatever a plugin's module does, its name belongs in the error
            cause = (
                str(error) if isinstance(error, ImportError | QuantfleetError) else f"{type(error).__name__}: {error}"
            )
            raise ConfigError(
                f"plugin module {target!r} cannot be imported: {cause.rstrip('.')}. Install or mend it, or correct "
                "`plugins` in the recipe.",
                module=target,
            ) from error
