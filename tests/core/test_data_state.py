"""The data state: a pure plan of an epoch, and positions in it that any number of workers can go on from."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfleet.errors import ConfigError, TrainingError
from quantfleet.training.data_state import DataState, EpochPlan, pack_losses, shards_of, unpack_losses


def plan(
    chunks: int,
    chunk_bars: int = 3,
    *,
    shards: int = 2,
    buffer: int = 2,
    windows: int = 4,
    seed: int | None = 5,
    epoch: int = 0,
) -> EpochPlan:
    order = np.arange(chunks) if seed is None else np.random.default_rng((seed, epoch)).permutation(chunks)
    return EpochPlan(order, chunk_bars, seed, epoch, shards=shards, buffer_chunks=buffer, step_windows=windows)


def steps_of(of: EpochPlan, shards: range, first: int = 0) -> list[list[list[int]]]:
    """Slots of every step from one on, a list per shard, padding included."""
    made = []
    for group in of.groups(first):
        parts = of.parts(group, shards)
        for step in range(max(first - group.first_step, 0), group.steps):
            at = slice(step * of.step_windows, (step + 1) * of.step_windows)
            made.append([row.tolist() for row in parts[:, at]])
    return made


SHAPES = {
    "chunks": st.integers(0, 40), "chunk_bars": st.integers(1, 5), "shards": st.integers(1, 7), "buffer": st.integers(1, 5),
    "windows": st.integers(1, 9), "seed": st.none() | st.integers(0, 9), "epoch": st.integers(0, 3),
}  # fmt: skip


@settings(max_examples=300)
@given(**SHAPES)
def test_every_window_is_dealt_exactly_once_in_as_many_steps_as_promised(
    chunks, chunk_bars, shards, buffer, windows, seed, epoch
):
    of = plan(chunks, chunk_bars, shards=shards, buffer=buffer, windows=windows, seed=seed, epoch=epoch)
    steps = steps_of(of, range(shards))
    assert len(steps) == of.steps
    assert sorted(s for step in steps for part in step for s in part if s >= 0) == list(range(chunks * chunk_bars))
    assert all(len({len(part) for part in step}) == 1 for step in steps), (
        "every shard gives equally many, padding included"
    )
    assert sum(s < 0 for step in steps for part in step for s in part) < shards


@settings(max_examples=200)
@given(**SHAPES, data=st.data())
def test_the_windows_of_a_step_are_the_same_whoever_serves_the_shards(
    chunks, chunk_bars, shards, buffer, windows, seed, epoch, data
):
    """The heart of exactly-once: workers may change between any two steps, in number and place."""
    of = plan(chunks, chunk_bars, shards=shards, buffer=buffer, windows=windows, seed=seed, epoch=epoch)
    alone = steps_of(of, range(shards))
    workers, first = data.draw(st.integers(1, shards)), data.draw(st.integers(0, of.steps))
    served = [steps_of(of, shards_of(r, workers=workers, shards=shards), first) for r in range(workers)]
    together = [[part for steps in served for part in steps[n]] for n in range(of.steps - first)]
    assert together == alone[first:]


@given(st.integers(1, 200), st.data())
def test_workers_serve_every_shard_once_and_as_evenly_as_whole_shards_allow(shards, data):
    workers = data.draw(st.integers(1, shards))
    served = [shards_of(r, workers=workers, shards=shards) for r in range(workers)]
    assert [s for of_worker in served for s in of_worker] == list(range(shards))
    assert {len(s) for s in served} <= {shards // workers, -(-shards // workers)}


def test_more_workers_than_shards_are_refused():
    with pytest.raises(ConfigError, match=r"5 workers cannot share the data of 4 shards\. Set training\.shards to 5"):
        shards_of(0, workers=5, shards=4)


@settings(max_examples=200)
@given(**SHAPES, data=st.data())
def test_the_consumed_chunks_are_those_of_which_every_window_was_taken(
    chunks, chunk_bars, shards, buffer, windows, seed, epoch, data
):
    of = plan(chunks, chunk_bars, shards=shards, buffer=buffer, windows=windows, seed=seed, epoch=epoch)
    step = data.draw(st.integers(0, of.steps))
    seen = {s for taken in steps_of(of, range(shards))[:step] for part in taken for s in part if s >= 0}
    whole = [p for i, p in enumerate(of.order_Q) if {i * chunk_bars + c for c in range(chunk_bars)} <= seen]
    assert of.consumed(step).tolist() == whole


def test_a_position_in_a_million_chunks_is_a_few_bytes_and_found_at_once():
    of = EpochPlan(np.arange(1_000_000), 64, 1, 0, shards=64, buffer_chunks=64, step_windows=16)
    state = DataState(plan="p", step=of.steps * 3 // 4)
    assert len(state.to_json()) < 100
    group = of.group_at(state.step)
    assert (of.parts(group, range(3, 4)) >= 0).all()
    assert of.consumed(state.step).size == pytest.approx(750_000, rel=0.01)


def test_a_part_holds_no_more_chunks_than_its_buffer():
    of = plan(64, 4, shards=3, buffer=4)
    for group in of.groups():
        for part in of.parts(group, range(3)):
            assert len(set((part[part >= 0] // 4).tolist())) <= 5  # 4, and one that is shared at the edge


def test_a_state_moves_by_steps_and_starts_anew_with_each_epoch():
    state = DataState(plan="p").taken().taken()
    assert (state.epoch, state.step) == (0, 2)
    assert state.next_epoch() == DataState(plan="p", epoch=1)
    assert DataState.from_dict(state.to_dict()) == state


@pytest.mark.parametrize(
    "change", [{"epoch": -1}, {"epoch": "1"}, {"step": -3}, {"step": 1.5}, {"plan": None}, {"runs": []}]
)
def test_a_record_that_is_no_state_is_refused(change):
    with pytest.raises(TrainingError, match="no stored data state"):
        DataState.from_dict({**DataState(plan="p").to_dict(), **change})


def test_a_state_that_took_more_than_there_is_belongs_to_other_chunks():
    with pytest.raises(TrainingError, match="stands at step 1000, and epoch 0 of 9 chunks has"):
        plan(9).group_at(1000)


@given(st.lists(st.floats(0, 60000, width=16) | st.just(float("nan")), max_size=30))
def test_losses_survive_being_written_down(losses):
    values = np.array(losses, np.float32)
    np.testing.assert_array_equal(unpack_losses(pack_losses(values), len(values)) if losses else values, values)


def test_losses_of_another_segment_or_broken_ones_are_refused():
    packed = pack_losses(np.ones(4, np.float32))
    with pytest.raises(TrainingError, match="losses of 4 chunks; the segment has 5"):
        unpack_losses(packed, 5)
    with pytest.raises(TrainingError, match="cannot be read"):
        unpack_losses(packed[:-4] + "!!!!", 4)
    assert np.isnan(unpack_losses("", 3)).all()


def test_the_losses_travel_with_the_state_from_epoch_to_epoch():
    state = DataState(plan="p").next_epoch(np.array([1.0, np.nan], np.float32))
    assert state.next_epoch().losses == state.losses != ""
    assert replace(state, losses="") != state
