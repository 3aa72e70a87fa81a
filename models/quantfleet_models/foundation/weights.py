"""Pretrained weights from a folder or an object store: config.json says what they are, safetensors hold them; nothing is unpickled
and nothing is asked of a hub.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError

from quantfleet.errors import ConfigError, MissingInputError
from quantfleet.storage import Storage, StorageConfig
from quantfleet.storage.store import one_line
from quantfleet_models.foundation.backbones import Backbone, backbone_kind

__all__ = ["CONFIG_FILE", "empty_backbone", "load_backbone"]

CONFIG_FILE = "config.json"
_INDEX = ".safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def load_backbone(weights: str, *, label: str, samples: int) -> Backbone:
    """Read a pretrained forecaster.

    Args:
        weights: a folder or s3://bucket/prefix, with config.json and *.safetensors.
        label: of the model, for its errors.
        samples: paths that a forecaster draws which answers by drawing.
    Raises: MissingInputError: there is no such folder. ConfigError: it holds pickles, or no weights of a known forecaster.
    """
    if not weights:
        raise ConfigError(
            f"model {label!r} names no weights. Set weights to a folder (or s3://bucket/prefix) that holds config.json and "
            "*.safetensors of Chronos-Bolt, Chronos-T5 or TimesFM 2.5."
        )
    storage = Storage(StorageConfig(root=weights))
    names = storage.list()
    if not names:
        raise MissingInputError(
            f"{storage.uri()} does not exist, or is empty; model {label!r} reads its weights from there. Copy them to it, or "
            "correct weights.",
            uri=storage.uri(),
        )
    files = [name for name in names if name.endswith(".safetensors")]
    if not files:
        pickles = [name for name in names if PurePosixPath(name).suffix in _PICKLES]
        holds = (
            f"holds its weights in pickles ({', '.join(pickles)}), which can run any code when they are read"
            if pickles
            else f"holds no *.safetensors (it holds {', '.join(names[:5])})"
        )
        raise ConfigError(
            f"{storage.uri()} {holds}. Save the model as safetensors where it is trusted (transformers: "
            "save_pretrained(folder)), and name that folder."
        )
    if CONFIG_FILE not in names:
        raise ConfigError(
            f"{storage.uri()} has no {CONFIG_FILE} beside its weights, so that it is not known what they are."
        )
    where = storage.uri()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(where)
        if storage.config.is_s3:
            folder = Path(temporary)
            for name in [CONFIG_FILE, *files, *(name for name in names if name.endswith(_INDEX))]:
                (folder / name).write_bytes(storage.read_bytes(name))
        config = storage.read_bytes(CONFIG_FILE)
        return _backbone(config, folder, where=f"{where}/{CONFIG_FILE}", samples=samples)


def empty_backbone(config: bytes, *, where: str, samples: int) -> Backbone:
    """The forecaster that a config.json describes, with random weights. Raises: ConfigError: it describes none that is known."""
    return _backbone(config, None, where=where, samples=samples)


def _backbone(config: bytes, folder: Path | None, *, where: str, samples: int) -> Backbone:
    try:
        record = json.loads(config)
        if not isinstance(record, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        raise ConfigError(
            f"{where} is no JSON of a model: {error}. Copy it again from where the weights come from."
        ) from error
    kind: Any = backbone_kind(record, where=where)
    try:
        made: Backbone = kind(record, folder, samples=samples)
    except (
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        AssertionError,
        RuntimeError,
        OSError,
        SafetensorError,
    ) as error:
        beside = " and the weights beside it do" if folder else " does"
        raise ConfigError(
            f"{where}{beside} not make a {kind.architecture}: {one_line(str(error))} Copy the whole folder again from "
            "where the weights come from."
        ) from error
    return made


def as_text(record: Mapping[str, Any]) -> str:
    """What is stored as config.json beside weights of our own."""
    return json.dumps(record, indent=1, sort_keys=True)
