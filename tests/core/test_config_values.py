"""Config values: strict types, honest texts, secrets that never show, and the plain form that identifies a config."""

import contextlib
import datetime as dt
import json
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cars import Car, Colour, Strict, Wheels

from quantfleet.config import fingerprint, from_plain, load_config, to_plain
from quantfleet.errors import ConfigError

SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('seats: "5"', 'seats = "5" ({file}:1) must be a whole number.'),
        ("seats: 5.0", "seats = 5.0 ({file}:1) must be a whole number."),
        ("seats: true", "seats = true ({file}:1) must be a whole number."),
        ("seats:", "seats = null ({file}:1) must be a whole number."),
        ('speed: "1"', 'speed = "1" ({file}:1) must be a number.'),
        ("open_top: no", 'open_top = "no" ({file}:1) must be true or false.'),
        ("open_top: 1", "open_top = 1 ({file}:1) must be true or false."),
        ("name: 5", "name = 5 ({file}:1) must be a text (put it in quotes)."),
        ("gears: 9", "gears = 9 ({file}:1) must be less than or equal to 8."),
        ("fuel: diesel", "fuel = \"diesel\" ({file}:1) must be 'petrol' or 'none'."),
        ("colour: green", "colour = \"green\" ({file}:1) must be 'red' or 'blue'."),
        ("tags: a", 'tags = "a" ({file}:1) must be a list.'),
        ("tags:\n- a\n- 5", "tags.1 = 5 ({file}:3) must be a text (put it in quotes)."),
        ("limits:\n  a: 1\n  b: x", 'limits.b = "x" ({file}:3) must be a whole number.'),
        ("wheels: 4", "wheels = 4 ({file}:1) must be a mapping."),
        ("fleet: {count: 1}", "fleet = a mapping ({file}:1) must be a list."),
        ("fleet: [{}, {}, {}]", "fleet ({file}:1) must have at most 2 items, not 3."),
        ("engine: 5", "engine = 5 ({file}:1) must be a plugin's name, or a mapping with `kind`."),
        ("engine: {kind: 5}", "engine.kind = 5 ({file}:1) must be the name of one engine: electric, petrol."),
        ("main: {kind: petrol}", "main.kind = \"petrol\" ({file}:1) must be 'electric'."),
    ],
)
def test_a_wrong_type_names_key_value_origin_and_what_is_wanted(refusal, tmp_path, text, shown):
    assert refusal(text) == shown.replace("{file}", f"{tmp_path}/recipe.yaml")


def test_whole_numbers_are_fine_where_numbers_are_wanted(load):
    speed = load("speed: 1\n").value.speed
    assert (speed, type(speed)) == (1.0, float)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".001", "+1.0e-3"])
def test_small_numbers_may_be_written_in_every_way(load, text):
    assert load(f"speed: {text}\n").value.speed == 0.001
    assert load(None, {"QUANTFLEET_SPEED": text}).value.speed == 0.001


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "NO", "12:30:45", "1.2.3"])
def test_words_that_other_yaml_readers_change_stay_words(load, word):
    assert load(f"name: {word}\n").value.name == word


def test_true_and_false_are_read_as_such_even_behind_an_anchor(load):
    assert load("open_top: &yes true\n").value.open_top is True


def test_lists_paths_enums_and_dates_become_what_the_type_says(load):
    car = load("tags: [a, b]\ngarage: /srv\ncolour: blue\nsold: 2024-02-29\nlimits: {a: 1}\n").value
    assert (car.tags, car.garage, car.colour) == (("a", "b"), Path("/srv"), Colour.BLUE)
    assert (car.sold, car.limits) == (dt.date(2024, 2, 29), {"a": 1})


@pytest.mark.parametrize(
    "text", ["2020-01-02T03:04:05+02:00", "2020-01-02 03:04:05+02:00", "'2020-01-02T03:04:05+02:00'"]
)
def test_a_time_with_its_zone_keeps_it(load, text):
    built = load(f"built: {text}\n").value.built
    assert built.utcoffset() == dt.timedelta(hours=2)
    assert built == dt.datetime(2020, 1, 2, 1, 4, 5, tzinfo=dt.UTC)
    assert load(None, {"QUANTFLEET_BUILT": text}).value.built == built


def test_a_time_without_a_zone_stays_naive_for_the_section_to_judge(load):
    assert load("built: 2020-01-02T03:04:05\n").value.built == dt.datetime(2020, 1, 2, 3, 4, 5)


