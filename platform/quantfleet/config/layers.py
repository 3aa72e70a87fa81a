"""Where config values come from: the file, the environment and --set, each value with its origin."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean

from quantfleet.errors import ConfigError

__all__ = ["ENV_PREFIX", "Node", "env_layer", "file_layer", "item_number", "merge", "plain_layer", "set_layer"]

ENV_PREFIX = "QUANTFLEET_"
_STRING_TAG = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its origin. `value` is a dict of Nodes, a list of Nodes, or a scalar."""

    value: Any
    origin: str
    text: str | None = None
    """The raw text of an environment or --set value, for fields that want a string."""
    under: Node | None = None
    """The text that a mapping was laid over: a plugin's bare name, whose settings come from a later layer."""


def file_layer(path: Path) -> Node:
    """Read a YAML or JSON file (YAML 1.2: `1e-3` is a number, `no` is a string).

    Raises: ConfigError: the file is missing, is not YAML, repeats a key, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}.", file=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the recipe {path} is not UTF-8 text.", file=str(path)) from error
    problem = ""
    try:
        document = YAML(typ="rt", pure=True).load(StringIO(text))
    except YAMLError as error:
        problem = _yaml_problem(error, path)
    if problem:  # raised out here, since the library's error may quote a secret and would be chained to ours
        raise ConfigError(problem, file=str(path))
    if document is None:
        document = CommentedMap()
    if not isinstance(document, CommentedMap):
        kind = "a list" if isinstance(document, CommentedSeq) else "a single value"
        raise ConfigError(f"{path} must hold a mapping (`section: ...`), not {kind}.", file=str(path))
    return _with_origin(document, f"{path}:1", str(path))


def _yaml_problem(error: YAMLError, path: Path) -> str:
    """What is wrong and where, without the values that stand there."""
    if not isinstance(error, MarkedYAMLError) or error.problem is None:
        return f"{path} is not valid YAML: {str(error).splitlines()[0]}."
    mark = error.problem_mark or error.context_mark
    where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
    if isinstance(error, DuplicateKeyError):
        key = re.match(r'found duplicate key "(.*?)" with value', error.problem, re.DOTALL)
        return f"{where}: the key {key[1] if key else 'here'!r} is set twice in one mapping; keep one of them."
    began = f" begun on line {error.context_mark.line + 1}" if error.context_mark is not None else ""
    context = f" ({error.context}{began})" if error.context else ""
    return f"{where} is not valid YAML: {error.problem.removeprefix('but ')}{context}."


def _with_origin(value: Any, origin: str, file: str) -> Node:
    tag = getattr(getattr(value, "tag", None), "value", None)
    if tag == _STRING_TAG and isinstance(value, TaggedScalar):
        return Node(str(value.value), origin)
    if tag is not None:
        raise ConfigError(f"{origin}: the YAML tag {tag} is not read; write a plain value.", origin=origin)
    if isinstance(value, CommentedMap):
        children = {}
        for key, child in value.items():
            # keys that a merge (`<<: *base`) brought in have no line here
            line = value.lc.data[key][0] + 1 if key in value.lc.data else None
            children[str(key)] = _with_origin(child, f"{file}:{line}" if line else origin, file)
        return Node(children, origin)
    if isinstance(value, CommentedSeq):
        items = [_with_origin(child, f"{file}:{value.lc.item(i)[0] + 1}", file) for i, child in enumerate(value)]
        return Node(items, origin)
    return Node(_scalar(value, origin), origin)


def _scalar(value: Any, origin: str) -> Any:
    if value is None:
        return None
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()
    if isinstance(value, ScalarBoolean):  # an int by class
        return bool(value)
    if isinstance(value, str):
        return _paired(str(value))
    for base in (bool, int, float):
        if isinstance(value, base):
            return base(value)
    raise ConfigError(f"{origin}: a {type(value).__name__} is not read; write a plain value.", origin=origin)


def _paired(text: str) -> str:
    """JSON writes signs beyond 16 bits as two halves, which YAML keeps apart."""
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def env_layer(environ: Mapping[str, str]) -> Node:
    """QUANTFLEET_TRAINING__WORKERS=4 becomes training.workers=4 (two underscores part the levels).

    Raises: ConfigError: a name has an empty part.
    """
    tree = Node({}, "environment")
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX):
            origin = f"environment variable {name}"
            path = name[len(ENV_PREFIX) :].lower().split("__")
            if not all(path):
                raise ConfigError(
                    f"{origin} names no setting: it has an empty part. Two underscores part the levels, as in "
                    f"{ENV_PREFIX}TRAINING__WORKERS.",
                    origin=origin,
                )
            tree = merge(tree, _nested(path, _parsed(environ[name], origin)))
    return tree


def set_layer(overrides: Sequence[str]) -> Node:
    """`a.b=c` sets one value; `models.0.epochs=3` reaches into a list.

    Raises: ConfigError: an override has no `=` or no key.
    """
    tree = Node({}, "--set")
    for override in overrides:
        key, equals, text = override.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not equals or not all(path):
            shown = re.match(r"[\w.-]*", override.strip())  # the rest may be a secret
            raise ConfigError(f"--set {shown[0] if shown else ''!r}... is not of the form a.b=value.")
        tree = merge(tree, _nested(path, _parsed(text, f"--set {'.'.join(path)}")))
    return tree


def _parsed(text: str, origin: str) -> Node:
    try:
        value = YAML(typ="safe", pure=True).load(StringIO(text))
        return replace(plain_layer(value, origin), text=text)
    except (YAMLError, ConfigError):
        return Node(text, origin, text)


def plain_layer(value: Any, origin: str) -> Node:
    """Plain dicts, lists and scalars as Nodes of one origin."""
    if isinstance(value, dict):
        return Node({str(k): plain_layer(v, origin) for k, v in value.items()}, origin)
    if isinstance(value, list):
        return Node([plain_layer(v, origin) for v in value], origin)
    return Node(_scalar(value, origin), origin)


def _nested(path: Sequence[str], leaf: Node) -> Node:
    node = leaf
    for key in reversed(path):
        node = Node({key: node}, leaf.origin)
    return node


def merge(low: Node, high: Node) -> Node:
    """Lay `high` over `low`. Mappings merge key by key, lists and scalars are replaced whole.

    A mapping whose `kind` changes is replaced whole, since its keys belong to another plugin; a mapping laid over a
    plugin's bare name keeps that name as its kind; a mapping with number keys laid over a list changes those items.

    Raises: ConfigError: an item number outside the list.
    """
    if isinstance(low.value, list) and isinstance(high.value, dict) and high.value:
        items = list(low.value)
        for key, child in high.value.items():
            at = item_number(key, len(items), child.origin)
            items[at] = merge(items[at], child)
        return Node(items, low.origin)
    if isinstance(low.value, str) and isinstance(high.value, dict):
        return replace(high, under=low)
    if not (isinstance(low.value, dict) and isinstance(high.value, dict)):
        return high
    kinds = _kind(low), _kind(high)
    if None not in kinds and kinds[0] != kinds[1]:
        return high
    children = dict(low.value)
    for key, child in high.value.items():
        children[key] = merge(children[key], child) if key in children else child
    return Node(children, low.origin, under=low.under)


def item_number(key: str, length: int, origin: str) -> int:
    """Place in a list that a key of a mapping laid over it means. Raises: ConfigError: there is no such item."""
    if not (key.isascii() and key.isdecimal()) or int(key) >= length:
        raise ConfigError(
            f"{origin}: {key!r} is not an item of a list of {length}{' (items start at 0)' if length else ''}.",
            origin=origin,
        )
    return int(key)


def _kind(node: Node) -> Any:
    named = node.value.get("kind", node.under)
    return named.value if named is not None else None
