"""Connect to Ray, or run one on this machine: loopback only, with a token."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import ray

import quantfleet
from quantfleet.cluster.config import ClusterConfig
from quantfleet.errors import ClusterError
from quantfleet.logs import get_logger
from quantfleet.storage import s3_environment
from quantfleet.training.runtime import worker_environment

__all__ = ["ClusterError", "ray_session"]

log = get_logger(__name__)

MIN_LOCAL_CPUS = 4
_STARTS = 3
"""Times that a local Ray is started before it is given up."""


def _environment() -> dict[str, str]:
    """Variables of this process and of every worker."""
    return {
        **s3_environment(),
        **worker_environment(),
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }


def _source_path() -> str | None:
    """PYTHONPATH for workers, when this code runs from source roots instead of an installed wheel."""
    package = Path(quantfleet.__file__).resolve().parent
    return None if "site-packages" in package.parts else os.pathsep.join(p for p in sys.path if p)


@contextlib.contextmanager
def ray_session(config: ClusterConfig) -> Iterator[None]:
    """Be connected to Ray inside the block. A connection that was already there is used and left alone.

    Raises: ClusterError: the given address does not answer, or Ray does not start.
    """
    if ray.is_initialized():
        yield
        return
    environment = _environment()
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    address = config.address or os.environ.get("RAY_ADDRESS")
    runtime_env: dict[str, object] = {"env_vars": dict(environment)}
    try:
        if address:
            ray.init(address, runtime_env=runtime_env, logging_level=logging.ERROR, log_to_driver=False)
        else:
            source = _source_path()
            if source:
                runtime_env["env_vars"] = {**environment, "PYTHONPATH": source}
            _set_token()
            _start(config, runtime_env)
    except Exception as error:  # Ray raises bare ones too
        where = f"at {address}" if address else "on this machine"
        raise ClusterError(f"Ray {where} cannot be used: {error}. See `quantfleet doctor`.", address=address) from error
    _quiet_data()
    log.info("ray ready", address=address or "local", cpus=int(ray.cluster_resources().get("CPU", 0)))
    try:
        yield
    finally:
        ray.shutdown()


def _start(config: ClusterConfig, runtime_env: dict[str, object]) -> None:
    """Start Ray on this machine; a node that is slow to come up, as on a busy machine, is given up by Ray and started anew."""
    for left in reversed(range(_STARTS)):
        try:
            ray.init(
                address="local",  # without it Ray would join whatever cluster was last started on this machine
                num_cpus=config.local_cpus or max(os.cpu_count() or 1, MIN_LOCAL_CPUS),
                object_store_memory=config.object_store_mb * 1_000_000,
                include_dashboard=False,
                runtime_env=runtime_env,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
            return
        except Exception as error:  # Ray has no class for it, nor a setting for its 30 s
            ray.shutdown()
            if not left or "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not come up in 30 s; starting it again", error=str(error))


def _set_token() -> None:
    """A local Ray gets a token of its own that nobody else knows, unless the user set one.

    RAY_AUTH_MODE stays as it is: Ray switches tokens on by itself when it is unset, and read it when it was imported.
    """
    if os.environ.get("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _quiet_data() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