def test_a_day_is_no_time_and_the_error_shows_how_to_write_one(refusal):
    message = refusal("built: 2020-01-02\n")
    assert 'built = "2020-01-02"' in message
    assert "must be a date and time. Write date and time with its zone, such as 2020-01-31T00:00:00+00:00." in message


@pytest.mark.parametrize("text", ["123", "no", "a #b", "[x", "{a: 1}", "&a", "!tag x", "- x", " spaced ", "2020-01-01"])
def test_a_text_field_takes_the_raw_text_of_environment_and_override(load, text):
    assert load(None, {"QUANTFLEET_NAME": text}).value.name == text
    assert load(None, None, f"nick={text}").value.nick == text


def test_a_value_may_hold_equals_signs_of_its_own(load):
    assert load(None, None, "name=a=b=c").value.name == "a=b=c"


@pytest.mark.parametrize("text", ["", "null", "~"])
def test_an_optional_field_is_emptied_by_nothing_and_null(load, text):
    assert load("nick: x\ngears: 3\n", {"QUANTFLEET_NICK": text, "QUANTFLEET_GEARS": text}).value == Car()


def test_environment_values_of_other_types_are_read_as_yaml(load):
    env = {"QUANTFLEET_TAGS": "[a, b]", "QUANTFLEET_LIMITS": "{a: 1}", "QUANTFLEET_OPEN_TOP": "true"}
    car = load(None, env).value
    assert (car.tags, car.limits, car.open_top) == (("a", "b"), {"a": 1}, True)


def test_a_wrong_environment_value_names_the_variable(refusal):
    assert refusal(None, {"QUANTFLEET_SEATS": "many"}) == (
        'seats = "many" (environment variable QUANTFLEET_SEATS) must be a whole number.'
    )


def test_an_optional_section_may_be_absent_empty_or_full(load):
    assert load().value.trailer is None
    assert load("trailer:\n").value.trailer is None
    assert load("trailer: {}\n").value.trailer == Wheels()
    assert load("trailer: {count: 2}\n", None, "trailer=null").value.trailer is None


def test_a_missing_key_without_a_default_is_named_with_its_section(recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"missing key 'needed' \(.*recipe.yaml:1\): Strict needs it"):
        load_config(Strict, file=recipe("engine: petrol\n"), environ={})
    with pytest.raises(ConfigError, match=r"missing key 'needed' \(no recipe\)"):
        load_config(Strict, environ={})


# --- secrets ----------------------------------------------------------------------------------------------------------


def chained(error: BaseException | None) -> str:
    """Everything that any traceback, debugger or pickle of this error could show."""
    shown = ""
    while error is not None:
        shown += "".join(traceback.format_exception(error)) + repr(error) + repr(getattr(error, "fields", ""))
        error = error.__cause__ or error.__context__
    return shown


@pytest.mark.parametrize(
    "text",
    [
        f"account: {{password: [{SECRET}]}}",
        f"account: {{password: {{a: {SECRET}}}}}",
        f"account: {{tokens: {SECRET}}}",
        f"account: {{tokens: [x, [{SECRET}]]}}",
        f"account: [{SECRET}]",
        f"account: {SECRET}",
        f"account: {{password: a, password: {SECRET}}}",
        f"account: {{password: {SECRET}, passwrod: {SECRET}}}",
        f"account: {{password: {SECRET}, user: 5}}",
        f"account: {{password: '{SECRET}",
        f"account: {{password: !x {SECRET}}}",
        f"account: {{pin: {SECRET}, tokens: [{SECRET}, 5]}}",
    ],
)
def test_no_error_shows_a_secret_of_the_file(load, text):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert SECRET not in chained(caught.value)
    assert caught.value.message


@pytest.mark.parametrize("override", [f"account.password:{SECRET}", f"={SECRET}", f"account.pasword={SECRET}"])
def test_no_error_shows_a_secret_of_the_command_line(load, override):
    with pytest.raises(ConfigError) as caught:
        load(None, None, override)
    assert SECRET not in chained(caught.value)


def test_a_wrong_secret_is_an_error_without_its_value(load):
    env = {"QUANTFLEET_ACCOUNT__PIN": "x7z"}
    with pytest.raises(ConfigError, match=r"account\.pin = a secret .*must have at least 4 items") as caught:
        load(None, env)
    assert "x7z" not in chained(caught.value)


