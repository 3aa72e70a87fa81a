"""Registries: an explicit name, a frozen config behind it, and errors that name the nearest right one."""

import dataclasses
import importlib.metadata
import pickle
from dataclasses import dataclass

import pytest

from quantfleet.errors import ConfigError, UnknownPluginError
from quantfleet.plugins import PluginConfig, PluginRegistry, load_plugins


@dataclass(frozen=True, kw_only=True, slots=True)
class Fruit(PluginConfig):
    """Base of a kind of plugin of the test's own."""


FRUITS: PluginRegistry[Fruit] = PluginRegistry("fruit", Fruit, command="fruits")


@FRUITS.register("pear")
@dataclass(frozen=True, kw_only=True, slots=True)
class Pear(Fruit):
    """Soft when ripe.

    Second paragraph.
    """

    grams: int = 150


@pytest.fixture
def fruits(monkeypatch):
    """The registry; what a test registers is gone afterwards."""
    monkeypatch.setattr(FRUITS, "_plugins", dict(FRUITS._plugins))
    return FRUITS


def test_a_registered_class_is_found_by_its_name_and_knows_it(fruits):
    assert fruits.get("pear") is Pear
    assert (Pear.kind, Pear().kind, Fruit.registry) == ("pear", "pear", fruits)


def test_names_are_sorted_and_the_summary_is_the_first_line(fruits):
    fruits.register("apple")(dataclass(frozen=True)(type("Apple", (Fruit,), {"__doc__": "Crisp."})))
    assert fruits.names() == ("apple", "pear")
    assert [fruits.summary(name) for name in fruits.names()] == ["Crisp.", "Soft when ripe."]


def test_an_unknown_name_names_the_nearest_one_and_the_list_command(fruits):
    with pytest.raises(
        UnknownPluginError, match=r"^no fruit named 'paer'\. Did you mean 'pear'\? Run `quantfleet fruits list`\.$"
    ) as caught:
        fruits.get("paer")
    assert caught.value.fields == {"noun": "fruit", "name": "paer"}


def test_a_name_like_no_other_gets_no_guess(fruits):
    with pytest.raises(UnknownPluginError, match=r"^no fruit named 'xyzzy'\. Run"):
        fruits.get("xyzzy")


def test_a_taken_name_is_refused_and_stays_with_its_owner(fruits):
    with pytest.raises(
        ConfigError, match=r"fruit name 'pear' is taken by .*\.Pear; register .*\.Quince under another name"
    ):

        @fruits.register("pear")
        @dataclass(frozen=True)
        class Quince(Fruit):
            pass

    assert fruits.get("pear") is Pear


def test_a_reloaded_module_may_register_its_class_again(fruits):
    again = dataclass(frozen=True, kw_only=True)(type("Pear", (Fruit,), {"__module__": Pear.__module__}))
    assert fruits.register("pear")(again) is fruits.get("pear") is again


def test_a_class_has_one_name_only(fruits):
    with pytest.raises(ConfigError, match="Pear is registered as 'pear' already; give 'birne' a class of its own"):
        fruits.register("birne")(Pear)
    assert fruits.names() == ("pear",)
    assert Pear.kind == "pear"


def test_an_empty_name_is_refused(fruits):
    with pytest.raises(ConfigError, match="Fig needs a name"):
        fruits.register("")(dataclass(frozen=True)(type("Fig", (Fruit,), {})))


@pytest.mark.parametrize(
    "broken",
    [
        type("Plain", (Fruit,), {}),
        dataclass(type("Mutable", (), {})),
        dataclass(frozen=True)(type("Foreign", (PluginConfig,), {})),
        "a text",
    ],
    ids=["no dataclass of its own", "mutable", "of another kind", "no class"],
)
def test_only_frozen_dataclasses_of_the_kind_can_register(fruits, broken):
    with pytest.raises(ConfigError):
        fruits.register("odd")(broken)
    assert fruits.names() == ("pear",)


def test_a_subclass_of_a_plugin_may_register_under_its_own_name(fruits):
    @fruits.register("small_pear")
    @dataclass(frozen=True, kw_only=True, slots=True)
    class SmallPear(Pear):
        grams: int = 80

    assert (Pear.kind, SmallPear.kind, SmallPear().grams) == ("pear", "small_pear", 80)


def test_plugin_configs_travel_to_workers_as_objects():
    sent = pickle.loads(pickle.dumps(Pear(grams=99)))
    assert sent == Pear(grams=99)
    assert sent.kind == "pear"
    with pytest.raises(dataclasses.FrozenInstanceError):
        sent.grams = 1


# --- modules ----------------------------------------------------------------------------------------------------------


def test_listed_modules_are_imported(tmp_path, monkeypatch):
    (tmp_path / "qf_test_marks.py").write_text("import pathlib; pathlib.Path(__file__).with_suffix('.seen').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins(["qf_test_marks"])
    assert (tmp_path / "qf_test_marks.seen").exists()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import qf_test_absent_library\n", "No module named 'qf_test_absent_library'"),
        ("def broken(:\n", "SyntaxError: "),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("from quantfleet.errors import ConfigError\nraise ConfigError('two of a name.')\n", "two of a name"),
    ],
)
def test_a_module_that_fails_to_import_stops_the_program_and_is_named(tmp_path, monkeypatch, source, reason):
    name = f"qf_test_broken_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        load_plugins([name])
    assert caught.value.message.startswith(f"plugin module {name!r} cannot be imported: {reason}")
    assert caught.value.fields["module"] == name
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", ["", ".relative", "no such module"])
def test_what_is_no_module_name_is_a_config_error(name):
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_plugins([name])


@pytest.mark.parametrize("value", ["qf_test_entry", "qf_test_entry:register", "qf_test_entry:Thing.make [extra]"])
def test_installed_entry_points_are_imported_whatever_they_point_at(tmp_path, monkeypatch, value):
    (tmp_path / "qf_test_entry.py").write_text("import pathlib; pathlib.Path(__file__).with_suffix('.seen').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "qf_test_entry", raising=False)
    point = importlib.metadata.EntryPoint(name="mine", value=value, group="quantfleet.plugins")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point] if group == point.group else [])
    load_plugins([])
    assert (tmp_path / "qf_test_entry.seen").exists()
