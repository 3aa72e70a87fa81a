"""Windows and loss: every target once an epoch, windows that are the rows they claim to be, labels in scale.

Shapes: B chunks, C targets of a chunk, L look-back bars, F features, K label columns, N windows of a step.
"""

import itertools
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quantfleet.contracts import ChunkBatch, ChunkIndex, DataSpec, TrainingStats
from quantfleet.errors import TrainingError
from quantfleet.training import DifficultySampling
from quantfleet.training.data_state import DataState
from quantfleet.training.module import HEADS, ScaledForecaster
from quantfleet.training.windows import CachedChunks, WindowBatch, WindowLoader

SPEC = DataSpec(
    symbols=("A",), feature_columns=("f", "g"), feature_digest="d", horizons_bars=(1, 5), timeframe="1d", lookback_bars=3,
    chunk_bars=4,
)  # fmt: skip


def chunks(count: int, spec: DataSpec = SPEC, padding: int = 0) -> ChunkBatch:
    """Chunks whose every value names its place: x[b, t, f] = 10000 b + 100 t + f, y[b, c, k] = 10000 b + 100 c + k."""
    total, C, T, K = count + padding, spec.chunk_bars, spec.chunk_rows, len(spec.label_columns)
    b, t, f = np.meshgrid(np.arange(total), np.arange(T), np.arange(spec.features), indexing="ij")
    yb, yc, yk = np.meshgrid(np.arange(total), np.arange(C), np.arange(K), indexing="ij")
    mask_BC = np.ones((total, C), np.bool_)
    mask_BC[count:] = False
    ids = np.arange(total)
    ids[count:] = -1
    return ChunkBatch(
        chunk_id_B=ids,
        symbol_id_B=np.zeros(total, np.int32),
        time_BC=(yb * C + yc)[:, :, 0],
        x_BTF=(10_000 * b + 100 * t + f).astype(np.float32),
        y_BCK=(10_000 * yb + 100 * yc + yk).astype(np.float32),
        mask_BC=mask_BC,
        weight_BC=(1 + yb * C + yc)[:, :, 0].astype(np.float32),
    )


class Chunks:
    """A reader of chunks that lie in memory; counts what is read."""

    local = True
    content = "test"

    def __init__(self, batch: ChunkBatch, spec: DataSpec = SPEC) -> None:
        self.batch, self.spec = batch, spec
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.batch.chunk_id_B)

    def index(self) -> ChunkIndex:
        P = len(self)
        ones = np.ones(P, np.float32)
        return ChunkIndex(
            chunk_id_P=self.batch.chunk_id_B, time_P=self.batch.time_BC[:, 0], targets_P=self.batch.mask_BC.sum(1),
            weight_P=ones, volatility_P=ones, regime_P=np.zeros(P, np.int16),
        )  # fmt: skip

    def take(self, place_B: np.ndarray) -> ChunkBatch:
        self.read += place_B.tolist()
        return ChunkBatch(**{f.name: getattr(self.batch, f.name)[place_B] for f in fields(ChunkBatch)})


def loader(
    batch: ChunkBatch, spec: DataSpec = SPEC, *, buffer: int = 3, windows: int = 5, seed=7, **options
) -> WindowLoader:
    return WindowLoader(Chunks(batch, spec), batch_windows=windows, buffer_chunks=buffer, seed=seed, **options)


