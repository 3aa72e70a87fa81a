"""The efficient hybrid, one network per task, streams that read each other, and several timeframes: what each promises beyond
what every torch model does (`test_deep_models.py`).

Shapes: N windows, L look-back bars, F features.
"""

import pytest
import torch
from support.networks import assert_causal, learn_by_heart, silent, spec_of

from quantfleet.contracts import StreamingNetwork
from quantfleet.errors import ConfigError
from quantfleet.testing.training_data import plain_stats
from quantfleet.training import LossConfig
from quantfleet.training.step import TrainingModule
from quantfleet_models.efficient_hybrid import EfficientHybridConfig
from quantfleet_models.efficient_hybrid.model import SeparableConv
from quantfleet_models.gru import GRUConfig
from quantfleet_models.hierarchical import HierarchicalConfig
from quantfleet_models.hierarchical.model import blocks
from quantfleet_models.hybrid import HybridConfig
from quantfleet_models.linear import RidgeConfig
from quantfleet_models.multimodal import MultimodalConfig
from quantfleet_models.task_ensemble import TaskEnsembleConfig

SPEC = spec_of()
STREAMS = spec_of(feature_columns=("log_return_1", "volume_ratio_5", "book_imbalance", "day_of_week_sin", "rsi_14"))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# --- efficient_hybrid -------------------------------------------------------------------------------------------------


def test_by_default_it_has_five_to_eight_million_parameters():
    network = EfficientHybridConfig().build_network(
        spec_of(feature_columns=tuple(f"f{i}" for i in range(60)), lookback_bars=60)
    )
    assert 5e6 < sum(p.numel() for p in network.parameters()) < 8e6


def test_a_separable_convolution_is_causal_and_has_far_fewer_weights():
    conv, x = SeparableConv(6, 4), torch.randn(2, 9, 6)
    changed = x.clone()
    changed[:, 5:] += 9.0
    torch.testing.assert_close(conv(changed)[:, :5], conv(x)[:, :5])
    assert sum(p.numel() for p in conv.parameters()) == 6 * 4 + 6 + 36 + 6


def test_it_streams():
    config = EfficientHybridConfig(width=16, attention_heads=2, attention_layers=2)
    network = config.build_network(SPEC).eval()
    assert isinstance(network, StreamingNetwork)
    network.check_streams()
    x_NLF = torch.randn(2, SPEC.lookback_bars, SPEC.features)
    with torch.no_grad():
        state = network.begin(x_NLF[:, 0])
        for t in range(SPEC.lookback_bars):
            heads, state = network.step(x_NLF[:, t], state)
        for name, value in network(x_NLF).items():
            torch.testing.assert_close(heads[name], value, rtol=1e-4, atol=1e-5)


# --- task_ensemble ----------------------------------------------------------------------------------------------------


def test_a_task_s_loss_moves_its_own_network_alone_and_nothing_is_left_unused():
    loss = LossConfig(quantiles=(0.1, 0.9), confidence=0.2)
    network = TaskEnsembleConfig(network=HybridConfig(width=8, dropout=0.0, experts=2), loss=loss).build_network(SPEC)
    heads = network.train()(torch.randn(16, SPEC.lookback_bars, SPEC.features))
    assert set(heads) == {"return", "direction", "volatility", "quantiles", "confidence", "auxiliary"}
    owners = {"return": "return", "quantiles": "return", "direction": "direction", "confidence": "direction"}
    for head, owner in {**owners, "volatility": "volatility"}.items():
        network.zero_grad()
        heads[head].sum().backward(retain_graph=True)
        moved = {
            name.split(".")[1]
            for name, p in network.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0
        }
        assert moved == {owner}
    losses = learn_by_heart(TaskEnsembleConfig(), SPEC, steps=30)
    assert losses[-1] < losses[0]


def test_the_volatility_may_have_an_architecture_of_its_own():
    config = TaskEnsembleConfig(network=GRUConfig(), volatility_network=HybridConfig(width=8))
    kinds = {task: type(network).__name__ for task, network in config.build_network(SPEC).tasks.items()}
    assert kinds["return"] == kinds["direction"] != kinds["volatility"] == "HybridNetwork"


def test_what_is_no_torch_model_and_gradnorm_are_refused():
    with pytest.raises(ConfigError, match="'ridge' is none"):
        TaskEnsembleConfig(network=RidgeConfig())
    with pytest.raises(ConfigError, match="no layer that all tasks read"):
        TaskEnsembleConfig(loss=LossConfig(balance="gradnorm"))


# --- multimodal -------------------------------------------------------------------------------------------------------