@pytest.mark.parametrize("text", ["123456", "a #b", "&x", "null ", "{a: b}", "[x", "'quoted'", '"q"', "~x", "x: y"])
def test_a_secret_is_taken_from_the_environment_as_it_stands(load, text):
    account = load(None, {"QUANTFLEET_ACCOUNT__PASSWORD": text.strip() + "x"}).value.account
    assert account.password.get_secret_value() == text.strip() + "x"


def test_a_secret_is_masked_in_the_plain_tree_and_in_every_repr(load):
    resolved = load(f"account: {{password: {SECRET}, tokens: [{SECRET}], pin: {SECRET}}}\n")
    assert resolved.value.account.password.get_secret_value() == SECRET
    assert SECRET not in json.dumps(to_plain(resolved.value)) + repr(resolved) + str(resolved.value)
    assert to_plain(resolved.value)["account"]["password"] == "********"


def test_a_masked_secret_is_not_taken_for_the_secret(refusal):
    assert "account.password" in refusal("account: {password: '********'}\n")


# --- plain form and fingerprint ---------------------------------------------------------------------------------------


def test_the_plain_tree_is_json_and_rebuilds_the_same_config(load):
    text = "engine: electric\nspare: [petrol]\nbuilt: 2020-01-02T03:04:05+02:00\ncolour: blue\nnamed: {a: {count: 2}}\n"
    car = load(text + "account: {pin: '1234'}\n").value
    plain = json.loads(json.dumps(to_plain(car)))
    assert plain["engine"] == {"kind": "electric", "cells": 96}
    del plain["account"]
    again = from_plain(Car, plain, where="the registry")
    assert to_plain(again) | {"account": 0} == to_plain(car) | {"account": 0}


def test_a_record_that_fits_no_config_names_where_it_came_from():
    with pytest.raises(ConfigError, match=r"unknown key 'seets' \(version 3\)\. Did you mean 'seats'"):
        from_plain(Car, {"seets": 1}, where="version 3")


def test_a_value_without_a_plain_form_is_refused():
    with pytest.raises(TypeError, match="object has no plain form"):
        to_plain({"a": object()})


def test_fingerprints_do_not_depend_on_the_order_of_keys(load):
    one = load("seats: 2\nlimits: {a: 1, b: 2}\nwheels: {count: 2, inches: 3}\n").value
    two = load("wheels: {inches: 3, count: 2}\nlimits: {b: 2, a: 1}\nseats: 2\n").value
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint({"b", "a", "c"}) == fingerprint({"c", "b", "a"})


def test_fingerprints_of_sets_are_the_same_in_every_process():
    assert fingerprint(frozenset({"a", "b", "c", "d", "e"})) == fingerprint(["a", "b", "c", "d", "e"])


CHANGES = [
    "seats=6", "speed=1.5", "name=b", "nick=b", "open_top=true", "gears=1", "fuel=none", "colour=blue", "garage=b",
    "built=2020-01-01T00:00:00", "sold=2020-01-01", "tags=[b]", "limits={b: 1}", "wheels.inches=5", "winter.inches=5",
    "trailer={}", "engine=electric", "engine.octane=98", "main.cells=1", "spare=[]", "spare.0.cells=9", "fleet=[{}]",
    "named={b: {}}", "account.user=b", "plugins=[json]",
]  # fmt: skip


def test_any_changed_value_changes_the_fingerprint(load):
    prints = [fingerprint(load(None, None, change).value) for change in CHANGES]
    assert len({fingerprint(Car()), *prints}) == len(CHANGES) + 1


def test_the_fingerprint_of_all_defaults_is_what_it_was_in_other_processes():
    assert fingerprint(Wheels(), "a", 1) == "06f8912d8eb05d95"


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(plain_values, plain_values)
def test_fingerprints_are_equal_exactly_when_the_plain_values_are(one, two):
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (fingerprint(one) == fingerprint(two)) is same


@given(st.dictionaries(st.sampled_from(["seats", "speed", "name", "nick"]), plain_values, max_size=4))
def test_a_record_builds_a_config_exactly_when_all_its_types_fit(record):
    wanted = {"seats": int, "speed": int | float, "name": str, "nick": str | None}
    fits = all(isinstance(value, wanted[key]) and not isinstance(value, bool) for key, value in record.items())
    with contextlib.nullcontext() if fits else pytest.raises(ConfigError, match=r"\(here\) must be"):
        car = from_plain(Car, record, where="here")
        assert all(getattr(car, key) == value for key, value in record.items())
