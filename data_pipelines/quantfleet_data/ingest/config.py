"""What to ingest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from quantfleet.contracts import SourceConfig, Timeframe
from quantfleet.errors import ConfigError
from quantfleet_data.ingest.tables import TABLES, RawTable

__all__ = ["IngestConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestConfig:
    """Sources whose rows go into one table: bars of one timeframe, trades, book messages or funding rates."""

    sources: tuple[SourceConfig, ...]
    timeframe: str = "1d"
    """Of bars, and of the bars that `trade_bars` makes of trades; raw tables of other kinds have none."""
    commit_rows: int = 50_000
    """Small batches are gathered until they hold so many rows, then committed at once. A process killed in between
    fetches them again; a batch that is larger is one commit.
    """

    def __post_init__(self) -> None:
        _ = Timeframe(self.timeframe).seconds  # calendar months have none: no source delivers them
        if not self.sources:
            raise ConfigError("ingest.sources is empty; name at least one, such as `kind: arch_daily`.")
        if self.commit_rows < 1:
            raise ConfigError(f"ingest.commit_rows={self.commit_rows} must be at least 1.")
        names = Counter(source.source_name for source in self.sources)
        name, count = names.most_common(1)[0]
        if count > 1:
            raise ConfigError(
                f"ingest.sources: {count} sources are called {name!r}, so their bars would overwrite each other. Give "
                "each a `name`, or put their symbols into one source."
            )
        delivered = sorted({source.raw_table for source in self.sources})
        if len(delivered) > 1:
            raise ConfigError(
                f"ingest.sources deliver {' and '.join(delivered)}, which are different tables. Ingest one table at a time."
            )

    @property
    def table(self) -> RawTable:
        """The table that these sources fill."""
        return TABLES[self.sources[0].raw_table]

    @property
    def path(self) -> str:
        """Its path under the storage root."""
        return self.table.path(self.timeframe)
