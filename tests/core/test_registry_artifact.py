"""A stored model: the same model comes back, nothing in it runs code, and no byte of it can be changed unnoticed."""

import io
import json
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.stored_models import FEATURES, PROVENANCE, SPEC, fitted, store, windows

import quantfleet
from quantfleet.contracts import Forecast, ModelConfig
from quantfleet.errors import ChecksumError, RegistryError, UnknownPluginError
from quantfleet.registry.artifact import artifact_digest, read_artifact, verify_artifact, write_artifact
from quantfleet_models.naive import BuyAndHoldConfig, MovingAverageConfig, ZeroReturnConfig

CONFIGS = (
    MovingAverageConfig(fast_bars=2, slow_bars=5, short_below=True, name="trend"),
    BuyAndHoldConfig(),
    ZeroReturnConfig(),
)


def same_answers(a: Forecast, b: Forecast) -> bool:
    heads = ("return_BCH", "direction_logit_BCH", "volatility_BCH", "position_BC")
    return all(np.array_equal(getattr(a, head), getattr(b, head)) for head in heads)


def rewrite_checksums(folder: Path) -> None:
    """What somebody does who changes weights and then makes the list beside them fit again."""
    import hashlib

    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != "checksums.json"}
    (folder / "checksums.json").write_text(json.dumps(sums))


def edit_description(folder: Path, **changes: object) -> None:
    """Change model.json in a way that its checksum list agrees with."""
    description = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps(description))
    rewrite_checksums(folder)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_stored_model_comes_back_with_its_config_and_the_same_answers(config: ModelConfig, tmp_path: Path):
    model = fitted(config)
    folder, digest = store(tmp_path, model)

    stored = read_artifact(folder, digest=digest)

    assert stored.model.config == config
    assert stored.model.spec == SPEC
    assert same_answers(stored.model.predict(windows()), model.predict(windows()))


def test_a_stored_model_brings_its_features_provenance_and_digest(tmp_path: Path):
    folder, digest = store(tmp_path)

    stored = read_artifact(folder)

    assert stored.features == FEATURES
    assert stored.provenance == PROVENANCE
    assert stored.digest == digest == artifact_digest(folder)
    assert len(digest) == 64


def test_a_stored_model_can_answer_for_chunks_of_another_length(tmp_path: Path):
    folder, _ = store(tmp_path)
    one_bar = replace(SPEC, chunk_bars=1)

    stored = read_artifact(folder, chunk_bars=1)

    assert stored.model.spec == one_bar
    assert same_answers(
        stored.model.predict(windows(spec=one_bar)), fitted(spec=one_bar).predict(windows(spec=one_bar))
    )


def test_the_same_model_stored_twice_has_the_same_digest_and_another_model_another(tmp_path: Path):
    digests = [store(tmp_path / name)[1] for name in ("a", "b")]
    other = store(tmp_path / "c", fitted(BuyAndHoldConfig()))[1]
    assert digests[0] == digests[1] != other


def test_the_description_says_which_quantfleet_wrote_it(tmp_path: Path):
    folder, _ = store(tmp_path)
    description = json.loads((folder / "model.json").read_text())
    assert (description["format"], description["quantfleet"]) == (1, quantfleet.__version__)


@pytest.mark.parametrize("name", ["moments.json", "model.json"])
def test_one_changed_byte_is_found_and_the_file_named(name: str, tmp_path: Path):
    folder, digest = store(tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))

    with pytest.raises(ChecksumError, match=rf"{name} has changed since the model was registered") as caught:
        read_artifact(folder, digest=digest)

    assert caught.value.fields["file"] == name


@pytest.mark.parametrize("name", ["moments.json", "model.json"])
def test_a_missing_file_is_found_and_named(name: str, tmp_path: Path):
    folder, digest = store(tmp_path)
    (folder / name).unlink()

    with pytest.raises(ChecksumError, match=rf"{name} is missing\.") as caught:
        read_artifact(folder, digest=digest)

    assert caught.value.fields["file"] == name


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir], ids=["file", "folder"])
def test_what_was_not_there_at_registration_is_found_and_named(make: Callable[[Path], None], tmp_path: Path):
    folder, digest = store(tmp_path)
    make(folder / "hook.py")

    with pytest.raises(ChecksumError, match=r"hook\.py was not there when the model was registered") as caught:
        read_artifact(folder, digest=digest)

    assert caught.value.fields["file"] == "hook.py"


