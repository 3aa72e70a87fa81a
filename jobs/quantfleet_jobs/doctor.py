"""`quantfleet doctor`: is everything here that a run needs?"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

import quantfleet
from quantfleet.config import load_config
from quantfleet.errors import QuantfleetError
from quantfleet.logs import configure_logging
from quantfleet.storage import LakeTable, Storage, StorageConfig

__all__ = ["Finding", "diagnose", "storage_config"]

_PACKAGES = (
    "ray",
    "torch",
    "xgboost",
    "mlflow",
    "deltalake",
    "polars",
    "pyarrow",
    "TA-Lib",
    "ccxt",
    "arch",
)
_EXTRAS = ("deepspeed", "lightning")
_LEAST_MEMORY_GIB = 4.0
_LEAST_DISK_GIB = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis."""

    what: str
    ok: bool
    said: str


@dataclass(frozen=True, kw_only=True)
class _Places:
    """The sections of a recipe that say where things are; read from the environment as a recipe would be."""

    storage: StorageConfig = field(default_factory=StorageConfig)


def diagnose(console: Console, *, root: str | None = None, start_ray: bool = True) -> bool:
    """Print a table of findings; return whether nothing is wrong."""
    configure_logging(level="WARNING")
    storage = Storage(storage_config(root))
    checks: list[tuple[str, Callable[[], str]]] = [
        ("quantfleet", lambda: quantfleet.__version__),
        ("python", _python),
        ("packages", _packages),
        ("extras", _extras),
        ("cores", lambda: f"{os.cpu_count()}"),
        ("memory", _memory),
        ("disk", lambda: _disk(storage)),
        ("gpu", _gpu),
        ("plugins", _plugins),
        ("storage", lambda: _storage(storage)),
        ("lake", lambda: _lake(storage)),
        ("registry", lambda: _registry(storage)),
    ]
    if start_ray:
        checks.append(("ray", _ray))
    table = Table("", "what", "found", show_edge=False, pad_edge=False)
    healthy = True
    for what, check in checks:
        finding = _examine(what, check)
        healthy &= finding.ok
        table.add_row("[green]ok[/]" if finding.ok else "[red]!![/]", what, Text(finding.said))
    console.print(table)
    return healthy


def _examine(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except importlib.metadata.PackageNotFoundError as error:
        return Finding(what, False, f"{error.name} is not installed")
    except (QuantfleetError, OSError) as error:
        return Finding(what, False, f"{error}")
    except Exception as error:  # noqa: BLE001 - whatever is broken here is the diagnosis
        return Finding(what, False, f"{type(error).__name__}: {error}")


def storage_config(root: str | None) -> StorageConfig:
    """As a recipe would get it from QUANTFLEET_STORAGE__*."""
    own = {k: v for k, v in os.environ.items() if k.startswith("QUANTFLEET_STORAGE__")}
    overrides = [f"storage.root={root}"] if root else []
    return load_config(_Places, environ=own, overrides=overrides).value.storage


def _python() -> str:
    version = platform.python_version()
    if platform.python_version_tuple()[:2] not in {("3", "11"), ("3", "12")}:
        raise OSError(f"{version}; Quantfleet runs on 3.11 and 3.12")
    return f"{version} on {platform.platform(terse=True)}"


def _packages() -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)


def _extras() -> str:
    found = []
    for name in _EXTRAS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed (pip install 'quantfleet[{name}]')")
    return ", ".join(found)


def _memory() -> str:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    if gib < _LEAST_MEMORY_GIB:
        raise OSError(f"{gib:.1f} GiB; a local run needs {_LEAST_MEMORY_GIB:g}")
    return f"{gib:.1f} GiB"


def _disk(storage: Storage) -> str:
    place = "." if storage.config.is_s3 else storage.uri()
    while not os.path.exists(place):  # noqa: PTH110 - walks up strings
        place = os.path.dirname(place) or "/"  # noqa: PTH120
    gib = shutil.disk_usage(place).free / 2**30
    if gib < _LEAST_DISK_GIB:
        raise OSError(f"{gib:.1f} GiB free at {place}; a run needs {_LEAST_DISK_GIB:g}")
    return f"{gib:.0f} GiB free at {place}"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none (models train on CPU)"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _plugins() -> str:
    from quantfleet.contracts import FEATURES, MODELS, SOURCES
    from quantfleet.plugins import load_plugins
    from quantfleet_jobs.recipe import BUILT_IN_PLUGINS

    load_plugins(BUILT_IN_PLUGINS)
    return f"{len(SOURCES.names())} sources, {len(FEATURES.names())} features, {len(MODELS.names())} models"


def _storage(storage: Storage) -> str:
    storage.check()
    return f"{storage.uri()} can be read and written"


def _lake(storage: Storage) -> str:
    tables = [LakeTable(storage, f"lake/bars/{name}") for name in storage.list("lake", "bars")]
    if not tables:
        return "no bars yet: run `quantfleet run quickstart`"
    return ", ".join(str(table.latest()) for table in tables)


def _registry(storage: Storage) -> str:
    from quantfleet.registry.config import RegistryConfig
    from quantfleet.registry.store import ModelRegistry

    uri = os.environ.get("QUANTFLEET_REGISTRY__TRACKING_URI")
    config = RegistryConfig(tracking_uri=SecretStr(uri) if uri else None)
    registry = ModelRegistry(config, storage, loader_module="quantfleet_jobs.pyfunc")
    registry.check()
    return f"{registry.uri.split('://', 1)[0]} answers"


def _answer() -> int:
    return os.getpid()


def _ray() -> str:
    from quantfleet.cluster import ClusterConfig
    from quantfleet.cluster.session import ray_session

    with ray_session(ClusterConfig()):
        import ray

        ray.get(ray.remote(num_cpus=0.1)(_answer).remote(), timeout=60)
        where = os.environ.get("RAY_ADDRESS", "a local Ray")
        return f"{ray.__version__}: {where} runs tasks, {int(ray.cluster_resources().get('CPU', 0))} CPUs"
