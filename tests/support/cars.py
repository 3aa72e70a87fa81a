"""A small tree of configs with every kind of field, for the tests of the config loader."""

import datetime as dt
import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from quantfleet.errors import ConfigError, LeakageError
from quantfleet.plugins import PluginConfig, PluginRegistry


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine(PluginConfig):
    """Base of a kind of plugin of the test's own."""


ENGINES: PluginRegistry[Engine] = PluginRegistry("engine", Engine, command="engines")


@ENGINES.register("petrol")
@dataclass(frozen=True, kw_only=True, slots=True)
class Petrol(Engine):
    """Burns."""

    litres: float = 50.0
    octane: int = 95


@ENGINES.register("electric")
@dataclass(frozen=True, kw_only=True, slots=True)
class Electric(Engine):
    """Hums."""

    cells: Annotated[int, Field(ge=1)] = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Steam(Engine):
    """Puffs; registered by one test only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheels:
    count: int = 4
    inches: float = 17.0

    def __post_init__(self) -> None:
        if self.count == 3 and self.inches > 16:
            raise ConfigError(f"count={self.count} needs inches <= 16.")
        if self.count == 5:
            raise LeakageError("count=5 looks into the future.", bars=5)
        if self.count == 6:
            raise ValueError("count is too much")


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    user: str = "me"
    password: SecretStr | None = None
    tokens: tuple[SecretStr, ...] = ()
    pin: Annotated[SecretStr, Field(min_length=4)] = SecretStr("0000")  # noqa: RUF009 - immutable


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True, slots=True)
class Car:
    name: str = "car"
    nick: str | None = None
    seats: int = 5
    speed: float = 1.0
    open_top: bool = False
    gears: Annotated[int, Field(ge=1, le=8)] | None = None
    fuel: Literal["petrol", "none"] = "petrol"
    colour: Colour = Colour.RED
    garage: Path = Path("garage")
    built: dt.datetime | None = None
    sold: dt.date | None = None
    tags: tuple[str, ...] = ()
    limits: dict[str, int] = field(default_factory=dict)
    wheels: Wheels = field(default_factory=Wheels)
    winter: Wheels = field(default_factory=lambda: Wheels(count=4, inches=15.0))
    trailer: Wheels | None = None
    engine: Engine = field(default_factory=Petrol)
    main: Electric = field(default_factory=Electric)
    spare: tuple[Engine, ...] = (Electric(cells=3), Petrol())
    fleet: Annotated[tuple[Wheels, ...], Field(max_length=2)] = ()
    named: dict[str, Wheels] = field(default_factory=dict)
    account: Account = field(default_factory=Account)
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Strict:
    needed: int
    engine: Engine
    wheels: Wheels = field(default_factory=Wheels)

    def __post_init__(self) -> None:
        if self.wheels.count == 8:
            raise ConfigError("engine.litres=0 and wheels.inches=17 do not fit.")
