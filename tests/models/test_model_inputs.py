"""Scaling, selection and augmentation on the way into a model: fitted on training rows, stored with it, the same bits in service.

Shapes: B chunks, C targets, L look-back bars, F features, N windows.
"""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xgboost
from support.fits import fit_torch_here
from support.stored_models import FEATURES, PROVENANCE

from quantfleet.config import from_plain, to_plain
from quantfleet.contracts import Augmenter, FitContext, FitReport, ModelConfig
from quantfleet.errors import ChecksumError, ConfigError, SchemaError, TrainingError
from quantfleet.registry.artifact import read_artifact, write_artifact
from quantfleet.registry.store import _signature
from quantfleet.serving.window_model import WindowModel
from quantfleet.storage import Storage, StorageConfig
from quantfleet.testing import check_model_contract
from quantfleet.testing.training_data import MemoryData, MemoryReader, memory_data
from quantfleet.training import TrainingConfig
from quantfleet.training.data_state import DataState
from quantfleet.training.fit_task import FitTask, open_loader
from quantfleet.training.single_task import all_rows
from quantfleet.training.torch_model import TorchModel
from quantfleet.training.windows import WindowLoader
from quantfleet.transforms import InputTransform, StandardScalerConfig, output_units
from quantfleet_data.augmentation import BlockBootstrap, Jitter, Mixup, Scale, TimeWarp, WindowSlice
from quantfleet_data.scaling import RobustScalerConfig, RollingScalerConfig
from quantfleet_data.selection import (
    CorrelationSelectorConfig,
    GainSelectorConfig,
    MutualInformationSelectorConfig,
    PermutationSelectorConfig,
    PrincipalComponentsConfig,
)
from quantfleet_models.boosted import XGBoostConfig
from quantfleet_models.boosted.model import XGBoostModel
from quantfleet_models.hybrid import HybridConfig

SCALERS = [
    StandardScalerConfig(),
    StandardScalerConfig(per_symbol=True),
    RobustScalerConfig(),
    RobustScalerConfig(per_symbol=True, clip=None),
    RollingScalerConfig(window_bars=4),
]
SELECTORS = [
    None,
    CorrelationSelectorConfig(threshold=0.9),
    GainSelectorConfig(keep=2, rounds=5),
    PermutationSelectorConfig(keep=2, rounds=5, repeats=1),
    MutualInformationSelectorConfig(keep=2),
    PrincipalComponentsConfig(components=2),
]
PAIRS = [(scaler, SELECTORS[i % len(SELECTORS)]) for i, scaler in enumerate(SCALERS)] + [
    (SCALERS[i % len(SCALERS)], selector) for i, selector in enumerate(SELECTORS, start=1)
]
ALL_AUGMENTATIONS = (
    Jitter(), Scale(), TimeWarp(), WindowSlice(), BlockBootstrap(keep_last_bars=2, mean_block_bars=2.0), Mixup(),
)  # fmt: skip
NETWORK = {"width": 8, "attention_heads": 2, "kernel_bars": 2, "dropout": 0.0, "batch_windows": 32}


