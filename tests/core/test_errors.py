"""The error tree: what is drawn is what is there, and every error crosses a process border unharmed."""

import copy
import importlib
import inspect
import pickle
import pkgutil
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import quantfleet
from quantfleet import errors
from quantfleet.errors import ConfigError, QuantfleetError, nearest


def tree(cls: type[QuantfleetError] = QuantfleetError) -> dict[str, str]:
    """Name of each error class below `cls` to the name of its parent."""
    found = {}
    for child in cls.__subclasses__():
        found |= {child.__name__: cls.__name__} | tree(child)
    return found


def drawn() -> dict[str, str]:
    """The same, read off the drawing at the head of errors.py."""
    found, above = {}, {0: "QuantfleetError"}
    for line in (errors.__doc__ or "").splitlines():
        branch = re.match(r"^ {4}([│ ]*)[├└]── (\w+) {2,}\S", line)
        if branch:
            depth = len(branch[1]) // 4 + 1
            above[depth] = branch[2]
            found[branch[2]] = above[depth - 1]
    return found


CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, QuantfleetError)]


def test_the_drawn_tree_is_the_real_one():
    own = {name: parent for name, parent in tree().items() if hasattr(errors, name)}
    assert drawn() == own
    assert len(own) > 10


def test_every_error_of_the_engine_is_in_the_one_tree():
    for package in pkgutil.iter_modules(quantfleet.__path__):
        if package.ispkg:
            importlib.import_module(f"quantfleet.{package.name}")
    strays = {cls.__module__ for cls in _all_subclasses(QuantfleetError)} - {errors.__name__}
    assert not [module for module in strays if module.startswith("quantfleet")]


def _all_subclasses(cls):
    return {child for c in cls.__subclasses__() for child in ({c} | _all_subclasses(c))}


def test_every_error_is_exported_and_explains_itself():
    assert {cls.__name__ for cls in CLASSES} | {"nearest"} == set(errors.__all__)
    assert all(cls.__doc__ for cls in CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_pickling_keeps_class_message_and_fields(cls, copied):
    error = copied(cls("what, which value, what to do", key="a.b", rows=3, path=("x", "y")))
    assert type(error) is cls
    assert (str(error), error.message, error.args) == ("what, which value, what to do",) * 2 + ((error.message,),)
    assert error.fields == {"key": "a.b", "rows": 3, "path": ("x", "y")}


@given(st.text(), st.dictionaries(st.text(min_size=1).filter(str.isidentifier), st.integers() | st.text() | st.none()))
def test_any_message_and_any_fields_survive_pickling(message, fields):
    fields = {k: v for k, v in fields.items() if k not in ("self", "message")}
    error = pickle.loads(pickle.dumps(ConfigError(message, **fields)))
    assert (error.message, error.fields) == (message, fields)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("patchtst", " Did you mean 'patch_tst'?"),
        ("hybird", " Did you mean 'hybrid'?"),
        ("hybrid", " Did you mean 'hybrid'?"),
        ("xyzzy", ""),
        ("", ""),
    ],
)
def test_the_nearest_known_name_is_offered_or_nothing(name, hint):
    assert nearest(name, ["hybrid", "patch_tst", "xgboost"]) == hint
