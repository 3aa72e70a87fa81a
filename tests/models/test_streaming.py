"""Streams: one new bar costs one step, and says what the network says of all bars since the stream began.

Shapes: S streams, L look-back bars, F features.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import spec_of

from quantfleet.contracts import StreamingNetwork
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.serving.streaming import BarStreams
from quantfleet.testing.training_data import memory_data
from quantfleet.training import LossConfig
from quantfleet.transforms import InputTransform
from quantfleet_data.scaling import RollingScalerConfig
from quantfleet_models.gru import GRUConfig
from quantfleet_models.hybrid import HybridConfig
from quantfleet_models.xlstm import XLSTMConfig

SPEC = spec_of(lookback_bars=8)
CONFIGS = {
    "hybrid, gate": HybridConfig(width=16, positions="rotary", attention_layers=2),
    "hybrid, all": HybridConfig(
        width=16, positions="none", fusion="cross_attention", scales_bars=(3, 7), experts=3, memory_slots=4,
        adaptive_steps=3, recurrent_layers=2,
    ),
    "hybrid, rotary cross attention": HybridConfig(width=16, positions="rotary", fusion="cross_attention"),
    "xlstm": XLSTMConfig(width=16, memory_heads=2, blocks=3),
}  # fmt: skip


def network_of(config):
    torch.manual_seed(0)
    return config.build_network(SPEC).eval()


@pytest.mark.parametrize("name", CONFIGS)
@given(streams=st.integers(1, 3), bars=st.integers(1, 30), seed=st.integers(0, 100))
@settings(max_examples=8)
def test_a_stream_says_at_every_bar_what_one_pass_over_all_its_bars_says(name, streams, bars, seed):
    network = network_of(CONFIGS[name])
    assert isinstance(network, StreamingNetwork)
    network.check_streams()
    x_SBF = torch.randn(streams, bars, SPEC.features, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        rows = network.hidden(x_SBF)
        refine = getattr(network, "_refine", lambda row: (row, None))
        state = network.begin(x_SBF[:, 0])
        for t in range(bars):
            heads, state = network.step(x_SBF[:, t], state)
            expected = network.heads(refine(rows[:, t])[0])
            for head, value in heads.items():
                torch.testing.assert_close(value, expected[head], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_at_the_end_of_its_first_window_a_stream_answers_as_the_model_does(name):
    network = network_of(CONFIGS[name])
    x_SLF = torch.randn(2, SPEC.lookback_bars, SPEC.features)
    with torch.no_grad():
        state = network.begin(x_SLF[:, 0])
        for t in range(SPEC.lookback_bars):
            heads, state = network.step(x_SLF[:, t], state)
        for head, value in network(x_SLF).items():
            torch.testing.assert_close(heads[head], value, rtol=1e-4, atol=1e-5)


def test_beyond_its_first_window_attention_forgets_and_the_recurrent_memory_does_not():
    """With the memory of the LSTM cut, what lies further back than the window's reach is not seen any more."""
    network = network_of(HybridConfig(width=16, positions="rotary", kernel_bars=1))
    with torch.no_grad():
        x_SBF = torch.randn(1, 14, SPEC.features)
        changed = x_SBF.clone()
        changed[:, :5] += 1.0
        assert (network.hidden(x_SBF)[:, -1] - network.hidden(changed)[:, -1]).abs().max() > 0
        for name, parameter in network.lstm.named_parameters():
            if name.startswith(("weight", "bias")):
                parameter.zero_()  # what it holds is 0 at every bar
        torch.testing.assert_close(network.hidden(x_SBF)[:, -1], network.hidden(changed)[:, -1], rtol=0, atol=0)


def test_state_is_not_changed_in_place():
    network = network_of(CONFIGS["hybrid, all"])
    x_SF = torch.randn(2, SPEC.features)
    with torch.no_grad():
        _, state = network.step(x_SF, network.begin(x_SF))
        first, _ = network.step(x_SF, state)
        again, _ = network.step(x_SF, state)
    torch.testing.assert_close(first["return"], again["return"], rtol=0, atol=0)


# --- a fitted model, from raw features --------------------------------------------------------------------------------


def fitted(config):
    """A model with random weights and scalers of real moments: what is tested does not need it to be good."""
    data = memory_data(3, features=3, lookback_bars=8)
    torch.manual_seed(1)
    model = config.build(data.spec)
    model.inputs = InputTransform.fit(data, scaler=config.scaler, selection=None)
    model.forecaster.set_label_scales(data.stats)
    return model, data


@pytest.mark.parametrize("scaler", [HybridConfig().scaler, RollingScalerConfig(window_bars=4)], ids=lambda s: s.kind)
def test_bars_pushed_one_by_one_end_in_the_forecast_for_their_window(scaler):
    loss = LossConfig(quantiles=(0.1, 0.5, 0.9), confidence=0.2)
    config = HybridConfig(width=16, positions="rotary", scaler=scaler, loss=loss, kernel_bars=3)
    model, data = fitted(config)
    batch = data.batches["test"]
    which = [0, 6, 12]  # a chunk of each symbol
    streams = BarStreams(model, [data.spec.symbols[s] for s in batch.symbol_id_B[which]])
    answers = [streams.push(batch.x_BTF[which, t]) for t in range(data.spec.lookback_bars)]
    silent = sum(answer is None for answer in answers)
    assert silent == data.spec.lookback_bars - model.inputs.spec.lookback_bars
    forecast = model.predict(dataclasses.replace(batch))
    np.testing.assert_allclose(answers[-1]["return"], forecast.return_BCH[which, 0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(answers[-1]["quantiles"], forecast.quantile_BCHQ[which, 0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(answers[-1]["confidence"], forecast.confidence_BCH[which, 0], rtol=1e-3, atol=1e-5)


def test_a_network_that_carries_no_state_is_refused_and_so_are_learned_places():
    model, data = fitted(GRUConfig())
    with pytest.raises(ConfigError, match="answers whole windows only"):
        BarStreams(model, data.spec.symbols)
    model, data = fitted(HybridConfig(width=16))
    with pytest.raises(ConfigError, match="positions=learned belongs to places of a window"):
        BarStreams(model, data.spec.symbols)


def test_a_bar_that_is_not_finite_or_not_of_the_data_is_refused_before_it_is_carried_on():
    model, data = fitted(XLSTMConfig(width=16, memory_heads=2))
    streams = BarStreams(model, data.spec.symbols[:2])
    good = data.batches["test"].x_BTF[:2, 0]
    first = streams.push(good)
    with pytest.raises(SchemaError, match="not finite"):
        streams.push(np.where(np.arange(3) == 1, np.nan, good))
    with pytest.raises(SchemaError, match=r"shape \(2, 2\); the streams read 2 symbols x 3 features"):
        streams.push(good[:, :2])
    other = BarStreams(model, data.spec.symbols[:2])
    other.push(good)
    np.testing.assert_array_equal(streams.push(good)["return"], other.push(good)["return"])
    assert np.isfinite(first["return"]).all()
    with pytest.raises(SchemaError, match="not fitted on 'S9'"):
        BarStreams(model, ["S9"])
