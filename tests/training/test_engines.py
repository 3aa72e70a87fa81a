"""The engines of `ddp` and `fsdp` on one worker: precision, the loss scale of fp16, pieces of a step, what a checkpoint holds."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quantfleet.training import DDPConfig, FSDPConfig, StrategyConfig
from quantfleet.training.strategies import EngineSettings
from quantfleet.training.strategies.engine import Engine

CLIP = 0.5


class Squares(nn.Module):
    """A module whose forward pass gives its loss, as the loop's does; `blow_up` makes the gradient overflow in 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 1)
        self.seen: list[torch.dtype] = []

    def forward(self, x_NF: torch.Tensor, blow_up: float = 1.0) -> torch.Tensor:
        out = self.line(x_NF)
        self.seen.append(out.dtype)
        return (out.float() * blow_up).square().mean()


@pytest.fixture(autouse=True)
def a_lone_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("cpu"))
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def engine_of(strategy: StrategyConfig, precision: Any = "32") -> Engine:
    torch.manual_seed(3)
    settings = EngineSettings(use_gpu=False, precision=precision, gradient_clip=CLIP, micro_windows=8)
    engine = strategy.build(settings)
    engine.setup(Squares(), lambda module: torch.optim.AdamW(module.parameters(), lr=0.05))
    return engine


def step(engine: Engine, x_NF: torch.Tensor, *more: float) -> float:
    engine.backward(engine.forward(x_NF, *more), last=True)
    return engine.step()


def weights(engine: Engine) -> dict[str, torch.Tensor]:
    made = engine.weights()
    assert made is not None
    return {name: tensor.clone() for name, tensor in made.items()}


X_NF = torch.linspace(-1, 1, 32).reshape(8, 4)


def test_a_step_is_that_of_a_plain_torch_loop():
    engine, plain = engine_of(DDPConfig()), Squares()
    plain.load_state_dict(weights(engine))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        plain(X_NF).backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), CLIP)
        optimizer.step()
        assert step(engine, X_NF) == pytest.approx(float(norm), rel=1e-6)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(weights(engine)[name], tensor)


def test_two_halves_make_the_step_of_the_whole():
    whole, halves = engine_of(DDPConfig()), engine_of(DDPConfig())
    norm = step(whole, X_NF)
    halves.backward(halves.forward(X_NF[:4]) / 2, last=False)
    halves.backward(halves.forward(X_NF[4:]) / 2, last=True)
    assert halves.step() == pytest.approx(norm, rel=1e-5)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(halves)[name], tensor)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_layers_compute_in_the_precision_and_weights_stay_in_32_bits(precision: str, dtype: torch.dtype):
    engine = engine_of(DDPConfig(), precision)
    step(engine, X_NF)
    assert engine.module.seen == [dtype]  # type: ignore[union-attr,comparison-overlap]
    assert {tensor.dtype for tensor in weights(engine).values()} == {torch.float32}


def test_in_fp16_a_gradient_that_overflows_moves_nothing_and_lowers_the_loss_scale():
    engine = engine_of(DDPConfig(), "fp16")
    step(engine, X_NF)
    before, scale = weights(engine), engine.loss_scale
    assert scale > 1
    assert not math.isfinite(step(engine, X_NF, 1e4))
    assert engine.loss_scale == scale / 2
    for name, tensor in before.items():
        torch.testing.assert_close(weights(engine)[name], tensor, rtol=0, atol=0)
    assert math.isfinite(step(engine, X_NF)), "and training goes on"


def test_in_32_bits_a_gradient_that_is_not_finite_moves_nothing():
    engine = engine_of(DDPConfig())
    before = weights(engine)
    assert not math.isfinite(step(engine, X_NF, math.nan))
    for name, tensor in before.items():
        torch.testing.assert_close(weights(engine)[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("strategy", [DDPConfig(), FSDPConfig()], ids=["ddp", "fsdp"])
def test_a_checkpoint_holds_weights_moments_scale_and_what_else_is_given(strategy: StrategyConfig, tmp_path: Path):
    precision = "fp16" if strategy.kind == "ddp" else "32"
    engine = engine_of(strategy, precision)
    for _ in range(2):
        step(engine, X_NF)
    if precision == "fp16":
        step(engine, X_NF, 1e4)
    engine.save(tmp_path, {"average.line.bias": torch.full((1,), 7.0)})
    again, extra = engine_of(strategy, precision), {"average.line.bias": torch.zeros(1)}
    again.load(tmp_path, extra, workers=1)
    assert extra["average.line.bias"].item() == 7.0
    assert again.loss_scale == engine.loss_scale
    assert step(again, X_NF) == pytest.approx(step(engine, X_NF), rel=1e-6)
    for name, tensor in weights(engine).items():
        torch.testing.assert_close(weights(again)[name], tensor)
