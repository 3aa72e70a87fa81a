"""Pretrained forecasters: the answers of their packages, from weights that only tests would trust, tiny and random.

Shapes: N series, L bars, S steps, Q levels, P paths.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.fits import fit_task, fit_torch_here
from support.networks import spec_of
from support.row_models import context

from quantfleet.errors import ConfigError, MissingInputError, SchemaError
from quantfleet.testing import check_model_contract
from quantfleet.testing.gang import run_gang
from quantfleet.testing.training_data import MemoryData, memory_data
from quantfleet.training import DDPConfig, FSDPConfig, LossConfig, TrainingConfig
from quantfleet.training.loop import fit_on_worker
from quantfleet.transforms import StandardScalerConfig
from quantfleet_models.foundation import FoundationConfig
from quantfleet_models.foundation.backbones import ChronosT5, TimesFM
from quantfleet_models.foundation.model import FoundationModel
from quantfleet_models.foundation.weights import load_backbone

pytest.importorskip("chronos", reason="pip install 'quantfleet[foundation]'")

T5 = {
    "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0, "feed_forward_proj": "relu", "initializer_factor": 0.3,
}  # fmt: skip
LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def save_bolt(folder: Path, **changes: object) -> Path:
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    said = {
        "context_length": 32, "prediction_length": 8, "input_patch_size": 4, "input_patch_stride": 4, "quantiles": LEVELS,
        "use_reg_token": True, **changes,
    }  # fmt: skip
    torch.manual_seed(0)
    ChronosBoltModelForForecasting(T5Config(**T5, chronos_config=said)).save_pretrained(folder)
    return folder


def save_t5(folder: Path, spread: float = 1.0) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    said = {
        "tokenizer_class": "MeanScaleUniformBins", "tokenizer_kwargs": {"low_limit": -15.0, "high_limit": 15.0},
        "context_length": 32, "prediction_length": 8, "n_tokens": 64, "n_special_tokens": 2, "pad_token_id": 0,
        "eos_token_id": 1, "use_eos_token": True, "model_type": "seq2seq", "num_samples": 20, "temperature": 1.0,
        "top_k": 50, "top_p": 1.0,
    }  # fmt: skip
    torch.manual_seed(0)
    config = T5Config(
        **{**T5, "initializer_factor": spread}, vocab_size=64, tie_word_embeddings=False, chronos_config=said
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def save_timesfm(folder: Path) -> Path:
    from transformers import TimesFm2_5Config, TimesFm2_5ModelForPrediction

    torch.manual_seed(0)
    TimesFm2_5ModelForPrediction(
        TimesFm2_5Config(
            patch_length=4, context_length=32, horizon_length=8, num_hidden_layers=1, hidden_size=16, intermediate_size=16,
            head_dim=8, num_attention_heads=2, num_key_value_heads=2, output_quantile_len=8, initializer_range=0.2,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("weights")
    made = {"bolt": save_bolt, "t5": save_t5, "timesfm": save_timesfm}
    return {name: str(save(root / name)) for name, save in made.items()}


def returns_data() -> MemoryData:
    """Feature f0 is a daily return of about 1 %."""
    data = memory_data(lookback_bars=12)
    for batch in data.batches.values():
        batch.x_BTF[..., 0] = np.random.default_rng(1).normal(0, 0.01, batch.x_BTF.shape[:2])
    return data


def config_of(folder: str, **changes: object) -> FoundationConfig:
    return FoundationConfig(**{"weights": folder, "return_feature": "f0", "samples": 8, **changes})


def series(N: int = 5, L: int = 12) -> torch.Tensor:
    return torch.randn(N, L, generator=torch.Generator().manual_seed(3)).mul(0.01).cumsum(1)


def windows(N: int = 6, L: int = 12) -> torch.Tensor:
    """Features f0 to f2, the first of them returns of about 1 %."""
    return torch.randn(N, L, 3, generator=torch.Generator().manual_seed(4)) * 0.01


# --- the packages' own answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bars", [12, 14], ids=["whole patches", "a patch filled up"])
def test_chronos_bolt_answers_as_its_package_does(folders, bars):
    from chronos import ChronosBoltPipeline

    pipeline = ChronosBoltPipeline.from_pretrained(folders["bolt"])
    network = config_of(folders["bolt"]).build_network(spec_of(lookback_bars=bars)).eval()
    x_NLF = windows(L=bars)
    quantile_NQS = pipeline.predict(network.series(x_NLF), prediction_length=5)
    assert quantile_NQS.std() > 1e-3
    with torch.no_grad():
        heads = network(x_NLF)
    sorted_NQH = quantile_NQS.sort(1).values[..., [0, 4]]
    torch.testing.assert_close(heads["quantiles"], sorted_NQH[:, [0, 4, 8]].transpose(1, 2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(heads["return"], quantile_NQS[:, 4][:, [0, 4]], rtol=1e-5, atol=1e-6)


def test_timesfm_answers_as_its_package_does(folders):
    from transformers import TimesFm2_5ModelForPrediction

    theirs = TimesFm2_5ModelForPrediction.from_pretrained(folders["timesfm"]).eval()
    ours = load_backbone(folders["timesfm"], label="x", samples=2).eval()
    assert isinstance(ours, TimesFM)
    with torch.no_grad():
        quantile_NSQ, centre_NS = ours(series(), 5)
        for i, one_L in enumerate(series()):  # each alone: an answer does not depend on the batch
            made = theirs(past_values=[one_L], forecast_context_len=12, truncate_negative=False)
            torch.testing.assert_close(quantile_NSQ[i], made.full_predictions[0, :5, 1:], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(centre_NS[i], made.mean_predictions[0, :5], rtol=1e-5, atol=1e-6)


def chronos_t5(folder: str, **changes: object):
    from chronos import ChronosPipeline

    backbone = load_backbone(folder, label="x", samples=400).eval()
    assert isinstance(backbone, ChronosT5)
    for name, value in changes.items():
        setattr(backbone.config, name, value)
    return backbone, ChronosPipeline.from_pretrained(folder)


def test_chronos_t5_draws_the_paths_of_its_package_where_only_one_can_be_drawn(tmp_path):
    backbone, pipeline = chronos_t5(str(save_t5(tmp_path, spread=2.0)), top_k=1)
    theirs_NPS = pipeline.predict(series(), prediction_length=6, num_samples=1, top_k=1)
    torch.testing.assert_close(backbone.draw(series(), 6)[:, :1], theirs_NPS, rtol=1e-5, atol=1e-6)
    assert len(theirs_NPS.unique()) > 5, "different tokens"


def test_chronos_t5_draws_from_the_distribution_of_its_package(folders):
    backbone, pipeline = chronos_t5(folders["t5"])
    torch.manual_seed(1)
    theirs_NPS = pipeline.predict(series(2), prediction_length=3, num_samples=4000)
    ours_NPS = backbone.draw(series(2), 3)
    error_NS = theirs_NPS.std(1) / 400**0.5
    assert ((ours_NPS.mean(1) - theirs_NPS.mean(1)).abs() < 4 * error_NS).all()
    torch.testing.assert_close(ours_NPS.std(1), theirs_NPS.std(1), rtol=0.1, atol=0)


def test_an_answer_by_drawing_does_not_depend_on_the_series_beside_it(folders):
    backbone, _ = chronos_t5(folders["t5"])
    whole_NPS = backbone.draw(series(), 3)
    torch.testing.assert_close(backbone.draw(series()[2:3], 3), whole_NPS[2:3])


# --- what becomes of the quantiles ------------------------------------------------------------------------------------


class Normal(torch.nn.Module):
    """Stands in for a forecaster: normal distributions of one mean and deviation a step, which grows with the root of the steps."""

    levels = tuple(LEVELS)
    architecture, trainable, most_bars, least_bars, most_steps = "Normal", True, 99, 1, 99

    def __init__(self, mean: float, deviation: float, *, root: bool) -> None:
        super().__init__()
        self.mean, self.deviation, self.root = mean, deviation, root

    def forward(self, series_NL, steps):
        step = torch.arange(1, steps + 1.0) if self.root else torch.ones(steps)
        score = torch.special.ndtri(torch.tensor(self.levels))
        quantile_SQ = step[:, None] * self.mean + step.sqrt()[:, None] * self.deviation * score
        return quantile_SQ.expand(len(series_NL), -1, -1), (step * self.mean).expand(len(series_NL), -1)


@pytest.mark.parametrize("shown", ["price", "return"])
def test_normal_quantiles_become_the_heads_of_that_normal_distribution(shown):
    from scipy.stats import norm

    from quantfleet_models.foundation.model import FoundationNetwork

    config = config_of("nowhere", series=shown, loss=LossConfig(quantiles=(0.1, 0.15, 0.9)))
    spec, mean, deviation = spec_of(horizons_bars=(1, 4)), 0.002, 0.01
    heads = FoundationNetwork(config, spec, Normal(mean, deviation, root=shown == "price"))(windows(1))
    up = norm.cdf(np.array([1, 4]) * mean / (deviation * np.sqrt([1, 4])))
    np.testing.assert_allclose(heads["return"][0], [mean, 4 * mean], rtol=1e-5)
    np.testing.assert_allclose(torch.sigmoid(heads["direction"])[0], up, rtol=1e-5)
    np.testing.assert_allclose(heads["volatility"][0], [deviation, deviation], rtol=1e-4)
    np.testing.assert_allclose(
        heads["quantiles"][0, 1, [0, 2]], norm.ppf([0.1, 0.9], 4 * mean, 2 * deviation), rtol=1e-4
    )
    between = (norm.ppf(0.1, mean, deviation) + norm.ppf(0.2, mean, deviation)) / 2
    np.testing.assert_allclose(heads["quantiles"][0, 0, 1], between, rtol=1e-4)


def test_the_price_shown_is_the_fraction_above_that_of_the_decision_bar(folders):
    network = config_of(folders["bolt"]).build_network(spec_of())
    x_NLF = windows(2)
    price_NL = torch.exp(x_NLF[..., 0].double().cumsum(1))
    expected = (price_NL / price_NL[:, -1:] - 1).float()
    torch.testing.assert_close(network.series(x_NLF), expected, rtol=1e-4, atol=1e-6)


# --- the contract, and fine-tuning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bolt", "t5", "timesfm"])
@pytest.mark.parametrize("shown", ["price", "return"])
def test_zero_shot_it_keeps_the_model_contract_and_learns_nothing(name, shown, folders, tmp_path):
    (tmp_path / "saved").mkdir()
    data = returns_data()
    config = config_of(folders[name], series=shown)
    model = check_model_contract(config, data, context(tmp_path / "root"), tmp_path / "saved")
    fresh = config.build(data.spec).forecaster.network.state_dict()
    for key, value in model.forecaster.network.state_dict().items():
        assert torch.equal(value, fresh[key]), key


@pytest.mark.parametrize("name", ["bolt", "timesfm"])
def test_fine_tuned_it_keeps_the_model_contract_and_has_learnt(name, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(FoundationModel, "fit", fit_torch_here)
    data = returns_data()
    config = config_of(folders[name], fine_tune=True)
    model = check_model_contract(config, data, None, tmp_path)
    fresh = config.build(data.spec).forecaster.network.state_dict()
    changed = {k for k, v in model.forecaster.network.state_dict().items() if not torch.equal(v, fresh[k])}
    # of the one row that Bolt's decoder attends to, queries, keys and their biases do not matter
    assert len(changed) > 0.7 * len(fresh)
    assert any("attn" in k or "SelfAttention" in k for k in changed)


def fine_tuned(root: str, weights: str) -> list[list[float]]:
    """On a worker: the real loop, under one strategy after the other."""
    config = config_of(weights, fine_tune=True, learning_rate=3e-3, epochs=2, batch_windows=128)
    curves = []
    for strategy in (DDPConfig(), FSDPConfig()):
        training = TrainingConfig(workers=2, shards=2, strategy=strategy)
        made = fit_on_worker({"task": fit_task(Path(root, strategy.kind), training, config=config)})
        curves.append([row["train_loss"] for row in made["curve"]])
    return curves


def test_the_training_loop_fine_tunes_it_on_two_workers_alike_under_ddp_and_fsdp(folders, tmp_path):
    (replicated, sharded), other = run_gang(
        fine_tuned, str(tmp_path / "root"), folders["bolt"], workers=2, folder=tmp_path
    )
    assert [replicated, sharded] == other
    assert replicated[1] < replicated[0]
    np.testing.assert_allclose(replicated, sharded, rtol=1e-4)


def test_a_loaded_model_needs_no_pretrained_weights(tmp_path):
    data, folder = returns_data(), save_bolt(tmp_path / "pretrained")
    config = config_of(str(folder))
    model = config.build(data.spec)
    model.fit(data, context())
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved")
    folder.rename(tmp_path / "gone")
    loaded = config.build(data.spec)
    with pytest.raises(
        MissingInputError, match=r"pretrained does not exist, or is empty; model 'foundation' reads its weights"
    ):
        loaded.fit(data, context())
    loaded.load(tmp_path / "saved")
    batch = data.batches["test"]
    np.testing.assert_array_equal(loaded.predict(batch).return_BCH, model.predict(batch).return_BCH)


# --- bad input --------------------------------------------------------------------------------------------------------


def broken(folder: str, to: Path, file: str, text: str | bytes | None) -> str:
    """A copy with one file changed, or left out."""
    to.mkdir()
    for path in Path(folder).iterdir():
        if path.name != file:
            (to / path.name).write_bytes(path.read_bytes())
    if text is not None:
        (to / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(to)


def test_folders_that_hold_no_weights_are_refused_with_what_to_do(folders, tmp_path):
    spec = spec_of()
    with pytest.raises(ConfigError, match="names no weights"):
        config_of("").build(spec)
    pickled = broken(folders["bolt"], tmp_path / "pickled", "model.safetensors", None)
    Path(pickled, "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ConfigError, match=r"pickles \(pytorch_model.bin\), which can run any code.*save_pretrained"):
        config_of(pickled).build(spec)
    bare = broken(folders["bolt"], tmp_path / "bare", "config.json", None)
    with pytest.raises(ConfigError, match=r"has no config\.json beside its weights"):
        config_of(bare).build(spec)
    torn = broken(folders["bolt"], tmp_path / "torn", "model.safetensors", b"{}")
    with pytest.raises(ConfigError, match=r"and the weights beside it do not make a ChronosBolt.*[Hh]eader"):
        config_of(torn).build(spec)
    with pytest.raises(ConfigError, match="only local folders and s3:// are known"):
        config_of("https://hub.example/chronos").build(spec)


def test_configs_that_do_not_fit_their_weights_are_refused(folders, tmp_path):
    spec, record = spec_of(), json.loads(Path(folders["bolt"], "config.json").read_text())
    said = record["chronos_config"]
    cases = [
        ("[1]", "is no JSON of a model: it is no object"),
        ("{", "is no JSON of a model"),
        (
            json.dumps({**record, "architectures": ["BertModel"]}),
            "describes BertModel.*Known are ChronosBoltModelForForecasting",
        ),
        (json.dumps({k: v for k, v in record.items() if k != "chronos_config"}), "has no section chronos_config"),
        (json.dumps({**record, "chronos_config": {"context_length": 3}}), "do not make a ChronosBolt.*missing"),
        (
            json.dumps({**record, "chronos_config": {**said, "quantiles": [0.5, *LEVELS[1:]]}}),
            "must rise and hold the median",
        ),
        (json.dumps({**record, "d_model": 32}), r"do not make a ChronosBolt.*it holds \S+ as \[\d.*, not \["),
        (
            json.dumps({**record, "num_layers": 2}),
            r"do not make a ChronosBolt.*it lacks encoder\.block\.1\..* and \d+ more",
        ),
    ]
    for i, (text, words) in enumerate(cases):
        folder = broken(folders["bolt"], tmp_path / str(i), "config.json", text)
        with pytest.raises(ConfigError, match=words):
            config_of(folder).build(spec)


@pytest.mark.parametrize(
    ("name", "spec", "changes", "words"),
    [
        ("bolt", {"lookback_bars": 33}, {}, "lookback_bars=33 are longer than the context of these weights, 32 bars"),
        ("timesfm", {"lookback_bars": 3}, {}, "lookback_bars=3 do not fill one patch of 4 bars"),
        ("t5", {"horizons_bars": (1, 9)}, {}, "horizon of 9 bars is longer than these weights predict, 8 steps"),
        ("bolt", {}, {"loss": LossConfig(quantiles=(0.05, 0.5))}, "asks for 0.05, and these weights know 0.1 to 0.9"),
        ("t5", {}, {"fine_tune": True}, "answers with drawn paths, which have no gradient"),
        ("bolt", {}, {"return_feature": "f9"}, "reads the feature 'f9'"),
        ("bolt", {}, {"scaler": StandardScalerConfig()}, "scaler=standard would change them"),
        ("bolt", {}, {"loss": LossConfig(confidence=1.0)}, "no head that says how sure it is"),
    ],
)
def test_data_that_the_weights_are_not_for_are_refused(name, spec, changes, words, folders):
    with pytest.raises(ConfigError, match=words):
        config_of(folders[name], **changes).build(spec_of(**spec))


def test_weights_of_another_forecaster_are_refused_where_it_is_loaded(folders, tmp_path):
    data = returns_data()
    model = config_of(folders["bolt"]).build(data.spec)
    model.fit(data, context())
    model.save(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"d_ff": 16', '"d_ff": 24'))
    with pytest.raises(SchemaError, match="it has in another shape"):
        config_of(folders["bolt"]).build(data.spec).load(tmp_path)
    with pytest.raises(SchemaError, match="was built for other data"):
        config_of(folders["bolt"]).build(replace(data.spec, lookback_bars=10)).fit(data, context())


def test_without_the_package_the_extra_is_named(folders, monkeypatch):
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("quantfleet_models.foundation.backbones.importlib.import_module", refuse)
    with pytest.raises(ConfigError, match=r"pip install 'quantfleet\[foundation\]'"):
        config_of(folders["bolt"]).build_network(spec_of())
