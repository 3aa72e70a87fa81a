"""The xLSTM: the same numbers as its authors' package, as its own recurrent form, and the memory that the paper promises.

Shapes: N windows, L bars, D width, Z heads, E features of a head.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import spec_of

from quantfleet.errors import ConfigError
from quantfleet_models.xlstm import XLSTMConfig
from quantfleet_models.xlstm.mlstm import MLSTMBlock, mlstm_parallel, mlstm_step
from quantfleet_models.xlstm.model import XLSTMStack
from quantfleet_models.xlstm.slstm import SLSTMBlock, SLSTMCell

WIDTH, HEADS, BARS = 32, 4, 12


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Every weight random, so that none hides behind its starting value."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def stack_of(**settings) -> XLSTMStack:
    return shaken(XLSTMStack(XLSTMConfig(width=WIDTH, memory_heads=HEADS, dropout=0.0, **settings)))


@pytest.fixture
def peer():
    """The package of the paper's authors."""
    return pytest.importorskip("xlstm", reason="the peer comes with the extra `dev`")


def copy_mlstm(block: MLSTMBlock, peer) -> None:
    own, layer = dict(block.named_parameters()), peer.xlstm
    pairs = {
        "up.weight": layer.proj_up.weight, "conv.conv.weight": layer.conv1d.conv.weight,
        "conv.conv.bias": layer.conv1d.conv.bias, "query.weight": layer.q_proj.weight, "key.weight": layer.k_proj.weight,
        "value.weight": layer.v_proj.weight, "input_gate.weight": layer.mlstm_cell.igate.weight,
        "input_gate.bias": layer.mlstm_cell.igate.bias, "forget_gate.weight": layer.mlstm_cell.fgate.weight,
        "forget_gate.bias": layer.mlstm_cell.fgate.bias, "head_norm.weight": 1 + layer.mlstm_cell.outnorm.weight,
        "skip": layer.learnable_skip, "down.weight": layer.proj_down.weight, "norm.weight": 1 + peer.xlstm_norm.weight,
    }  # fmt: skip
    copy(own, pairs)


def copy_slstm(block: SLSTMBlock, peer) -> None:
    own, layer = dict(block.named_parameters()), peer.xlstm
    recurrent = layer.slstm_cell._recurrent_kernel_int2ext(layer.slstm_cell._recurrent_kernel_.data)  # Z, E, gate, E
    bias = layer.slstm_cell._bias_int2ext(layer.slstm_cell._bias_.data)  # Z, gate, E
    pairs = {
        "conv.conv.weight": layer.conv1d.conv.weight, "conv.conv.bias": layer.conv1d.conv.bias,
        # the package names these two the other way round where it hands them to its cell
        "gates.input.weight": layer.fgate.weight, "gates.forget.weight": layer.igate.weight,
        "gates.new.weight": layer.zgate.weight, "gates.output.weight": layer.ogate.weight,
        "cell.recurrent": recurrent.flatten(2), "cell.bias": bias.transpose(0, 1),
        "head_norm.weight": 1 + layer.group_norm.weight, "norm.weight": 1 + peer.xlstm_norm.weight,
        "feed_norm.weight": 1 + peer.ffn_norm.weight, "up.weight": peer.ffn.proj_up.weight,
        "down.weight": peer.ffn.proj_down.weight,
    }  # fmt: skip
    copy(own, pairs)


def copy(own, pairs) -> None:
    assert set(own) == set(pairs)
    with torch.no_grad():
        for name, value in pairs.items():
            own[name].copy_(value)


def test_both_blocks_and_the_stack_answer_as_the_authors_package_does(peer):
    options = {"num_heads": HEADS, "conv1d_kernel_size": 4}
    config = peer.xLSTMBlockStackConfig(
        mlstm_block=peer.mLSTMBlockConfig(mlstm=peer.mLSTMLayerConfig(**options)),
        slstm_block=peer.sLSTMBlockConfig(
            slstm=peer.sLSTMLayerConfig(backend="vanilla", dtype="float32", **options),
            feedforward=peer.FeedForwardConfig(proj_factor=2.0),
        ),
        context_length=BARS, num_blocks=3, embedding_dim=WIDTH, slstm_at=[1],
    )  # fmt: skip
    theirs = shaken(peer.xLSTMBlockStack(config)).double()
    ours = stack_of(blocks=3, slstm_at=(1,), mlstm_factor=2.0, feed_forward_factor=2.0).double()
    for own, other in zip(ours.layers, theirs.blocks, strict=True):
        (copy_slstm if isinstance(own, SLSTMBlock) else copy_mlstm)(own, other)
    with torch.no_grad():
        ours.norm.weight.copy_(1 + theirs.post_blocks_norm.weight)
    x_NLD = torch.randn(5, BARS, WIDTH, dtype=torch.float64)
    gradients = []
    for stack in (ours, theirs):
        x_NLD = x_NLD.detach().requires_grad_()
        gradients.append(torch.autograd.grad(stack(x_NLD).square().sum(), x_NLD)[0])
    torch.testing.assert_close(ours(x_NLD), theirs(x_NLD), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-7)
    ours, theirs, x_NLD = ours.float(), theirs.float(), x_NLD.float()
    torch.testing.assert_close(ours(x_NLD), theirs(x_NLD), rtol=1e-5, atol=1e-5)


