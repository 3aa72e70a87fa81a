"""Job: write live bars of an exchange into the bars table until a limit is reached or SIGTERM comes."""

from __future__ import annotations

from quantfleet.errors import ConfigError
from quantfleet_data.ingest import stream
from quantfleet_jobs.main import job_main
from quantfleet_jobs.recipe import Recipe
from quantfleet_jobs.stage import Stage, StageContext, StageOutput

__all__ = ["STAGE"]


def _check(recipe: Recipe) -> None:
    if recipe.stream is None:
        raise ConfigError(
            "the recipe has no `stream` section. Add one, such as `stream: {timeframe: 1m, source: {exchange: binance, symbols: "
            "[BTC/USDT], since_utc: 2026-01-01T00:00:00Z}}`."
        )


def _work(context: StageContext) -> StageOutput:
    config = context.recipe.stream
    assert config is not None
    context.progress.update(
        f"streaming {config.timeframe} bars of {', '.join(config.source.symbols)}; SIGTERM or Ctrl-C ends it"
    )
    report = stream(config, context.storage)
    return StageOutput(outputs={"table": report.after.path, "version": report.after.version}, summary=report.summary)


STAGE = Stage(
    name="stream",
    help="Write an exchange's live bars into the bars table; only closed bars, gaps repaired over REST.",
    needs=(),
    settings=("stream",),
    work=_work,
    check=_check,
    always=True,
)

if __name__ == "__main__":
    raise SystemExit(job_main(STAGE))
