"""Augmentation: chance that repeats whatever the batches and workers, for training alone, with labels handled openly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, irwinhall, kstest

from quantfleet.contracts import AUGMENTATIONS, Augmenter, TrainingWindows
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.testing.training_data import memory_data
from quantfleet_data.augmentation import BlockBootstrap, Jitter, Mixup, Scale, TimeWarp, WindowSlice

ALWAYS = [
    Jitter(probability=1.0),
    Scale(probability=1.0),
    TimeWarp(probability=1.0),
    WindowSlice(probability=1.0),
    BlockBootstrap(probability=1.0, keep_last_bars=2, mean_block_bars=2.0),
    Mixup(probability=1.0, alpha=1.0),
]
SOME = tuple(
    type(a)(probability=0.5, **({"keep_last_bars": 2} if isinstance(a, BlockBootstrap) else {})) for a in ALWAYS
)
DATA = memory_data(features=3, lookback_bars=12, chunks=4)
C, L = DATA.spec.chunk_bars, DATA.spec.lookback_bars
EVERY = np.arange(len(DATA.batches["train"].chunk_id_B) * C)


def windows(slots: np.ndarray) -> TrainingWindows:
    """Windows by number, as the loader gathers them."""
    batch, chunk, target = DATA.batches["train"], slots // C, slots % C
    rows = target[:, None] + np.arange(L)
    return TrainingWindows(
        x_NLF=batch.x_BTF[chunk[:, None], rows],
        y_NK=batch.y_BCK[chunk, target],
        mask_N=batch.mask_BC[chunk, target],
        chunk_id_N=batch.chunk_id_B[chunk],
        target_N=target,
    )


def augment(slots: np.ndarray, *augmentations, seed: int = 0, epoch: int = 0, **units) -> TrainingWindows:
    augmenter = Augmenter(augmentations, seed=seed, chunk_bars=C, **units)
    chunk = slots // C
    return augmenter.augment(
        windows(slots), segment="train", epoch=epoch, neighbours=lambda wanted: windows(chunk * C + wanted)
    )


def same(a: TrainingWindows, b: TrainingWindows) -> bool:
    return a.x_NLF.tobytes() == b.x_NLF.tobytes() and a.y_NK.tobytes() == b.y_NK.tobytes()


# ------------------------------------------------------------------------------------------------ chance


@settings(max_examples=20)
@given(order=st.permutations(range(60)), cut=st.integers(1, 59), seed=st.integers(-3, 3), epoch=st.integers(0, 5))
def test_a_window_is_changed_alike_in_any_batch_in_any_order_on_any_worker(order, cut, seed, epoch):
    slots = EVERY[:: len(EVERY) // 60][:60][list(order)]
    whole = augment(slots, *SOME, seed=seed, epoch=epoch)
    parts = [augment(s, *SOME, seed=seed, epoch=epoch) for s in (slots[:cut], slots[cut:])]
    assert np.concatenate([p.x_NLF for p in parts]).tobytes() == whole.x_NLF.tobytes()
    assert np.concatenate([p.y_NK for p in parts]).tobytes() == whole.y_NK.tobytes()


@pytest.mark.parametrize("augmentation", ALWAYS, ids=lambda a: a.kind)
def test_seed_and_epoch_decide_what_happens(augmentation):
    one = augment(EVERY, augmentation, seed=1, epoch=2)
    assert same(one, augment(EVERY, augmentation, seed=1, epoch=2))
    assert not same(one, augment(EVERY, augmentation, seed=2, epoch=2))
    assert not same(one, augment(EVERY, augmentation, seed=1, epoch=3))


def test_the_share_of_changed_windows_is_the_probability_and_two_of_one_kind_draw_apart():
    before = windows(EVERY)
    counted = before.mask_N
    changed = (augment(EVERY, Jitter(probability=0.3)).x_NLF != before.x_NLF).any((1, 2))
    assert changed[counted].mean() == pytest.approx(0.3, abs=0.1)
    once, twice = (augment(EVERY, *[Jitter(probability=1.0)] * n).x_NLF - before.x_NLF for n in (1, 2))
    assert not np.allclose(twice[counted], 2 * once[counted])


@pytest.mark.parametrize("augmentation", ALWAYS, ids=lambda a: a.kind)
def test_masked_windows_and_the_arrays_given_are_left_as_they_are(augmentation):
    before = windows(EVERY)
    after = augment(EVERY, augmentation)
    hidden = ~before.mask_N
    assert hidden.any()
    assert after.x_NLF[hidden].tobytes() == before.x_NLF[hidden].tobytes()
    assert same(before, windows(EVERY))
    assert not np.shares_memory(after.x_NLF, before.x_NLF)
    assert np.isfinite(after.x_NLF[before.mask_N]).all()
    if augmentation.labels == "kept":
        assert after.y_NK.tobytes() == before.y_NK.tobytes()


@pytest.mark.parametrize("segment", ["validation", "test"])
def test_other_segments_than_training_are_refused(segment):
    augmenter = Augmenter(SOME, seed=0, chunk_bars=C)
    with pytest.raises(ConfigError, match=f"asked to change {segment} windows. Only training windows may be changed"):
        augmenter.augment(windows(EVERY), segment=segment, epoch=0, neighbours=windows)


# ------------------------------------------------------------------------------------------------ each kind


def test_jitter_is_bell_shaped_noise_in_deviations_of_the_feature():
    scale = np.array([1.0, 10.0, 100.0])
    before = windows(EVERY)
    noise = (augment(EVERY, Jitter(probability=1.0, sigma=0.5), scale_F=scale).x_NLF - before.x_NLF)[before.mask_N]
    noise = noise.reshape(-1, 3) / scale
    np.testing.assert_allclose(noise.std(0), 0.5, rtol=0.05)
    np.testing.assert_allclose(noise.mean(0), 0.0, atol=0.03)
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.05
    assert kstest(noise.reshape(-1) / 0.5 / 3**0.5 + 2, irwinhall(4).cdf).pvalue > 0.001


@pytest.mark.parametrize("shared", [False, True])
def test_scaling_multiplies_the_distance_from_the_centre_by_one_factor_a_window_and_feature(shared):
    centre = np.array([1.0, -2.0, 3.0])
    before = windows(EVERY)
    after = augment(EVERY, Scale(probability=1.0, sigma=0.3, shared=shared), centre_F=centre)
    factor = ((after.x_NLF - centre) / (before.x_NLF - centre))[before.mask_N]
    np.testing.assert_allclose(
        factor, np.broadcast_to(np.median(factor, axis=1, keepdims=True), factor.shape), rtol=0.02
    )
    middle = np.log(np.median(factor, axis=1))
    assert middle.std() == pytest.approx(0.3, rel=0.15)
    assert (np.ptp(middle, axis=1) < 0.05).all() == shared


def straight(slots: np.ndarray) -> TrainingWindows:
    """Windows whose features are the bar's number, so that what comes out is the place it came from."""
    plain = windows(slots)
    plain.x_NLF[:] = np.arange(L, dtype=np.float32)[:, None]
    plain.mask_N[:] = True
    return plain


