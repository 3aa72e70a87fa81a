"""Merged layers to a frozen typed tree, validated once, every leaf with its origin."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from quantfleet.config.layers import Node, env_layer, file_layer, item_number, merge, plain_layer, set_layer
from quantfleet.config.values import check_constraints, read_leaf, strip_annotated, type_error
from quantfleet.errors import ConfigError, QuantfleetError, UnknownPluginError, nearest
from quantfleet.plugins import PluginConfig, load_plugins

__all__ = ["Resolved", "from_plain", "load_config"]

T = TypeVar("T")
_NOTHING: Any = object()


@dataclass(frozen=True)
class Resolved(Generic[T]):
    """A validated config tree, and for each leaf (`training.workers`) the place its value came from."""

    value: T
    origins: Mapping[str, str]
    file: Path | None


def load_config(
    cls: type[T],
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
) -> Resolved[T]:
    """Build the frozen dataclass `cls` from its defaults, a file, the environment and overrides, later ones winning.

    Args:
        file: YAML or JSON; None for defaults only.
        environ: defaults to os.environ; only QUANTFLEET_* names are read.
        overrides: `a.b=c` strings.
        plugins: modules to import first; the recipe's own top-level list `plugins` is imported as well.
    Raises: ConfigError: unknown key, wrong type, missing or inconsistent value; names the key, its origin and, for a
        misspelt key, the nearest right one. UnknownPluginError: no plugin of that kind.
    """
    tree = Node({}, "no recipe") if file is None else file_layer(file)
    tree = merge(tree, env_layer(os.environ if environ is None else environ))
    tree = merge(tree, set_layer(overrides))
    own = tree.value.get("plugins")
    listed = [n.value for n in own.value] if own is not None and isinstance(own.value, list) else []
    load_plugins([*plugins, *(name for name in listed if isinstance(name, str))])
    origins: dict[str, str] = {}
    value = _build(cls, tree, "", origins)
    return Resolved(value, origins, file)


def from_plain(cls: type[T], record: Any, *, where: str) -> T:
    """Rebuild a config from what `to_plain` made, checked like a recipe; `where` names its origin in errors."""
    value: T = _build(cls, plain_layer(record, where), "", {})
    return value


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _build(tp: Any, node: Node, path: str, origins: dict[str, str], default: Any = _NOTHING) -> Any:
    """Build the value of type `tp` that `node` describes; `default` is what the layers above were laid over."""
    bare = strip_annotated(tp)
    if dataclasses.is_dataclass(bare) and isinstance(bare, type):
        return _build_dataclass(bare, node, path, origins, default)
    if not _needs_walk(bare):
        origins[path] = node.origin
        return read_leaf(tp, node, path)
    origin_type, args = typing.get_origin(bare), typing.get_args(bare)
    if origin_type in (typing.Union, types.UnionType):
        inner = [a for a in args if a is not type(None)]
        if node.value is None and len(inner) < len(args):
            origins[path] = node.origin
            return None
        if len(inner) == 1:
            return _build(inner[0], node, path, origins, default)
    elif origin_type is list or (origin_type is tuple and len(args) == 2 and args[1] is Ellipsis):
        items = _build_items(args[0], node, path, origins, default)
        return check_constraints(tp, origin_type(items), node, path)
    elif _is_text_mapping(bare):
        if not isinstance(node.value, dict):
            raise type_error(tp, path, node, "a mapping")
        if not node.value:
            origins[path] = node.origin
        built = {key: _build(args[1], child, _join(path, key), origins) for key, child in node.value.items()}
        return check_constraints(tp, built, node, path)
    raise TypeError(f"{path}: a config field cannot be of type {tp}")


def _build_items(tp: Any, node: Node, path: str, origins: dict[str, str], default: Any) -> list[Any]:
    if isinstance(node.value, dict) and node.value and isinstance(default, tuple | list) and default:
        numbers = {item_number(key, len(default), child.origin): child for key, child in node.value.items()}
        items = list(default)
        for i, item in enumerate(default):
            if i in numbers:
                items[i] = _build(tp, numbers[i], _join(path, i), origins, item)
            else:
                _default_origins(item, _join(path, i), origins)
        return items
    if not isinstance(node.value, list):
        raise type_error(tp, path, node, "a list")
    if not node.value:
        origins[path] = node.origin
    return [_build(tp, child, _join(path, i), origins) for i, child in enumerate(node.value)]


def _needs_walk(tp: Any) -> bool:
    bare = strip_annotated(tp)
    if dataclasses.is_dataclass(bare) or _is_text_mapping(bare):
        return True
    return any(_needs_walk(a) for a in typing.get_args(bare) if a is not Ellipsis)


def _is_text_mapping(bare: Any) -> bool:
    """dict[str, X]: its layers merge key by key, so each key has an origin of its own."""
    return typing.get_origin(bare) in (dict, collections.abc.Mapping) and typing.get_args(bare)[0] is str


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _build_dataclass(declared: type[Any], node: Node, path: str, origins: dict[str, str], default: Any) -> Any:
    cls: Any = declared
    values, owner = node.value, ""
    if issubclass(declared, PluginConfig):
        cls, values, origin = _plugin_class(declared, node, path, default)
        origins[_join(path, "kind")] = origin
        owner = f" of {cls.kind!r}{', its kind by default' if origin == 'default' else ''}"
    if not isinstance(values, dict):
        raise type_error(cls, path, node, "a mapping")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key, child in values.items():
        if key not in fields:
            known = [*fields, "kind"] if owner else fields
            raise ConfigError(
                f"unknown key {_join(path, key)!r} ({child.origin}).{nearest(key, known)} "
                f"Known keys{owner or ' here'}: {', '.join(fields) or 'none'}.",
                key=_join(path, key),
                origin=child.origin,
            )
    hints = _hints(cls)
    built: dict[str, Any] = {}
    for name, field in fields.items():
        here = _join(path, name)
        fallback = getattr(default, name) if type(default) is cls else _field_default(field)
        if name in values:
            built[name] = _build(hints[name], values[name], here, origins, fallback)
        elif fallback is _NOTHING:
            raise ConfigError(f"missing key {here!r} ({node.origin}): {cls.__name__} needs it.", key=here)
        else:
            built[name] = fallback
            _default_origins(fallback, here, origins)
    try:
        return cls(**built)
    except QuantfleetError as error:
        if "key" in error.fields:
            raise
        fields_of_error = {**error.fields, "key": path, "origin": node.origin}
        message = _placed(error.message, path, node, values, fields)
        raise type(error)(message, **fields_of_error) from error
    except ValueError as error:
        raise ConfigError(_placed(f"{error}.", path, node, values, fields), key=path, origin=node.origin) from error


def _placed(message: str, path: str, node: Node, values: dict[str, Node], fields: Mapping[str, Any]) -> str:
    """Say which section a check of several fields belongs to, and where the fields it speaks of were set."""
    places = {}
    for name in fields:
        for dotted in re.findall(rf"\b{name}\b(?:\.\w+)*", message):
            at, origin = Node(values, ""), "default"
            for part in dotted.split("."):
                if not isinstance(at.value, dict):
                    break
                at = at.value.get(part, Node(None, "default"))
                origin = at.origin
            places[dotted] = origin
    where = "; ".join(f"{dotted}: {origin}" for dotted, origin in places.items()) or node.origin
    prefix = f"{path}: " if path and f"{path}." not in message else ""
    return f"{prefix}{message} ({where})"


def _field_default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _NOTHING if field.default is dataclasses.MISSING else field.default


def _plugin_class(base: type[PluginConfig], node: Node, path: str, default: Any) -> tuple[type[PluginConfig], Any, str]:
    """Class, settings and the origin of the choice, from `{kind: name, ...}` or just `name`.

    A class that is registered itself needs no kind; neither does a field whose default is a plugin: it keeps that one.
    """
    if isinstance(node.value, str):
        children, chosen = {}, node
    elif isinstance(node.value, dict):
        children = dict(node.value)
        chosen = children.pop("kind", node.under) or Node(None, node.origin)
    else:
        raise type_error(base, path, node, "a plugin's name, or a mapping with `kind`")
    if base.kind:
        if chosen.value not in (None, base.kind):
            raise type_error(base, _join(path, "kind"), chosen, repr(base.kind))
        return base, children, chosen.origin if chosen.value else "default"
    if chosen.value is None and isinstance(default, base):
        return type(default), children, "default"
    registry = base.registry
    if registry is None:
        raise TypeError(f"{base.__name__} has no registry")
    known = ", ".join(registry.names()) or "none is registered"
    if chosen.value is None:
        raise ConfigError(
            f"{path} ({node.origin}) does not say which {registry.noun} it is: add `kind:`, one of {known}.",
            key=path,
            origin=node.origin,
        )
    if not isinstance(chosen.value, str):
        raise type_error(base, _join(path, "kind"), chosen, f"the name of one {registry.noun}: {known}")
    try:
        return registry.get(chosen.value), children, chosen.origin
    except UnknownPluginError as error:
        problem, named = error.message, error.fields
    raise UnknownPluginError(f"{path} ({chosen.origin}): {problem}", **named, key=path, origin=chosen.origin)


def _default_origins(value: Any, path: str, origins: dict[str, str]) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, PluginConfig):
            origins[_join(path, "kind")] = "default"
        for field in dataclasses.fields(value):
            if field.init:
                _default_origins(getattr(value, field.name), _join(path, field.name), origins)
    elif isinstance(value, tuple | list) and any(dataclasses.is_dataclass(v) for v in value):
        for i, item in enumerate(value):
            _default_origins(item, _join(path, i), origins)
    elif isinstance(value, dict) and value:
        for key, item in value.items():
            _default_origins(item, _join(path, key), origins)
    else:
        origins[path] = "default"
