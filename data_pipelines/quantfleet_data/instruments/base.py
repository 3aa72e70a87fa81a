"""Instruments in memory: the universe of any past moment, names through renames, membership intervals."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import polars as pl

from quantfleet.contracts.instrument import (
    ACTIONS_SCHEMA,
    INSTRUMENTS_SCHEMA,
    MEMBERSHIPS_SCHEMA,
    validate_actions,
    validate_instruments,
    validate_memberships,
)
from quantfleet.errors import DataError, EmptyTableError, TimeError, nearest

__all__ = ["Instruments", "moment_of"]


def _empty(schema: object) -> pl.DataFrame:
    frame = pl.from_arrow(schema.empty_table())  # type: ignore[attr-defined]
    assert isinstance(frame, pl.DataFrame)
    return frame


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """Listings, index memberships and corporate actions, validated together. Immutable; safe to share between threads.

    What it tells about a moment never shows what came later: universes hold names, not the ends of intervals.
    """

    listings: pl.DataFrame = field(default_factory=lambda: _empty(INSTRUMENTS_SCHEMA))
    memberships: pl.DataFrame = field(default_factory=lambda: _empty(MEMBERSHIPS_SCHEMA))
    actions: pl.DataFrame = field(default_factory=lambda: _empty(ACTIONS_SCHEMA))

    def __post_init__(self) -> None:
        """Raises: DataError: a table breaks its contract, or a membership lies outside every listing of its symbol."""
        object.__setattr__(self, "listings", validate_instruments(self.listings, where="instruments"))
        object.__setattr__(self, "memberships", validate_memberships(self.memberships, where="index memberships"))
        object.__setattr__(self, "actions", validate_actions(self.actions, where="corporate actions"))
        known = self.memberships.join(self.listings.select("symbol").unique(), on="symbol", how="semi")
        lost = known.join(
            self._member_intervals().select("index", "symbol", "member_start"),
            left_on=["index", "symbol", "start"],
            right_on=["index", "symbol", "member_start"],
            how="anti",
        )
        if not lost.is_empty():
            row = lost.sort("index", "symbol", "start").row(0, named=True)
            raise DataError(
                f"index memberships: {row['symbol']} is in {row['index']} from {row['start']} to {row['end']}, at no time "
                "of which it is listed. Correct its listing or its membership.",
                symbol=row["symbol"],
            )

    @property
    def indices(self) -> tuple[str, ...]:
        return tuple(self.memberships["index"].unique().sort())

    def universe(self, day: dt.date | dt.datetime, index: str | None = None) -> tuple[str, ...]:
        """Symbols listed at a moment, or those that are in an index, sorted.

        A delisted asset is in the universe of every day on which it was listed. A member whose listing is not known at
        all counts as listed.

        Args:
            day: a date stands for 00:00 UTC, as daily bars are labelled; a date and time needs a zone.
        Raises: EmptyTableError: there are no listings. DataError: no such index. TimeError: a naive time.
        """
        moment = moment_of(day)
        if index is None and self.listings.is_empty():
            raise EmptyTableError("there are no listings, so a universe takes an index.")
        spans = self.intervals(index)
        covers = (pl.col("start").is_null() | (pl.col("start") <= moment)) & (
            pl.col("end").is_null() | (pl.col("end") > moment)
        )
        return tuple(spans.filter(covers)["symbol"].unique().sort())

    def intervals(self, index: str | None = None) -> pl.DataFrame:
        """When each symbol was listed (and in the index, when one is given): symbol, start, end; half-open, null is open.

        This is the whole history: whoever walks through time must not look at an `end` that lies ahead.

        Raises: DataError: no such index.
        """
        if index is None:
            return self.listings.select("symbol", start="listed_at", end="delisted_at")
        if index not in self.indices:
            raise DataError(
                f"no index {index!r} in the memberships.{nearest(index, self.indices)} Known: {', '.join(self.indices)}.",
                index=index,
            )
        spans = self._member_intervals().filter(pl.col("index") == index)
        return spans.select("symbol", "start", "end").sort("symbol", "start")

    def _member_intervals(self) -> pl.DataFrame:
        """Memberships cut to the listings of their symbols: index, symbol, member_start, start, end."""
        listed = self.listings.select("symbol", "listed_at", "delisted_at", known=pl.lit(True))
        return (
            self.memberships.join(listed, on="symbol", how="left")
            .select(
                "index",
                "symbol",
                member_start="start",
                start=pl.max_horizontal("start", "listed_at"),
                end=pl.min_horizontal("end", "delisted_at"),
            )
            .filter(pl.col("end").is_null() | (pl.col("start") < pl.col("end")))
        )

    def symbol_at(self, symbol: str, day: dt.date | dt.datetime, *, since: dt.date | dt.datetime) -> str:
        """What an asset that was called `symbol` at `since` is called at `day`, through renames and token swaps.

        Mergers are not followed: the old asset ended.
        """
        start, moment = moment_of(since), moment_of(day)
        moves = self.actions.filter(
            pl.col("kind").is_in(["rename", "swap"])
            & pl.col("new_symbol").is_not_null()
            & (pl.max_horizontal("effective_at", "announced_at") <= moment)
        ).sort("effective_at")
        name = symbol
        for old, effective, new in moves.select("symbol", "effective_at", "new_symbol").iter_rows():
            if old == name and effective > start:
                name, start = new, effective
        return name


def moment_of(day: dt.date | dt.datetime) -> dt.datetime:
    """A moment in UTC. Raises: TimeError: a date and time without a zone."""
    if not isinstance(day, dt.datetime):
        return dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
    if day.tzinfo is None:
        raise TimeError(f"{day} is naive; give a date, or a date and time with its zone.")
    return day.astimezone(dt.UTC)
