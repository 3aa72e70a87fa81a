"""Where models are registered."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

__all__ = ["RegistryConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryConfig:
    """MLflow tracking server and model registry."""

    tracking_uri: SecretStr | None = None
    """http://, postgresql:// or sqlite:// address (it may hold a password, so it is never shown); MLFLOW_TRACKING_URI, then
    a SQLite file in the storage root (.quantfleet when that is on S3) when absent."""
    model_name: str | None = None
    """Registered model that all candidates of a recipe are versions of; the run's name when absent."""
    alias: str = "champion"
    """Alias that the promotion log moves."""
