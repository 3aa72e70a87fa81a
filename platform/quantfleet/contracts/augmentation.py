"""The augmentation contract: training windows made a little different in every epoch, by chance that can be repeated.

All chance comes from (seed, epoch, chunk_id, target, place in the list of augmentations): the same window is changed in the same
way whoever loads it, in whatever batch, on however many workers, before or after a restart.

Shapes: N windows, L look-back bars, F features, K label columns, C targets of a chunk.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from quantfleet.chance import random_keys, uniforms
from quantfleet.contracts.split import Segment
from quantfleet.errors import ConfigError, SchemaError
from quantfleet.plugins import PluginConfig, PluginRegistry

__all__ = ["AUGMENTATIONS", "AugmentationConfig", "Augmenter", "TrainingWindows", "register_augmentation"]


@dataclass(frozen=True, slots=True)
class TrainingWindows:
    """Windows of the training segment with where they come from. Windows whose mask is false are left as they are."""

    x_NLF: npt.NDArray[np.float32]
    y_NK: npt.NDArray[np.float32]
    mask_N: npt.NDArray[np.bool_]
    chunk_id_N: npt.NDArray[np.int64]
    target_N: npt.NDArray[np.int64]
    """Which target of its chunk, 0 to C - 1."""


Neighbours: TypeAlias = Callable[[npt.NDArray[np.int64]], TrainingWindows]
"""Other windows of the same chunks: for window n that at target `wanted_N[n]` of its chunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationConfig(PluginConfig):
    """Base config of every augmentation."""

    labels: ClassVar[Literal["kept", "mixed"]]
    """kept: the label is that of the window as it was. mixed: it is made of several windows' labels."""

    probability: float = 0.5
    """Share of the windows that are changed."""

    def __post_init__(self) -> None:
        if not 0.0 < self.probability <= 1.0:
            raise ConfigError(
                f"augmentation {self.kind}: probability={self.probability} must lie above 0 and at most at 1."
            )

    @abstractmethod
    def change(
        self,
        windows: TrainingWindows,
        key_N: npt.NDArray[np.uint64],
        changed_N: npt.NDArray[np.bool_],
        unit_2F: npt.NDArray[np.float32],
        neighbours: Neighbours,
        chunk_bars: int,
    ) -> None:
        """Change windows in place.

        Args:
            key_N: source of all chance, different for every window, epoch and augmentation.
            changed_N: which windows to change.
            unit_2F: centre and scale of each feature: 0 and 1 where windows are scaled already.
            neighbours: see `Neighbours`; gives windows that were not changed.
        """


AUGMENTATIONS: PluginRegistry[AugmentationConfig] = PluginRegistry(
    "augmentation", AugmentationConfig, command="augmentations"
)
register_augmentation = AUGMENTATIONS.register


class Augmenter:
    """A list of augmentations, one after the other. Stateless after construction, so safe to share between threads."""

    def __init__(
        self,
        augmentations: tuple[AugmentationConfig, ...],
        *,
        seed: int,
        chunk_bars: int,
        centre_F: npt.NDArray[np.float64] | None = None,
        scale_F: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Make an augmenter.

        Args:
            chunk_bars: C.
            centre_F, scale_F: of the features as the windows hold them, e.g. the mean and deviation in `TrainingStats`;
                None where the windows are scaled already (centre 0, scale 1).
        """
        self.augmentations = augmentations
        self._seed = seed
        self._chunk_bars = chunk_bars
        self._unit = (centre_F, scale_F)

    def augment(
        self, windows: TrainingWindows, *, segment: Segment, epoch: int, neighbours: Neighbours
    ) -> TrainingWindows:
        """Return the windows changed; x and y are fresh arrays, the rest is that of `windows`.

        Raises:
            ConfigError: the segment is not the training one: what is judged must be judged as it is.
            SchemaError: the arrays of `windows` do not fit each other.
        """
        if segment != "train":
            raise ConfigError(
                f"augmentation is asked to change {segment} windows. Only training windows may be changed: scores on others would "
                "be of data that never were."
            )
        N, _, F = windows.x_NLF.shape
        if not len(windows.y_NK) == len(windows.mask_N) == len(windows.chunk_id_N) == len(windows.target_N) == N:
            raise SchemaError(
                f"{N} windows come with labels, masks or places of another number. Pass one of each per window."
            )
        centre_F, scale_F = self._unit
        unit_2F = np.stack(
            [np.zeros(F) if centre_F is None else centre_F, np.ones(F) if scale_F is None else scale_F]
        ).astype(np.float32)
        made = replace(
            windows,
            x_NLF=np.array(windows.x_NLF, np.float32, order="C"),
            y_NK=np.array(windows.y_NK, np.float32, order="C"),
        )
        for place, augmentation in enumerate(self.augmentations):
            key_N = random_keys(self._seed, epoch, place, windows.chunk_id_N, windows.target_N)
            changed_N = windows.mask_N & (uniforms(key_N) < augmentation.probability)
            augmentation.change(made, key_N, changed_N, unit_2F, neighbours, self._chunk_bars)
        return made
