"""Job: trade on paper, on the bars as they come into the table; never a real order."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from quantfleet.backtest.events import MarketView, Strategy
from quantfleet.backtest.paper import ForecastStrategy, PaperSession, bar_events, saved_owner
from quantfleet.config import to_plain
from quantfleet.contracts import BAR_COLUMNS, Timeframe
from quantfleet.errors import ConfigError, DataError, EmptyTableError, TimeError
from quantfleet.logs import get_logger
from quantfleet.registry.artifact import StoredModel
from quantfleet.storage import LakeTable, Storage
from quantfleet_data.feature_store import latest_features
from quantfleet_data.ingest import bars_path, list_symbols, stream
from quantfleet_jobs.main import job_main
from quantfleet_jobs.predict import answer_latest, chosen_version
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE", "TableFollower", "model_answers"]

_log = get_logger(__name__)
_LOOK_BACK_BARS = 64
"""How far behind the newest booked bar late and corrected ones are looked for."""


class TableFollower:
    """Gives a session what a bars table has got since its last booked bar. Not thread-safe."""

    def __init__(
        self,
        session: PaperSession,
        storage: Storage,
        *,
        sources: Sequence[str],
        since: np.datetime64,
        wait_bars: int,
    ) -> None:
        """Args:
        sources: as in the table's column, the first to be believed first.
        since: open of the first bar to book.
        wait_bars: a symbol so many bars behind the newest one is taken to have none; until then all wait for it.
        """
        self.session, self.sources, self.since, self.wait_bars = session, list(sources), since, wait_bars
        self.bar = np.timedelta64(session.timeframe.seconds, "s")
        self.table = LakeTable(storage, bars_path(session.timeframe.text))
        self.late: dict[tuple[str, np.datetime64], str] = {}
        """Bars that came or were corrected after their row was booked, and what is wrong with each."""

    def catch_up(self) -> int:
        """Book every complete row. Returns: how many. Raises: DataError: a bar that cannot be, or too large a gap."""
        session, before = self.session, self.session.rows
        last, symbols = session.last_bar, session.owner["symbols"]
        start = self.since if last is None else max(self.since, last - _LOOK_BACK_BARS * self.bar)
        bars = self._read(symbols, start)
        if bars.is_empty():
            return 0
        newest = bars.group_by("symbol").agg(pl.col("timestamp").max())
        times = dict(zip(newest["symbol"], newest["timestamp"].dt.replace_time_zone(None).to_numpy(), strict=True))
        latest = max(times.values())
        slowest = min(times.get(name, start - self.bar) for name in symbols)
        until = max(slowest, latest - self.wait_bars * self.bar)
        for bar in bar_events(bars):
            if last is not None and bar.time <= last:
                self._again(bar)
            elif bar.time <= until:
                session.push(bar)
        session.settle()
        return session.rows - before

    def _again(self, bar: Any) -> None:
        try:
            self.session.push(bar)
        except TimeError as error:
            if (bar.symbol, bar.time) not in self.late:
                self.late[bar.symbol, bar.time] = str(error)
                _log.warning("paper.late_bar", symbol=bar.symbol, time=str(bar.time), error=str(error))

    def _read(self, symbols: list[str], start: np.datetime64) -> pl.DataFrame:
        where = pc.field("source").isin(self.sources) & (pc.field("timestamp") >= _moment(start))
        bars = self.table.read(columns=[*BAR_COLUMNS, "source"], symbols=symbols, where=where)
        rank = pl.col("source").replace_strict(self.sources, list(range(len(self.sources))), return_dtype=pl.Int64)
        return bars.sort(rank).unique(["symbol", "timestamp"], keep="first", maintain_order=True).select(BAR_COLUMNS)


def model_answers(
    stored: StoredModel, history: pl.DataFrame, horizon_bars: int
) -> Callable[[MarketView], Mapping[str, tuple[float, float]]]:
    """A stored model's answer for the bar that just ended of every symbol it knows.

    Args:
        stored: loaded with `chunk_bars=1`.
        history: bars before the session, so that features need not wait for their look-back; BAR_COLUMNS.
    Returns: for `ForecastStrategy`. A symbol whose window is not complete is left out, and said in the log.
    """
    spec = stored.model.spec

    def bars_of(view: MarketView, symbol: str) -> pl.DataFrame:
        s = view.number(symbol)
        columns = {n: getattr(view, n)[:, s] for n in ("open", "high", "low", "close", "volume")}
        since = pl.DataFrame({"symbol": symbol, "timestamp": view.times, **columns}, strict=False)
        since = since.with_columns(pl.col("timestamp").dt.cast_time_unit("us").dt.replace_time_zone("UTC"))
        known = since.filter(pl.col("close").is_not_nan()).with_columns(pl.col("volume").fill_nan(None))
        return pl.concat([history.filter(pl.col("symbol") == symbol), known.select(BAR_COLUMNS)])

    def answer(view: MarketView) -> dict[str, tuple[float, float]]:
        known = [s for s in view.symbols if s in spec.symbols]
        here = {event.symbol for event in view.events()}
        rows = latest_features(lambda symbol: bars_of(view, symbol), view.symbols, stored.features, spec.lookback_bars)
        found: dict[str, tuple[float, float]] = {}
        for symbol in (name for name in known if name in rows and name in here):
            try:
                made = answer_latest(stored, rows[symbol])
            except DataError as error:  # no whole window: the model does not answer, in a backtest neither
                _log.warning("paper.no_answer", symbol=symbol, time=str(view.now), error=str(error))
                continue
            expected, position = made[f"expected_return_{horizon_bars}"][0], made["position"][0]
            found[symbol] = (_number(expected), _number(position))
        return found

    return answer


def _moment(time: np.datetime64) -> pa.Scalar:
    return pa.scalar(int(time.astype("datetime64[us]").astype(np.int64)), pa.timestamp("us", tz="UTC"))


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _work(context: StageContext) -> StageOutput:
    recipe, storage = context.recipe, context.storage
    config, timeframe = recipe.paper, Timeframe(recipe.ingest.timeframe)
    assert config is not None
    folder = context.path("paper")
    owner = saved_owner(storage, folder)
    table = LakeTable(storage, bars_path(timeframe.text))
    symbols = tuple(owner["symbols"]) if owner else _symbols(recipe, storage)
    since = np.datetime64(owner["settings"]["since"], "us") if owner else _since(recipe, table, symbols)
    strategy, settings = _strategy(context, owner, table, symbols, since)
    session = PaperSession(
        storage,
        folder,
        strategy,
        recipe.backtest,
        symbols=symbols,
        timeframe=timeframe.text,
        execution=config.execution,
        max_gap_bars=config.max_gap_bars,
        settings={**settings, "since": str(since)},
    )
    sources = recipe.bars_sources if recipe.stream is None else (recipe.stream.source.source_name,)
    follower = TableFollower(session, storage, sources=sources, since=since, wait_bars=config.wait_bars)
    before = session.rows

    def catch_up() -> None:
        follower.catch_up()
        context.progress.update(f"bar {session.rows:,} at {session.last_bar}: equity {session.equity:,.2f}")

    if recipe.stream is not None:
        stream(recipe.stream, storage, committed=catch_up)
    if table.exists():
        catch_up()
    late = f", {len(follower.late)} late or corrected bars not booked" if follower.late else ""
    return StageOutput(
        outputs={
            "state": f"{folder}/state.json",
            "journal": f"{folder}/journal",
            "rows": session.rows,
            "last_bar": None if session.last_bar is None else str(session.last_bar),
            "equity": session.equity,
            "positions": session.positions,
            "gap_bars": session.gap_bars,
        },
        summary=f"{session.rows - before} bars booked, {session.rows} in all, {len(session.fills)} fills, equity "
        f"{session.equity:,.2f}, {len(session.open_orders)} open orders, {session.gap_bars} bars missing{late}; on paper only",
    )


def _symbols(recipe: Recipe, storage: Storage) -> tuple[str, ...]:
    if recipe.stream is not None:
        return tuple(sorted(recipe.stream.source.symbols))
    return list_symbols(storage, recipe.ingest.timeframe, None)


def _since(recipe: Recipe, table: LakeTable, symbols: Sequence[str]) -> np.datetime64:
    """Where a new session begins: as the recipe says, or at the newest bar there is."""
    assert recipe.paper is not None
    if recipe.paper.since_utc is not None:
        return np.datetime64(recipe.paper.since_utc.astimezone(dt.UTC).replace(tzinfo=None), "us")
    if table.exists():
        newest = table.read(columns=["timestamp"], symbols=symbols)["timestamp"].max()
        if isinstance(newest, dt.datetime):
            return np.datetime64(newest.replace(tzinfo=None), "us")
    if recipe.stream is None:
        raise EmptyTableError(f"{table.uri} holds no bars of {', '.join(symbols)}; ingest them first.")
    return np.datetime64(dt.datetime.now(dt.UTC).replace(tzinfo=None), "us")


def _strategy(
    context: StageContext, owner: dict[str, Any] | None, table: LakeTable, symbols: Sequence[str], since: np.datetime64
) -> tuple[Strategy, dict[str, Any]]:
    """The recipe's trader, or the registered model; with it what a session must find unchanged when it goes on."""
    recipe, registry = context.recipe, context.registry
    assert recipe.paper is not None
    if recipe.paper.trader is not None:
        return recipe.paper.trader.build(), {"trader": to_plain(recipe.paper.trader)}
    asked = recipe.predict
    version, alias = asked.version, asked.alias
    if owner is not None and version is None and alias is None:
        version = owner["settings"].get("version")  # the one it began with, wherever the alias points by now
    if version is None and alias is None:
        version, alias, _ = chosen_version(context)
    stored, found = registry.load(recipe.registered_name, version=version, alias=alias, chunk_bars=1)
    foreign = sorted({name for feature in stored.features.features for name in feature.inputs} - set(BAR_COLUMNS))
    if foreign:
        raise ConfigError(
            f"the model reads {', '.join(foreign)} beside bars, which do not come with live bars; trade a model of bars alone."
        )
    place = context.path("paper", "history.parquet")
    if owner is None and table.exists():
        first = _moment(since)
        bars = table.read(
            columns=list(BAR_COLUMNS),
            symbols=symbols,
            where=(pc.field("timestamp") < first) & (pc.field("source") == recipe.bars_sources[0]),
        )
        context.storage.write_parquet(place, bars.sort("symbol", "timestamp"))
    history = context.storage.read_parquet(place) if context.storage.exists(place) else pl.DataFrame()
    if history.is_empty():
        raise EmptyTableError(
            f"there are no bars before {since} to compute the model's features from. Ingest some history, or begin later: "
            "`paper.since_utc`."
        )
    answers = model_answers(stored, history, recipe.policy.horizon_bars)
    settings = {"model": recipe.registered_name, "version": found, "policy": to_plain(recipe.policy)}
    return ForecastStrategy(recipe.policy, answers), settings


def _check(recipe: Recipe) -> None:
    if recipe.paper is None:
        raise ConfigError(
            "the recipe has no section `paper`. Add `paper: {}`, or `paper: {trader: {kind: moving_average}}`."
        )
    if recipe.stream is not None and recipe.stream.timeframe != recipe.ingest.timeframe:
        raise ConfigError(
            f"stream.timeframe={recipe.stream.timeframe} is not ingest.timeframe={recipe.ingest.timeframe}; paper trading "
            "needs both to be one."
        )


STAGE = Stage(
    name="paper",
    help="Trade on paper on the bars as they come, with a memory; never a real order.",
    needs=(),
    settings=("paper", "policy", "backtest", "predict"),
    work=_work,
    check=_check,
    uses_registry=True,
    always=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
