"""The architecture of a torch model as a picture, taken from the network itself: one window goes through it, and what fed what is
read off autograd's graph.

Shapes: N windows, L look-back bars, F features, H horizons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantfleet.config import from_plain
from quantfleet.config.layers import set_layer
from quantfleet.config.values import unwrap
from quantfleet.contracts import MODELS, DataSpec, ModelConfig
from quantfleet.errors import ConfigError
from quantfleet.training import TorchModelConfig

__all__ = ["Drawn", "Part", "draw_model", "model_config", "parts_of"]

_FORMATS = (".svg", ".png", ".pdf")
_INPUT = "window"
_FEW = 3
"""A network of so few children is drawn one level deeper."""


@dataclass
class Part:
    """A box of the picture."""

    name: str
    kind: str
    parameters: int
    shape: tuple[int, ...]
    """Of what comes out, the first of several; the batch is written as N."""
    reads: list[str] = field(default_factory=list)
    """Names of the parts that feed it."""


@dataclass(frozen=True)
class Drawn:
    """What was drawn."""

    parts: tuple[Part, ...]
    parameters: int


def model_config(name: str, overrides: Sequence[str]) -> ModelConfig:
    """The config of a registered model with some settings changed, "width=64" each.

    Raises: UnknownPluginError, ConfigError: no such model, no such setting, or a value that does not fit.
    """
    MODELS.get(name)
    return from_plain(ModelConfig, {"kind": name, **unwrap(set_layer(overrides))}, where=f"models plot {name}")


def draw_model(config: ModelConfig, file: Path, *, lookback_bars: int, features: int, horizons: int) -> Drawn:
    """Write the picture.

    Raises: ConfigError: the model has no torch network, a window of this size does not fit it, or the file's ending is no format.
    """
    if not isinstance(config, TorchModelConfig):
        raise ConfigError(
            f"model {config.kind!r} has no network to draw; `quantfleet models describe {config.kind}` says what it is."
        )
    if file.suffix not in _FORMATS:
        raise ConfigError(f"{file} does not end in {', '.join(_FORMATS)}, so that its format is not known.")
    columns = tuple(f"feature_{i}" for i in range(features))
    named = [name for name in config.required_features if name not in columns][:features]
    spec = DataSpec(
        symbols=("A",),
        feature_columns=(*columns[: features - len(named)], *named),
        feature_digest="0" * 16,
        horizons_bars=tuple(range(1, horizons + 1)),
        timeframe="1d",
        lookback_bars=lookback_bars,
        chunk_bars=1,
    )
    network = config.build_network(spec)
    parts = parts_of(network, lookback_bars, features)
    parameters = sum(p.numel() for p in network.parameters())
    title = (
        f"{config.label}: {parameters:,} parameters\n{lookback_bars} bars x {features} features, {horizons} horizons"
    )
    _draw(parts, title, file)
    return Drawn(tuple(parts), parameters)


def parts_of(network: Any, lookback_bars: int, features: int) -> list[Part]:
    """The window, then the network's parts in the order in which they first answer."""
    import torch

    made: dict[Any, str] = {}
    """Where in autograd's graph which part's answers stand."""
    parts: dict[str, Part] = {}
    hooks = []

    def answered(name: str, module: Any) -> Any:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            tensors = list(_tensors(output))
            if not tensors:
                return
            shape = tuple(tensors[0].shape)
            count = sum(p.numel() for p in module.parameters())
            part = parts.setdefault(name, Part(name, type(module).__name__, count, shape))
            for tensor in _tensors(inputs):
                for source in _sources(tensor.grad_fn, made):
                    if source != name and source not in part.reads:
                        part.reads.append(source)
            for tensor in tensors:
                if tensor.grad_fn is not None:
                    made[tensor.grad_fn] = name

        return hook

    for name, module in _called(network):
        hooks.append(module.register_forward_hook(answered(name, module)))
    training = network.training
    try:
        leaf = torch.zeros(2, lookback_bars, features, requires_grad=True)
        x_NLF = leaf * 1.0
        parts[_INPUT] = Part(_INPUT, "", 0, tuple(x_NLF.shape))
        made[x_NLF.grad_fn] = _INPUT
        with torch.enable_grad():
            network.eval()(x_NLF)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return list(parts.values())


def _called(network: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Direct children; of a list of layers, its members; of a child that holds such a list, or is most of it all, its own."""
    import torch

    children = [(name, child) for name, child in network.named_children() if not isinstance(child, torch.nn.Dropout)]
    for name, child in children:
        here = f"{prefix}{name}"
        inner = [type(own) for _, own in child.named_children()]
        if isinstance(child, torch.nn.ModuleList):
            for number, member in enumerate(child):
                yield f"{here}[{number}]", member
        elif torch.nn.ModuleList in inner or (len(children) <= _FEW and len(inner) > 1 and name != "heads"):
            yield from _called(child, f"{here}.")
        else:
            yield here, child


def _tensors(value: Any) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _tensors(child)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _tensors(child)


def _sources(start: Any, made: dict[Any, str]) -> list[str]:
    """Parts whose answers are reached first on the way back."""
    found: list[str] = []
    stack, seen = [start], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in made:
            if made[node] not in found:
                found.append(made[node])
            continue
        stack.extend(parent for parent, _ in node.next_functions)
    return found


def _draw(parts: list[Part], title: str, file: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    level: dict[str, int] = {}
    for part in parts:  # in order of first answer, so that what feeds a part stands above it
        level[part.name] = 1 + max((level[name] for name in part.reads), default=-1)
    rows: dict[int, list[Part]] = {}
    for part in parts:
        rows.setdefault(level[part.name], []).append(part)
    widest, deepest = max(map(len, rows.values())), max(rows)
    figure = Figure(figsize=(2.9 * widest + 0.6, 1.05 * (deepest + 1) + 0.9))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(-widest / 2 - 0.1, widest / 2 + 0.1)
    axes.set_ylim(-deepest - 0.6, 0.9)
    axes.axis("off")
    at: dict[str, tuple[float, float]] = {}
    for depth, row in rows.items():
        for i, part in enumerate(row):
            at[part.name] = (i - (len(row) - 1) / 2, -float(depth))
    for part in parts:
        x, y = at[part.name]
        for name in part.reads:
            from_x, from_y = at[name]
            bend = 0.0 if y >= from_y - 1.01 else 0.25
            axes.add_patch(
                FancyArrowPatch(
                    (from_x, from_y - 0.3), (x, y + 0.3), arrowstyle="-|>", mutation_scale=10, color="#6b7280", lw=1.0,
                    connectionstyle=f"arc3,rad={bend}", zorder=1,
                )
            )  # fmt: skip
        fill = "#e5e7eb" if part.name == _INPUT else "#dbeafe" if part.parameters else "#f3f4f6"
        axes.add_patch(
            FancyBboxPatch(
                (x - 0.42, y - 0.27), 0.84, 0.54, boxstyle="round,pad=0.02", fc=fill, ec="#374151", lw=0.8, zorder=2
            )
        )
        shape = " x ".join(["N", *map(str, part.shape[1:])])
        below = f"{shape}" + (f"   {part.parameters:,} par." if part.parameters else "")
        axes.text(x, y + 0.1, part.name, ha="center", va="center", fontsize=9, weight="bold", zorder=3)
        if part.kind:
            axes.text(x, y - 0.05, part.kind, ha="center", va="center", fontsize=7, color="#374151", zorder=3)
        axes.text(x, y - 0.19, below, ha="center", va="center", fontsize=7, color="#374151", zorder=3)
    axes.text(0, 0.62, title, ha="center", va="center", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
