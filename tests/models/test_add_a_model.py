"""docs/add-a-model.md: its blocks are files, and they do what the page says. And the pages of deep families tell the truth."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.fits import fit_torch_here
from support.recipes import REPOSITORY, command, environment
from support.tiny_models import window_spec

from quantfleet.contracts import MODELS
from quantfleet.training import TorchModelConfig
from quantfleet.training.torch_model import TorchModel

PAGE = (REPOSITORY / "docs" / "add-a-model.md").read_text()
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The blocks of the page as the files that their first lines name."""
    root = tmp_path_factory.mktemp("page")
    for name, text in BLOCK.findall(PAGE):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


def test_every_block_of_the_page_is_a_file(files: Path):
    found = {str(path.relative_to(files)) for path in files.rglob("*") if path.is_file()}
    assert found == {"my_models/config.py", "my_models/model.py", "test_my_models.py", "my_recipe.yaml"}
    assert PAGE.count("\n```") == 2 * len(found), "a block without a file name is not executed"


def test_the_model_of_the_page_keeps_the_contract(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TorchModel, "fit", fit_torch_here)
    monkeypatch.setattr(MODELS, "_plugins", dict(MODELS._plugins))
    monkeypatch.syspath_prepend(str(files))
    (tmp_path / "model").mkdir()
    test = importlib.import_module("test_my_models").test_last_bar_keeps_the_model_contract
    try:
        test(tmp_path)
        kind = MODELS.get("last_bar")
        assert issubclass(kind, TorchModelConfig)
        assert kind(width=8).build_network(window_spec()).layer.out_features == 8  # type: ignore[union-attr]
    finally:
        for name in ("my_models.config", "my_models.model", "my_models", "test_my_models"):
            sys.modules.pop(name, None)


def test_the_recipe_of_the_page_knows_the_model(files: Path):
    done = subprocess.run(
        command("config", "show", str(files / "my_recipe.yaml")),
        env=environment(PYTHONPATH=":".join([str(files), *filter(None, sys.path)])),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "last_bar" in done.stdout


FAMILIES = (
    "cnn", "dlinear", "gru", "itransformer", "lstm_attention", "nhits", "patch_tst", "position_sizer", "tcn", "tft",
    "transformer",
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_s_page_has_its_picture_shapes_source_and_the_parameters_that_it_has(name: str):
    page = (REPOSITORY / "models" / "quantfleet_models" / name / "README.md").read_text()
    for part in ("```mermaid", "| step | shape |", "## Source", "## Cost", f"kind: {name}"):
        assert part in page, part
    kind = MODELS.get(name)
    assert issubclass(kind, TorchModelConfig)
    network = kind().build_network(window_spec(lookback_bars=32, features=35, horizons_bars=(1, 5, 21)))
    stated = re.search(r"\| parameters \| ([\d,]+) \|", page)
    assert stated is not None
    assert int(stated[1].replace(",", "")) == sum(p.numel() for p in network.parameters())
