"""Pretrained forecasters behind one question: the quantiles of the next steps of many series. Their code is that of their packages.

Shapes: N series, L bars seen, S steps ahead, Q quantile levels, P paths.
"""

from __future__ import annotations

import copy
import importlib
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from quantfleet.errors import ConfigError, nearest

__all__ = ["Backbone", "ChronosBolt", "ChronosT5", "TimesFM", "backbone_kind"]

_MOST_PATHS = 4096
"""Paths that are drawn at once, which bounds the memory of their attention."""


class Backbone(nn.Module):
    """A pretrained forecaster of its own architecture, `inner`."""

    architecture: str
    """As `architectures` of a config.json names it."""
    trainable = True
    """Whether its answers have a gradient in its weights."""
    inner: nn.Module

    def __init__(self, record: Mapping[str, Any]) -> None:
        """Families add `folder`, that of the weights (None: random ones), and `samples`, paths to draw.

        Args: record: config.json.
        """
        super().__init__()
        self.record = dict(record)
        self.levels: tuple[float, ...] = ()
        """The Q levels that it answers with, rising."""
        self.most_bars = 0
        """Bars that it can be shown."""
        self.most_steps = 0
        """Steps ahead that it answers in one go."""
        self.least_bars = 1

    @abstractmethod
    def forward(self, series_NL: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Quantiles (N, S, Q) as it gives them, not sorted, and the value it expects (N, S), in the units of the series."""

    @staticmethod
    def _made(kind: Any, config: Any, folder: Path | None) -> Any:
        """The package's model in float32: with the weights of a folder, or with random ones.

        Raises: ValueError, RuntimeError, OSError, SafetensorError: the folder holds other weights, or none that can be read.
        """
        if folder is None:
            return kind(config).float()
        inner, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, in words that name one
        )
        for name, stored, wanted in sorted(info["mismatched_keys"]):
            raise ValueError(f"it holds {name} as {list(stored)}, not {list(wanted)}.")
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(f"it lacks {missing[0]} and {len(missing) - 1} more.")
        return inner


def backbone_kind(record: Mapping[str, Any], *, where: str) -> type[Backbone]:
    """Which forecaster a config.json describes. Raises: ConfigError: none that is known, or its package is missing."""
    known: dict[str, type[Backbone]] = {kind.architecture: kind for kind in (ChronosBolt, ChronosT5, TimesFM)}
    named = record.get("architectures") or [None]
    name = named[0] if isinstance(named, list) else named
    if name not in known:
        raise ConfigError(
            f"{where} describes {name or 'no architecture'}.{nearest(str(name), known)} Known are {', '.join(known)} "
            "(Chronos-Bolt, Chronos-T5, TimesFM 2.5)."
        )
    kind = known[str(name)]
    if kind is not TimesFM and not isinstance(record.get("chronos_config"), dict):
        raise ConfigError(f"{where} has no section chronos_config: these are weights of a {name} that is no Chronos.")
    return kind


class ChronosBolt(Backbone):
    """Patches in, quantiles of all steps out, in one pass. Source: the package chronos-forecasting."""

    architecture = "ChronosBoltModelForForecasting"

    def __init__(self, record: Mapping[str, Any], folder: Path | None, *, samples: int) -> None:
        super().__init__(record)
        config = _package("transformers").T5Config.from_dict(dict(record))
        inner = self._made(_package("chronos.chronos_bolt").ChronosBoltModelForForecasting, config, folder)
        said = inner.chronos_config
        self.levels, self.most_bars, self.most_steps = (
            tuple(said.quantiles),
            said.context_length,
            said.prediction_length,
        )
        _check_levels(self.levels)
        # One tensor, one name: safetensors refuse shared ones. The token that starts the decoder and the one that ends the
        # encoder's input are different rows of the shared table, so parting them changes nothing, in training neither.
        inner.decoder.embed_tokens = copy.deepcopy(inner.shared)
        inner.encoder.embed_tokens = None  # it is given embedded patches
        if not said.use_reg_token:
            inner.shared.requires_grad_(False)  # never read
        self.inner = inner

    def forward(self, series_NL: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        quantile_NQS = self.inner(context=series_NL).quantile_preds.float()
        quantile_NSQ = quantile_NQS[..., :steps].transpose(1, 2)
        return quantile_NSQ, quantile_NSQ[..., self.levels.index(0.5)]  # its authors give the median as the mean


class TimesFM(Backbone):
    """A decoder over patches that answers with quantiles of the patch that comes. Source: the package transformers.

    It is shown whole patches, the newest: filled up with zeros, as the package does with shorter series, the zeros would move the
    series' mean and spread.
    """

    architecture = "TimesFm2_5ModelForPrediction"

    def __init__(self, record: Mapping[str, Any], folder: Path | None, *, samples: int) -> None:
        super().__init__(record)
        transformers = _package("transformers")
        config = transformers.TimesFm2_5Config.from_dict(dict(record))
        self.inner = self._made(transformers.TimesFm2_5ModelForPrediction, config, folder)
        self.patch_bars = self.least_bars = config.patch_length
        self.levels, self.most_bars, self.most_steps = (
            tuple(config.quantiles),
            config.context_length,
            config.horizon_length,
        )
        _check_levels(self.levels)

    def forward(self, series_NL: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        bars = series_NL.shape[1] // self.patch_bars * self.patch_bars
        made = self.inner(
            past_values=list(series_NL[:, -bars:].float()),
            forecast_context_len=bars,
            truncate_negative=False,  # it would be decided for all series of a batch at once, and returns may be negative
        )
        return made.full_predictions[:, :steps, 1:].float(), made.mean_predictions[:, :steps].float()


class ChronosT5(Backbone):
    """Values as tokens of bins, paths drawn token by token. Source: the package chronos-forecasting.

    The package draws with torch's global generator, so that an answer would depend on what else is asked in a batch. Here every
    series meets the same draws: at each step path p takes the token at which the distribution's sum passes u(p), and the u lie
    evenly in (0, 1), in an order of their own at each step.
    """

    architecture = "T5ForConditionalGeneration"
    trainable = False
    at_P: Tensor
    _LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))

    def __init__(self, record: Mapping[str, Any], folder: Path | None, *, samples: int) -> None:
        super().__init__(record)
        transformers, chronos = _package("transformers"), _package("chronos.chronos")
        self.config = chronos.ChronosConfig(**record["chronos_config"])
        if self.config.model_type != "seq2seq":
            raise ValueError(f"chronos_config.model_type={self.config.model_type!r} is not seq2seq")
        self.tokenizer = self.config.create_tokenizer()
        config = transformers.T5Config.from_dict(dict(record))
        inner = self._made(transformers.T5ForConditionalGeneration, config, folder)
        for stack in (inner.encoder, inner.decoder):
            stack.embed_tokens = copy.deepcopy(inner.shared)
        inner.lm_head.weight = nn.Parameter(inner.lm_head.weight.detach().clone())
        self.inner = inner.requires_grad_(False)
        self.paths, self.levels = samples, self._LEVELS
        self.most_bars, self.most_steps = self.config.context_length, self.config.prediction_length

    def forward(self, series_NL: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        block = max(1, _MOST_PATHS // self.paths)
        path_NPS = torch.cat([self.draw(part_NL, steps) for part_NL in torch.split(series_NL, block)])
        levels = torch.tensor(self.levels, dtype=path_NPS.dtype, device=path_NPS.device)
        return torch.quantile(path_NPS, levels, dim=1).permute(1, 2, 0), path_NPS.mean(1)

    @torch.no_grad()
    def draw(self, series_NL: Tensor, steps: int) -> Tensor:
        """Paths, (N, P, S)."""
        generation = importlib.import_module("transformers.generation")
        config = self.config
        tokens, mask, scale = self.tokenizer.context_input_transform(series_NL.float().cpu())
        processors = generation.LogitsProcessorList([generation.TemperatureLogitsWarper(config.temperature)])
        if config.top_k:
            processors.append(generation.TopKLogitsWarper(config.top_k))
        if config.top_p < 1:
            processors.append(generation.TopPLogitsWarper(config.top_p))
        processors.append(_SharedDraws(len(series_NL), self.paths))
        device = series_NL.device
        made = cast(Any, self.inner).generate(
            input_ids=tokens.to(device).repeat_interleave(self.paths, 0),
            attention_mask=mask.to(device).repeat_interleave(self.paths, 0),
            generation_config=generation.GenerationConfig(
                min_new_tokens=steps, max_new_tokens=steps, do_sample=False, num_beams=1,
                eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id,
            ),
            logits_processor=processors,
        )  # fmt: skip
        path_NPS: Tensor = self.tokenizer.output_transform(
            made[:, 1:].cpu().reshape(len(series_NL), self.paths, steps), scale
        )
        return path_NPS.to(device)


class _SharedDraws:
    """Leaves one token of each row possible: that at which the row's distribution passes the draw of its path and step."""

    def __init__(self, series: int, paths: int) -> None:
        self.series, self.paths = series, paths

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1]
        order = torch.randperm(self.paths, generator=torch.Generator().manual_seed(step))
        even_P = ((order + 0.5) / self.paths).to(scores.device, scores.dtype)
        total = torch.softmax(scores, -1).cumsum(-1)
        draw = even_P.repeat(self.series)[:, None] * total[:, -1:]
        token = torch.searchsorted(total, draw).clamp_max(scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def _check_levels(levels: tuple[float, ...]) -> None:
    if 0.5 not in levels or len(levels) < 2 or list(levels) != sorted(set(levels)):
        raise ValueError(f"quantiles={list(levels)} must rise and hold the median 0.5 and another level")


def _package(name: str) -> Any:
    """Raises: ConfigError: the extra is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("chronos", "transformers", "accelerate"):
            raise
        raise ConfigError(
            f"pretrained forecasters need the package {error.name.partition('.')[0]}: pip install 'quantfleet[foundation]' where "
            "the model is fitted and where it answers."
        ) from error