def slots(epoch: list[WindowBatch]) -> list[tuple[int, int]]:
    """(chunk, target) of every window that is no padding, in order, read off its first label."""
    labels = [int(v) for step in epoch for v in step.y_NK[step.place_N >= 0, 0]]
    return [(v // 10_000, v % 10_000 // 100) for v in labels]


def all_slots(count: int, chunk: int = 4) -> list[tuple[int, int]]:
    return [(b, c) for b in range(count) for c in range(chunk)]


SHAPES = {
    "count": st.integers(0, 9), "buffer": st.integers(1, 5), "windows": st.integers(1, 40), "chunk": st.integers(1, 5),
    "lookback": st.integers(1, 4), "seed": st.none() | st.integers(0, 2**31),
}  # fmt: skip


@settings(max_examples=60)
@given(**SHAPES)
def test_an_epoch_gives_every_target_exactly_once_in_as_many_steps_as_promised(
    count, buffer, windows, chunk, lookback, seed
):
    spec = replace(SPEC, chunk_bars=chunk, lookback_bars=lookback)
    windows_of = loader(chunks(count, spec), spec, buffer=buffer, windows=windows, seed=seed)
    promised = len(windows_of)
    epoch = list(windows_of)
    assert sorted(slots(epoch)) == all_slots(count, chunk)
    assert len(epoch) == promised
    assert all(1 <= len(step.mask_N) <= windows for step in epoch)


@settings(max_examples=30)
@given(**SHAPES)
def test_every_window_brings_the_weight_of_its_own_target(count, buffer, windows, chunk, lookback, seed):
    spec = replace(SPEC, chunk_bars=chunk, lookback_bars=lookback)
    for step in loader(chunks(count, spec), spec, buffer=buffer, windows=windows, seed=seed):
        expected = [1 + b * chunk + c for b, c in slots([step])]
        assert step.weight_N[step.place_N >= 0].tolist() == expected


@settings(max_examples=60)
@given(**SHAPES, reuse=st.booleans())
def test_the_window_of_target_i_is_rows_i_to_i_plus_lookback_of_its_chunk(
    count, buffer, windows, chunk, lookback, seed, reuse
):
    spec = replace(SPEC, chunk_bars=chunk, lookback_bars=lookback)
    batch = chunks(count, spec)
    for step in loader(batch, spec, buffer=buffer, windows=windows, seed=seed, reuse_batches=reuse):
        assert step.x_NLF.shape[1:] == (lookback, spec.features)
        assert step.x_NLF.is_contiguous()
        for n, (b, i) in enumerate(slots([step])):
            assert int(step.place_N[n]) == b
            np.testing.assert_array_equal(step.x_NLF[n].numpy(), batch.x_BTF[b, i : i + lookback])
            np.testing.assert_array_equal(step.y_NK[n].numpy(), batch.y_BCK[b, i])


@settings(max_examples=120)
@given(
    st.integers(0, 50), st.integers(1, 8), st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 4),
    st.none() | st.integers(0, 99),
)  # fmt: skip
def test_any_number_of_workers_sees_every_row_exactly_once_in_equally_many_steps(
    count, workers, more, buffer, windows, chunk, seed
):
    """Evaluation (no seed) and training; padding is less than a window a shard, and comes in the last group only."""
    spec, shards = replace(SPEC, chunk_bars=chunk, lookback_bars=2), workers + more - 1
    batch = chunks(count, spec)
    options = {"buffer": buffer, "windows": windows * shards, "seed": seed, "workers": workers, "shards": shards}
    ranks = [list(loader(batch, spec, rank=r, **options)) for r in range(workers)]
    assert sorted(slot for steps in ranks for slot in slots(steps)) == all_slots(count, chunk)
    assert len({len(steps) for steps in ranks}) == 1, "every rank makes equally many steps"
    padding = [int((step.place_N < 0).sum()) for steps in ranks for step in steps]
    assert sum(padding) < shards
    assert all(not step.mask_N[step.place_N < 0].any() for steps in ranks for step in steps)
    shares = [loader(batch, spec, rank=r, **options).share for r in range(workers)]
    assert sum(shares) == pytest.approx(workers)
    if seed is None and shards == workers:
        assert [s for steps in ranks for s in slots(steps)] == all_slots(count, chunk) or count > buffer * workers


def test_a_worker_reads_its_own_chunks_only():
    readers = [Chunks(chunks(24)) for _ in range(4)]
    for rank, reader in enumerate(readers):
        list(WindowLoader(reader, batch_windows=32, buffer_chunks=3, seed=1, workers=4, rank=rank))
    assert sorted(place for reader in readers for place in reader.read) == list(range(24))


def test_the_same_seed_and_epoch_give_the_same_order():
    first, second = loader(chunks(8)), loader(chunks(8))
    first.start_epoch(3)
    second.start_epoch(3)
    assert slots(list(first)) == slots(list(second))


@pytest.mark.parametrize("other", [{"seed": 8}, {"epoch": 1}])
def test_another_seed_or_epoch_gives_another_order_of_the_same_targets(other):
    epoch = other.pop("epoch", 0)
    reference, changed = loader(chunks(8)), loader(chunks(8), **other)
    changed.start_epoch(epoch)
    one, two = slots(list(reference)), slots(list(changed))
    assert one != two
    assert sorted(one) == sorted(two)


def test_a_loader_that_is_asked_again_gives_the_next_epoch():
    windows_of, third = loader(chunks(8)), loader(chunks(8))
    third.start_epoch(2)
    epochs = [slots(list(windows_of)) for _ in range(3)]
    assert epochs[2] == slots(list(third))
    assert windows_of.state().epoch == 3


def test_without_a_seed_targets_come_in_order_every_epoch():
    windows_of = loader(chunks(5), seed=None)
    assert slots(list(windows_of)) == all_slots(5)
    windows_of.start_epoch(4)
    assert slots(list(windows_of)) == all_slots(5)


def test_the_shuffle_stays_within_its_buffer_and_buffers_are_drawn_from_all_chunks():
    found = slots(list(loader(chunks(6), buffer=2)))
    buffers = [sorted({b for b, _ in found[i : i + 8]}) for i in (0, 8, 16)]
    assert [len(b) for b in buffers] == [2, 2, 2]
    assert sorted(itertools.chain(*buffers)) == list(range(6))
    assert buffers != [[0, 1], [2, 3], [4, 5]]


def test_masked_targets_and_padding_chunks_are_masked_out():
    steps = list(loader(chunks(3, padding=2), buffer=4))
    mask = torch.cat([step.mask_N for step in steps])
    assert [b < 3 for b, _ in slots(steps)] == mask.tolist()


def test_a_reused_minibatch_is_overwritten_by_the_next_and_others_never():
    for reuse in (True, False):
        places = {step.x_NLF.data_ptr() for step in list(loader(chunks(8), windows=4, reuse_batches=reuse))}
        assert (len(places) == 1) is reuse


def test_a_cached_reader_asks_for_every_chunk_once():
    inner = Chunks(chunks(7))
    cached = CachedChunks(inner)
    for _ in range(3):
        epoch = list(WindowLoader(cached, batch_windows=5, buffer_chunks=3, seed=None))
        assert slots(epoch) == all_slots(7)
    assert sorted(inner.read) == list(range(7))


# --- the state --------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(data=st.data())
def test_killed_at_any_step_and_restarted_with_any_number_of_workers_nothing_is_lost_or_repeated(data):
    count, chunk, shards = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    spec, seed = replace(SPEC, chunk_bars=chunk), data.draw(st.none() | st.integers(0, 99))
    windows, buffer = shards * data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4))
    options = {"buffer": buffer, "windows": windows, "seed": seed, "shards": shards}
    batch, state, seen = chunks(count, spec), None, []
    undisturbed = [set(slots([step])) for step in loader(batch, spec, **options)]
    for last in (False, False, False, True):
        workers = data.draw(st.integers(1, shards))
        ranks = [loader(batch, spec, workers=workers, rank=r, state=state, **options) for r in range(workers)]
        if ranks[0].epoch:
            break
        kill = len(ranks[0]) if last else data.draw(st.integers(0, len(ranks[0])))
        taken = [list(itertools.islice(rank, kill)) for rank in ranks]
        seen += [set(slots(step)) for step in zip(*taken, strict=True)]
        states = {rank.state() for rank in ranks}
        assert len(states) == 1, "the state is the same on every worker"
        state = DataState.from_dict(json.loads(states.pop().to_json()))
        assert len(state.to_json()) < 150
    assert seen == undisturbed, "each step holds the windows it would have held if nothing had happened"


