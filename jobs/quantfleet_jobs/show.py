"""`quantfleet config show` and `... describe`: settings as a person reads them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from itertools import pairwise
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantfleet.config import Resolved, to_plain
from quantfleet.plugins import PluginConfig, PluginRegistry
from quantfleet_data.features import feature_set, feature_set_names
from quantfleet_jobs.recipe import Recipe

__all__ = ["show_config", "show_feature_set", "show_feature_sets", "show_plugin", "show_plugins"]


def show_config(resolved: Resolved[Recipe], console: Console) -> None:
    """Print the tree as YAML-like lines, each leaf with its origin; secrets are masked."""
    _print_tree(to_plain(resolved.value), "", 0, resolved.origins, console)


def _print_tree(value: Any, path: str, depth: int, origins: Any, console: Console) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in items:
        here = f"{path}.{key}" if path else str(key)
        name = f"{key}:" if isinstance(value, dict) else "-"
        nested = isinstance(child, dict) or (isinstance(child, list) and any(isinstance(c, dict) for c in child))
        if nested and child and here not in origins:
            console.print(Text("  " * depth + name), soft_wrap=True)
            _print_tree(child, here, depth + 1, origins, console)
            continue
        shown = "null" if child is None else str(child).lower() if isinstance(child, bool) else str(child)
        line = Text.assemble("  " * depth, name, " ", (shown, "bold"))
        origin = origins.get(here)
        if origin is not None:
            line.append(f"  # {origin}", style="dim")
        console.print(line, soft_wrap=True, highlight=False)


def show_plugins(registry: PluginRegistry[Any], console: Console) -> None:
    """One line a registered name."""
    table = Table("name", "what it is", show_edge=False, pad_edge=False)
    for name in registry.names():
        table.add_row(name, Text(registry.summary(name)))
    console.print(table)


def show_feature_sets(console: Console) -> None:
    """One line a named set."""
    table = Table("set", "version", "features", "look-back", "digest", show_edge=False, pad_edge=False)
    for name in feature_set_names():
        features = feature_set(name)
        row = (str(features.version), str(len(features.features)), f"{features.lookback_bars} bars", features.digest)
        table.add_row(name, *row)
    console.print(table)
    console.print("The columns of a set: `quantfleet features list --set NAME`. Kinds, for sets of your own:\n")


def show_feature_set(name: str, console: Console) -> None:
    """One line a column: look-back, what it reads, where its definition comes from. Raises: ConfigError: no such set."""
    features = feature_set(name)
    table = Table("column", "look-back", "reads", "source", show_edge=False, pad_edge=False)
    for feature in features.features:
        table.add_row(feature.column, str(feature.lookback_bars), ", ".join(feature.inputs), Text(feature.source))
    console.print(table)
    console.print(f"{len(features.features)} columns; set {name} version {features.version}, digest {features.digest}")


def show_plugin(cls: type[PluginConfig], console: Console) -> None:
    """Print what a plugin is, and its settings with types and defaults."""
    console.print(Text(cls.kind, style="bold"))
    for paragraph in (inspect.getdoc(cls) or "").split("\n\n"):
        console.print(" ".join(paragraph.split()), highlight=False, markup=False)
    if not dataclasses.fields(cls):
        console.print("It has no settings.")
        return
    hints = get_type_hints(cls)
    table = Table("setting", "type", "default", show_edge=False, pad_edge=False)
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            default = _as_yaml(to_plain(field.default))
        elif field.default_factory is not dataclasses.MISSING:
            default = _as_yaml(to_plain(field.default_factory()))
        else:
            default = "required"
        table.add_row(field.name, Text(_type_name(hints[field.name])), Text(default))
    console.print(table)
    docs = _field_docs(cls)
    if docs:
        meaning = Table("setting", "what it means", show_edge=False, pad_edge=False)
        for field in dataclasses.fields(cls):
            if field.name in docs:
                meaning.add_row(field.name, Text(docs[field.name]))
        console.print()
        console.print(meaning)


def _field_docs(cls: type[Any]) -> dict[str, str]:
    """What is written below each setting, here or in a base class; the nearest counts."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except OSError:  # made at run time, as a plugin may be: it has no source to read
            continue
        (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for above, below in pairwise(body):
            match above, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def _as_yaml(value: Any) -> str:
    """On one line, as it would stand in a recipe."""
    return json.dumps(value, ensure_ascii=False)


def _type_name(hint: Any) -> str:
    """A type as a person reads it: the choices of a Literal, the parts of a union, the items of a list."""
    origin, arguments = get_origin(hint), [a for a in get_args(hint) if a is not Ellipsis]
    if hint is type(None):
        return "null"
    if origin is Literal:
        return " | ".join(_as_yaml(choice) for choice in arguments)
    if origin in (Union, UnionType):
        return " | ".join(map(_type_name, arguments))
    if arguments:
        return f"{getattr(origin, '__name__', origin)}[{', '.join(map(_type_name, arguments))}]"
    return str(getattr(hint, "__name__", hint))
