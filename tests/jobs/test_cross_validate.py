"""Which recipes can be cross-validated; said before anything is done."""

from dataclasses import replace

import pytest
from support.recipes import NAIVE, small_recipe, write_recipe

from quantfleet.errors import ConfigError
from quantfleet_data.splits import CombinatorialPurged, WalkForward
from quantfleet_jobs.cross_validate import check_folds, fold_name
from quantfleet_jobs.recipe import Recipe, load_recipe


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return load_recipe(str(write_recipe(tmp_path, small_recipe(str(tmp_path), models=NAIVE)))).value


def test_a_split_with_folds_and_validation_is_taken(recipe: Recipe):
    splitter = WalkForward(validation_fraction=0.2)
    assert check_folds(replace(recipe, split=splitter)) is splitter


def test_a_split_of_one_fold_is_refused(recipe: Recipe):
    with pytest.raises(ConfigError, match=r"split\.kind=time makes one fold: `quantfleet run`"):
        check_folds(recipe)


def test_folds_without_validation_are_refused(recipe: Recipe):
    with pytest.raises(ConfigError, match=r"split\.validation_fraction=0"):
        check_folds(replace(recipe, split=CombinatorialPurged()))


def test_a_name_that_leaves_no_room_for_those_of_folds_is_refused(recipe: Recipe):
    named = replace(recipe, run=replace(recipe.run, name="r" * 60), split=WalkForward(validation_fraction=0.2))
    with pytest.raises(ConfigError, match=r"too long to name its folds"):
        check_folds(named)


def test_folds_sort_as_they_are_numbered():
    assert fold_name("run", 3) < fold_name("run", 12)