def test_a_state_of_other_data_is_refused():
    state = loader(chunks(5)).state()
    for other in (loader(chunks(5)),):
        assert other.state() == state
    for batch, other in (
        (chunks(6), {}),
        (chunks(5), {"seed": 8}),
        (chunks(5), {"windows": 6}),
        (chunks(5), {"buffer": 2}),
    ):
        with pytest.raises(
            TrainingError, match="belongs to other chunks, another sampling, another seed or other shards"
        ):
            loader(batch, state=state, **other)


def test_the_last_losses_shape_the_next_epoch_alike_on_every_worker_and_after_a_restart():
    batch = chunks(40)
    options = {"sampling": DifficultySampling(fraction=0.25), "windows": 16, "workers": 2}
    ranks = [loader(batch, rank=r, **options) for r in range(2)]
    for rank in ranks:
        rank.end_epoch()
        for step in rank:  # chunks 30 and above are hard
            rank.observe(step.place_N[step.mask_N], torch.where(step.place_N >= 30, 9.0, 0.1)[step.mask_N])
    total = sum(rank.observed() for rank in ranks)
    everything = torch.stack([torch.where(torch.arange(40) >= 30, 9.0, 0.0), torch.ones(40)]).double()
    assert int((total[1] > 0).sum()) == 10
    for rank in ranks:
        rank.end_epoch(everything)
    restarted = loader(batch, rank=0, state=ranks[1].state(), **options)
    one, two, three = ({b for b, _ in slots(list(r))} for r in (*ranks, restarted))
    assert one == three
    assert len(one | two) == 10
    assert sum(b >= 30 for b in one | two) >= 8