@pytest.fixture(autouse=True)
def one_thread():
    """These networks are too small to share, and threads of a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_data(**options) -> MemoryData:
    """Chunks whose fourth feature is nearly a copy of the first, so that selectors have something to drop; no segment shifted,
    so that nothing is clipped.
    """
    data = memory_data(**options)
    data.spec = replace(data.spec, feature_digest=FEATURES.digest)
    for place, batch in enumerate(data.batches.values()):
        batch.x_BTF[...] -= np.float32(1000.0 * place)
        batch.x_BTF[..., 3] = batch.x_BTF[..., 0] * np.float32(1.001) + np.float32(0.01)
    return data


def reader(data: MemoryData, segment="train") -> MemoryReader:
    return MemoryReader(data.spec, data.batches[segment])


def inputs_of(data: MemoryData, scaler, selection=None) -> InputTransform:
    return InputTransform.fit(data, scaler=scaler, selection=selection)


def loader(data: MemoryData, inputs=None, segment="train", *, windows=16, seed=1, **options) -> WindowLoader:
    return WindowLoader(
        reader(data, segment), batch_windows=windows, buffer_chunks=4, seed=seed, inputs=inputs, **options
    )


def windows_of(loaders) -> list[tuple[int, bytes, bytes]]:
    """Chunk place, features and labels of every counted window, sorted: what is trained on, in no particular order."""
    return sorted(
        (int(step.place_N[n]), step.x_NLF[n].numpy().tobytes(), step.y_NK[n].numpy().tobytes())
        for each in loaders
        for step in each
        for n in torch.nonzero(step.mask_N)[:, 0].tolist()
    )


# --- one transform ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scaler", "selection"), PAIRS, ids=str)
def test_a_training_window_has_the_bits_that_service_makes_of_the_same_window_alone(scaler, selection, tmp_path: Path):
    data = make_data()
    inputs = inputs_of(data, scaler, selection)
    inputs.save(tmp_path)
    served = InputTransform.load(
        tmp_path, replace(data.spec, chunk_bars=1), scaler=True, selection=selection is not None
    )
    batch, L = data.batches["train"], data.spec.lookback_bars
    expected = []
    for b, c in np.argwhere(batch.mask_BC):
        alone = served.apply(batch.x_BTF[b : b + 1, c : c + L], batch.symbol_id_B[b : b + 1])
        assert alone.shape[1:] == (served.spec.lookback_bars, served.spec.features)
        assert alone.dtype == np.float32
        expected.append((int(b), alone.tobytes(), batch.y_BCK[b, c].tobytes()))
    assert windows_of([loader(data, inputs)]) == sorted(expected)
    assert windows_of([loader(data, inputs, seed=None)]) == sorted(expected)


@pytest.mark.parametrize(("scaler", "selection"), PAIRS, ids=str)
def test_rows_of_validation_and_test_do_not_change_what_is_stored(scaler, selection, tmp_path: Path):
    data, other = make_data(), make_data()
    other.batches = {**make_data(seed=9).batches, "train": data.batches["train"]}
    kept = []
    for i, each in enumerate((data, other)):
        folder = tmp_path / str(i)
        folder.mkdir()
        inputs_of(each, scaler, selection).save(folder)
        kept.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert kept[0] == kept[1]
    assert set(kept[0]) == {"scaler.json"} | ({"selection.json"} if selection else set())
    assert set(data.segments_read) <= {"train"}


def test_training_rows_do_change_what_is_stored():
    one, two = (inputs_of(make_data(seed=s), StandardScalerConfig()).scaler.to_dict() for s in (0, 1))
    assert one != two


def test_rows_are_scaled_once_a_chunk_and_not_once_a_window():
    data = make_data()
    inputs, rows = inputs_of(data, StandardScalerConfig()), []
    original = inputs.scaler._scaled
    inputs.scaler._scaled = lambda x, ids: rows.append(x.shape[0] * x.shape[1]) or original(x, ids)
    list(loader(data, inputs))
    assert sum(rows) == len(reader(data)) * data.spec.chunk_rows


def test_without_scaler_and_selection_chunks_pass_untouched_and_uncopied():
    data = make_data()
    x_BTF = data.batches["train"].x_BTF
    assert InputTransform(data.spec).apply(x_BTF, data.batches["train"].symbol_id_B) is x_BTF


def test_the_bars_that_a_rolling_scaler_reads_are_taken_off_the_window_and_too_short_windows_are_refused():
    data = make_data(lookback_bars=6)
    inputs = inputs_of(data, RollingScalerConfig(window_bars=4))
    assert inputs.spec.lookback_bars == 3
    assert all(torch.isfinite(step.x_NLF).all() for step in loader(data, inputs))
    words = re.escape(
        "scaler rolling reads 7 bars for every row, and the windows of the data hold lookback_bars=6. Set lookback_bars"
    )
    for refused in (
        lambda: inputs_of(data, RollingScalerConfig(window_bars=7)),
        lambda: HybridConfig(**NETWORK, scaler=RollingScalerConfig(window_bars=7)).build(data.spec),
    ):
        with pytest.raises(ConfigError, match=words):
            refused()


def test_the_network_is_measured_by_the_window_that_is_left():
    with pytest.raises(ConfigError, match=r"kernel_bars=4 is longer than the window, lookback_bars=3"):
        HybridConfig(width=8, kernel_bars=4, scaler=RollingScalerConfig(window_bars=4)).build(make_data().spec)


@pytest.mark.parametrize("kind", [HybridConfig, XGBoostConfig])
def test_a_label_that_is_not_there_is_refused_before_anything_is_fitted(kind):
    config = kind(selection=GainSelectorConfig(), selection_label="retrun_1")
    with pytest.raises(SchemaError, match=r"no label 'retrun_1'\. Did you mean 'return_1'"):
        config.build(replace(make_data().spec, lookback_bars=8))


def test_a_selection_judges_by_the_label_it_is_told():
    data = make_data(chunks=12)
    batch = data.batches["train"]
    own_BCF = batch.x_BTF[:, data.spec.lookback_bars - 1 :]
    batch.y_BCK[..., 0], batch.y_BCK[..., 2] = own_BCF[..., 1], own_BCF[..., 2]
    chosen = [
        InputTransform.fit(data, scaler=None, selection=GainSelectorConfig(keep=1, rounds=5), label=label).spec
        for label in (None, "return_1", "volatility_1")
    ]
    assert [spec.feature_columns for spec in chosen] == [("f1",), ("f1",), ("f2",)]


def test_a_part_that_is_missing_damaged_or_of_other_features_is_refused(tmp_path: Path):
    data = make_data()
    options = {"scaler": True, "selection": False}
    with pytest.raises(SchemaError, match=r"scaler\.json cannot be read"):
        InputTransform.load(tmp_path, data.spec, **options)
    inputs_of(data, StandardScalerConfig()).save(tmp_path)
    with pytest.raises(SchemaError, match="the standard scaler was fitted on f0, f1, f2, f3, the data hold a, b"):
        InputTransform.load(tmp_path, replace(data.spec, feature_columns=("a", "b")), **options)
    (tmp_path / "scaler.json").write_text("[1]")
    with pytest.raises(SchemaError, match="holds no fitted part of a model"):
        InputTransform.load(tmp_path, data.spec, **options)


# --- the config -------------------------------------------------------------------------------------------------------


def test_a_recipe_names_scaler_selection_and_augmentations_by_kind():
    config = from_plain(
        ModelConfig,
        {
            "kind": "hybrid",
            "scaler": {"kind": "robust", "per_symbol": True},
            "selection": {"kind": "correlation", "threshold": 0.9},
            "augmentations": [{"kind": "jitter", "sigma": 0.1}, "mixup"],
        },
        where="recipe",
    )
    assert config == HybridConfig(
        scaler=RobustScalerConfig(per_symbol=True),
        selection=CorrelationSelectorConfig(threshold=0.9),
        augmentations=(Jitter(sigma=0.1), Mixup()),
    )
    assert from_plain(ModelConfig, to_plain(config), where="again") == config


def test_the_scaler_is_the_standard_one_unless_another_is_named():
    assert HybridConfig().scaler == StandardScalerConfig(clip=10.0)
    changed = from_plain(ModelConfig, {"kind": "hybrid", "scaler": {"clip": 5.0}}, where="recipe")
    assert changed == HybridConfig(scaler=StandardScalerConfig(clip=5.0))


# --- whole models -----------------------------------------------------------------------------------------------------


def fit_trees_here(model: XGBoostModel, data: MemoryData, context=None) -> FitReport:
    task = model._task(data, FitContext(run_name="here", storage=None, training=TrainingConfig(), seed=1))
    rows = all_rows(task.readers["train"])
    model.booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(rows.x_RG, label=rows.y_RK), num_boost_round=3)
    model.inputs, model.scale = task.inputs, task.scale
    return FitReport()


@pytest.fixture
def fits_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchModel, "fit", fit_torch_here)
    monkeypatch.setattr(XGBoostModel, "fit", fit_trees_here)


@pytest.mark.parametrize(("scaler", "selection"), PAIRS, ids=str)
def test_a_torch_model_keeps_the_contract_with_every_scaler_and_selection(scaler, selection, fits_here, tmp_path: Path):
    config = HybridConfig(**NETWORK, scaler=scaler, selection=selection, augmentations=(Jitter(), Mixup()))
    check_model_contract(config, make_data(), None, tmp_path)


@pytest.mark.parametrize("selection", SELECTORS, ids=str)
def test_boosted_trees_keep_the_contract_with_every_selection(selection, fits_here, tmp_path: Path):
    model = check_model_contract(XGBoostConfig(selection=selection), make_data(), None, tmp_path)
    assert isinstance(model, XGBoostModel)
    assert (
        model.booster.num_features()
        == len(model.inputs.spec.feature_columns)
        == (4 if selection is None else len(model.inputs.selection.columns))
    )


def stored(folder: Path, data: MemoryData, **settings) -> str:
    model = HybridConfig(**NETWORK, **settings).build(data.spec)
    fit_torch_here(model, data)
    return write_artifact(model, FEATURES, PROVENANCE, folder)


def test_scaler_and_selection_lie_beside_the_weights_and_are_covered_by_the_digest(tmp_path: Path):
    data = make_data()
    digest = stored(tmp_path, data, selection=CorrelationSelectorConfig())
    assert {p.name for p in tmp_path.iterdir()} == {
        "weights.safetensors", "scaler.json", "selection.json", "model.json", "checksums.json",
    }  # fmt: skip
    read_artifact(tmp_path, digest=digest)
    for name in ("scaler.json", "selection.json"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text + "\n")
        with pytest.raises(ChecksumError, match=f"{name} has changed"):
            read_artifact(tmp_path, digest=digest)
        (tmp_path / name).write_text(text)


def test_an_empty_model_answers_nothing_and_saves_nothing(tmp_path: Path):
    data = make_data()
    empty = HybridConfig(**NETWORK).build(data.spec)
    with pytest.raises(SchemaError, match="is empty: fit or load it before it is asked"):
        empty.predict(data.batches["test"])
    with pytest.raises(SchemaError, match="is empty: fit it before it is saved"):
        empty.save(tmp_path)


# --- service ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaler", SCALERS, ids=str)
def test_a_served_window_gets_the_answer_of_its_chunk(scaler, tmp_path: Path):
    data = make_data()
    stored(tmp_path, data, scaler=scaler, selection=PrincipalComponentsConfig(components=2))
    batch, L = data.batches["test"], data.spec.lookback_bars
    answers = read_artifact(tmp_path).model.predict(batch)
    served = WindowModel(read_artifact(tmp_path, chunk_bars=1))
    names = np.array(data.spec.symbols)[batch.symbol_id_B]
    for c in (0, 7):
        given = {"x_NLF": batch.x_BTF[:, c : c + L], "symbol_N": names}
        np.testing.assert_allclose(served.predict(given)["return"], answers.return_BCH[:, c], rtol=1e-5, atol=1e-6)


def test_a_model_with_a_scale_for_each_symbol_must_be_told_the_symbol(tmp_path: Path):
    data = make_data()
    stored(tmp_path, data, scaler=StandardScalerConfig(per_symbol=True))
    served, x_NLF = WindowModel(read_artifact(tmp_path, chunk_bars=1)), data.batches["test"].x_BTF[:3, :6]
    with pytest.raises(SchemaError, match=r"answers for each symbol in its own way.* symbol_N.* \(S0, S1, S2\)"):
        served.predict(x_NLF)
    one, two = (served.predict({"x_NLF": x_NLF, "symbol_N": [s] * 3})["return"] for s in ("S0", "S2"))
    assert (one != two).all()
    with pytest.raises(SchemaError, match=r"symbol_N holds 'S9', which the model was not fitted on"):
        served.predict({"x_NLF": x_NLF, "symbol_N": ["S0", "S9", "S1"]})
    with pytest.raises(SchemaError, match=r"symbol_N has shape \(2,\); there are 3 windows"):
        served.predict({"x_NLF": x_NLF, "symbol_N": ["S0", "S1"]})
    signature = _signature(tmp_path)
    assert [t.name for t in signature.inputs] == ["x_NLF", "symbol_N"]


def test_mlflow_passes_the_symbols_on_as_its_signature_says(tmp_path: Path):
    from mlflow.models.utils import _enforce_schema

    data = make_data()
    stored(tmp_path, data, scaler=StandardScalerConfig(per_symbol=True))
    given = {"x_NLF": data.batches["test"].x_BTF[:2, :6], "symbol_N": np.array(["S0", "S2"])}
    passed = _enforce_schema(given, _signature(tmp_path).inputs)
    served = WindowModel(read_artifact(tmp_path, chunk_bars=1))
    np.testing.assert_array_equal(served.predict(passed)["return"], served.predict(given)["return"])


def test_a_model_with_one_scale_for_all_answers_without_symbols(tmp_path: Path):
    data = make_data()
    stored(tmp_path, data)
    served, x_NLF = WindowModel(read_artifact(tmp_path, chunk_bars=1)), data.batches["test"].x_BTF[:3, :6]
    told = served.predict({"x_NLF": x_NLF, "symbol_N": ["S2", "S0", "S1"]})
    np.testing.assert_array_equal(served.predict(x_NLF)["return"], told["return"])
    assert [t.name for t in _signature(tmp_path).inputs] == ["x_NLF"]


# --- augmentation -----------------------------------------------------------------------------------------------------


def augmenter(data: MemoryData, seed: int = 5) -> Augmenter:
    return Augmenter(ALL_AUGMENTATIONS, seed=seed, chunk_bars=data.spec.chunk_bars)


def test_a_window_is_augmented_alike_on_any_number_of_workers_and_in_any_minibatch():
    data = make_data()
    inputs = inputs_of(data, RobustScalerConfig())
    plain = windows_of([loader(data, inputs)])
    reference = windows_of([loader(data, inputs, augmenter=augmenter(data))])
    assert len(plain) == len(reference)
    assert sum(a != b for a, b in zip(plain, reference, strict=True)) > len(plain) / 2
    for workers, size in ((2, 16), (3, 21), (5, 50)):
        ranks = [
            loader(data, inputs, windows=size, augmenter=augmenter(data), workers=workers, rank=r, reuse_batches=True)
            for r in range(workers)
        ]
        assert windows_of(ranks) == reference


def test_every_epoch_and_every_seed_augments_in_another_way():
    data = make_data()
    one = loader(data, augmenter=augmenter(data))
    first, second = windows_of([one]), windows_of([one])
    assert first != second
    again = loader(data, augmenter=augmenter(data))
    again.start_epoch(1)
    assert windows_of([again]) == second
    assert windows_of([loader(data, augmenter=augmenter(data, seed=6))]) != first


@pytest.mark.parametrize("kill", [1, 4, 9])
def test_killed_and_restarted_with_other_workers_every_window_is_trained_on_once_and_augmented_as_before(kill):
    data = make_data()
    options = {"augmenter": augmenter(data), "windows": 18, "shards": 3}
    whole = windows_of([loader(data, **options)])
    first = loader(data, **options)
    before = windows_of([itertools.islice(first, kill)])
    state = DataState.from_dict(json.loads(first.state().to_json()))
    rest = [loader(data, **options, workers=3, rank=r, state=state) for r in range(3)]
    assert sorted(before + windows_of(rest)) == whole


def test_validation_is_never_augmented_and_masked_windows_are_left_alone():
    data = make_data()
    inputs = inputs_of(data, StandardScalerConfig())
    task = FitTask(
        config=HybridConfig(**NETWORK),
        spec=data.spec,
        inputs=inputs,
        augmenter=augmenter(data),
        stats=data.stats,
        training=TrainingConfig(workers=1),
        seed=1,
        readers={s: reader(data, s) for s in ("train", "validation")},
        storage=Storage(StorageConfig()),
        run="train/test",
        fit={},
    )
    validation = open_loader(task, "validation", rank=0, workers=1, seed=None)
    assert windows_of([validation]) == windows_of([loader(data, inputs, "validation", seed=None)])
    train = open_loader(task, "train", rank=0, workers=1, seed=1)
    assert windows_of([train]) != windows_of([loader(data, inputs)])
    with pytest.raises(ConfigError, match="What is judged must be judged as it is"):
        loader(data, inputs, seed=None, augmenter=augmenter(data))


def test_components_are_jittered_in_their_own_deviations():
    data = make_data(chunks=20)
    config = HybridConfig(
        **NETWORK,
        selection=PrincipalComponentsConfig(components=2),
        augmentations=(Jitter(probability=1.0, sigma=0.1),),
    )
    inputs = inputs_of(data, config.scaler, config.selection)
    _, scale_G = output_units(data, inputs)
    assert scale_G[0] > 1.2, "the first component of correlated features varies more than any one of them"
    made = config.augmenter(data, inputs, 1)
    plain, changed = (list(loader(data, inputs, augmenter=a)) for a in (None, made))
    noise = torch.cat([(c.x_NLF - p.x_NLF)[p.mask_N] for p, c in zip(plain, changed, strict=True)])
    np.testing.assert_allclose(noise.flatten(0, 1).std(0).numpy(), 0.1 * scale_G, rtol=0.05)


# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_scale_or_selection_is_not_gone_on_from(tmp_path: Path):
    selection = CorrelationSelectorConfig()
    data, other = make_data(), make_data(seed=4)
    inputs = inputs_of(data, StandardScalerConfig(), selection)
    inputs.save(tmp_path)
    inputs.check_checkpoint(tmp_path)
    inputs_of(data, StandardScalerConfig(), selection).check_checkpoint(tmp_path)
    with pytest.raises(TrainingError, match="trained with another scaler than this fit has learnt"):
        inputs_of(other, StandardScalerConfig(), selection).check_checkpoint(tmp_path)
    with pytest.raises(TrainingError, match="trained with another selection than this fit has learnt"):
        inputs_of(data, StandardScalerConfig(), CorrelationSelectorConfig(threshold=0.01)).check_checkpoint(tmp_path)
