"""Layers that several families share. They import torch: a `model.py` imports them, a `config.py` only `parts.checks`."""

__all__: list[str] = []