def test_columns_find_their_streams_by_pattern_and_what_fits_none_is_a_price():
    assert MultimodalConfig().streams(STREAMS.feature_columns) == {
        "price": [0, 4], "volume": [1], "order_flow": [2], "calendar": [3],
    }  # fmt: skip
    mine = MultimodalConfig(embedding=("log_*",))
    assert mine.streams(STREAMS.feature_columns)["embedding"] == [0]


def test_hidden_rows_of_streams_do_not_change_with_later_rows_nor_with_what_is_missing_later():
    network = MultimodalConfig(dropout=0.0).build_network(STREAMS).eval()
    assert_causal(network, STREAMS)
    x_NLF = torch.randn(2, STREAMS.lookback_bars, STREAMS.features)
    late = x_NLF.clone()
    late[:, :6, 1] = 0.0  # the volume begins in the middle of the window
    early = late.clone()
    early[:, 6:, 1] = 0.0  # or not at all
    torch.testing.assert_close(network.hidden(late)[:, :6], network.hidden(early)[:, :6])


def test_a_missing_stream_is_its_learned_row_whatever_its_embedding_would_make_of_zeros():
    network = MultimodalConfig(dropout=0.0).build_network(STREAMS).eval()
    x_NLF = torch.randn(3, STREAMS.lookback_bars, STREAMS.features)
    x_NLF[..., 2] = 0.0
    before = network(x_NLF)["return"]
    with torch.no_grad():
        network.embed["order_flow"].bias.add_(5.0)
    torch.testing.assert_close(network(x_NLF)["return"], before, rtol=0, atol=0)
    with torch.no_grad():
        network.missing_SD[2].add_(5.0)
    assert (network(x_NLF)["return"] - before).abs().max() > 1e-4


def test_each_stream_reads_the_others_and_all_parameters_are_in_use():
    config = MultimodalConfig(dropout=0.0, drop_stream=0.4)
    module = TrainingModule(config.build_forecaster(STREAMS), plain_stats(STREAMS, slots=64), slots=64).train()
    x_NLF = torch.randn(64, STREAMS.lookback_bars, STREAMS.features)
    module(x_NLF, torch.rand(64, 6), torch.ones(64, dtype=torch.bool), torch.ones(64)).backward()
    assert silent(module) == []
    network = module.forecaster.network.eval()
    x_NLF = x_NLF[:1].requires_grad_()
    (gradient,) = torch.autograd.grad(network(x_NLF)["return"].sum(), x_NLF)
    assert (gradient[0].abs().sum(0) > 0).all()


def test_one_stream_always_stays():
    network = MultimodalConfig(dropout=0.0, drop_stream=0.99).build_network(STREAMS).train()
    seen = []
    network.between.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.randn(50, STREAMS.lookback_bars, STREAMS.features))
    missing_SD = network.missing_SD + network.kind_SD
    gone_NS = (seen[0] - missing_SD).abs().amax((1, 3)) < 1e-6
    assert (gone_NS.sum(1) <= 3).all()
    assert gone_NS.any()


# --- hierarchical -----------------------------------------------------------------------------------------------------


def test_blocks_end_at_the_decision_bar():
    x = torch.arange(10.0)[None, :, None]
    made = blocks(x, 4)[0]
    assert made[:, 0].tolist() == [3.5, 7.5]  # means of bars 2 to 5 and 6 to 9
    assert made[:, 1].tolist() == [5.0, 9.0]


def test_every_level_is_heard_and_the_finer_ones_are_told_what_the_coarser_saw():
    network = HierarchicalConfig(dropout=0.0).build_network(SPEC).eval()
    x_NLF = torch.randn(2, SPEC.lookback_bars, SPEC.features)
    answer = network(x_NLF)["return"]
    for level in network.levels:
        with torch.no_grad():
            level.norm.bias.add_(1.0)
        assert (network(x_NLF)["return"] - answer).abs().max() > 1e-5
        with torch.no_grad():
            level.norm.bias.sub_(1.0)
    coarse, fine = network.levels[0], network.levels[-1]
    seen = coarse(x_NLF, None)
    middle = network.levels[1](x_NLF, seen)
    assert (fine(x_NLF, middle) - fine(x_NLF, 2 * middle)).abs().max() > 1e-5


def test_timeframes_that_do_not_rise_or_fit_are_refused():
    with pytest.raises(ConfigError, match="two timeframes or more, rising"):
        HierarchicalConfig(timeframes_bars=(4, 1))
    with pytest.raises(ConfigError, match="timeframes_bars=40 is longer than the window"):
        HierarchicalConfig(timeframes_bars=(1, 40)).build_network(SPEC)
