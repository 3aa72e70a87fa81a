"""The published architectures, one to one: with a peer's weights ours gives the peer's output, to 1e-5.

Peers: neuralforecast (PatchTST, iTransformer, N-HiTS, DLinear, TFT, its convolution encoder), and GPT-2 of transformers,
which is a pre-norm transformer under a causal mask. TCN and the attention of the LSTM are compared with their papers' formulas.
Shapes: N windows, L look-back bars, F channels, S steps.
"""

import pytest
import torch
from support.tiny_models import window_spec
from torch import Tensor, nn

from quantfleet_models.cnn import CNNConfig
from quantfleet_models.dlinear.model import DLinearCore
from quantfleet_models.itransformer.model import ITransformerCore
from quantfleet_models.lstm_attention.model import GlobalAttention
from quantfleet_models.nhits.model import NHITSCore
from quantfleet_models.parts.attention import CausalSelfAttention
from quantfleet_models.patch_tst.model import PatchTSTCore
from quantfleet_models.tcn.model import TemporalBlock
from quantfleet_models.tft.model import GatedResidual, TFTCore, VariableSelection

N, L, F, S = 5, 20, 3, 6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def windows() -> Tensor:
    return 3 * torch.randn(N, L, F) + 10 * torch.randn(N, 1, F)


