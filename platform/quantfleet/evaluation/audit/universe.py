"""Survivorship: what was delisted belongs to the past it lived in."""

from __future__ import annotations

import polars as pl

from quantfleet.evaluation.audit.base import AuditConfig, AuditInputs, Finding

__all__ = ["universe"]


def universe(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """Every instrument that was listed while the run trains, validates or tests has bars, and none has bars outside its listing.

    Without a list of instruments nobody can know what is missing.
    """
    if inputs.instruments is None:
        return Finding(
            check="universe",
            outcome="not_checked",
            detail="the recipe names no instruments: nothing tells which delisted symbols are missing",
        )
    every = [own for s in ("train", "validation", "test") for own in inputs.split.intervals(s)]
    start, end = min(own.start for own in every), max(own.end for own in every)
    listed = inputs.instruments.filter(
        (pl.col("listed_at").is_null() | (pl.col("listed_at") < end))
        & (pl.col("delisted_at").is_null() | (pl.col("delisted_at") > start))
    )
    have = set(inputs.bars["symbol"].unique())
    absent = sorted(set(listed["symbol"]) - have)
    gone = sorted(set(listed.filter(pl.col("delisted_at").is_not_null())["symbol"]) & set(absent))
    spans = inputs.bars.join(inputs.instruments.select("symbol", "listed_at", "delisted_at"), on="symbol", how="inner")
    inside = (pl.col("listed_at").is_null() | (pl.col("timestamp") >= pl.col("listed_at"))) & (
        pl.col("delisted_at").is_null() | (pl.col("timestamp") < pl.col("delisted_at"))
    )
    stray = spans.group_by("symbol", "timestamp").agg(inside.any().alias("inside")).filter(~pl.col("inside"))
    if absent or stray.height:
        return Finding(
            check="universe",
            outcome="failed",
            detail=f"{len(absent)} listed symbol(s) have no bars ({len(gone)} of them delisted: "
            f"{', '.join(gone[:5]) or 'none'}), and {stray.height} bar(s) lie outside their symbol's listing",
            evidence={"absent": float(len(absent)), "delisted": float(len(gone)), "stray_bars": float(stray.height)},
        )
    dead = listed.filter(pl.col("delisted_at").is_not_null()).height
    detail = f"all {listed.height} listed instruments have bars, {dead} delisted ones among them"
    return Finding(check="universe", outcome="passed", detail=detail)
