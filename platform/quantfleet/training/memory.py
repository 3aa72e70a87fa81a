"""What weights, gradients and optimizer state take on one worker, under each way to share them. Pure arithmetic.

Symbols of the paper: Psi parameters, N workers (its N_d), K bytes of optimizer state a parameter. With weights and gradients in
16 bits and Adam (a master copy of the weights and two moments in 32 bits: K = 4 + 4 + 4 = 12) a worker holds

    no sharing   (2 + 2 + K) Psi
    ZeRO 1       2 Psi + 2 Psi + K Psi / N
    ZeRO 2       2 Psi + (2 + K) Psi / N
    ZeRO 3       (2 + 2 + K) Psi / N

Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", arXiv:1910.02054,
section 5 and Table 1. What is not in the paper is said at `state_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quantfleet.errors import ConfigError

__all__ = ["SHARINGS", "Precision", "Sharing", "StateBytes", "collective_bytes", "state_bytes"]

Precision = Literal["32", "bf16", "fp16"]
Sharing = Literal["ddp", "fsdp", "zero1", "zero2", "zero3"]
SHARINGS: tuple[Sharing, ...] = ("ddp", "fsdp", "zero1", "zero2", "zero3")

_MOMENTS_BYTES = 4 + 4
_MASTER_BYTES = 4
_LIVE_PARAMETERS = 1_000_000_000
"""DeepSpeed's default of `stage3_max_live_parameters`: so many gathered parameters may stay on a worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StateBytes:
    """Bytes on one worker."""

    weights: int
    gradients: int
    optimizer: int
    """Moments of Adam, and the 32-bit master copy of the weights where there is one."""
    buckets: int
    """Copies of gradients on their way to other workers."""
    gathered: int
    """Weights of other workers' parts while they are used: at most so much at a time."""
    copies: int
    """Averaged weights (EMA, SWA) beside those that are trained."""
    host: int
    """How much of the above lies in the host's memory instead of the GPU's."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.buckets + self.gathered + self.copies

    @property
    def on_device(self) -> int:
        return self.total - self.host


def state_bytes(
    sharing: Sharing,
    *,
    parameters: int,
    trainable: int,
    workers: int,
    precision: Precision = "32",
    offload: bool = False,
    use_gpu: bool = False,
    weight_copies: int = 0,
    bucket_elements: int = 500_000_000,
) -> StateBytes:
    """Bytes of one worker's state with AdamW.

    `ddp` and `fsdp` keep 32-bit weights under autocast, which are their own master copy: 4 + 4 + 8 bytes whatever the precision.
    DeepSpeed keeps a master copy beside the weights always, so K is 12 in 32 bits too (`single_partition_of_fp32_groups`).
    DDP copies every gradient into its buckets. DeepSpeed's bucket is one piece of `reduce_bucket_size` elements: a GPU gives all of
    it at once, a CPU the pages that are touched. FSDP is counted as one unit, so the whole network is gathered at its peak.
    Offload (DeepSpeed) puts optimizer state and, from stage 2 on, the gradients' part into the host's memory; workers without a GPU
    have no other, and nothing is saved.

    Args:
        parameters: all; trainable: those with a gradient.
        weight_copies: whole copies of the weights in 32 bits (EMA, SWA) on every worker.
        bucket_elements: DeepSpeed's `reduce_bucket_size`.
    Raises: ConfigError: no such sharing, or counts that no network has.
    """
    if sharing not in SHARINGS:
        raise ConfigError(f"there is no sharing {sharing!r}; known are {', '.join(SHARINGS)}.")
    if workers < 1 or not 0 <= trainable <= parameters:
        raise ConfigError(
            f"workers={workers}, trainable={trainable}, parameters={parameters}: there is at least one worker, and no more "
            "parameters are trained than there are."
        )
    deepspeed = sharing.startswith("zero")
    width = 2 if deepspeed and precision != "32" else 4

    def part(count: int, shared: bool) -> int:
        return -(-count // workers) if shared else count

    weights = width * part(parameters, sharing in ("fsdp", "zero3"))
    gradients = width * part(trainable, sharing in ("fsdp", "zero2", "zero3"))
    kept = _MOMENTS_BYTES + (_MASTER_BYTES if deepspeed else 0)
    optimizer = kept * part(trainable, sharing != "ddp")
    whole = {"fsdp": parameters, "zero3": min(parameters, _LIVE_PARAMETERS)}.get(sharing, 0)
    if sharing == "ddp":
        buckets = 4 * trainable if workers > 1 else 0
    elif sharing == "fsdp":
        buckets = 0 if workers == 1 else 4 * trainable  # the whole gradient, before it is scattered
    else:
        buckets = width * (bucket_elements if use_gpu else min(trainable, bucket_elements))
    host = 0
    if offload and deepspeed and use_gpu:
        host = optimizer + (gradients if sharing != "zero1" else 0)
    return StateBytes(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        buckets=buckets,
        gathered=width * (whole - part(whole, True)),
        copies=4 * parameters * weight_copies,
        host=host,
    )


def collective_bytes(sharing: Sharing, *, parameters: int, trainable: int, precision: Precision = "32") -> int:
    """Bytes that all workers exchange in one optimizer step, to be multiplied by (N - 1) / N for what one worker sends.

    A ring all-reduce is a reduce-scatter and an all-gather: 2 Psi, the same for ZeRO 1 and 2. Where weights are sharded they are
    gathered for the forward and again for the backward pass: 3 Psi. Source: arXiv:1910.02054, section 7.
    """
    width = 2 if sharing.startswith("zero") and precision != "32" else 4
    if sharing in ("fsdp", "zero3"):
        return width * (2 * parameters + trainable)
    return 2 * width * trainable
