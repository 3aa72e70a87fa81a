"""C_memcpy: row C against the least that anybody could do, copying as many bytes in order."""

from __future__ import annotations

import torch

from bench.harness import BenchRow, Prepared
from bench.rows.c import BATCH, FEATURES, LOOKBACK, WINDOWS, check_windows, epoch, make


def prepare() -> Prepared:
    torch.set_num_threads(1)
    data = make()
    flat = data.x_RF.view(-1)
    size = BATCH * LOOKBACK * FEATURES
    blocks = flat.numel() // size
    out = torch.empty(size)

    def memcpy() -> float:
        for step in range(WINDOWS // BATCH):
            at = step % blocks * size
            out.copy_(flat[at : at + size])
        return float(out[0])

    def check(ours: float, theirs: float) -> None:
        assert ours == WINDOWS * (WINDOWS - 1) / 2
        assert theirs == float(flat[(WINDOWS // BATCH - 1) % blocks * size])
        check_windows(data)

    return Prepared(
        ours=epoch(data), peer=memcpy, check=check, ours_units=WINDOWS, peer_units=WINDOWS, close=data.folder.cleanup
    )


ROW = BenchRow(
    id="C_memcpy",
    work=f"one random {LOOKBACK}x{FEATURES} float32 window, minibatches of {BATCH}",
    peer="copying the same bytes in order (memcpy)",
    target=1 / 0.3,
    prepare=prepare,
    versions=("torch",),
)
