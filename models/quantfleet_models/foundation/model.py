"""A pretrained forecaster as a forecaster of labels: windows of returns become series, its quantiles become heads.

Shapes: N windows, L look-back bars, F features, S steps to the longest horizon, H horizons, Q levels of the forecaster, A levels
asked.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor, nn

from quantfleet.contracts import DataSpec, FitContext, FitReport, TrainingData
from quantfleet.errors import ConfigError, MissingInputError, SchemaError
from quantfleet.training import LossConfig
from quantfleet.training.module import ScaledForecaster
from quantfleet.training.torch_model import TorchModel
from quantfleet.transforms import InputTransform
from quantfleet_models.foundation.backbones import Backbone
from quantfleet_models.foundation.config import FoundationConfig
from quantfleet_models.foundation.weights import CONFIG_FILE, as_text, empty_backbone

__all__ = ["FoundationForecaster", "FoundationModel", "FoundationNetwork"]

_LEAST_SPREAD = 1e-7
"""Quantiles of a return that lie closer together than this are taken as one."""
_MOST_SCORE = 6.0


class FoundationNetwork(nn.Module):
    """Raw features (N, L, F) to heads in natural units, by the column of returns alone. Raises: ConfigError: see `_check`."""

    levels_Q: Tensor
    score_Q: Tensor
    step_H: Tensor

    def __init__(self, config: FoundationConfig, spec: DataSpec, backbone: Backbone) -> None:
        super().__init__()
        self.config, self.spec, self.backbone = config, spec, backbone
        self._check()
        self._place = spec.feature_columns.index(config.return_feature)
        levels = torch.tensor(backbone.levels, dtype=torch.float32)
        self.register_buffer("levels_Q", levels, persistent=False)
        self.register_buffer("score_Q", torch.special.ndtri(levels), persistent=False)
        self.register_buffer("step_H", torch.tensor(spec.horizons_bars) - 1, persistent=False)

    def _check(self) -> None:
        """Raises: ConfigError: windows or horizons are longer than the weights allow, or levels lie beyond theirs."""
        config, spec, backbone = self.config, self.spec, self.backbone
        kind = backbone.architecture
        if spec.lookback_bars > backbone.most_bars:
            raise ConfigError(
                f"model {config.label!r}: windows of lookback_bars={spec.lookback_bars} are longer than the context of these "
                f"weights, {backbone.most_bars} bars ({kind}). Set windows.lookback_bars to that or less."
            )
        if spec.lookback_bars < backbone.least_bars:
            raise ConfigError(
                f"model {config.label!r}: windows of lookback_bars={spec.lookback_bars} do not fill one patch of "
                f"{backbone.least_bars} bars ({kind}). Set windows.lookback_bars to that or more."
            )
        if max(spec.horizons_bars) > backbone.most_steps:
            raise ConfigError(
                f"model {config.label!r}: the horizon of {max(spec.horizons_bars)} bars is longer than these weights predict, "
                f"{backbone.most_steps} steps ({kind}). Ask for shorter horizons, or use other weights."
            )
        beyond = [level for level in config.loss.quantiles if not backbone.levels[0] <= level <= backbone.levels[-1]]
        if beyond:
            raise ConfigError(
                f"model {config.label!r}: loss.quantiles asks for {beyond[0]}, and these weights know {backbone.levels[0]} to "
                f"{backbone.levels[-1]} ({kind}). Ask for levels between them; `calibrated` around the model gives wider intervals."
            )
        if config.fine_tune and not backbone.trainable:
            raise ConfigError(
                f"model {config.label!r}: fine_tune=true, and {kind} answers with drawn paths, which have no gradient. Use it "
                "zero-shot, or fine-tune Chronos-Bolt or TimesFM."
            )

    def series(self, x_NLF: Tensor) -> Tensor:
        """What the forecaster is shown, (N, L): returns, or prices as a fraction above that of the decision bar."""
        return_NL = x_NLF[..., self._place].float()
        if self.config.series == "return":
            return return_NL
        price_NL = return_NL.cumsum(1)
        return torch.expm1(price_NL - price_NL[:, -1:])

    def forward(self, x_NLF: Tensor) -> dict[str, Tensor]:
        """Return (the centre of its distribution), logit of an up move and volatility a bar, (N, H); quantiles (N, H, A)."""
        quantile_NSQ, centre_NS = self.backbone(self.series(x_NLF), max(self.spec.horizons_bars))
        quantile_NSQ = quantile_NSQ.sort(-1).values
        if self.config.series == "return":
            quantile_NSQ, centre_NS = self._added_up(quantile_NSQ, centre_NS)
        quantile_NHQ, centre_NH = quantile_NSQ[:, self.step_H], centre_NS[:, self.step_H]
        heads = {
            "return": centre_NH,
            "direction": self._up_logit(quantile_NHQ),
            "volatility": self._spread(quantile_NHQ) / (self.step_H + 1).sqrt(),
        }
        asked = self.config.loss.quantiles
        if asked:
            heads["quantiles"] = torch.stack([self._quantile(quantile_NHQ, level) for level in asked], -1)
        return heads

    def _spread(self, quantile_NHQ: Tensor) -> Tensor:
        """Deviation of a normal distribution with the outermost quantiles."""
        return (quantile_NHQ[..., -1] - quantile_NHQ[..., 0]) / (self.score_Q[-1] - self.score_Q[0])

    def _added_up(self, quantile_NSQ: Tensor, centre_NS: Tensor) -> tuple[Tensor, Tensor]:
        """Quantiles and centre of the sum of the first s returns, taken as independent and normal."""
        total_NS = centre_NS.cumsum(1)
        # a floor under the root: its slope at 0 is infinite
        spread_NS = (self._spread(quantile_NSQ).square().cumsum(1) + _LEAST_SPREAD**2).sqrt()
        return total_NS[..., None] + spread_NS[..., None] * self.score_Q, total_NS

    def _quantile(self, quantile_NHQ: Tensor, level: float) -> Tensor:
        """Between two levels of the forecaster in a straight line, as its package does."""
        levels = self.backbone.levels
        above = next(i for i, known in enumerate(levels) if known >= level)
        if levels[above] == level:
            return quantile_NHQ[..., above]
        share = (level - levels[above - 1]) / (levels[above] - levels[above - 1])
        return torch.lerp(quantile_NHQ[..., above - 1], quantile_NHQ[..., above], share)

    def _up_logit(self, quantile_NHQ: Tensor) -> Tensor:
        """Log-odds of a return above 0. The distribution is normal piece by piece: between two quantiles (and beyond the outermost)
        the normal score is a straight line in the return."""
        Q = quantile_NHQ.shape[-1]
        above = (quantile_NHQ <= 0).sum(-1, keepdim=True).clamp(1, Q - 1)
        low, high = quantile_NHQ.gather(-1, above - 1), quantile_NHQ.gather(-1, above)
        score_low, score_high = self.score_Q[above - 1], self.score_Q[above]
        score = score_low - low * (score_high - score_low) / (high - low).clamp_min(_LEAST_SPREAD)
        score = score[..., 0].clamp(-_MOST_SCORE, _MOST_SCORE)
        logit: Tensor = torch.special.log_ndtr(-score) - torch.special.log_ndtr(score)
        return logit


class FoundationForecaster(ScaledForecaster):
    """Heads come in natural units and are brought to the labels' scales, by which the loss judges them."""

    def __init__(self, network: nn.Module, spec: DataSpec, loss: LossConfig) -> None:
        super().__init__(network, spec, loss)

    def forward(self, x_NLF: Tensor) -> dict[str, Tensor]:
        H, heads = self.horizons, self.network(torch.nan_to_num(x_NLF, nan=0.0))
        mean_H, std_H = self.label_mean_K[:H], self.label_std_K[:H]
        scaled = {
            "return": (heads["return"] - mean_H) / std_H,
            "direction": heads["direction"] + self.logit_offset_H,
            "volatility": (heads["volatility"] - self.label_mean_K[2 * H :]) / self.label_std_K[2 * H :],
        }
        if "quantiles" in heads:
            scaled["quantiles"] = (heads["quantiles"] - mean_H[:, None]) / std_H[:, None]
        return scaled

    def _check_heads(self, spec: DataSpec) -> None:
        """Nothing to ask the network for: it gives every quantile that it was built for."""


