"""The augmentations. What they do to the label is said by each: `kept` or `mixed`.

Surveyed in Iwana and Uchida (2021), "An empirical survey of data augmentation for time series classification with neural
networks", PLoS ONE 16(7).

Shapes: N windows, L look-back bars, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from quantfleet.compiled import read_only
from quantfleet.contracts import AugmentationConfig, TrainingWindows, register_augmentation
from quantfleet.contracts.augmentation import Neighbours
from quantfleet.errors import ConfigError
from quantfleet_data.augmentation import kernel

__all__ = ["BlockBootstrap", "Jitter", "Mixup", "Scale", "TimeWarp", "WindowSlice"]

Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def _between(config: AugmentationConfig, name: str, low: float, high: float) -> None:
    value: Any = getattr(config, name)
    if not low < value <= high:
        raise ConfigError(f"augmentation {config.kind}: {name}={value} must lie above {low:g} and at most at {high:g}.")


@register_augmentation("jitter")
@dataclass(frozen=True, kw_only=True, slots=True)
class Jitter(AugmentationConfig):
    """Add independent noise to every value. Label kept.

    The noise is bell-shaped, the sum of four uniforms (Irwin-Hall): no value beyond 3.5 sigma, and a tenth of the time that
    normal draws take. Source: Um et al. (2017), "Data augmentation of wearable sensor data", arXiv:1706.00527.
    """

    labels: ClassVar[Literal["kept", "mixed"]] = "kept"
    sigma: float = 0.03
    """In deviations of the feature."""

    def __post_init__(self) -> None:
        super(Jitter, self).__post_init__()
        _between(self, "sigma", 0.0, 1.0)

    def change(
        self,
        windows: TrainingWindows,
        key_N: Keys,
        changed_N: Bools,
        unit_2F: Floats,
        neighbours: Neighbours,
        chunk_bars: int,
    ) -> None:
        kernel.jitter(windows.x_NLF, key_N, changed_N, self.sigma, unit_2F[1])


@register_augmentation("scale")
@dataclass(frozen=True, kw_only=True, slots=True)
class Scale(AugmentationConfig):
    """Multiply each feature's distance from its centre by a random factor near 1, the same all along the window. Label kept.

    Source: Um et al. (2017), arXiv:1706.00527; log-normal factors, so that no sign turns.
    """

    labels: ClassVar[Literal["kept", "mixed"]] = "kept"
    sigma: float = 0.1
    """Deviation of the factor's logarithm."""
    shared: bool = False
    """True: one factor for all features of a window."""

    def __post_init__(self) -> None:
        super(Scale, self).__post_init__()
        _between(self, "sigma", 0.0, 1.0)

    def change(
        self,
        windows: TrainingWindows,
        key_N: Keys,
        changed_N: Bools,
        unit_2F: Floats,
        neighbours: Neighbours,
        chunk_bars: int,
    ) -> None:
        kernel.scale(windows.x_NLF, key_N, changed_N, self.sigma, self.shared, unit_2F[0])


@register_augmentation("time_warp")
@dataclass(frozen=True, kw_only=True, slots=True)
class TimeWarp(AugmentationConfig):
    """Let time run faster here and slower there; the first and the last bar stay where they are. Label kept.

    Speeds at `knots` places are log-normal, straight between them. Source: Um et al. (2017), arXiv:1706.00527, with
    straight lines in place of cubic splines, so that time cannot run backwards.
    """

    labels: ClassVar[Literal["kept", "mixed"]] = "kept"
    sigma: float = 0.2
    """Deviation of the logarithm of speed."""
    knots: int = 4

    def __post_init__(self) -> None:
        super(TimeWarp, self).__post_init__()
        _between(self, "sigma", 0.0, 2.0)
        _between(self, "knots", 1, 1000)

    def change(
        self,
        windows: TrainingWindows,
        key_N: Keys,
        changed_N: Bools,
        unit_2F: Floats,
        neighbours: Neighbours,
        chunk_bars: int,
    ) -> None:
        if windows.x_NLF.shape[1] > 2:
            kernel.time_warp(windows.x_NLF, key_N, changed_N, self.sigma, self.knots)