def shaken(module: nn.Module) -> nn.Module:
    """The peer with weights that no initialisation gives: no zero bias, no unit norm, running moments that are not 0 and 1."""
    with torch.no_grad():
        for parameter in (p for p in module.parameters() if p.requires_grad):
            parameter.add_(0.1 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return module.eval()


def copy(ours: nn.Module, theirs: dict[str, Tensor]) -> nn.Module:
    """Ours with their weights; nothing may be left over on either side."""
    ours.load_state_dict(theirs, strict=True)
    return ours.eval()


def same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 1e-2, "a comparison of constants says nothing"
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """State under our names; `names` maps the beginnings of theirs to ours."""
    out = {}
    for name, value in state.items():
        begin = max((b for b in names if name.startswith(b)), key=len)
        out[names[begin] + name[len(begin) :]] = value
    return out


def by_channel(peer: nn.Module, x_NLF: Tensor, **more: Tensor | None) -> Tensor:
    """A univariate model of neuralforecast on every channel alone, (N, S, F)."""
    mask = torch.ones(N, L, 1)
    none = {"futr_exog": None, "hist_exog": None, "stat_exog": None}
    answers = [peer({"insample_y": x_NLF[:, :, [f]], "insample_mask": mask, **none, **more}) for f in range(F)]
    return torch.cat(answers, -1)


@torch.no_grad()
def test_dlinear_equals_neuralforecast():
    from neuralforecast.models import DLinear

    peer = shaken(DLinear(h=S, input_size=L, moving_avg_window=7))
    state = {name: v for name, v in peer.state_dict().items() if name.startswith(("linear_trend", "linear_season"))}
    ours = copy(
        DLinearCore(lookback_bars=L, steps=S, average_bars=7),
        renamed(state, {"linear_trend": "trend", "linear_season": "rest"}),
    )
    x_NLF = windows()
    same(ours(x_NLF), by_channel(peer, x_NLF))


@torch.no_grad()
@pytest.mark.parametrize("pool_bars", [(2, 2, 1), (4, 3, 1)])
def test_nhits_equals_neuralforecast(pool_bars):
    from neuralforecast.models import NHITS

    width, downsample = 16, (3, 2, 1)
    peer = shaken(
        NHITS(
            h=S, input_size=L, mlp_units=2 * [[width, width]], n_pool_kernel_size=list(pool_bars),
            n_freq_downsample=list(downsample),
        )
    )  # fmt: skip
    ours = NHITSCore(lookback_bars=L, steps=S, pool_bars=pool_bars, downsample=downsample, width=width).eval()
    for mine, block in zip(ours.blocks, peer.blocks, strict=True):
        # theirs begins with two linear layers without anything between them, which are one
        linear = [layer for layer in block.layers if isinstance(layer, nn.Linear)]
        joint = nn.Linear(linear[0].in_features, width)
        joint.weight.copy_(linear[1].weight @ linear[0].weight)
        joint.bias.copy_(linear[1].weight @ linear[0].bias + linear[1].bias)
        mine.hidden[0].load_state_dict(joint.state_dict())
        mine.hidden[3].load_state_dict(linear[2].state_dict())
        mine.out.load_state_dict(linear[3].state_dict())
    x_NLF = windows()
    same(ours(x_NLF), by_channel(peer, x_NLF))


@torch.no_grad()
@pytest.mark.parametrize("window_norm", [True, False])
def test_itransformer_equals_neuralforecast(window_norm):
    from neuralforecast.models import iTransformer

    peer = shaken(
        iTransformer(
            h=S, input_size=L, n_series=F, hidden_size=16, n_heads=4, e_layers=2, d_ff=24, use_norm=window_norm
        )
    )
    state = peer.state_dict()
    names = {"enc_embedding.value_embedding": "embed", "encoder.norm": "norm", "projector": "project"}
    for i in range(2):
        theirs, mine = f"encoder.attn_layers.{i}", f"layers.{i}"
        names |= {
            f"{theirs}.attention.out_projection": f"{mine}.self_attn.out_proj", f"{theirs}.conv1": f"{mine}.linear1",
            f"{theirs}.conv2": f"{mine}.linear2", f"{theirs}.norm1": f"{mine}.norm1", f"{theirs}.norm2": f"{mine}.norm2",
        }  # fmt: skip
        for kind in ("weight", "bias"):
            parts = [state.pop(f"{theirs}.attention.{p}_projection.{kind}") for p in ("query", "key", "value")]
            state[f"in_{i}_{kind}"] = torch.cat(parts)
            names[f"in_{i}_{kind}"] = f"{mine}.self_attn.in_proj_{kind}"
        for conv in ("conv1", "conv2"):
            state[f"{theirs}.{conv}.weight"] = state[f"{theirs}.{conv}.weight"].squeeze(-1)
    ours = ITransformerCore(
        lookback_bars=L,
        steps=S,
        channels=F,
        width=16,
        attention_heads=4,
        layers=2,
        feedforward_width=24,
        window_norm=window_norm,
    )
    copy(ours, renamed(state, names))
    x_NLF = windows()
    same(ours(x_NLF), peer({"insample_y": x_NLF.clone()}))


@torch.no_grad()
@pytest.mark.parametrize(
    ("norm", "affine", "residual"), [("batch", True, True), ("batch", False, True), ("batch", False, False)]
)
def test_patch_tst_equals_neuralforecast_s_backbone(norm, affine, residual):
    from neuralforecast.models.patchtst import PatchTST_backbone

    peer = shaken(
        PatchTST_backbone(
            c_in=F, c_out=1, input_size=L, h=S, patch_len=6, stride=3, n_layers=2, hidden_size=16, n_heads=4,
            linear_hidden_size=24, padding_patch="end", revin=True, affine=affine, res_attention=residual,
        )
    )  # fmt: skip
    state = {name: v for name, v in peer.state_dict().items() if not name.endswith("sdp_attn.scale")}
    names = {
        "backbone.W_P": "embed", "backbone.W_pos": "position_PD", "head.linear": "head",
        "revin_layer.affine_weight": "window_norm.weight_F", "revin_layer.affine_bias": "window_norm.bias_F",
    }  # fmt: skip
    for i in range(2):
        theirs, mine = f"backbone.encoder.layers.{i}", f"layers.{i}"
        names |= {
            f"{theirs}.self_attn.W_Q": f"{mine}.query", f"{theirs}.self_attn.W_K": f"{mine}.key",
            f"{theirs}.self_attn.W_V": f"{mine}.value", f"{theirs}.self_attn.to_out.0": f"{mine}.out",
            f"{theirs}.norm_attn.1": f"{mine}.norm_attention.inner", f"{theirs}.norm_ffn.1": f"{mine}.norm_feedforward.inner",
            f"{theirs}.ff": f"{mine}.feedforward",
        }  # fmt: skip
    ours = PatchTSTCore(
        lookback_bars=L, steps=S, channels=F, patch_bars=6, stride_bars=3, width=16, attention_heads=4, layers=2,
        feedforward_width=24, residual_attention=residual, norm=norm, window_norm_affine=affine,
    )  # fmt: skip
    copy(ours, renamed(state, names))
    x_NLF = windows()
    # without residual attention the peer calls torch's attention with its dropout also when it judges; its dropout is 0 here
    same(ours(x_NLF), peer(x_NLF.transpose(1, 2)).transpose(1, 2))


@torch.no_grad()
def test_patch_tst_equals_neuralforecast_s_model_channel_by_channel():
    from neuralforecast.models import PatchTST

    peer = shaken(
        PatchTST(h=S, input_size=L, patch_len=6, stride=3, encoder_layers=1, hidden_size=16, n_heads=4, linear_hidden_size=24,
                 batch_normalization=False, revin_affine=False, revin_subtract_last=False)
    )  # fmt: skip
    prefix = "model.backbone.encoder.layers.0"
    names = {
        "model.backbone.W_P": "embed", "model.backbone.W_pos": "position_PD", "model.head.linear": "head",
        f"{prefix}.self_attn.W_Q": "layers.0.query", f"{prefix}.self_attn.W_K": "layers.0.key",
        f"{prefix}.self_attn.W_V": "layers.0.value", f"{prefix}.self_attn.to_out.0": "layers.0.out",
        f"{prefix}.norm_attn.1": "layers.0.norm_attention.inner", f"{prefix}.norm_ffn.1": "layers.0.norm_feedforward.inner",
        f"{prefix}.ff": "layers.0.feedforward",
    }  # fmt: skip
    state = {n: v for n, v in peer.state_dict().items() if n.startswith("model.") and not n.endswith("sdp_attn.scale")}
    ours = PatchTSTCore(
        lookback_bars=L, steps=S, channels=F, patch_bars=6, stride_bars=3, width=16, attention_heads=4, layers=1,
        feedforward_width=24, window_norm_affine=False,
    )  # fmt: skip
    copy(ours, renamed(state, names))
    x_NLF = windows()
    same(ours(x_NLF), by_channel(peer, x_NLF))


def _gated(mine: GatedResidual, theirs: nn.Module) -> None:
    """Their GRN's weights into ours. Its context layer is left out: without static covariates it gets zeros and has no bias."""
    mine.first.load_state_dict(theirs.lin_a.state_dict())
    mine.second.load_state_dict(theirs.lin_i.state_dict())
    mine.gate.linear.load_state_dict(theirs.glu.lin.state_dict())
    mine.norm.load_state_dict(theirs.layer_norm.ln.state_dict())
    if theirs.out_proj is not None:
        mine.skip.load_state_dict(theirs.out_proj.state_dict())


def _selection(mine: VariableSelection, theirs: nn.Module) -> None:
    if mine.joint is not None:
        _gated(mine.joint, theirs.joint_grn)
    for a, b in zip(mine.each, theirs.var_grns, strict=True):
        _gated(a, b)


@torch.no_grad()
@pytest.mark.parametrize("known", [1, 2])
def test_tft_equals_neuralforecast(known):
    from neuralforecast.models import TFT

    names = [f"k{i}" for i in range(known)]
    peer = shaken(TFT(h=S, input_size=L, tgt_size=F, futr_exog_list=names, hidden_size=16, n_head=4))
    ours = TFTCore(lookback_bars=L, steps=S, observed=F, known=known, width=16, attention_heads=4).eval()
    embedding, encoder, decoder = peer.embedding, peer.temporal_encoder, peer.temporal_fusion_decoder
    ours.scale_known.copy_(embedding.futr_exog_embedding_vectors)
    ours.shift_known.copy_(embedding.futr_exog_embedding_bias)
    ours.scale_observed.copy_(embedding.tgt_embedding_vectors)
    ours.shift_observed.copy_(embedding.tgt_embedding_bias)
    _selection(ours.select_past, encoder.history_vsn)
    _selection(ours.select_future, encoder.future_vsn)
    ours.lstm_past.load_state_dict(encoder.history_encoder.state_dict())
    ours.lstm_future.load_state_dict(encoder.future_encoder.state_dict())
    for gate, norm, theirs_gate, theirs_norm in (
        (ours.gate_lstm, ours.norm_lstm, encoder.input_gate, encoder.input_gate_ln),
        (ours.gate_attention, ours.norm_attention, decoder.attention_gate, decoder.attention_ln),
        (ours.gate_out, ours.norm_out, decoder.decoder_gate, decoder.decoder_ln),
    ):
        gate.linear.load_state_dict(theirs_gate.lin.state_dict())
        norm.load_state_dict(theirs_norm.state_dict())
    _gated(ours.enrich, decoder.enrichment_grn)
    _gated(ours.feedforward, decoder.positionwise_grn)
    query, key, value = decoder.attention.qkv_linears.weight.split((16, 16, 4))
    ours.attention.query.weight.copy_(query)
    ours.attention.key.weight.copy_(key)
    ours.attention.value.weight.copy_(value)
    ours.attention.out.load_state_dict(decoder.attention.out_proj.state_dict())
    x_NLF, known_NTK = torch.randn(N, L, F), torch.randn(N, L + S, known)
    rows, reading = ours(x_NLF, known_NTK)
    theirs = peer({"insample_y": x_NLF, "futr_exog": known_NTK, "hist_exog": None, "stat_exog": None})
    same(peer.output_adapter(rows), theirs)
    read = peer.interpretability_params
    torch.testing.assert_close(reading["variables"], read["history_vsn_wgts"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(reading["attention"], read["attn_wts"].mean(1), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_cnn_equals_neuralforecast_s_convolution_encoder():
    from neuralforecast.common._modules import TemporalConvolutionEncoder

    peer = shaken(TemporalConvolutionEncoder(F, 8, kernel_size=4, dilations=[1, 1, 1]))
    ours = CNNConfig(width=8, layers=3, kernel_bars=4).build_network(window_spec(lookback_bars=L, features=F)).eval()
    for conv, theirs in zip(ours.convs, peer.tcn, strict=True):
        conv.conv.load_state_dict(theirs.conv.state_dict())
    x_NLF = windows()
    same(ours.hidden(x_NLF), peer(x_NLF))


class _BlockAsDrawn(nn.Module):
    """Figure 1b of Bai et al. from torch's parts: convolutions padded on both sides, cut off ahead, torch's weight norm."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.ahead = 2 * dilation

        def conv(size: int) -> nn.Module:
            plain = nn.Conv1d(size, outputs, 3, padding=self.ahead, dilation=dilation)
            return nn.utils.parametrizations.weight_norm(plain)

        self.one, self.two = conv(inputs), conv(outputs)
        self.skip = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x_NFL: Tensor) -> Tensor:
        inner = torch.relu(self.one(x_NFL)[..., : -self.ahead])
        return torch.relu(torch.relu(self.two(inner)[..., : -self.ahead]) + self.skip(x_NFL))


@torch.no_grad()
@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_tcn_block_is_the_paper_s_with_torch_s_weight_norm(dilation):
    drawn = shaken(_BlockAsDrawn(F, 8, dilation))
    ours = TemporalBlock(F, 8, 3, dilation=dilation, dropout=0.0).eval()
    for mine, theirs in ((ours.first, drawn.one), (ours.second, drawn.two)):
        weight = theirs.parametrizations.weight
        mine.gain.copy_(weight.original0)
        mine.direction.copy_(weight.original1)
        mine.bias.copy_(theirs.bias)
    ours.skip.weight.copy_(drawn.skip.weight.squeeze(-1))
    ours.skip.bias.copy_(drawn.skip.bias)
    x_NLF = torch.randn(N, L, F)
    same(ours(x_NLF), drawn(x_NLF.transpose(1, 2)).transpose(1, 2))


@torch.no_grad()
def test_masked_self_attention_equals_gpt_2():
    from transformers import GPT2Config, GPT2Model

    width, heads = 16, 4
    peer = shaken(
        GPT2Model(
            GPT2Config(vocab_size=1, n_positions=L, n_embd=width, n_layer=2, n_head=heads, activation_function="gelu")
        )
    )
    peer.wpe.weight.zero_()  # positions are added before the stack here
    ours = CausalSelfAttention(L, width, heads=heads, layers=2, dropout=0.0).eval()
    for mine, theirs in zip(ours.layers, peer.h, strict=True):
        mine.norm1.load_state_dict(theirs.ln_1.state_dict())
        mine.norm2.load_state_dict(theirs.ln_2.state_dict())
        mine.self_attn.in_proj_weight.copy_(theirs.attn.c_attn.weight.T)
        mine.self_attn.in_proj_bias.copy_(theirs.attn.c_attn.bias)
        for linear, other in (
            (mine.self_attn.out_proj, theirs.attn.c_proj),
            (mine.linear1, theirs.mlp.c_fc),
            (mine.linear2, theirs.mlp.c_proj),
        ):
            linear.weight.copy_(other.weight.T)
            linear.bias.copy_(other.bias)
    ours.norm.load_state_dict(peer.ln_f.state_dict())
    x_NLD = torch.randn(N, L, width)
    same(ours(x_NLD), peer(inputs_embeds=x_NLD).last_hidden_state)


@torch.no_grad()
def test_global_attention_is_the_formula_of_luong():
    attention, state_LD = GlobalAttention(4), torch.randn(L, 4)
    made = attention(state_LD[None])[0]
    for t in range(L):
        score = torch.stack([state_LD[t] @ attention.score.weight.T @ state_LD[s] for s in range(t + 1)])
        context = torch.softmax(score, 0) @ state_LD[: t + 1]
        expected = torch.tanh(attention.combine.weight @ torch.cat([context, state_LD[t]]))
        torch.testing.assert_close(made[t], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(attention(state_LD[None], last_only=True)[0, 0], made[-1])