class FoundationModel(TorchModel):
    """Zero-shot there is nothing to fit but the record of the data; fine-tuning is the fit of every torch model.

    What is saved holds the whole model: a loaded one needs no pretrained weights.
    """

    config: FoundationConfig
    _missing: MissingInputError | None = None
    _stored: bytes | None = None

    def _build(self, spec: DataSpec) -> None:
        self._network_spec = spec
        config = self.config
        if self._stored is not None:
            config.check_spec(spec)
            backbone = empty_backbone(self._stored, where=CONFIG_FILE, samples=config.samples)
            network = FoundationNetwork(config, spec, backbone)
            self.forecaster: ScaledForecaster = FoundationForecaster(network, spec, config.loss).eval()
            return
        try:
            self.forecaster = config.build_forecaster(spec).eval()
        except MissingInputError as error:  # a model that is loaded has its own; one that is fitted raises it
            self._missing = error

    def fit(self, data: TrainingData, context: FitContext) -> FitReport:
        """Raises: MissingInputError: there is no folder of pretrained weights; and as every torch model does."""
        if self._missing is not None:
            raise self._missing
        if self.config.fine_tune:
            return super().fit(data, context)
        began = time.perf_counter()
        if data.spec != self.spec:
            raise SchemaError(f"model {self.config.label!r} was built for other data than it is to be fitted on.")
        config = self.config
        inputs = InputTransform.fit(
            data, scaler=config.scaler, selection=config.selection, label=config.selection_label
        )
        if inputs.spec != self._network_spec:
            self._build(inputs.spec)
        self.forecaster.set_label_scales(data.stats)
        self.inputs = inputs
        return FitReport(
            seconds=time.perf_counter() - began,
            parameters=sum(p.numel() for p in self.forecaster.network.parameters()),
        )

    def save(self, directory: Path) -> None:
        super().save(directory)
        network = self.forecaster.network
        assert isinstance(network, FoundationNetwork)
        (directory / CONFIG_FILE).write_text(as_text(network.backbone.record))

    def load(self, directory: Path) -> None:
        path = directory / CONFIG_FILE
        if path.is_file():  # weights of a fit that is going on lie alone, and their network is built already
            self._stored = path.read_bytes()
            try:
                self._build(self._network_spec)
            except ConfigError as error:
                raise SchemaError(f"{path} is not that of a model of these data: {error}") from error
        elif self._missing is not None:
            raise SchemaError(
                f"{path} does not exist, which says what weights lie there. {self._missing}"
            ) from self._missing
        super().load(directory)