def places(augmentation) -> np.ndarray:
    made = Augmenter((augmentation,), seed=0, chunk_bars=C).augment(
        straight(EVERY), segment="train", epoch=0, neighbours=straight
    )
    assert (made.x_NLF == made.x_NLF[..., :1]).all()  # all features of a bar move together
    return made.x_NLF[..., 0]


def test_time_warp_keeps_both_ends_and_never_runs_backwards():
    path = places(TimeWarp(probability=1.0, sigma=0.5))
    assert (path[:, 0] == 0).all()
    assert (path[:, -1] == L - 1).all()
    assert (np.diff(path, axis=1) > 0).all()
    assert np.abs(path - np.arange(L)).max() > 1


def test_a_slice_ends_at_the_last_bar_unless_told_otherwise_and_is_not_too_short():
    path = places(WindowSlice(probability=1.0, least_share=0.5))
    np.testing.assert_allclose(path[:, -1], L - 1, rtol=1e-6)
    assert path[:, 0].max() <= 0.5 * (L - 1) + 1e-5
    assert path[:, 0].max() > 0.4 * (L - 1)
    np.testing.assert_allclose(np.diff(path, axis=1), np.diff(path, axis=1)[:, :1].repeat(L - 1, 1), atol=1e-5)
    free = places(WindowSlice(probability=1.0, least_share=0.5, anchor="any"))
    assert free[:, -1].min() < L - 2
    assert (free >= 0).all()


