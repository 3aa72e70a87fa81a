"""The recipe's section for paper trading."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from quantfleet.backtest.events.base import ExecutionConfig
from quantfleet.backtest.paper.traders import TraderConfig
from quantfleet.errors import ConfigError

__all__ = ["PaperConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperConfig:
    """Who trades on paper, and what happens to bars that are missing. The account is that of `backtest`."""

    trader: TraderConfig | None = None
    """A strategy by name, see `quantfleet traders list`; None: the registered model, through `policy`."""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    since_utc: dt.datetime | None = None
    """First bar of a new session; None: the newest bar there is when it begins."""
    max_gap_bars: Annotated[int, Field(ge=0)] | None = None
    """Most bars that may be missing between two: then the session stops until they are there. None: any number, written down."""
    wait_bars: Annotated[int, Field(ge=0)] = 2
    """A symbol so many bars behind the newest is taken to have none; until then the others' bars wait for it."""

    def __post_init__(self) -> None:
        if self.since_utc is not None and self.since_utc.tzinfo is None:
            raise ConfigError(f"paper.since_utc={self.since_utc} names no time zone; write 2026-01-01T00:00:00Z.")