def test_losses_seen_before_a_restart_in_the_middle_of_an_epoch_shape_the_next_one_as_if_it_had_gone_through():
    batch, options = chunks(12), {"sampling": DifficultySampling(), "windows": 8, "buffer": 12, "shards": 2}

    def train(one: WindowLoader, steps: int | None) -> None:
        for step in itertools.islice(one, steps):
            one.observe(step.place_N, (step.place_N.float() + 1) / 8)

    whole = loader(batch, **options)
    train(whole, None)
    whole.end_epoch(whole.observed())
    before = loader(batch, **options)
    train(before, 2)
    ranks = [loader(batch, state=before.state(before.observed()), workers=2, rank=r, **options) for r in range(2)]
    for rank in ranks:
        train(rank, None)
        total = sum(r.observed() for r in ranks)
    ranks[0].end_epoch(total)
    assert ranks[0].state() == whole.state()


# --- scaling ----------------------------------------------------------------------------------------------------------


H = len(SPEC.horizons_bars)


class Echo(nn.Module):
    """A network that answers with the last row's first features, for every head."""

    def forward(self, x_NLF: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict.fromkeys(HEADS, x_NLF[:, -1, :H])


def forecaster(**stats: list[float]) -> ScaledForecaster:
    K = len(SPEC.label_columns)
    values = {
        "feature_mean_F": [0.0, 0.0], "feature_std_F": [1.0, 1.0], "label_mean_K": [0.0] * K, "label_std_K": [1.0] * K, **stats,
    }  # fmt: skip
    made = ScaledForecaster(Echo(), SPEC)
    arrays = {name: np.asarray(value) for name, value in values.items()}
    made.set_label_scales(
        TrainingStats(**arrays, label_known_K=np.ones(K, np.int64), label_weight_K=np.ones(K), targets={})
    )
    return made


def test_undefined_features_reach_the_network_as_zero_and_others_as_they_are():
    x = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [float("nan"), -3.5]]])
    assert forecaster()(x)["return"].tolist() == [[0.0, -3.5]]


def test_answers_come_back_in_natural_units_and_volatility_is_never_negative():
    made = forecaster(label_mean_K=[0.5, 0.5, 0, 0, 1.0, 1.0], label_std_K=[2.0, 2.0, 1, 1, 3.0, 3.0])
    x = torch.zeros(1, 3, 2)
    x[0, -1] = torch.tensor([1.0, -1.0])
    answer = made.answer(x)
    assert answer["return"].tolist() == [[2.5, -1.5]]
    assert answer["direction"].tolist() == [[1.0, -1.0]]
    assert answer["volatility"].tolist() == [[4.0, 0.0]]


def test_targets_undo_what_answers_do():
    made = forecaster(label_mean_K=[0.5, 0.5, 0, 0, 1.0, 1.0], label_std_K=[2.0, 2.0, 1, 1, 3.0, 3.0])
    targets = made.targets(torch.tensor([[2.5, -1.5, 1.0, 0.0, 4.0, float("nan")]]))
    assert targets["return"].tolist() == [[1.0, -1.0]]
    assert targets["direction"].tolist() == [[1.0, 0.0]]
    assert targets["volatility"][0, 0] == 1.0
    assert torch.isnan(targets["volatility"][0, 1])


def test_label_scales_travel_with_the_weights():
    one = forecaster(label_mean_K=[1.0] * 6, label_std_K=[9.0, 0.0, *[9.0] * 4])
    two = ScaledForecaster(Echo(), SPEC)
    two.load_state_dict(one.state_dict())
    assert two.label_mean_K.tolist() == [1.0] * 6
    assert two.label_std_K.tolist() == [9.0, 1.0, *[9.0] * 4], "a constant label is only centred"