@register_augmentation("window_slice")
@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSlice(AugmentationConfig):
    """Cut a piece out of the window and stretch it to the window's length. Label kept.

    The label belongs to the last bar, so the piece ends there unless `anchor` says otherwise.
    Source: Le Guennec, Malinowski and Tavenard (2016), "Data augmentation for time series classification using
    convolutional neural networks".
    """

    labels: ClassVar[Literal["kept", "mixed"]] = "kept"
    least_share: float = 0.8
    """The piece's shortest length, as a share of the window."""
    anchor: Literal["end", "any"] = "end"

    def __post_init__(self) -> None:
        super(WindowSlice, self).__post_init__()
        _between(self, "least_share", 0.0, 1.0)

    def change(
        self,
        windows: TrainingWindows,
        key_N: Keys,
        changed_N: Bools,
        unit_2F: Floats,
        neighbours: Neighbours,
        chunk_bars: int,
    ) -> None:
        if windows.x_NLF.shape[1] > 1:
            kernel.slice_window(windows.x_NLF, key_N, changed_N, self.least_share, self.anchor == "end")


@register_augmentation("block_bootstrap")
@dataclass(frozen=True, kw_only=True, slots=True)
class BlockBootstrap(AugmentationConfig):
    """Put the window's early rows together anew from random blocks of them; the last `keep_last_bars` stay. Label kept.

    Blocks have geometric length with mean `mean_block_bars` and wrap around, rows stay whole (all features of a bar
    together). Source: Politis and Romano (1994), "The stationary bootstrap".
    """

    labels: ClassVar[Literal["kept", "mixed"]] = "kept"
    mean_block_bars: float = 10.0
    keep_last_bars: int = 10

    def __post_init__(self) -> None:
        super(BlockBootstrap, self).__post_init__()
        if not self.mean_block_bars >= 1.0 or self.keep_last_bars < 0:
            raise ConfigError(
                f"augmentation block_bootstrap: mean_block_bars={self.mean_block_bars} must be at least 1, and "
                f"keep_last_bars={self.keep_last_bars} not negative."
            )

    def change(
        self,
        windows: TrainingWindows,
        key_N: Keys,
        changed_N: Bools,
        unit_2F: Floats,
        neighbours: Neighbours,
        chunk_bars: int,
    ) -> None:
        L = windows.x_NLF.shape[1]
        if self.keep_last_bars >= L:
            raise ConfigError(
                f"augmentation block_bootstrap: keep_last_bars={self.keep_last_bars} leaves nothing of a window of {L} bars to "
                f"change. Set keep_last_bars <= {L - 1}."
            )
        kernel.bootstrap(windows.x_NLF, key_N, changed_N, self.mean_block_bars, self.keep_last_bars)


@register_augmentation("mixup")
@dataclass(frozen=True, kw_only=True, slots=True)
class Mixup(AugmentationConfig):
    """Mix a window and its LABELS with those of a random other window of its chunk: w times own, 1 - w times other.

    w is the larger of w and 1 - w of a Beta(alpha, alpha), so the own part leads. A label that one of the two does not
    know comes out NaN: nothing is invented. Directions become shares between 0 and 1, which binary cross-entropy reads.
    A partner whose mask is false leaves the window as it is. Partners come from the same chunk, so that workers need not
    exchange windows and their number changes nothing. Source: Zhang et al. (2018), "mixup", arXiv:1710.09412.
    """

    labels: ClassVar[Literal["kept", "mixed"]] = "mixed"
    alpha: float = 0.2

    def __post_init__(self) -> None:
        super(Mixup, self).__post_init__()
        _between(self, "alpha", 0.0, 2.0)

    def change(
        self,
        windows: TrainingWindows,
        key_N: Keys,
        changed_N: Bools,
        unit_2F: Floats,
        neighbours: Neighbours,
        chunk_bars: int,
    ) -> None:
        other = neighbours(kernel.pick(key_N, chunk_bars))
        kernel.mixup(
            windows.x_NLF,
            windows.y_NK,
            read_only(other.x_NLF),
            read_only(other.y_NK),
            changed_N & other.mask_N,
            kernel.mix_weights(key_N, self.alpha),
        )
