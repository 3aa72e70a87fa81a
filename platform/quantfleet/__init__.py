"""Quantfleet's engine: contracts, storage, training, evaluation and registry; knows no concrete model or pipeline."""

__version__ = "0.1.0"

__all__ = ["__version__"]
