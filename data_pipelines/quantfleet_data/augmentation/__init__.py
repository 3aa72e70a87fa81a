"""Augmentations of training windows: jitter, scale, time warp, window slice, block bootstrap, mixup; seeded by window."""

from quantfleet_data.augmentation.kinds import BlockBootstrap, Jitter, Mixup, Scale, TimeWarp, WindowSlice

__all__ = ["BlockBootstrap", "Jitter", "Mixup", "Scale", "TimeWarp", "WindowSlice"]
