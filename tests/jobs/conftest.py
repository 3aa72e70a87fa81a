"""What every test of the jobs starts and ends with."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from support.recipes import prepare, small_recipe, write_recipe

from quantfleet import logs


@pytest.fixture(autouse=True)
def logging_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Jobs send log lines to this moment's standard error, which a test may have borrowed, and name their run on each."""
    monkeypatch.setattr(logs, "_bound", {})
    yield
    structlog.reset_defaults()


PREPARED = ("by-cli", "by-sdk", "bad-fits")
"""Runs of `prepared_store`, one for each test that trains."""


@pytest.fixture(scope="session")
def prepared_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root in which `small_recipe`'s data are ready to train on, once for all tests that start there."""
    folder = tmp_path_factory.mktemp("prepared")
    first, *others = PREPARED
    prepare(write_recipe(folder, small_recipe(str(folder / "store"), models=[{"kind": "buy_and_hold"}], name=first)))
    for other in others:  # their records name the same tables and chunks
        shutil.copytree(folder / "store" / "runs" / first, folder / "store" / "runs" / other)
    return folder / "store"