def test_a_folder_in_the_place_of_a_file_is_found_and_named(tmp_path: Path):
    folder, digest = store(tmp_path)
    (folder / "moments.json").unlink()
    (folder / "moments.json").mkdir()

    with pytest.raises(ChecksumError, match=r"moments\.json has changed"):
        read_artifact(folder, digest=digest)


def test_changed_weights_with_a_checksum_list_made_to_fit_are_found_by_the_registered_digest(tmp_path: Path):
    folder, digest = store(tmp_path)
    (folder / "moments.json").write_text('{"label_mean": [9, 9, 9, 9, 9, 9]}')
    rewrite_checksums(folder)
    verify_artifact(folder)  # beside each other the files agree: only the registry knows better

    with pytest.raises(ChecksumError, match=r"checksums\.json is not the one that was registered") as caught:
        read_artifact(folder, digest=digest)

    assert caught.value.fields["file"] == "checksums.json"
    assert digest[:12] in caught.value.message
    assert artifact_digest(folder)[:12] in caught.value.message


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b"\xff\xfe"])
def test_a_damaged_checksum_list_is_no_list(content: bytes, tmp_path: Path):
    folder, digest = store(tmp_path)
    (folder / "checksums.json").write_bytes(content)

    with pytest.raises(ChecksumError, match=r"checksums\.json is not the one that was registered"):
        verify_artifact(folder, digest)
    with pytest.raises(ChecksumError, match=r"checksums\.json is damaged"):
        verify_artifact(folder)


def test_a_folder_without_a_checksum_list_is_not_a_model(tmp_path: Path):
    with pytest.raises(ChecksumError, match=r"holds no checksums\.json: it is not a Quantfleet model"):
        read_artifact(tmp_path)


@pytest.mark.parametrize("number", [2, None])
def test_another_format_is_refused_with_both_numbers(number: int | None, tmp_path: Path):
    folder, _ = store(tmp_path)
    edit_description(folder, format=number)

    with pytest.raises(RegistryError, match=rf"is of format {number}, this Quantfleet \(.*\) reads 1\."):
        read_artifact(folder)


def test_features_that_are_computed_differently_today_are_refused(tmp_path: Path):
    folder, _ = store(tmp_path)
    edit_description(folder, spec={**SPEC.to_dict(), "feature_digest": "0123456789abcdef"})

    with pytest.raises(RegistryError) as caught:
        read_artifact(folder)

    for part in ("'small' v3", FEATURES.digest, "0123456789abcdef", f"({quantfleet.__version__})"):
        assert part in caught.value.message


def test_a_model_of_a_kind_that_is_not_installed_names_the_kind_and_the_file(tmp_path: Path):
    folder, _ = store(tmp_path)
    edit_description(folder, config={"kind": "moving_averages"})

    with pytest.raises(
        UnknownPluginError, match=r"no model named 'moving_averages'\. Did you mean 'moving_average'\?"
    ) as caught:
        read_artifact(folder)

    assert str(folder / "model.json") in caught.value.message


def test_a_model_is_never_written_over_another(tmp_path: Path):
    folder, digest = store(tmp_path)

    with pytest.raises(RegistryError, match="is not empty; a model is never written over another"):
        write_artifact(fitted(BuyAndHoldConfig()), FEATURES, PROVENANCE, folder)

    verify_artifact(folder, digest)


def is_pickle(content: bytes) -> bool:
    """A pickle of any protocol, or a zip (as torch.save and numpy.savez write) with one inside."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(is_pickle(archive.read(name)) for name in archive.namelist())
    if content.startswith(b"\x80"):
        return True
    try:  # protocol 0 has no mark at its beginning
        return len(list(pickletools.genops(content))) > 0
    except Exception:
        return False


def test_the_pickle_scan_of_this_file_finds_every_kind():
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weights": [1.0]}))
    assert all(is_pickle(pickle.dumps([1], protocol=p)) for p in range(pickle.HIGHEST_PROTOCOL + 1))
    assert is_pickle(zipped.getvalue())
    assert not is_pickle(b'{"label_mean": [0.1]}')


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_nothing_in_a_stored_model_is_a_pickle(config: ModelConfig, tmp_path: Path):
    folder, _ = store(tmp_path, fitted(config))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert [path.name for path in files if is_pickle(path.read_bytes())] == []
