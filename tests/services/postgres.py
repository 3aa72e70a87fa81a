"""A real PostgreSQL server on loopback, from Debian's binaries, with scram-sha-256 passwords for everybody.

PostgreSQL refuses to run as root, so root runs it as the system user `postgres`. That user cannot walk through pytest's
temporary folders (0700, owned by root): the data lives in a folder of its own under /tmp and is removed at the end.
Durability is off: the data does not outlive a crash of the machine, which a test does not need.
"""

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from services.process import (
    LOOPBACK,
    ServiceUnavailable,
    background,
    free_port,
    require_binaries,
    run_step,
    wait_until,
)

__all__ = ["APT_PACKAGES", "PostgresServer", "start_postgres"]

APT_PACKAGES = "postgresql"
_SYSTEM_USER = "postgres"


@dataclass(frozen=True, kw_only=True, slots=True)
class PostgresServer:
    """A running server, its superuser and its one empty database."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    pid: int

    @property
    def uri(self) -> str:
        """`postgresql://user:password@host:port/database`, for libpq, SQLAlchemy and what builds on them."""
        return self.uri_of(self.database)

    def uri_of(self, database: str) -> str:
        """The same for another database on this server."""
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Create an empty database, so that a test can have one to itself, and return its URI."""
        import psycopg2
        from psycopg2 import sql

        connection = psycopg2.connect(self.uri)
        try:
            connection.autocommit = True  # CREATE DATABASE refuses to run inside a transaction
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        finally:
            connection.close()
        return self.uri_of(name)


@contextlib.contextmanager
def start_postgres(directory: Path, *, timeout_s: float = 60.0) -> Iterator[PostgresServer]:
    """Start a server and yield it; `directory` (created) receives its logs.

    Args:
        timeout_s: the most that one step of the start may take.
    Raises:
        ServiceUnavailable: PostgreSQL, or the user it would run as, is missing.
        ServiceFailed: a step failed; the message ends with the tail of its log.
    """
    tool = require_binaries(("initdb", "postgres"), apt_packages=APT_PACKAGES, search=_debian_folders())
    account = _account_to_run_as()
    privileges = [] if account is None else [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups"]
    directory.mkdir(parents=True, exist_ok=True)
    log, user, password, database = directory / "postgres.log", "quantfleet", secrets.token_hex(16), "postgres"
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="quantfleet-pg-", dir="/tmp"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        secret = home / "password"
        secret.write_text(password)
        secret.chmod(0o600)
        if account is not None:
            for path in (home, secret):
                os.chown(path, account.pw_uid, account.pw_gid)
        env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LC_ALL": "C", "TZ": "UTC"}

        data = str(home / "data")
        initdb = [tool["initdb"], "-D", data, "-U", user, f"--pwfile={secret}", "--auth=scram-sha-256"]
        setpriv = ["setpriv", *privileges, "--"] if privileges else []
        args = [*setpriv, *initdb, "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        run_step(args, directory / "initdb.log", env=env, cwd=home, timeout_s=timeout_s)

        port = free_port()
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(port),
            "unix_socket_directories": str(home),
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": "100",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        process = stack.enter_context(
            background(
                [tool["postgres"], "-D", data, *options],
                log,
                env=env,
                cwd=home,
                privileges=privileges,
                stop_signal=signal.SIGINT,  # "fast": open sessions are ended; SIGTERM would wait for them
            )
        )
        server = PostgresServer(
            host=LOOPBACK, port=port, user=user, password=password, database=database, pid=process.pid
        )
        wait_until(lambda: _answers(server), "postgres", process=process, log=log, timeout_s=timeout_s)
        yield server


def _debian_folders() -> list[Path]:
    """Debian keeps the server's programs outside PATH, one folder per major version: newest first."""

    def version(folder: Path) -> int:
        digits = re.match(r"\d+", folder.parent.name)
        return int(digits.group()) if digits else 0

    return sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=version, reverse=True)


def _account_to_run_as() -> pwd.struct_passwd | None:
    """The account to switch to when we are root, None when we are not."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        raise ServiceUnavailable(
            f"PostgreSQL refuses to run as root and there is no user {_SYSTEM_USER!r}. "
            f"Run `apt-get install --no-install-recommends {APT_PACKAGES}`, or the tests as an ordinary user."
        ) from None


def _answers(server: PostgresServer) -> bool:
    import psycopg2

    try:
        psycopg2.connect(server.uri, connect_timeout=5).close()
    except psycopg2.OperationalError:
        return False
    return True
