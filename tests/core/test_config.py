"""Config: four layers, one typed tree, and errors that name the key, the value, where it came from and what to do."""

import sys
import types
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from support.cars import ENGINES, Car, Electric, Petrol, Steam, Strict, Wheels

from quantfleet.config import load_config, to_plain
from quantfleet.errors import ConfigError, LeakageError, UnknownPluginError

# --- layers and origins -----------------------------------------------------------------------------------------------


def test_later_layers_win_over_earlier_ones(load):
    env = {"QUANTFLEET_SPEED": "3", "QUANTFLEET_NAME": "env"}
    car = load("speed: 2\nname: file\nnick: file\n", env, "name=set").value
    assert (car.seats, car.nick, car.speed, car.name) == (5, "file", 3.0, "set")


def test_each_leaf_knows_its_origin(load, tmp_path):
    text = "seats: 2\nwheels:\n  count: 4\ntags:\n- a\n"
    origins = load(text, {"QUANTFLEET_WHEELS__INCHES": "15"}, "speed=2").origins
    assert origins["seats"] == f"{tmp_path}/recipe.yaml:1"
    assert origins["wheels.count"] == f"{tmp_path}/recipe.yaml:3"
    assert origins["tags"] == f"{tmp_path}/recipe.yaml:4"
    assert origins["wheels.inches"] == "environment variable QUANTFLEET_WHEELS__INCHES"
    assert origins["speed"] == "--set speed"
    assert origins["name"] == origins["winter.inches"] == "default"


def test_every_leaf_of_the_plain_tree_has_an_origin(load):
    def leaves(plain: Any, path: str = "") -> set[str]:
        nested = isinstance(plain, dict) or (isinstance(plain, list) and any(isinstance(v, dict) for v in plain))
        if not nested or not plain:
            return {path}
        items = plain.items() if isinstance(plain, dict) else enumerate(plain)
        return {leaf for k, v in items for leaf in leaves(v, f"{path}.{k}" if path else str(k))}

    text = "engine: electric\nspare: [petrol]\nnamed: {a: {count: 2}}\nfleet: []\ntrailer: {}\n"
    for resolved in (load(), load(text, {"QUANTFLEET_LIMITS": "{a: 1}"}, "main.cells=5")):
        assert set(resolved.origins) == leaves(to_plain(resolved.value))


def test_the_environment_is_read_from_the_process_unless_given(monkeypatch):
    monkeypatch.setenv("QUANTFLEET_SEATS", "9")
    monkeypatch.setenv("QUANTFLEETX_SEATS", "7")
    assert load_config(Car).value.seats == 9


def test_without_a_file_defaults_stand(load):
    resolved = load()
    assert (resolved.value, resolved.file) == (Car(), None)


def test_an_empty_file_changes_nothing(load):
    assert load("").value == Car()
    assert load("# only a comment\n").value == Car()


def test_the_result_is_frozen(load):
    with pytest.raises(FrozenInstanceError):
        load().value.seats = 4


def test_a_section_keeps_the_settings_of_its_default_that_no_layer_names(load):
    assert load("winter: {count: 2}\n").value.winter == Wheels(count=2, inches=15.0)
    assert load(None, None, "winter.count=2").value.winter == Wheels(count=2, inches=15.0)


def test_a_later_override_of_the_same_key_wins(load):
    assert load(None, None, "seats=2", "seats=3").value.seats == 3


def test_json_files_are_read_tabs_and_all(tmp_path):
    file = tmp_path / "car.json"
    file.write_text('{\n\t"seats": 3,\n\t"name": "\\ud83d\\ude97",\n\t"tags": ["a"],\n\t"wheels": {"count": 2}\n}\n')
    resolved = load_config(Car, file=file, environ={})
    assert (resolved.value.seats, resolved.value.name, resolved.value.tags) == (3, "\N{AUTOMOBILE}", ("a",))
    assert resolved.origins["wheels.count"] == f"{file}:5"


def test_merged_yaml_anchors_are_followed(load):
    resolved = load("wheels: &base {count: 2}\nwinter:\n  <<: *base\n  inches: 14\n")
    assert resolved.value.winter == Wheels(count=2, inches=14.0)


# --- what a file may be -----------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the recipe .*nowhere\.yaml: No such file"):
        load_config(Car, file=tmp_path / "nowhere.yaml", environ={})


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "a list"), ("just words\n", "a single value")])
def test_a_file_that_is_no_mapping_is_refused(refusal, text, kind):
    assert f"recipe.yaml must hold a mapping (`section: ...`), not {kind}" in refusal(text)


@pytest.mark.parametrize("text", ["seats: 1\nname: a\nseats: 2\n", '{"seats": 1,\n\n"seats": 2}'])
def test_a_key_set_twice_is_refused_with_its_line(refusal, text):
    assert "recipe.yaml:3: the key 'seats' is set twice in one mapping" in refusal(text)


def test_broken_yaml_is_refused_with_its_line(refusal):
    message = refusal("name: a\ntags: [a, b\nseats: 2\n")
    assert "recipe.yaml:3 is not valid YAML" in message
    assert "begun on line 2" in message


