"""Which Ray to use: one that runs, or one of our own on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

__all__ = ["ClusterConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Connection to Ray."""

    address: str | None = None
    """`auto` or host:port of a running Ray; RAY_ADDRESS when absent; without either, a local Ray starts and ends with the job."""
    local_cpus: Annotated[int, Field(ge=1)] | None = None
    """Logical CPUs of a local Ray; the machine's cores, but at least 4 when absent, so that data tasks run beside workers."""
    object_store_mb: Annotated[int, Field(ge=100)] = 500
    """Shared memory of a local Ray, megabytes."""
