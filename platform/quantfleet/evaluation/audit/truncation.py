"""Future truncation: a feature at t must not change when the bars after t are taken away."""

from __future__ import annotations

import numpy as np
import polars as pl

from quantfleet.evaluation.audit.base import AuditConfig, AuditInputs, Finding

__all__ = ["future_truncation"]

_LAST_ROWS = 3


def future_truncation(inputs: AuditInputs, config: AuditConfig) -> Finding:
    """Compute features again on bars that end early, and compare the last rows with those that the run stored, bit by bit."""
    compared, broken = 0, dict[str, str]()
    for symbol, bars in inputs.cut_bars.items():
        stored = inputs.stored_features.filter(pl.col("symbol") == symbol)
        for end in np.linspace(0, bars.height, config.cuts + 2).astype(int)[1:-1]:
            known = inputs.recompute(bars.head(int(end))).tail(_LAST_ROWS)
            both = known.join(stored, on="timestamp", how="inner", suffix="__stored")
            for name in (n for n in known.columns if n in stored.columns and n not in ("symbol", "timestamp")):
                again, kept = both[name], both[f"{name}__stored"]
                again = again.cast(kept.dtype)
                if not again.fill_nan(None).equals(kept.fill_nan(None), null_equal=True):
                    broken.setdefault(name, f"{symbol} at {both['timestamp'][-1]:%Y-%m-%d %H:%M}")
            compared += both.height
    if not compared:
        return Finding(
            check="future_truncation", outcome="not_checked", detail="no stored row lies at the end of a cut history"
        )
    if broken:
        name, place = next(iter(broken.items()))
        return Finding(
            check="future_truncation",
            outcome="failed",
            detail=f"{len(broken)} feature(s) change when the future is cut off: {', '.join(sorted(broken)[:5])}; first {name} of "
            f"{place}. They see later bars, or the table was not made by this recipe.",
            evidence={"features": float(len(broken))},
        )
    return Finding(
        check="future_truncation",
        outcome="passed",
        detail=f"{compared} rows of {len(inputs.cut_bars)} symbol(s) are the same with the future cut off",
    )