def test_two_documents_in_one_file_are_refused(refusal):
    assert "is not valid YAML: found another document" in refusal("seats: 1\n---\nseats: 2\n")


@pytest.mark.parametrize("text", ["name: !secret x\n", "wheels: !!python/object {count: 1}\n", "tags: !!set {a, b}\n"])
def test_yaml_tags_are_refused_and_never_run(refusal, text):
    message = refusal(text)
    assert "recipe.yaml:1: " in message
    assert "is not read; write a plain value." in message


def test_a_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "binary.yaml"
    file.write_bytes(b"\xff\xfe\x00name: a")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(Car, file=file, environ={})


# --- unknown keys -----------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_right_one(refusal):
    message = refusal("seats: 1\nwheels:\n  cuont: 3\n")
    assert "unknown key 'wheels.cuont'" in message
    assert "recipe.yaml:3)" in message
    assert "Did you mean 'count'? Known keys here: count, inches." in message


def test_an_unknown_key_far_from_all_others_gets_no_guess(refusal):
    assert "Did you mean" not in refusal("xyzzy: 1\n")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            {"QUANTFLEET_SETAS": "1"},
            "unknown key 'setas' (environment variable QUANTFLEET_SETAS). Did you mean 'seats'?",
        ),
        ({"QUANTFLEET_": "1"}, "environment variable QUANTFLEET_ names no setting: it has an empty part."),
        ({"QUANTFLEET_WHEELS__": "1"}, "environment variable QUANTFLEET_WHEELS__ names no setting"),
        ({"QUANTFLEET_WHEELS____COUNT": "1"}, "environment variable QUANTFLEET_WHEELS____COUNT names no setting"),
        ({"QUANTFLEET__WHEELS": "1"}, "unknown key '_wheels'"),
    ],
)
def test_environment_variables_that_name_nothing_are_refused(refusal, env, message):
    assert message in refusal(None, env)


@pytest.mark.parametrize("override", ["seats", "=3", "a..b=3", ".a=3", ""])
def test_overrides_without_a_key_or_a_value_are_refused(refusal, override):
    assert "is not of the form a.b=value" in refusal(None, None, override)


def test_an_unknown_override_names_itself(refusal):
    assert "unknown key 'wheels.cnt' (--set wheels.cnt). Did you mean 'count'?" in refusal(None, None, "wheels.cnt=3")


def test_unknown_keys_in_a_mapping_of_sections_are_refused(refusal):
    assert "unknown key 'named.a.size'" in refusal("named: {a: {size: 3}}\n")


# --- checks of several fields -----------------------------------------------------------------------------------------


def test_a_cross_field_error_carries_the_path_and_the_origin_of_each_field(refusal, tmp_path):
    assert refusal("name: a\nwheels:\n  count: 3\n") == (
        f"wheels: count=3 needs inches <= 16. (count: {tmp_path}/recipe.yaml:3; inches: default)"
    )
    assert refusal(None, {"QUANTFLEET_WHEELS__INCHES": "18"}, "wheels.count=3").endswith(
        "(count: --set wheels.count; inches: environment variable QUANTFLEET_WHEELS__INCHES)"
    )


