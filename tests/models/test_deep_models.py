"""Every registered torch model, tiny: it learns, looks only back, leaves masked windows out, and says what is wrong with bad input.

A new model is covered by being registered. Shapes: N windows, L look-back bars, F features, H horizons.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fits import fit_task, fit_torch_here
from support.tiny_models import DEEP, tiny, window_spec
from torch import Tensor, nn

from quantfleet.errors import ConfigError, SchemaError
from quantfleet.testing import check_model_contract
from quantfleet.testing.gang import run_gang
from quantfleet.testing.training_data import memory_data, plain_stats
from quantfleet.training import LossConfig, TrainingConfig
from quantfleet.training.loop import fit_on_worker
from quantfleet.training.module import HEADS, ScaledForecaster
from quantfleet.training.objective import MultiTaskLoss
from quantfleet.training.torch_model import TorchModel
from quantfleet_models.cnn import CNNConfig
from quantfleet_models.dlinear import DLinearConfig
from quantfleet_models.itransformer import ITransformerConfig
from quantfleet_models.nhits import NHITSConfig
from quantfleet_models.parts.network import WindowNetwork
from quantfleet_models.patch_tst import PatchTSTConfig
from quantfleet_models.position_sizer import PositionSizerConfig
from quantfleet_models.tcn import TCNConfig
from quantfleet_models.tcn.model import WeightNormConv, blocks_for, receptive_bars
from quantfleet_models.tft import TFTConfig
from quantfleet_models.transformer import TransformerConfig

SPEC = window_spec()
READS_BARS = {"position_sizer": 1, "cnn": 3}
"""Bars that a tiny model reads of its window, where it is not all of them."""

NOTHING_SHARED = {"task_ensemble"}
"""Models whose tasks have no layer in common, and that say so."""

each_model = pytest.mark.parametrize("name", DEEP)


@pytest.fixture(autouse=True)
def one_thread():
    """These networks are too small to share, and threads of a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def forecaster(name: str, seed: int = 0, **changes) -> ScaledForecaster:
    torch.manual_seed(seed)
    return tiny(name, **changes).build_forecaster(SPEC)


def windows(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, SPEC.lookback_bars, SPEC.features, generator=torch.Generator().manual_seed(seed))


def targets_of(count: int, seed: int = 2) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {
        "return": torch.randn(count, 2, generator=made),
        "direction": torch.randint(0, 2, (count, 2), generator=made).float(),
        "volatility": torch.randn(count, 2, generator=made),
    }


def objective_of(model: ScaledForecaster, slots: int) -> MultiTaskLoss:
    return MultiTaskLoss(model.loss, plain_stats(SPEC, slots=slots), slots=slots)


# --- shapes and learning ----------------------------------------------------------------------------------------------


@each_model
def test_heads_have_one_answer_per_window_and_horizon_and_quantiles_rise(name: str):
    loss = replace(tiny(name).loss, quantiles=(0.1, 0.5, 0.9))
    answer = forecaster(name, loss=loss).eval().answer(5 * windows(7))
    assert {head: tuple(answer[head].shape) for head in HEADS} == dict.fromkeys(HEADS, (7, 2))
    assert answer["quantiles"].shape == (7, 2, 3)
    assert (answer["quantiles"].diff(dim=-1) > 0).all()
    assert all(torch.isfinite(value).all() for value in answer.values())


@each_model
def test_it_learns_one_batch_by_heart(name: str):
    model, x_NLF, targets = forecaster(name), windows(8), targets_of(8)
    objective = MultiTaskLoss(LossConfig(), plain_stats(SPEC, slots=8), slots=8)
    optimizer, mask_N, losses = torch.optim.Adam(model.parameters(), 3e-2), torch.ones(8, dtype=torch.bool), []
    for _ in range(300):
        loss = objective(model(x_NLF), targets, mask_N)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < losses[0] / 20:
            return
    raise AssertionError(f"the loss only went from {losses[0]:.4f} to {losses[-1]:.4f}")


@each_model
def test_every_parameter_gets_a_gradient(name: str):
    loss = replace(tiny(name).loss, quantiles=(0.1, 0.5, 0.9))
    model = forecaster(name, loss=loss)
    objective_of(model, 64)(model(windows(64)), targets_of(64), torch.ones(64, dtype=torch.bool)).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@each_model
def test_every_head_reads_what_the_shared_parameters_make(name: str):
    if name in NOTHING_SHARED:
        with pytest.raises(ConfigError, match="no layer that all tasks read"):
            tiny(name, loss=LossConfig(balance="gradnorm"))
        return
    model = forecaster(name, loss=replace(tiny(name).loss, balance="gradnorm"))
    heads = model(windows(16))
    for head in HEADS:
        gradients = torch.autograd.grad(heads[head].sum(), model.shared_parameters(), retain_graph=True)
        assert all(g.abs().sum() > 0 for g in gradients)


