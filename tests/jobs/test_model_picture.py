"""`quantfleet models plot`: a picture of what the network does, taken from the network."""

from pathlib import Path

import pytest
import torch
from support.tiny_models import DEEP, tiny
from torch import Tensor, nn
from typer.testing import CliRunner

from quantfleet.errors import ConfigError, UnknownPluginError
from quantfleet_jobs.cli import app
from quantfleet_jobs.model_picture import draw_model, model_config, parts_of


class Fork(nn.Module):
    """Two paths of which one skips a layer, joined by an operation that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.left, self.right, self.out = (nn.Linear(3, 3) for _ in range(4))
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    def forward(self, x_NLF: Tensor) -> dict[str, Tensor]:
        rows = torch.relu(self.embed(x_NLF))
        left = self.left(rows)
        for layer in self.layers:
            left = layer(left)
        return {"return": self.out(left * self.right(rows) + x_NLF)[:, -1]}


def test_what_feeds_what_is_read_off_the_network_through_operations_that_are_no_modules():
    parts = {part.name: part for part in parts_of(Fork(), lookback_bars=5, features=3)}
    reads = {name: sorted(part.reads) for name, part in parts.items()}
    assert reads == {
        "window": [], "embed": ["window"], "left": ["embed"], "layers[0]": ["left"], "layers[1]": ["layers[0]"],
        "right": ["embed"], "out": ["layers[1]", "right", "window"],
    }  # fmt: skip
    assert parts["embed"].shape == (2, 5, 3)
    assert parts["embed"].parameters == 12


@pytest.mark.parametrize("name", DEEP)
def test_every_registered_torch_model_can_be_drawn_and_its_parts_hang_together(name, tmp_path: Path):
    drawn = draw_model(tiny(name), tmp_path / "model.svg", lookback_bars=16, features=3, horizons=2)
    assert drawn.parameters > 0
    names = {part.name for part in drawn.parts}
    assert len(names) >= 3
    reached = {"window"}
    for part in drawn.parts:  # in order of first answer
        assert set(part.reads) <= names
        if reached & set(part.reads):
            reached.add(part.name)
    assert any(name.rpartition(".")[2] == "heads" for name in reached), "what goes in leads to what comes out"
    assert len(reached) > len(names) / 2
    svg = (tmp_path / "model.svg").read_text()
    assert "<svg" in svg[:600]


def test_the_command_writes_the_picture_and_says_how_large_the_model_is(tmp_path: Path):
    file = tmp_path / "pictures" / "hybrid.png"
    result = CliRunner().invoke(
        app, ["models", "plot", "hybrid", str(file), "--set", "width=8", "--set", "attention_heads=2"]
    )
    assert result.exit_code == 0, result.output
    assert file.read_bytes()[:4] == b"\x89PNG"
    assert "parameters at 60 bars x 40 features and 3 horizons" in " ".join(result.output.split())


def test_what_cannot_be_drawn_is_said(tmp_path: Path):
    with pytest.raises(ConfigError, match="'ridge' has no network to draw"):
        draw_model(model_config("ridge", ()), tmp_path / "a.png", lookback_bars=5, features=3, horizons=1)
    with pytest.raises(ConfigError, match=r"does not end in \.svg, \.png, \.pdf"):
        draw_model(model_config("gru", ()), tmp_path / "a.gif", lookback_bars=5, features=3, horizons=1)
    with pytest.raises(UnknownPluginError, match="Did you mean 'hybrid'"):
        model_config("hybird", ())
    with pytest.raises(ConfigError, match="breadth"):
        model_config("hybrid", ["breadth=3"])


def test_a_description_says_what_each_setting_means_inherited_ones_included(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output = CliRunner().invoke(app, ["models", "describe", "hybrid"]).output
    cells = [[cell.strip() for cell in line.split("│")] for line in output.splitlines() if "│" in line]
    assert ["width", "D, features of every hidden row."] in cells
    assert ["gradient_clip", "Largest norm of the gradient."] in cells
