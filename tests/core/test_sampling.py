"""Samplers: seeded weighted permutations, without replacement, and weights that mean what they say."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quantfleet.contracts import ChunkIndex
from quantfleet.errors import ConfigError
from quantfleet.training import (
    SAMPLERS,
    DifficultySampling,
    RecencySampling,
    RegimeSampling,
    SamplingConfig,
    UniformSampling,
    UniquenessSampling,
)

DAY = 86_400_000_000


def index(chunks: int = 60) -> ChunkIndex:
    """One chunk a day; heavier, calmer and of another regime as time goes."""
    place = np.arange(chunks)
    return ChunkIndex(
        chunk_id_P=place.astype(np.int64),
        time_P=place * DAY,
        targets_P=np.full(chunks, 4, np.int32),
        weight_P=(place + 1).astype(np.float32),
        volatility_P=np.exp(-place / 10).astype(np.float32),
        regime_P=(place >= chunks * 3 // 4).astype(np.int16),
    )


def nothing(chunks: int = 60) -> np.ndarray:
    return np.full(chunks, np.nan, np.float32)


EVERY = [SAMPLERS.get(name)() for name in SAMPLERS.names()]


@pytest.mark.parametrize("sampling", EVERY, ids=lambda s: s.kind)
@given(chunks=st.integers(0, 40), seed=st.integers(0, 2**31), epoch=st.integers(0, 9), fraction=st.floats(0.01, 1))
def test_an_epoch_is_a_share_of_the_chunks_each_at_most_once_and_always_the_same(
    sampling, chunks, seed, epoch, fraction
):
    sampling = replace(sampling, fraction=fraction)
    order = sampling.order(index(chunks), nothing(chunks), seed=seed, epoch=epoch)
    assert len(order) == len(set(order.tolist())) == int(np.ceil(fraction * chunks))
    assert set(order.tolist()) <= set(range(chunks))
    np.testing.assert_array_equal(order, sampling.order(index(chunks), nothing(chunks), seed=seed, epoch=epoch))


@pytest.mark.parametrize("sampling", EVERY, ids=lambda s: s.kind)
def test_another_epoch_or_seed_is_another_order(sampling):
    orders = {tuple(sampling.order(index(), nothing(), seed=s, epoch=e)) for s, e in ((1, 0), (1, 1), (2, 0), (2, 1))}
    assert len(orders) == 4


def test_with_the_whole_fraction_every_chunk_is_in_every_epoch_whatever_it_weighs():
    for sampling in EVERY:
        order = replace(sampling, fraction=1.0).order(index(), nothing(), seed=3, epoch=0)
        assert sorted(order.tolist()) == list(range(60))


def test_draws_follow_the_law_of_successive_sampling():
    """P(first = i, second = j) = w_i w_j / (1 - w_i), as numpy draws with replace=False; a chi-squared test on both."""
    weights = np.array([5.0, 3.0, 1.0, 1.0])
    four = ChunkIndex(**{f.name: getattr(index(), f.name)[:4] for f in fields(ChunkIndex)})
    four = replace(four, weight_P=weights.astype(np.float32))
    sampling, draws, p = UniquenessSampling(fraction=0.5), 4000, weights / weights.sum()
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    law = np.array([p[i] * p[j] / (1 - p[i]) for i, j in pairs])
    rng = np.random.default_rng(0)
    ours = [tuple(sampling.order(four, nothing(4), seed=11, epoch=e).tolist()) for e in range(draws)]
    numpys = [tuple(rng.choice(4, 2, replace=False, p=p).tolist()) for _ in range(draws)]
    for found in (ours, numpys):
        counts = [found.count(pair) for pair in pairs]
        assert stats.chisquare(counts, law * draws).pvalue > 1e-3


def taken(sampling: SamplingConfig, of: ChunkIndex, epochs: int = 400, losses: np.ndarray | None = None) -> np.ndarray:
    """Share of epochs that each chunk is in."""
    losses = nothing(len(of)) if losses is None else losses
    counts = np.zeros(len(of))
    for epoch in range(epochs):
        counts[sampling.order(of, losses, seed=7, epoch=epoch)] += 1
    return counts / epochs


def test_uniform_takes_every_chunk_as_often():
    share = taken(UniformSampling(fraction=0.25), index())
    np.testing.assert_allclose(share, 0.25, atol=0.1)


def test_recency_halves_the_weight_with_every_half_life():
    weights = RecencySampling(half_life_days=10).weights(index(), nothing())
    np.testing.assert_allclose(weights[10:] / weights[:-10], 2.0)
    assert weights[-1] == 1.0
    share = taken(RecencySampling(half_life_days=10, fraction=0.2), index())
    assert share[-10:].mean() > 3 * share[:30].mean()


def test_recency_of_an_age_far_beyond_its_half_life_is_still_a_weight():
    old = replace(index(3), time_P=np.array([0, 1, 10**18]))
    assert sorted(RecencySampling(half_life_days=0.001, fraction=1).order(old, nothing(3), seed=1, epoch=0)) == [
        0,
        1,
        2,
    ]


def test_uniqueness_needs_weights_and_says_where_they_come_from():
    np.testing.assert_array_equal(UniquenessSampling().weights(index(), nothing()), np.arange(1, 61))
    with pytest.raises(ConfigError, match=r"written without.*`weight_column`"):
        UniquenessSampling().order(replace(index(), weight_P=nothing()), nothing(), seed=1, epoch=0)


def test_regimes_are_balanced_however_rare():
    rare = replace(index(), regime_P=(np.arange(60) >= 54).astype(np.int16))
    for share, mass in ((1.0, 0.5), (0.0, 0.1), (0.5, 0.3)):
        weights = RegimeSampling(by="column", share=share).weights(rare, nothing())
        np.testing.assert_allclose(weights[54:].sum() / weights.sum(), mass)
    with pytest.raises(ConfigError, match="`regime_column`"):
        RegimeSampling(by="column").weights(replace(index(), regime_P=np.full(60, -1, np.int16)), nothing())


def test_volatility_regimes_are_steps_of_its_logarithm_and_the_unknown_are_one_of_their_own():
    calm = np.concatenate([np.full(50, 0.01), np.full(6, 0.1), [np.nan] * 4]).astype(np.float32)
    weights = RegimeSampling(buckets=2).weights(replace(index(), volatility_P=calm), nothing())
    np.testing.assert_allclose([weights[:50].sum(), weights[50:56].sum(), weights[56:].sum()], 1 / 3)


def test_difficulty_takes_hard_chunks_more_often_and_unknown_ones_as_the_hardest():
    losses = np.full(60, 0.1, np.float32)
    losses[:10], losses[10:15] = 1.0, np.nan
    weights = DifficultySampling().weights(index(), losses)
    np.testing.assert_allclose(weights[10:15], weights[0])
    np.testing.assert_allclose(weights[0] / weights[20], 10.0, rtol=1e-6)
    assert taken(DifficultySampling(fraction=0.2), index(), 100, losses)[:15].mean() > 0.5
    assert DifficultySampling.needs_losses
    assert not UniformSampling.needs_losses


def test_an_easy_chunk_is_not_forgotten_for_good():
    losses = np.array([1.0, 0.0], np.float32)
    assert DifficultySampling(floor=0.2, power=3).weights(index(2), losses)[1] == 0.2
    assert DifficultySampling().weights(index(2), np.zeros(2, np.float32)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("bad", [-1.0, np.inf])
def test_weights_that_are_none_are_refused_by_chunk(bad):
    weights = np.ones(60, np.float32)
    weights[17] = bad
    with pytest.raises(ConfigError, match="'uniqueness' gives chunk 17 the weight"):
        UniquenessSampling().order(replace(index(), weight_P=weights), nothing(), seed=1, epoch=0)
    with pytest.raises(ConfigError, match="at least one of them is above 0"):
        UniquenessSampling().order(replace(index(), weight_P=np.zeros(60, np.float32)), nothing(), seed=1, epoch=0)
