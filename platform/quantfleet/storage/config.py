"""Where everything is kept: one root for tables, checkpoints, runs and artifacts, local or on S3."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from quantfleet.errors import ConfigError

__all__ = ["StorageConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageConfig:
    """Root folder and, for S3, how to reach it. Credentials not given here come from AWS_* in the environment."""

    root: str = ".quantfleet"
    """A folder, or s3://bucket/prefix."""
    endpoint_url: str | None = None
    """S3 endpoint, for servers other than AWS; AWS_ENDPOINT_URL when absent. http:// switches TLS off."""
    region: str | None = None
    """S3 region; AWS_REGION, then us-east-1 when absent."""
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None

    def __post_init__(self) -> None:
        scheme, separator, rest = self.root.partition("://")
        if separator and scheme != "s3":
            raise ConfigError(f"root={self.root!r}: only local folders and s3:// are known, not {scheme}://.")
        if separator and not rest.strip("/"):
            raise ConfigError("root=s3:// names no bucket; write s3://bucket/prefix.")
        if self.endpoint_url is not None and not self.endpoint_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"endpoint_url={self.endpoint_url!r} needs a scheme: http://{self.endpoint_url} or https://..., whichever "
                "the server speaks."
            )
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ConfigError("access_key_id and secret_access_key go together; one of them is missing.")

    @property
    def is_s3(self) -> bool:
        return self.root.startswith("s3://")
