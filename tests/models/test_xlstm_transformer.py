"""The xLSTM-Transformer: two causal paths that read each other, and the position held as a state of its own."""

import pytest
import torch
from support.networks import assert_causal, learn_by_heart, spec_of

from quantfleet.errors import ConfigError
from quantfleet_models.parts.fusion import CrossFusion
from quantfleet_models.xlstm_transformer import XLSTMTransformerConfig

SPEC = spec_of(feature_columns=("f0", "f1", "held"))
SMALL = {"width": 16, "blocks": 2, "attention_layers": 1, "dropout": 0.0}


@pytest.mark.parametrize("settings", [{}, {"positions": "none"}, {"position_feature": "held"}], ids=str)
def test_hidden_rows_do_not_change_with_later_rows(settings):
    torch.manual_seed(0)
    assert_causal(XLSTMTransformerConfig(**SMALL, **settings).build_network(SPEC).eval(), SPEC)


@pytest.mark.parametrize("settings", [{}, {"position_feature": "held"}], ids=str)
def test_it_learns_one_batch_by_heart_and_every_parameter_gets_a_gradient(settings):
    losses = learn_by_heart(XLSTMTransformerConfig(**SMALL, **settings), SPEC, steps=50)
    assert losses[-1] < losses[0] / 3


def test_the_position_held_is_read_at_the_decision_bar_alone():
    torch.manual_seed(0)
    network = XLSTMTransformerConfig(**SMALL, position_feature="held").build_network(SPEC).eval()
    x_NLF = torch.randn(4, SPEC.lookback_bars, SPEC.features)
    earlier, now = x_NLF.clone(), x_NLF.clone()
    earlier[:, :-1, 2] += 5.0
    now[:, -1, 2] += 5.0
    answer = network(x_NLF)["return"]
    torch.testing.assert_close(network(earlier)["return"], answer)
    assert (network(now)["return"] - answer).abs().min() > 1e-4


def test_each_path_reads_the_other():
    torch.manual_seed(0)
    fusion = CrossFusion(8, 2, reach_bars=6, rotary=True, dropout=0.0).eval()
    first, second = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    moved = second.clone()
    moved[:, 0] *= -1.0
    assert (fusion(first, moved)[:, -1] - fusion(first, second)[:, -1]).abs().max() > 1e-4
    moved = first.clone()
    moved[:, 0] *= -1.0
    assert (fusion(moved, second)[:, -1] - fusion(first, second)[:, -1]).abs().max() > 1e-4


def test_a_position_that_is_no_feature_is_refused():
    with pytest.raises(
        ConfigError, match=r"position_feature='hold' is not among the network's inputs. Did you mean 'held'\?"
    ):
        XLSTMTransformerConfig(position_feature="hold").build_network(SPEC)


def test_heads_with_an_odd_number_of_features_cannot_turn_pairs():
    with pytest.raises(ConfigError, match=r"width=12 gives attention_heads=4 an odd 3 features each"):
        XLSTMTransformerConfig(width=12)