# --- time and masks ---------------------------------------------------------------------------------------------------


@each_model
def test_the_answer_reads_every_bar_of_its_window_unless_it_is_said_to_read_fewer(name: str):
    model, x_NLF = forecaster(name).eval(), windows(16).requires_grad_()
    sum(value.square().sum() for value in model(x_NLF).values()).backward()
    assert x_NLF.grad is not None
    read = x_NLF.grad.abs().sum(dim=(0, 2)) > 0
    bars = READS_BARS.get(name, SPEC.lookback_bars)
    assert read.tolist() == [SPEC.lookback_bars - bar <= bars for bar in range(SPEC.lookback_bars)]


@each_model
def test_the_answer_of_a_bar_does_not_change_with_any_later_bar(name: str):
    data = memory_data(lookback_bars=SPEC.lookback_bars, chunk_bars=8)
    model = TorchModel(tiny(name), data.spec)
    fit_torch_here(model, data)
    batch = data.batches["test"]
    before = model.predict(batch)
    for t in range(data.spec.chunk_bars - 1):
        changed = batch.x_BTF.copy()
        changed[:, SPEC.lookback_bars + t :] = changed[:, SPEC.lookback_bars + t :] * -3 + 100
        after = model.predict(replace(batch, x_BTF=changed))
        for head in ("return_BCH", "direction_logit_BCH", "volatility_BCH"):
            now, then = getattr(after, head), getattr(before, head)
            np.testing.assert_allclose(now[:, : t + 1], then[:, : t + 1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(after.return_BCH[:, -1], before.return_BCH[:, -1]), (
        "the change reaches the bar it was made to"
    )


SEQUENCES = tuple(name for name in DEEP if hasattr(tiny(name).build_network(SPEC), "hidden"))


@pytest.mark.parametrize("name", SEQUENCES)
def test_where_every_bar_has_a_hidden_row_it_does_not_change_with_later_bars(name: str):
    torch.manual_seed(0)
    network, x_NLF = tiny(name).build_network(SPEC).eval(), windows(2)
    with torch.no_grad():
        before = network.hidden(x_NLF)  # type: ignore[operator]
        for t in range(SPEC.lookback_bars - 1):
            changed = x_NLF.clone()
            changed[:, t + 1 :] += 100.0
            torch.testing.assert_close(network.hidden(changed)[:, : t + 1], before[:, : t + 1])  # type: ignore[operator]


@each_model
@given(hidden=st.lists(st.integers(0, 7), min_size=1, max_size=6, unique=True), seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_what_stands_in_masked_windows_moves_no_gradient(name: str, hidden: list[int], seed: int):
    model, x_NLF, targets = forecaster(name), windows(8), targets_of(8)
    mask_N = torch.ones(8, dtype=torch.bool)
    mask_N[hidden] = False
    other = x_NLF.clone()
    other[hidden] = windows(8, seed=3 + seed)[hidden] * 50
    other[hidden[0], 0] = torch.nan
    gradients = []
    for x in (x_NLF, other):
        model.zero_grad()
        objective_of(model, 8)(model(x), targets, mask_N).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# --- whole models -----------------------------------------------------------------------------------------------------


@each_model
def test_it_keeps_the_model_contract(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(TorchModel, "fit", fit_torch_here)
    check_model_contract(tiny(name), memory_data(lookback_bars=SPEC.lookback_bars), None, tmp_path)


def fit_each(root: str, names: tuple[str, ...]) -> dict[str, list[float]]:
    """On a worker: the real loop for every model, one after the other."""
    curves = {}
    for name in names:
        shorter = {"timeframes_bars": (1, 4)} if name == "hierarchical" else {}  # its windows have 8 bars
        task = fit_task(Path(root, name), TrainingConfig(), config=tiny(name, batch_windows=128, **shorter))
        made = fit_on_worker({"task": task})
        curves[name] = [row["train_loss"] for row in made["curve"]]
    return curves


def test_the_training_loop_fits_every_model_on_a_worker(tmp_path: Path):
    (curves,) = run_gang(fit_each, str(tmp_path), DEEP, workers=1, folder=tmp_path)
    assert set(curves) == set(DEEP)
    for name, losses in curves.items():
        assert len(losses) == 2, name
        assert np.isfinite(losses).all(), name


# --- bad input --------------------------------------------------------------------------------------------------------


@each_model
def test_other_windows_than_the_model_s_are_refused_in_one_sentence(name: str):
    data = memory_data(lookback_bars=SPEC.lookback_bars)
    model = TorchModel(tiny(name), data.spec)
    fit_torch_here(model, data)
    batch = data.batches["test"]
    with pytest.raises(SchemaError, match="reads chunks of 27 rows x 4 features, got 27 x 3"):
        model.predict(replace(batch, x_BTF=batch.x_BTF[:, :, :-1]))
    network = model.forecaster.network
    if isinstance(network, WindowNetwork):
        with pytest.raises(
            SchemaError, match=r"Network was built for windows of 12 bars x 4 features and got 11 x 4\."
        ):
            network(torch.zeros(2, 11, 4))


@each_model
def test_weights_of_other_settings_or_of_another_version_are_refused_in_one_sentence(name: str, tmp_path: Path):
    data = memory_data(lookback_bars=SPEC.lookback_bars)
    model = TorchModel(tiny(name), data.spec)
    fit_torch_here(model, data)
    model.save(tmp_path)
    wider = replace(data.spec, horizons_bars=(1, 5))
    with pytest.raises(
        SchemaError, match=rf"weights of this {name}: it has in another shape .* and \d+ more\. They are of other"
    ):
        TorchModel(tiny(name), wider).load(tmp_path)
    with_more = tiny(name, loss=replace(tiny(name).loss, quantiles=(0.1, 0.9)))
    with pytest.raises(
        SchemaError, match=rf"weights of this {name}: it lacks network.*heads.*quantiles\.\w+ and 1 more\. They"
    ):
        TorchModel(with_more, data.spec).load(tmp_path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CNNConfig(kernel_bars=13), r"cnn\.kernel_bars=13 is longer than the window, lookback_bars=12"),
        (lambda: TCNConfig(kernel_bars=13), r"tcn\.kernel_bars=13 is longer than the window, lookback_bars=12"),
        (
            lambda: PatchTSTConfig(patch_bars=13),
            r"patch_tst\.patch_bars=13 is longer than the window, lookback_bars=12",
        ),
        (lambda: NHITSConfig(pool_bars=(13, 1), downsample=(1, 1)), r"nhits\.pool_bars=13 is longer than the window"),
        (
            lambda: NHITSConfig(pool_bars=(2, 1)),
            r"pool_bars=\[2, 1\] and downsample=\[4, 2, 1\] describe the same blocks",
        ),
        (lambda: DLinearConfig(average_bars=24), r"average_bars=24 is even.*use 25"),
        (lambda: TransformerConfig(width=30), r"width=30 does not divide by attention_heads=4; use a multiple of it"),
        (lambda: ITransformerConfig(width=30), r"width=30 does not divide by attention_heads=4; use a multiple of it"),
        (lambda: PatchTSTConfig(width=30), r"width=30 does not divide by attention_heads=4; use a multiple of it"),
        (lambda: TFTConfig(width=30), r"width=30 does not divide by attention_heads=4; use a multiple of it"),
        (lambda: PositionSizerConfig(loss=LossConfig()), r"sharpe=0 leaves nothing that trains the position"),
        (lambda: PositionSizerConfig(widths=()), r"widths is empty; give the width of one hidden layer or more"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_what_to_do(make, words: str):
    with pytest.raises(ConfigError, match=words):
        make().build_network(SPEC)


# --- what single families promise -------------------------------------------------------------------------------------


def test_the_position_sizer_is_64_32_16_1_and_answers_with_a_share_of_capital():
    network = PositionSizerConfig().build_network(SPEC)
    *_, (last, squash) = (m for m in network.modules() if isinstance(m, nn.Sequential))
    assert [layer.out_features for layer in (*network.layers, last)] == [64, 32, 16, 1]  # type: ignore[operator,union-attr]
    assert isinstance(squash, nn.Sigmoid)
    data = memory_data(lookback_bars=SPEC.lookback_bars)
    model = TorchModel(tiny("position_sizer"), data.spec)
    fit_torch_here(model, data)
    position_BC = model.predict(data.batches["test"]).position_BC
    assert position_BC is not None
    assert position_BC.shape == data.batches["test"].mask_BC.shape
    assert ((position_BC > 0) & (position_BC < 1)).all()


def test_the_sharpe_ratio_of_the_loss_is_that_of_the_network_s_own_positions_after_costs():
    config = LossConfig(returns=0, direction=0, volatility=0, sharpe=1.0, sharpe_cost_bps=20.0)
    stats = plain_stats(
        SPEC, slots=64, label_std_K=np.full(6, 0.01), label_mean_K=np.array([0.002, 0.004, 0.5, 0.5, 0, 0])
    )
    targets, position_N1 = targets_of(64), torch.rand(64, 1, generator=torch.Generator().manual_seed(5))
    heads = {**dict.fromkeys(HEADS, torch.full((64, 2), 9.0)), "position": position_N1}
    loss = MultiTaskLoss(config, stats, slots=64)(heads, targets, torch.ones(64, dtype=torch.bool))
    return_NH = targets["return"].double().numpy() * 0.01 + np.array([0.002, 0.004])
    pnl_NH = position_N1.double().numpy() * return_NH - 2 * position_N1.double().numpy() * 20e-4
    assert -loss.item() == pytest.approx((pnl_NH.mean(0) / pnl_NH.std(0, ddof=1)).mean(), rel=1e-5)


def test_the_position_sizer_learns_to_hold_what_will_rise_and_little_of_what_will_fall():
    torch.manual_seed(0)
    model = PositionSizerConfig(dropout=0.0, loss=LossConfig(sharpe=1.0)).build_forecaster(SPEC)
    x_NLF, targets = windows(256), targets_of(256)
    targets["return"] = x_NLF[:, -1, :1] + 0.1 * targets["return"]
    objective, optimizer = objective_of(model, 256), torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        loss = objective(model(x_NLF), targets, torch.ones(256, dtype=torch.bool))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    position_N, rises_N = model(x_NLF)["position"][:, 0], x_NLF[:, -1, 0] > 0
    assert position_N[rises_N].mean() > 5 * position_N[~rises_N].mean()


@given(bars=st.integers(1, 4000), kernel_bars=st.integers(2, 9))
def test_a_tcn_has_the_fewest_blocks_that_read_the_window(bars: int, kernel_bars: int):
    blocks = blocks_for(bars, kernel_bars)
    assert receptive_bars(blocks, kernel_bars) >= bars
    assert blocks == 1 or receptive_bars(blocks - 1, kernel_bars) < bars


def test_dilation_doubles_from_block_to_block():
    network = TCNConfig(width=4, kernel_bars=2).build_network(window_spec(lookback_bars=31))
    dilations = [m.dilation for m in network.modules() if isinstance(m, WeightNormConv)]
    assert dilations == [1, 1, 2, 2, 4, 4, 8, 8]


def test_a_tft_tells_how_much_each_variable_and_each_bar_counted():
    torch.manual_seed(0)
    network = TFTConfig(width=8, dropout=0.0).build_network(SPEC).eval()
    reading = network.reading(windows(5))  # type: ignore[operator]
    assert reading["variables"].shape == (5, 1 + SPEC.features)
    torch.testing.assert_close(reading["variables"].sum(1), torch.ones(5))
    assert reading["bars"].shape == (5, SPEC.lookback_bars)
    assert ((reading["bars"] > 0) & (reading["bars"].sum(1, keepdim=True) < 1)).all(), (
        "the rest is the decision step's own"
    )


@given(scale=st.floats(0.1, 20), shift=st.floats(-50, 50), name=st.sampled_from(["patch_tst", "itransformer"]))
@settings(max_examples=10, deadline=None)
def test_a_core_that_normalises_its_window_forecasts_in_the_units_of_the_window(scale: float, shift: float, name: str):
    torch.manual_seed(0)
    core, x_NLF = tiny(name).build_network(SPEC).eval().core, windows(3)  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(core(scale * x_NLF + shift), scale * core(x_NLF) + shift, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("name", ["patch_tst", "nhits", "dlinear"])
def test_a_core_of_single_channels_treats_each_channel_alone_and_all_alike(name: str):
    torch.manual_seed(0)
    core, x_NLF = tiny(name).build_network(SPEC).eval().core, windows(3)  # type: ignore[union-attr]
    with torch.no_grad():
        whole = core(x_NLF)
        torch.testing.assert_close(core(x_NLF.flip(2)), whole.flip(2))
        changed = x_NLF.clone()
        changed[:, :, 1] += 3
        torch.testing.assert_close(core(changed)[:, :, [0, 2]], whole[:, :, [0, 2]])


def test_itransformer_does_not_care_in_which_order_the_channels_stand():
    torch.manual_seed(0)
    core, x_NLF = tiny("itransformer").build_network(SPEC).eval().core, windows(3)  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(core(x_NLF.flip(2)), core(x_NLF).flip(2))
        changed = x_NLF.clone()
        changed[:, 3, 1] += 3
        assert not torch.allclose(core(changed)[:, :, 0], core(x_NLF)[:, :, 0]), "channels are mixed"
