"""One config value: checked strictly against its type, and told what is wrong with it without giving a secret away."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import json
import types
import typing
from typing import Any

from pydantic import SecretBytes, SecretStr, TypeAdapter, ValidationError

from quantfleet.config.layers import Node
from quantfleet.config.plain import MASK
from quantfleet.errors import ConfigError

__all__ = ["check_constraints", "read_leaf", "strip_annotated", "type_error", "unwrap"]

_NO_VALUE = ("", "~", "null")
_SHOWN_CHARACTERS = 120
_PLAINER = {
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a text (put it in quotes)",
    "a valid array": "a list",
    "a valid tuple": "a list",
    "an object": "a mapping",
    "a valid dictionary": "a mapping",
}


def read_leaf(tp: Any, node: Node, path: str) -> Any:
    """Validate one value without children of their own.

    A text field takes the raw text of an environment variable or --set as it stands (only an optional one reads an
    empty text, `~` and `null` as None); other fields read it as YAML first.

    Raises: ConfigError: the value is not of the type; names key, value, origin and what is wanted.
    """
    if node.text is not None and _is_text(tp):
        empty = node.text.strip() in _NO_VALUE and type(None) in _members(tp)
        candidates = [None if empty else node.text]
    else:
        candidates = [unwrap(node)] + ([node.text] if node.text is not None else [])
    if MASK in candidates and _holds_secret(tp):
        raise ConfigError(f"{path} ({node.origin}) is masked, not the secret itself; set it again.", key=path)
    errors: list[ValidationError] = []
    for candidate in candidates:
        try:
            # JSON mode is strict about types ("5" is no number) and still takes lists for tuples and ISO texts for
            # dates.
            return _adapter(tp).validate_json(json.dumps(candidate), strict=True)
        except ValidationError as error:
            errors.append(error)
    # Raised out here: pydantic's own error quotes the input, so it must not be chained to ours.
    first = errors[0].errors(include_url=False, include_input=False, include_context=False)[0]
    inner, place = _inner(node, path, first["loc"])
    value = unwrap(inner) if inner is not node else candidates[0]
    raise ConfigError(
        f"{place} = {_shown(tp, value)} ({inner.origin}) {_wanted(first['msg'])}.{_hint(tp)}",
        key=place,
        origin=inner.origin,
    )


def check_constraints(tp: Any, value: Any, node: Node, path: str) -> Any:
    """Apply what `Annotated` says of a value that was built already, such as the least length of a tuple."""
    if typing.get_origin(tp) is not typing.Annotated:
        return value
    try:
        _adapter(typing.Annotated[(Any, *typing.get_args(tp)[1:])]).validate_python(value)
        return value
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
    raise ConfigError(f"{path} ({node.origin}) {_wanted(problem)}.", key=path, origin=node.origin)


def type_error(tp: Any, path: str, node: Node, wanted: str) -> ConfigError:
    """The error of a section that is no section; what a list or mapping holds is not shown."""
    is_list, is_mapping = isinstance(node.value, list), isinstance(node.value, dict)
    found = "a list" if is_list else "a mapping" if is_mapping else _shown(tp, node.value)
    return ConfigError(
        f"{path or 'the recipe'} = {found} ({node.origin}) must be {wanted}.",
        key=path,
        origin=node.origin,
    )


def unwrap(node: Node) -> Any:
    """The plain value of a Node."""
    if isinstance(node.value, dict):
        return {k: unwrap(v) for k, v in node.value.items()}
    if isinstance(node.value, list):
        return [unwrap(v) for v in node.value]
    return node.value


def strip_annotated(tp: Any) -> Any:
    return typing.get_args(tp)[0] if typing.get_origin(tp) is typing.Annotated else tp


def _members(tp: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself, without Annotated."""
    bare = strip_annotated(tp)
    if typing.get_origin(bare) in (typing.Union, types.UnionType):
        return tuple(member for arg in typing.get_args(bare) for member in _members(arg))
    return (bare,)


def _is_text(tp: Any) -> bool:
    wanted = [m for m in _members(tp) if m is not type(None)]
    return bool(wanted) and all(isinstance(m, type) and issubclass(m, str | SecretStr | SecretBytes) for m in wanted)


@functools.cache
def _holds_secret(tp: Any) -> bool:
    bare = strip_annotated(tp)
    if isinstance(bare, type) and issubclass(bare, SecretStr | SecretBytes):
        return True
    if dataclasses.is_dataclass(bare) and isinstance(bare, type):
        return any(_holds_secret(hint) for hint in typing.get_type_hints(bare, include_extras=True).values())
    return any(_holds_secret(arg) for arg in typing.get_args(bare) if typing.get_origin(bare) is not typing.Literal)


def _shown(tp: Any, value: Any) -> str:
    if _holds_secret(tp):
        return "a secret"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _inner(node: Node, path: str, loc: tuple[int | str, ...]) -> tuple[Node, str]:
    """Follow pydantic's location into lists and mappings, to the item that is wrong and its own line."""
    for part in loc:
        children = dict(enumerate(node.value)) if isinstance(node.value, list) else node.value
        if isinstance(children, dict) and part in children:  # else it is the name of a union's member
            node, path = children[part], f"{path}.{part}"
    return node, path


def _wanted(message: str) -> str:
    for prefix, verb in (("Input should be ", "must be"), ("Value should have ", "must have")):
        if message.startswith(prefix):
            rest = message.removeprefix(prefix).replace(" after validation", "")
            return f"{verb} {'a date and time' if rest.startswith('a valid datetime') else _PLAINER.get(rest, rest)}"
    return f"is wrong: {message}"


def _hint(tp: Any) -> str:
    if any(isinstance(m, type) and issubclass(m, dt.datetime) for m in _members(tp)):
        return " Write date and time with its zone, such as 2020-01-31T00:00:00+00:00."
    return ""


@functools.cache
def _adapter(tp: Any) -> TypeAdapter[Any]:
    return TypeAdapter(tp)