def test_the_block_bootstrap_puts_whole_rows_in_blocks_of_the_mean_length_and_keeps_the_end():
    path = places(BlockBootstrap(probability=1.0, mean_block_bars=3.0, keep_last_bars=4))
    early = L - 4
    assert (path[:, early:] == np.arange(early, L)).all()
    assert set(np.unique(path[:, :early])) == set(range(early))
    follows = (np.diff(path[:, :early], axis=1) % early) == 1
    assert follows.mean() == pytest.approx(2 / 3 + 1 / 3 / early, abs=0.03)  # 1 - 1/3, and by chance


def test_mixup_mixes_labels_as_it_mixes_features_and_the_own_part_leads():
    before, after = windows(EVERY), augment(EVERY, Mixup(probability=1.0, alpha=1.0))
    batch = DATA.batches["train"]
    found = 0
    for n in np.flatnonzero(before.mask_N)[:60]:
        chunk = n // C
        for target in range(C):
            other = windows(np.array([chunk * C + target]))
            apart = other.x_NLF[0] - before.x_NLF[n]
            if not np.abs(apart).max() > 0:
                continue
            share = float(((after.x_NLF[n] - before.x_NLF[n]) * apart).sum() / (apart**2).sum())
            if np.allclose(before.x_NLF[n] + share * apart, after.x_NLF[n], rtol=1e-3) and share > 1e-6:
                assert share <= 0.5 + 1e-6
                assert batch.mask_BC[chunk, target]
                wanted = (1 - share) * before.y_NK[n] + share * other.y_NK[0]
                np.testing.assert_allclose(after.y_NK[n], wanted, rtol=1e-2, atol=1e-3)  # NaN where one is not known
                found += 1
                break
    assert found > 30


def test_mixup_weights_follow_their_beta_distribution():
    from quantfleet.chance import random_keys
    from quantfleet_data.augmentation.kernel import mix_weights

    keys = random_keys(1, np.arange(20_000))
    for alpha in (0.2, 1.0, 2.0):
        folded = lambda w, a=alpha: 2 * beta.cdf(w, a, a) - 1  # noqa: E731  the larger of w and 1 - w
        assert kstest(mix_weights(keys, alpha), folded).pvalue > 0.001


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "make",
    [
        lambda: Jitter(probability=0.0),
        lambda: Jitter(sigma=0.0),
        lambda: Scale(sigma=2.0),
        lambda: TimeWarp(knots=1),
        lambda: WindowSlice(least_share=0.0),
        lambda: BlockBootstrap(mean_block_bars=0.5),
        lambda: BlockBootstrap(keep_last_bars=-1),
        lambda: Mixup(alpha=3.0),
    ],
)
def test_settings_without_sense_are_refused(make):
    with pytest.raises(ConfigError, match="augmentation "):
        make()


def test_a_bootstrap_that_keeps_everything_and_arrays_that_do_not_fit_are_refused():
    with pytest.raises(
        ConfigError, match=f"leaves nothing of a window of {L} bars to change. Set keep_last_bars <= {L - 1}"
    ):
        augment(EVERY, BlockBootstrap(keep_last_bars=L))
    odd = windows(EVERY)
    odd = TrainingWindows(odd.x_NLF, odd.y_NK[1:], odd.mask_N, odd.chunk_id_N, odd.target_N)
    with pytest.raises(SchemaError, match="come with labels, masks or places of another number"):
        Augmenter(SOME, seed=0, chunk_bars=C).augment(odd, segment="train", epoch=0, neighbours=windows)


def test_the_kinds_are_registered_and_say_what_they_do_to_labels():
    kinds = {name: AUGMENTATIONS.get(name).labels for name in AUGMENTATIONS.names()}
    assert kinds == {
        "block_bootstrap": "kept", "jitter": "kept", "mixup": "mixed", "scale": "kept", "time_warp": "kept",
        "window_slice": "kept",
    }  # fmt: skip
