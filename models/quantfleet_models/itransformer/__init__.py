"""iTransformer: attention between channels."""

from quantfleet_models.itransformer.config import ITransformerConfig

__all__ = ["ITransformerConfig"]