def test_a_check_across_sections_names_where_each_setting_of_each_section_came_from(tmp_path, recipe):
    file = recipe("needed: 1\nengine: petrol\nwheels:\n  count: 8\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Strict, file=file, environ={}, overrides=["engine.litres=0"])
    assert str(caught.value) == (
        "engine.litres=0 and wheels.inches=17 do not fit. (engine.litres: --set engine.litres; wheels.inches: default)"
    )


def test_a_cross_field_error_keeps_its_class_and_fields(load):
    with pytest.raises(LeakageError, match=r"^named\.a: count=5 looks into the future") as caught:
        load("named: {a: {count: 5}}\n")
    assert caught.value.fields["bars"] == 5
    assert caught.value.fields["key"] == "named.a"


def test_a_value_error_of_a_section_becomes_a_config_error(refusal):
    assert refusal("wheels: {count: 6}\n").startswith("wheels: count is too much. (count: ")


# --- plugins ----------------------------------------------------------------------------------------------------------


def test_a_plugin_is_chosen_by_kind_or_by_its_bare_name(load):
    assert load("engine: {kind: electric, cells: 4}\n").value.engine == Electric(cells=4)
    assert load("engine: electric\n").value.engine == Electric()
    assert load(None, {"QUANTFLEET_ENGINE": "electric"}).value.engine == Electric()


def test_an_unknown_kind_names_the_nearest_plugin_and_the_list_command(load):
    with pytest.raises(UnknownPluginError) as caught:
        load("name: a\nengine:\n  litres: 3\n  kind: electrik\n")
    assert "recipe.yaml:4): no engine named 'electrik'. Did you mean 'electric'?" in str(caught.value)
    assert "Run `quantfleet engines list`." in str(caught.value)
    assert caught.value.fields["key"] == "engine"


def test_a_change_of_kind_replaces_the_settings_of_the_other_plugin(load):
    text = "engine: {kind: petrol, litres: 3}\n"
    assert load(text, None, "engine.kind=electric").value.engine == Electric()
    assert load(text, {"QUANTFLEET_ENGINE": "electric"}, "engine.cells=7").value.engine == Electric(cells=7)


def test_the_same_kind_again_keeps_the_settings(load):
    assert load("engine: {kind: petrol, litres: 3}\n", None, "engine.kind=petrol").value.engine == Petrol(litres=3.0)


def test_settings_laid_over_a_bare_name_keep_that_plugin(load, tmp_path):
    resolved = load("engine: electric\n", {"QUANTFLEET_ENGINE__CELLS": "7"})
    assert resolved.value.engine == Electric(cells=7)
    assert resolved.origins["engine.kind"] == f"{tmp_path}/recipe.yaml:1"


def test_a_kind_laid_over_a_bare_name_and_its_settings_replaces_both(load):
    text, env = "engine: electric\n", {"QUANTFLEET_ENGINE__CELLS": "7"}
    assert load(text, env, "engine.kind=petrol").value.engine == Petrol()


def test_settings_without_a_kind_go_to_the_default_plugin(load):
    resolved = load(None, None, "engine.litres=3")
    assert resolved.value.engine == Petrol(litres=3.0)
    assert resolved.origins["engine.kind"] == "default"


def test_a_setting_of_another_plugin_says_which_plugin_it_met(refusal):
    message = refusal("engine: {cells: 3}\n")
    assert "unknown key 'engine.cells'" in message
    assert "Known keys of 'petrol', its kind by default: litres, octane." in message


def test_a_plugin_without_kind_and_without_default_lists_the_names(recipe):
    with pytest.raises(
        ConfigError, match=r"engine \(.*:2\) does not say which engine it is: add `kind:`, one of electric, petrol"
    ):
        load_config(Strict, file=recipe("needed: 1\nengine: {}\n"), environ={})


def test_a_field_of_one_plugin_class_needs_no_kind_but_may_name_it(load):
    assert load("main: {cells: 2}\n").value.main == Electric(cells=2)
    assert load("main: {kind: electric, cells: 2}\n").value.main == Electric(cells=2)
    assert load("main: electric\n").value.main == Electric()


# --- lists ------------------------------------------------------------------------------------------------------------


def test_one_item_of_a_list_can_be_overridden(load):
    text = "spare: [petrol, {kind: electric, cells: 1}]\n"
    assert load(text, None, "spare.1.cells=8").value.spare == (Petrol(), Electric(cells=8))
    assert load(text, {"QUANTFLEET_SPARE__0__LITRES": "8"}).value.spare == (Petrol(litres=8.0), Electric(cells=1))


def test_one_item_of_a_default_list_can_be_overridden(load):
    resolved = load(None, None, "spare.0.cells=8")
    assert resolved.value.spare == (Electric(cells=8), Petrol())
    assert (resolved.origins["spare.0.cells"], resolved.origins["spare.1.octane"]) == ("--set spare.0.cells", "default")


@pytest.mark.parametrize("text", ["spare: [petrol, electric]\n", None])
@pytest.mark.parametrize("item", ["2", "-1", "x", "٣"])
def test_an_item_outside_the_list_is_refused(refusal, text, item):
    message = refusal(text, None, f"spare.{item}.cells=3")
    assert message == f"--set spare.{item}.cells: {item!r} is not an item of a list of 2 (items start at 0)."


def test_a_list_in_a_later_layer_replaces_the_whole_list(load):
    assert load("tags: [a, b]\nspare: []\n", {"QUANTFLEET_TAGS": "[c]"}).value.tags == ("c",)
    assert load("spare: []\n").value.spare == ()


def test_an_unknown_key_in_a_list_item_names_item_and_line(refusal):
    message = refusal("spare:\n- petrol\n- kind: petrol\n  litrs: 3\n")
    assert "unknown key 'spare.1.litrs'" in message
    assert "recipe.yaml:4). Did you mean 'litres'?" in message


# --- modules to import ------------------------------------------------------------------------------------------------


def test_modules_that_a_recipe_lists_are_imported_before_it_is_read(recipe, tmp_path, monkeypatch):
    (tmp_path / "qf_test_steam.py").write_text("from qf_test_host import register\nregister()\n")
    host = types.ModuleType("qf_test_host")
    host.register = lambda: ENGINES.register("steam")(Steam)
    monkeypatch.setitem(sys.modules, "qf_test_host", host)
    monkeypatch.setattr(ENGINES, "_plugins", dict(ENGINES._plugins))
    monkeypatch.syspath_prepend(str(tmp_path))
    file = recipe("plugins: [qf_test_steam]\nengine: steam\n")
    assert load_config(Car, file=file, environ={}).value.engine == Steam()


def test_a_listed_module_that_is_missing_is_named(refusal):
    assert "plugin module 'qf_no_such_module' cannot be imported: No module named 'qf_no_such_module'" in refusal(
        "plugins: [qf_no_such_module]\n"
    )