@given(bars=st.integers(1, 9), gate=st.sampled_from([0.1, 3.0, 30.0, 300.0]), seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_bar_by_bar_and_all_at_once_an_mlstm_reads_the_same(bars, gate, seed):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 3, bars, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    write, forget = (gate * torch.randn(2, 3, bars, generator=generator, dtype=torch.float64) for _ in range(2))
    at_once = mlstm_parallel(q, k, v, write, forget)
    memory = (*(torch.zeros(2, 3, *size, dtype=torch.float64) for size in ((4, 4), (4,), ())), torch.zeros(0))
    for t in range(bars):
        read, after = mlstm_step(q[:, :, t], k[:, :, t], v[:, :, t], write[:, :, t], forget[:, :, t], memory)
        memory = (*after, torch.zeros(0))
        torch.testing.assert_close(read, at_once[:, :, t], rtol=1e-4, atol=1e-5)


def test_an_mlstm_finds_a_value_by_its_key_among_many():
    keys, values = torch.eye(8)[None, None] * 8**0.5, torch.randn(1, 1, 8, 8)
    kept, written = torch.full((1, 1, 8), 20.0), torch.zeros(1, 1, 8)
    for asked in range(8):
        queries = keys.clone()
        queries[:, :, -1] = keys[:, :, asked]
        read = mlstm_parallel(queries, keys, values, written, kept)
        torch.testing.assert_close(read[0, 0, -1], values[0, 0, asked], rtol=1e-4, atol=1e-4)


def test_an_exponential_gate_lets_an_slstm_replace_what_it_holds():
    """A sigmoid gate can only mix new with old; exp lets one bar outweigh all before it."""
    cell = SLSTMCell(4, 1, place=0.0)
    with torch.no_grad():
        cell.bias.zero_()
    gates = torch.zeros(1, 6, 4, 1, 4)
    gates[:, :, 1] = 10.0  # nothing is forgotten
    gates[:, :5, 2] = 2.0
    gates[:, 5, 2] = -2.0
    gates[:, :, 3] = 20.0  # what is held is shown
    gates[:, 5, 0] = 12.0
    rows = cell(gates)
    held, replaced = torch.tanh(torch.tensor(2.0)), torch.tanh(torch.tensor(-2.0))
    torch.testing.assert_close(rows[0, 4], held.expand(4), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(rows[0, 5], replaced.expand(4), rtol=1e-3, atol=1e-3)


def test_a_stream_gives_every_bar_what_the_window_up_to_it_gives():
    stack = stack_of(blocks=3, slstm_at=(1,))
    x_NLD = torch.randn(2, 30, WIDTH)
    state = stack.begin(x_NLD[:, 0])
    with torch.no_grad():
        whole = stack(x_NLD)
        for t in range(30):
            row, state = stack.step(x_NLD[:, t], state)
            torch.testing.assert_close(row, whole[:, t], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_values_and_gradients_stay_finite_whatever_the_gates(size):
    stack = stack_of(blocks=2, slstm_at=(1,))
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "gate" in name:
                parameter.mul_(size)
    x_NLD = torch.randn(2, BARS, WIDTH, requires_grad=True)
    stack(x_NLD).square().mean().backward()
    assert torch.isfinite(x_NLD.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in stack.parameters())


def test_the_stack_is_causal():
    stack, x_NLD = stack_of(blocks=2), torch.randn(2, BARS, WIDTH)
    before = stack(x_NLD)
    changed = x_NLD.clone()
    changed[:, 7:] += 50.0
    torch.testing.assert_close(stack(changed)[:, :7], before[:, :7])


def test_a_place_that_no_block_has_is_refused():
    with pytest.raises(ConfigError, match=r"slstm_at=\[1, 4\] names block 4, and the 4 blocks are counted from 0 to 3"):
        XLSTMConfig(slstm_at=(1, 4))


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ConfigError, match=r"width=30 does not divide by memory_heads=4"):
        XLSTMConfig(width=30)


def test_a_convolution_longer_than_the_window_is_refused():
    with pytest.raises(ConfigError, match=r"xlstm.kernel_bars=13 is longer than the window, lookback_bars=12"):
        XLSTMConfig(kernel_bars=13).build_network(spec_of(lookback_bars=12))
