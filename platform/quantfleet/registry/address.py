"""The registry's address: made usable by what is installed, tried once, and shown without its password."""

from __future__ import annotations

import re
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from quantfleet.errors import RegistryError

__all__ = ["reach_database", "usable", "without_secrets"]

_DATABASES = ("postgresql", "mysql", "mssql", "sqlite")
_SECONDS_TO_CONNECT = 10
_PAUSES_S = (1.0, 3.0)
_SHORTEST_SECRET = 3
"""Shorter ones are masked only where they stand between user and host: they would tear holes into words."""
_SECRET_KEY = re.compile(r"pass|pwd|secret|token", re.IGNORECASE)


def usable(uri: str) -> str:
    """The same address with the driver that Quantfleet installs.

    SQLAlchemy 2.1 takes `postgresql://` to mean psycopg 3 and does not know `postgres://`, which libpq and most hosts write.
    """
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", uri)


def reach_database(uri: str) -> None:
    """Connect to a database and leave; another kind of address is left alone.

    MLflow itself tries ten times, for more than a minute and a half, also when the password is wrong.

    Raises: SQLAlchemyError: three attempts failed. RegistryError: it is no address, or its driver is not installed.
    """
    if not uri.startswith(_DATABASES):
        return
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(uri)
        url.get_dialect().import_dbapi()
    except (ValueError, sqlalchemy.exc.ArgumentError):
        raise RegistryError("the registry's address is not of the form KIND://USER:PASSWORD@HOST:PORT/NAME") from None
    except ImportError as error:
        raise RegistryError(f"the registry's address asks for a driver that is not installed: {error}") from error
    backend = url.get_backend_name()
    if backend == "sqlite" and url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    limits = {"connect_timeout": _SECONDS_TO_CONNECT} if backend in ("postgresql", "mysql") else {}
    engine = sqlalchemy.create_engine(url, connect_args=limits)
    try:
        for pause_s in (*_PAUSES_S, None):
            try:
                with engine.connect():
                    return
            except sqlalchemy.exc.OperationalError:  # it may be starting
                if pause_s is None:
                    raise
                time.sleep(pause_s)
    finally:
        engine.dispose()


def without_secrets(text: str, uri: str) -> str:
    """`text` with the password of `uri` masked wherever a library repeats it, whole or in parts."""
    address, _, query = uri.partition("?")
    user_info = address.partition("://")[2].rpartition("@")[0]
    password = user_info.partition(":")[2]
    secrets = {password, unquote(password)}
    # a password with an @ in it is cut there, and what follows is taken for the host
    secrets |= {part for secret in secrets for part in secret.split("@")}
    secrets |= {value for key, value in parse_qsl(query) if _SECRET_KEY.search(key)}
    if user_info:
        text = text.replace(f"{user_info}@", "***@")
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text
