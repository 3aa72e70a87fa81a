"""Fixtures that every test may ask for: real services on loopback, and the data that lies beside the repository.

A service that is not installed skips the test with the command that installs it; where CI is set, it fails instead, so
that a pipeline cannot lose its service tests in silence.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from services.exchange import LoopbackExchange, start_exchange
from services.postgres import PostgresServer, start_postgres
from services.process import ServiceUnavailable
from services.s3 import S3Server, start_s3

REPOSITORY = Path(__file__).resolve().parents[1]

# `pytest -n` tells its workers how wide the terminal is; what we print must depend on the test alone.
os.environ.pop("COLUMNS", None)

# Ray's workers wait behind everything else on the machine unless they are told not to; here that is the other half of the suite.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # as Ray spells it

# No deadline per example: machines are shared, and a first example pays for lazy imports.
hypothesis.settings.register_profile(
    "quantfleet", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("quantfleet")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How `pytest -n` deals out tests: files with processes of their own stay together, the others go one by one.

    Ray's tests wait for processes more than they compute, so the unit tests run beside them; two Rays at once would starve each
    other. (xdist's own groups do nothing under pytest 9.2: they are written into the items' names, which it no longer reads.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return _group(REPOSITORY / file) or file

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    first = ["ray", "services", None]
    items.sort(key=lambda item: first.index(_group(item.path)))


@functools.lru_cache
def _group(file: Path) -> str | None:
    """The kind of processes that a test file starts."""
    text = file.read_text()
    return next((name for name in ("ray", "services") if f"pytest.mark.{name}" in text), None)


@contextlib.contextmanager
def skip_when_unavailable() -> Iterator[None]:
    """Turn ServiceUnavailable into a skip, or into a failure where CI is set."""
    try:
        yield
    except ServiceUnavailable as missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI is set, so services may not be skipped: {missing}", pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server for the whole session; make a bucket per test. Sets no environment variable."""
    with contextlib.ExitStack() as stack:
        with skip_when_unavailable():
            server = stack.enter_context(start_s3(tmp_path_factory.mktemp("s3")))
        yield server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A real PostgreSQL server for the whole session; make a database per test."""
    with contextlib.ExitStack() as stack:
        with skip_when_unavailable():
            server = stack.enter_context(start_postgres(tmp_path_factory.mktemp("postgres")))
        yield server


@pytest.fixture
def loopback_exchange() -> Iterator[Callable[..., LoopbackExchange]]:
    """Makes exchanges: call it with the arguments of `services.exchange.start_exchange`; they end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(start_exchange(*args, **options))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real market data beside the repository."""
    return _beside_the_repository("shared/data")


@pytest.fixture(scope="session")
def shared_crds() -> Path:
    """The folder with the custom resource definitions of KubeRay, Kueue and the Prometheus operator."""
    return _beside_the_repository("shared/k8s/crds")


@pytest.fixture(autouse=True)
def no_ray_unless_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests without the mark `ray` see none, though one of an earlier test may still run in this process."""
    if "ray" in sys.modules and not request.node.get_closest_marker("ray"):
        monkeypatch.setattr("ray.is_initialized", lambda: False)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local Ray as a job on a laptop gets it, one for all tests: its warm workers save most of their time."""
    from quantfleet.cluster import ClusterConfig
    from quantfleet.cluster.session import ray_session
    from quantfleet.plugins import load_plugins

    load_plugins(("quantfleet_data", "quantfleet_models"))
    with ray_session(ClusterConfig()):
        yield


def _beside_the_repository(relative: str) -> Path:
    folder = REPOSITORY.parent / relative
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: this test reads files that lie beside the repository, not in it")
    return folder
